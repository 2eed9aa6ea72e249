"""Each task of `recall`: an oracle that solves it from the prompt alone, and one that sees nothing of it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Bytes

from farfield.benchmarks.tasks.haystack import load_haystack
from farfield.benchmarks.tasks.recall.automata import (
    LONGEST,
    MOST,
    SEPARATOR,
    STATES,
    Automata,
    Automaton,
    draw_automaton,
    minimised,
)
from farfield.benchmarks.tasks.recall.copying import Copying, SelectiveCopying
from farfield.benchmarks.tasks.recall.induction import Induction
from farfield.benchmarks.tasks.recall.mqar import Mqar
from farfield.benchmarks.tasks.recall.ngram import ASKED, NAMED, Ngram, alone, places
from farfield.benchmarks.tasks.recall.phone_book import PHONE_BOOK, IdEntries, PhoneBook, TextEntries
from farfield.benchmarks.tasks.recall.strings import draw_held, draw_string
from farfield.benchmarks.tasks.recall.texts import COPYING, NGRAM, CopyingText, NgramText
from farfield.benchmarks.tasks.sample import IGNORED, LackingError, Sample, Split, Task, TooShortError
from farfield.benchmarks.tasks.wording_file import Wording

IDS = 128
SPLITS: list[Split] = ["train", "test"]
Oracle = Callable[[list[int]], list[int]]
BYTES = Bytes()


def copying(prompt: list[int]) -> list[int]:
    return prompt[1 : prompt.index(1)]


def selective(prompt: list[int]) -> list[int]:
    return [token for token in prompt if token > 1]


def induction(prompt: list[int]) -> list[int]:
    return [prompt[prompt.index(0) + 1]]


def follows(string: list[int], gram: list[int]) -> list[int]:
    (at,) = [at for at in range(len(string)) if string[at : at + NAMED] == gram]
    return string[at + NAMED : at + NAMED + ASKED]


def suffix(prompt: list[int]) -> list[int]:
    bar = prompt.index(1)
    return follows(prompt[1:bar], prompt[bar + 1 :][:NAMED])


def prefix(prompt: list[int]) -> list[int]:
    first, second = (at for at, token in enumerate(prompt) if token == 1)
    return follows(prompt[first + 1 : second], prompt[1:first])


def phone_book(prompt: list[int]) -> list[int]:
    lines = prompt[: prompt.index(0)]
    entries = {tuple(lines[at : at + 2]): lines[at + 2 : at + 12] for at in range(0, len(lines), 12)}
    return entries[tuple(prompt[-2:])]


CASES: dict[str, tuple[Task, Oracle]] = {
    "copying": (Copying(IDS), copying),
    "copying, written": (Copying(IDS, written=True), copying),
    "selective copying": (SelectiveCopying(IDS), selective),
    "induction": (Induction(IDS), induction),
    "suffix": (Ngram(IDS), suffix),
    "suffix, written": (Ngram(IDS, written=True), suffix),
    "prefix": (Ngram(IDS, prefix=True), prefix),
    "prefix, written": (Ngram(IDS, prefix=True, written=True), prefix),
    "phone book": (PhoneBook(IdEntries(IDS)), phone_book),
}
# The first symbols of a sample that no sample of the other split may have.
HELD: dict[str, Callable[[Sample], tuple[int, ...]]] = {
    "copying": lambda one: tuple(one.answer.tolist()),
    "selective copying": lambda one: tuple(one.answer.tolist()),
    "induction": lambda one: tuple(one.prompt.tolist()),
    "suffix": lambda one: tuple(_gold(one)),
    "prefix": lambda one: tuple(_gold(one)),
    "phone book": lambda one: tuple(one.answer.tolist()),
}


@pytest.mark.parametrize("name", CASES)
@given(length=st.integers(80, 300), seed=st.integers(0, 2**40), split=st.sampled_from(SPLITS))
@settings(deadline=None, max_examples=15)
def test_an_oracle_solves_it_from_the_prompt_alone_and_a_blind_one_does_not(
    name: str, length: int, seed: int, split: Split
) -> None:
    task, solve = CASES[name]
    samples = task.generate(seed, length, 3, split)
    for sample in samples:
        assert len(sample.prompt) + sample.budget == sample.length <= length
        assert sample.length >= 0.98 * length or sample.unfilled
        assert solve(sample.prompt.tolist()) == sample.answer.tolist()
        assert set(sample.answer.tolist()) <= set(_gold(sample))
        assert all(0 <= depth <= 1 for depth in sample.depths)
        if sample.targets is not None:
            assert sample.targets[sample.targets != IGNORED].tolist() == sample.answer.tolist()
            assert len(sample.targets) == len(sample.prompt)
        if "gold_only" in sample.prompts:
            assert solve(sample.prompts["gold_only"].tolist()) == sample.answer.tolist()
    assert task.score(samples, [sample.answer.tolist() for sample in samples]) == [1, 1, 1]
    assert max(task.score(samples, [[0] * len(sample.answer) for sample in samples])) == 0


READ = {name: task for name, (task, _) in CASES.items() if task.scorings[0] == "read"}
READ |= {"mqar": Mqar(IDS, 6), "mqar of random filler": Mqar(IDS, 6, filler="random"), "automata": Automata(IDS)}


@pytest.mark.parametrize("name", READ)
def test_what_is_read_has_its_controls_or_says_why_not(name: str) -> None:
    """The same answer is asked for, nothing before the question, and without the context no gold is left."""
    for sample in READ[name].generate(0, 100, 3, "test"):
        assert set(sample.asked) == set(sample.prompts)
        assert {"no_context", "gold_only"} <= sample.prompts.keys() | sample.unasked.keys()
        for condition, prompt in sample.prompts.items():
            targets = sample.asked[condition]
            assert len(targets) == len(prompt) <= len(sample.prompt)
            assert targets[targets != IGNORED].tolist() == sample.answer.tolist()
        if not sample.question:
            assert sample.unasked.keys() == {"no_context", "gold_only", "memory_shuffled"}
            continue
        assert sample.targets is not None
        assert (sample.targets[: sample.question] == IGNORED).all()
        text = "".join(f" {token} " for token in sample.prompts["no_context"])
        for start, end in sample.gold:  # of selective copying each gold is one symbol, of which there are few
            if end - start > 1:
                assert "".join(f" {token} " for token in sample.prompt[start:end]) not in text


@pytest.mark.parametrize("name", CASES)
def test_what_is_forced_is_the_answer_itself(name: str) -> None:
    """Where a place is asked, what has been read of the answer is right, and the next of it is not yet there."""
    task = CASES[name][0]
    for sample in task.generate(0, 100, 3, "test"):
        if sample.targets is None or name in ("selective copying", "induction"):
            continue
        asked = np.flatnonzero(sample.targets != IGNORED)
        assert asked.tolist() == list(range(len(sample.prompt) - len(sample.answer), len(sample.prompt)))
        assert sample.prompt[asked[1:]].tolist() == sample.answer[:-1].tolist()


@pytest.mark.parametrize("name", HELD)
def test_no_training_sample_is_one_of_testing(name: str) -> None:
    task = CASES[name][0]
    length = {"copying": 6, "selective copying": 40, "induction": 5}.get(name, 80)
    if isinstance(task, SelectiveCopying):
        task = SelectiveCopying(IDS, tokens=3)
    trained, tested = ({HELD[name](one) for one in task.generate(0, length, 400, split)} for split in SPLITS)
    assert trained
    assert not trained & tested


def test_strings_and_indices_are_split_and_even() -> None:
    rng = np.random.default_rng(0)
    for split in SPLITS:
        drawn = np.stack([draw_string(rng, 5, 15, split) for _ in range(3000)])
        assert ((drawn.sum(axis=1) % 4 == 0) == (split == "test")).all()
        assert np.bincount(drawn.ravel(), minlength=15) / 15000 == pytest.approx(1 / 15, abs=0.012)
        one_by_one = {int(draw_held(rng, 64, 1, split)[0]) for _ in range(600)}
        assert len(one_by_one) == (16 if split == "test" else 48)
        assert len(set(draw_held(rng, 64, 16, split).tolist())) == 16


def test_selective_copying_scatters_over_all_of_the_noise() -> None:
    samples = SelectiveCopying(IDS).generate(0, 64, 500, "test")
    found = np.stack([np.flatnonzero(one.prompt[:48] > 1) for one in samples])
    assert found.shape == (500, 16)
    assert np.bincount(found.ravel(), minlength=48) / 500 == pytest.approx(16 / 48, abs=0.09)
    assert all((one.prompt[48:] == 1).all() for one in samples)
    assert {token for one in samples for token in one.answer.tolist()} == set(range(2, 16))


def test_the_trigger_stands_anywhere() -> None:
    samples = Induction(IDS).generate(0, 20, 1700, "test")
    where = [one.prompt.tolist().index(0) for one in samples]
    assert np.bincount(where, minlength=17) / 1700 == pytest.approx(1 / 17, abs=0.025)
    assert all((one.prompt == 0).sum() == 2 for one in samples)
    assert all(one.candidates is not None and one.answer[0] in one.candidates for one in samples)


@given(st.lists(st.integers(0, 3), min_size=NAMED, max_size=60), st.data())
@settings(deadline=None, max_examples=200)
def test_an_ngram_is_left_alone(symbols: list[int], data: st.DataObject) -> None:
    string = np.array(symbols, dtype=np.int32)
    place = data.draw(st.integers(0, len(string) - NAMED))
    found = alone(string, place, 8, np.random.default_rng(0))
    assert places(found, string[place : place + NAMED]).tolist() == [place]
    assert (found != string).sum() <= len(places(string, string[place : place + NAMED])) - 1


def accepted(automaton: Automaton, words: Sequence[int]) -> bool:
    state = 0
    for symbol in words:
        if symbol not in automaton[state]:
            return False
        state = automaton[state][symbol]
    return True


def test_automata_are_minimal_and_as_published() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        one = draw_automaton(rng)
        assert 1 <= len(one) <= STATES
        assert all(1 <= len(leads) <= MOST for leads in one)
        assert all(1 <= symbol <= 18 and 0 <= to < len(one) for leads in one for symbol, to in leads.items())
        assert minimised(one) == one
        assert len(_told_apart(one)) == len(one) * (len(one) - 1) // 2
        reached, edge = {0}, [0]
        while edge:
            edge = [to for state in edge for to in one[state].values() if to not in reached]
            reached |= set(edge)
        assert reached == set(range(len(one)))


def test_minimising_keeps_the_words() -> None:
    """Two copies of one state, and one that cannot be reached."""
    doubled: Automaton = ({1: 1, 2: 2}, {1: 0}, {1: 0}, {3: 0})
    least = minimised(doubled)
    assert least == ({1: 1, 2: 1}, {1: 0})
    for words in itertools.product((1, 2, 3), repeat=4):
        assert accepted(doubled, words) == accepted(least, words)
    assert minimised(({1: 1}, {1: 2}, {1: 0})) == ({1: 0},)


@pytest.mark.parametrize("split", SPLITS)
def test_words_are_accepted_and_any_accepted_symbol_counts(split: Split) -> None:
    rng = np.random.default_rng(0)
    for sample in Automata(IDS).generate(3, 400, 8, split):
        assert sample.targets is not None
        assert len(sample.prompt) == sample.length == 400
        words = _split(sample.prompt.tolist())
        assert max(map(len, words)) <= LONGEST
        seen: dict[tuple[int, ...], set[int]] = {}
        for word in words:
            for at, symbol in enumerate(word):
                seen.setdefault(tuple(word[:at]), set()).add(symbol)
        asked = np.flatnonzero(sample.targets != IGNORED)
        assert (sample.prompt[asked + 1] == sample.targets[asked]).all()
        assert sample.prompt[(asked + 1)].min() > SEPARATOR
        assert set(np.flatnonzero(sample.prompt != SEPARATOR)) - {0} == set(asked + 1)
        # Whatever followed the same beginning elsewhere is right too; what no state of it accepts is not.
        other = []
        for place in asked:
            begin = sample.prompt[: place + 1].tolist()
            word = tuple(begin[len(begin) - begin[::-1].index(SEPARATOR) :] if SEPARATOR in begin else begin)
            other.append(int(rng.choice(sorted(seen[word]))))
        scores = Automata(IDS).score(
            [sample] * 4,
            [sample.answer.tolist(), other, [SEPARATOR] * len(asked), [100] * len(asked)],
        )
        assert scores == [1, 1, 0, 0]


def test_automata_of_testing_are_not_those_of_training() -> None:
    """Short words of few automata: the tables that the judge has are never the same."""
    tables = [
        {_table(one) for one in Automata(IDS).generate(seed, 30, 150, split)}
        for seed, split in ((0, SPLITS[0]), (1, SPLITS[1]))
    ]
    assert all(len(some) > 100 for some in tables)
    assert not tables[0] & tables[1]


TEXTS: dict[str, tuple[Task, Callable[[str], str]]] = {
    "copying": (
        CopyingText(BYTES, load_haystack("noise", BYTES), Wording(COPYING)),
        lambda prompt: prompt.split("\n\n")[0].removeprefix(prompt.split("\n\n")[2]),
    ),
    "ngram": (
        NgramText(BYTES, Wording(NGRAM)),
        lambda prompt: _after(*re.findall(r"Words:(.*)\nIn this list of words,(.*) are followed by", prompt)[0]),
    ),
    "phone book": (
        PhoneBook(TextEntries(BYTES, Wording(PHONE_BOOK)), ("\n",)),
        lambda prompt: " " + re.findall(re.escape(prompt.split("\n")[-1]) + r" (\d{10})", prompt)[0],
    ),
}


def _after(words: str, gram: str) -> str:
    (match,) = re.findall(rf"{gram}((?: \w+){{4}})", words)
    return str(match)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("length", [256, 257, 1000, 4096])
def test_texts_are_solved_from_the_prompt_alone_too(name: str, length: int) -> None:
    task, solve = TEXTS[name]
    for split in SPLITS:
        samples = task.generate(1, length, 3, split)
        for sample in samples:
            assert len(sample.prompt) + sample.budget == sample.length <= length
            assert sample.length >= 0.98 * length or sample.unfilled
            answer = BYTES.encode(solve(BYTES.decode(sample.prompt.tolist())))
            blind = BYTES.encode(" 6000000001 and other words of ours")
            assert task.score([sample] * 3, [answer, [*answer, *b" and more"], blind]) == [1, 1, 0]
            assert BYTES.decode(answer).strip() == sample.text_answers[0].strip()
            assert sample.text_answers[0].strip() in BYTES.decode(_gold(sample))
            (right,) = sample.right
            assert sample.choices[right].tolist() == sample.answer.tolist()
            assert len({choice.tobytes() for choice in sample.choices}) == len(sample.choices) > 2
            assert len(sample.answer) <= sample.budget
            if "gold_only" in sample.prompts:
                assert BYTES.encode(solve(BYTES.decode(sample.prompts["gold_only"].tolist()))) == answer
            assert len(sample.prompts["no_context"]) < len(sample.prompt)


def test_a_longer_number_and_another_number_first_are_wrong() -> None:
    task, _ = TEXTS["phone book"]
    (sample,) = task.generate(0, 256, 1, "test")
    (number,) = sample.text_answers
    told = [f"{number}1", f"1 {number}", f" {number}, I think", f"It is {number}."]
    assert task.score([sample] * 4, [BYTES.encode(text) for text in told]) == [0, 0, 1, 1]


def test_numbers_have_ten_digits_of_which_the_first_is_six_to_nine() -> None:
    task, _ = TEXTS["phone book"]
    text = BYTES.decode(task.generate(0, 20_000, 1, "test")[0].prompt.tolist())
    numbers = re.findall(r"^\w+ \w\. \w+: (\d+)$", text, re.MULTILINE)
    assert len(numbers) > 600
    assert {number[0] for number in numbers} == set("6789")
    assert {len(number) for number in numbers} == {10}
    names = re.findall(r"^(.*): \d", text.split("\n\n")[0], re.MULTILINE)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("task", "length", "kind", "line"),
    [
        (Copying(20), 64, LackingError, "recall: copying needs 28 ids and the end of a document, and there are 21."),
        (Copying(IDS), 3, TooShortError, "recall: copying needs 4 tokens or more, 3 is given."),
        (SelectiveCopying(IDS), 31, TooShortError, "recall: selective_copying needs 32 tokens or more for 16 symbols"),
        (Induction(IDS), 4, TooShortError, "recall: induction needs 5 tokens or more, 4 is given."),
        (Ngram(IDS), 23, TooShortError, "recall: ngram_suffix needs 24 tokens or more, 23 is given."),
        (Ngram(IDS, prefix=True), 24, TooShortError, "recall: ngram_prefix needs 25 tokens or more, 24 is given."),
        (Automata(12), 64, LackingError, "recall: automata needs 19 ids and the end of a document, and there are 13."),
        (
            PhoneBook(IdEntries(IDS)),
            40,
            TooShortError,
            "recall: a length of 40 tokens is too short for a phone_book of three entries: 74 is the least.",
        ),
        (
            PhoneBook(IdEntries(32)),
            1000,
            LackingError,
            "recall: a phone_book of 1000 tokens has up to 86 entries, and there are 25 names.",
        ),
        (TEXTS["copying"][0], 51, TooShortError, "recall: copying needs 52 tokens or more for a text three times"),
        (TEXTS["ngram"][0], 100, TooShortError, "recall: ngram_suffix needs"),
        (TEXTS["phone book"][0], 100, TooShortError, "recall: a length of 100 tokens is too short for a phone_book"),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else None,
)
def test_what_does_not_fit_is_said_in_one_line(task: Task, length: int, kind: type[Exception], line: str) -> None:
    with pytest.raises(kind) as error:
        task.check(0, length, 2, "test")
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_the_least_length_is_enough() -> None:
    every = [*(task for task, _ in CASES.values()), *(task for task, _ in TEXTS.values()), Automata(IDS)]
    for task in every:
        for length in range(1, 400):
            try:
                task.check(0, length, 4, "test")
            except TooShortError:
                continue
            assert len(task.generate(0, length, 4, "test")) == 4
            break
        else:
            pytest.fail(f"{task.name} has no least length")


def _gold(sample: Sample) -> list[int]:
    return [token for low, high in sample.gold for token in sample.prompt[low:high].tolist()]


def _split(tokens: list[int]) -> list[list[int]]:
    words: list[list[int]] = [[]]
    for token in tokens:
        if token == SEPARATOR:
            words.append([])
        else:
            words[-1].append(token)
    return words


def _told_apart(automaton: Automaton) -> set[tuple[int, int]]:
    """The pairs of states that some word tells apart: filled in from the shortest words on."""
    pairs = set(itertools.combinations(range(len(automaton)), 2))
    apart = {(one, two) for one, two in pairs if set(automaton[one]) != set(automaton[two])}
    while True:
        more = {
            (one, two)
            for one, two in pairs - apart
            if any(tuple(sorted((to, automaton[two][symbol]))) in apart for symbol, to in automaton[one].items())
        }
        if not more:
            return apart
        apart |= more


def _table(sample: Sample) -> bytes:
    return bytes(sample.reference.accepted.tobytes())  # type: ignore[attr-defined]
