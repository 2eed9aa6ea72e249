from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield.benchmarks.tasks import letters, scoring
from farfield.benchmarks.tasks.rouge import geometric_mean, rouge_l, rouge_l_sum, rouge_n, summary_l

PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")


@pytest.mark.parametrize(
    ("output", "answer", "f1", "same"),
    [
        ("The cat sat.", "a cat", 2 / 3, 0),
        ("A  CAT!", "the cat", 1, 1),
        ("cat cat", "cat", 2 / 3, 0),
        ("dog", "cat", 0, 0),
        ("", "cat", 0, 0),
        ("the", "a", 0, 1),  # nothing is left of either: equal, and no word in common
        ("theatre", "atre", 0, 0),  # an article within a word stays
        ("it's", "its", 1, 1),
    ],
)
def test_squad_rules(output: str, answer: str, f1: float, same: float) -> None:
    assert scoring.token_f1(output, answer) == pytest.approx(f1)
    assert scoring.exact_match(output, answer) == same


def test_the_best_of_several_answers_counts() -> None:
    assert scoring.best(scoring.token_f1, "the red house", ["blue", "red house", "red"]) == 1
    assert scoring.best(scoring.token_f1, "x", []) == 0


def test_chinese_is_compared_by_characters_or_by_words() -> None:
    assert scoring.character_f1("北京。", "北京市") == pytest.approx(0.8)
    assert scoring.word_f1(["北京", "，", "市"], ["北京", "城"]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("output", "held"),
    [("\n\nlabel\nQuestion", "label"), ("label", "label"), ("", ""), ("  label \nx", "  label ")],
)
def test_the_first_line_leaves_out_empty_ones(output: str, held: str) -> None:
    assert scoring.first_line(output) == held


def test_substring_rules() -> None:
    assert scoring.substring("It was Yuki.", "yuki") == 1
    assert scoring.substring("It was Yuk", "Yuki") == 0
    assert scoring.substring_match("In the U.S.A., yes", "usa") == 1
    assert scoring.substring_match("anything", "a") == 1  # nothing is left of the answer


@pytest.mark.parametrize(
    ("output", "score"),
    [
        ("return x", 1),
        ("# a comment\n`fence`\n// another\nreturn x\nreturn y", 1),
        ("\n\nreturn x", 1),
        ("# only a comment", 0),
        ("", 0),
        ("return y", round(100 * 14 / 16) / 100),
    ],
)
def test_code_is_compared_by_its_first_line(output: str, score: float) -> None:
    assert scoring.code_similarity(output, "return x") == pytest.approx(score)
    assert scoring.edit_similarity("", "") == 1


def test_every_part_of_the_right_class_is_left_out() -> None:
    classes = ["a", "ab", "abc", "abcd", "other"]
    # The published code, removing from the list that it walks through, would keep "ab" and give a half.
    assert scoring.classified("abcd", "abcd", classes) == 1
    assert scoring.classified("abcd other", "abcd", classes) == pytest.approx(1 / 2)
    assert scoring.classified("abc", "abcd", classes) == 0
    assert scoring.classified("Abcd", "abcd", classes) == 0


def test_integers_that_are_right_are_counted_among_all() -> None:
    assert scoring.right_integers("Paragraph 12", "Paragraph 12") == 1
    assert scoring.right_integers("12 or 13, no: 12", "Paragraph 12") == pytest.approx(2 / 3)
    assert scoring.right_integers("段落3", "段落3") == 1
    assert scoring.right_integers("none", "5") == 0
    assert scoring.right_integers("15", "5") == 0


@pytest.mark.parametrize(
    ("output", "answer", "first", "last", "word"),
    [
        ("42", "42", 1, 1, 1),
        ("It is 42, not 7", "42", 1, 0, 0),
        ("not 7 but <42>.", "42", 0, 1, 0),
        ("The answer is: 42.", "42", 1, 1, 1),
        ("142", "42", 0, 0, 0),
        ("042", "42", 0, 0, 1),  # an int, of the last word alone
        ("-42", "-42", 0, 0, 1),
        ("none", "42", 0, 0, 0),
        ("", "42", 0, 0, 0),
    ],
)
def test_integers_of_a_text(output: str, answer: str, first: float, last: float, word: float) -> None:
    assert scoring.first_integer(output, answer) == first
    assert scoring.last_integer(output, answer) == last
    assert scoring.last_word_integer(output, answer) == word


@pytest.mark.parametrize(
    ("output", "answer", "score"),
    [("8", "8", 1), ("8.0 or 9", "8", 1), ("is -8", "8", 1), ("8.5", "8", 0), ("8.50", "8.5", 1), ("x", "8", 0)],
)
def test_the_first_number_is_compared_by_value(output: str, answer: str, score: float) -> None:
    assert scoring.first_number(output, answer) == score


@pytest.mark.parametrize(
    ("output", "score"), [('"ab-1": "cd-2"', 1), ("cd-2.", 1), ("xcd-2", 0), ("cd-21", 0), ("{cd-2}", 1), ("", 0)]
)
def test_a_value_is_a_whole_word(output: str, score: float) -> None:
    assert scoring.whole_token(output, "cd-2") == score


def test_intermediate_results_count_from_the_start() -> None:
    assert scoring.leading_share("[1, 3, -1, -11]", [1, 3, 1, 11]) == 1
    assert scoring.leading_share("1 3 5 11", [1, 3, 1, 11]) == 0.5
    assert scoring.leading_share("0 1 3", [1, 3]) == 0
    assert scoring.leading_share("1", [1, 3]) == 0.5


@pytest.mark.parametrize(
    ("output", "answer", "labels", "question", "score"),
    [
        ("The most recent location of Mary is garden.", "garden", PLACES, "Where is Mary?", 1),
        ("garden or office", "garden", PLACES, "Where is Mary?", 0),
        ("garden. Not the office", "garden", PLACES, "Where is Mary?", 1),  # the first sentence alone
        ("Garden<example>office", "garden", PLACES, "Where is Mary?", 1),
        ("Before the kitchen it was in the garden", "garden", PLACES, "Where was it before the kitchen?", 1),
        ("kitchen", "garden", PLACES, "Where was it before the kitchen?", 0),
        ("", "garden", PLACES, "", 0),
        ("Bill", "Bill", ("Bill", "Fred", "Mary", "milk"), "Who gave the milk to Fred?", 1),
        ("milk and apple", "apple,milk", ("apple", "football", "milk", "nothing"), "What is Mary carrying?", 1),
        ("milk", "apple,milk", ("apple", "football", "milk", "nothing"), "What is Mary carrying?", 0),
        ("milk, apple, football", "apple,milk", ("apple", "football", "milk", "nothing"), "", 0),
        ("s,e", "s,e", ("e,e", "s,e", "e,n"), "How do you go?", 1),
        ("e,s", "s,e", ("e,s", "s,e", "e,n"), "How do you go?", 0),
        ("none", "none", ("none", "one", "two", "three"), "How many objects is Mary carrying?", 1),
        ("one", "none", ("none", "one", "two", "three"), "How many objects is Mary carrying?", 0),
    ],
)
def test_exactly_the_right_labels_are_named(
    output: str, answer: str, labels: tuple[str, ...], question: str, score: float
) -> None:
    assert scoring.label_set(output, answer, labels, question) == score


def test_masks_are_read_as_data() -> None:
    gold = {"<mask-0>": "Bob", "<mask-1>": "Rome"}
    assert scoring.filled_masks("Sure: {'<mask-0>': 'Bob', '<mask-1>': 'Paris'} I think", gold) == 0.5
    assert scoring.filled_masks("{'<mask-0>': 'Bob', '<mask-1>': 'Rome'}", gold) == 1
    assert scoring.filled_masks("{__import__('os').getcwd()}", gold) == 0
    assert scoring.filled_masks("{1, 2}", gold) == 0
    assert scoring.filled_masks("Bob, Rome", gold) == 0


def test_zero_scrolls_own_rules() -> None:
    assert scoring.exponential_similarity("about 50%", "50%") == 1
    assert scoring.exponential_similarity("60", "50%") == 0.5
    assert scoring.exponential_similarity("none", "50%") == 0
    assert scoring.concordance("2, 1, 3", "1,2,3") == pytest.approx(2 / 3)
    assert scoring.concordance("3 2 1", "1,2,3") == 0
    assert scoring.concordance("1 2", "1,2,3") == 0


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        ("The correct answer is (B)", "B"),
        ("**The correct answer is B**", "B"),
        ("The correct answer is *(C)*.", "C"),
        ("The correct answer is A, or rather: The correct answer is (D)", "D"),  # brackets first
        ("the correct answer is (B)", ""),
        ("B", ""),
        ("", ""),
    ],
)
def test_longbench_v2_reads_a_sentence(output: str, letter: str) -> None:
    assert letters.longbench_letter(output) == letter


@pytest.mark.parametrize(
    ("output", "score"),
    [
        ("B", 1),
        ("B. Mr Darcy", 1),
        ("A. not B", 0),
        ("The answer is: B", 1),
        ("I say: the answer is Mr Darcy", 1),
        ("I say: the answer is", 0),
        ("perhaps C but not B", 0),
        ("perhaps B", 1),
        ("", 0),
    ],
)
def test_infinitebench_reads_letters_and_texts(output: str, score: float) -> None:
    assert letters.infinitebench_choice(output, "B", "Mr Darcy") == score


def test_infinitebench_finds_the_function() -> None:
    for output, score in (("B. f", 1), ("B", 0), ("The answer is: f_two", 1), ("Answer is: A", 0), ("is: B", 1)):
        assert letters.infinitebench_debug(output, "B", "f_two") == score


@pytest.mark.parametrize(
    ("output", "answer", "several", "score"),
    [
        ("B", "B", False, 1),
        ("It is (B)", "(B) because", False, 1),
        ("nothing", "A", False, 1),  # the published guess
        ("", "A", False, 0),
        ("AB", "AB", True, 1),
        ("A. and B. and D)", "ABD", True, 1),
        ("A", "AB", True, 0.25),
        ("AC", "AB", True, 0),
        ("BA", "AB", True, 1),
    ],
)
def test_leval_letters(output: str, answer: str, several: bool, score: float) -> None:
    assert letters.leval_choice(output, answer, several) == score


def test_leval_counts_the_story_and_the_world_apart() -> None:
    assert letters.true_false("True [fact: False]", "True [fact: False]") == 1
    assert letters.true_false("True", "True [fact: False]") == 0.5
    assert letters.true_false("It is false [fact: false]", "True [fact: False]") == 0.5
    assert letters.true_false("", "True [fact: False]") == 0


WORDS = st.lists(st.sampled_from(["a", "b", "c", "D", "the", ".", "\n", "x1", "it's", "  "]), min_size=1, max_size=30)


@given(one=WORDS, other=WORDS)
@settings(deadline=None, max_examples=100)
def test_rouge_is_that_of_rouge_score(one: list[str], other: list[str]) -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    output, answer = " ".join(one), " ".join(other)
    theirs = scorer.RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"]).score(answer, output)
    ours = {
        "rouge1": rouge_n(output, answer, 1),
        "rouge2": rouge_n(output, answer, 2),
        "rougeL": rouge_l(output, answer),
        "rougeLsum": rouge_l_sum(output, answer),
    }
    for name, score in ours.items():
        assert score == pytest.approx(tuple(theirs[name]), abs=1e-12), name


@given(one=WORDS, other=WORDS)
@settings(deadline=None, max_examples=100)
def test_the_summary_rule_is_that_of_rouge(one: list[str], other: list[str]) -> None:
    rouge = pytest.importorskip("rouge")
    output, answer = " ".join(one), " ".join(other)
    if not output.strip(".") or not answer.strip("."):
        assert summary_l(output, answer) == (0, 0, 0)
        return
    theirs = rouge.Rouge(metrics=["rouge-l"], stats=["p", "r", "f"]).get_scores(output, answer)[0]["rouge-l"]
    assert summary_l(output, answer) == pytest.approx((theirs["p"], theirs["r"], theirs["f"]), abs=1e-12)


def test_the_geometric_mean_needs_all_three() -> None:
    assert geometric_mean("one two three", "One, two: three!") == pytest.approx(1)
    assert geometric_mean("one", "one") == 0  # no pair of words
