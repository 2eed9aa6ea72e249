from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Bytes, Lookup, Numbers

from farfield.benchmarks.reports.grid import grids, remarks
from farfield.benchmarks.running.results import read_result
from farfield.benchmarks.running.runner import evaluate
from farfield.benchmarks.suites.babilong import BabilongSuite
from farfield.benchmarks.tasks.babilong.prompts import EXAMPLES, texts_of
from farfield.benchmarks.tasks.babilong.stories import LABELS, PLACES, Story, find_stories, read_stories
from farfield.benchmarks.tasks.babilong.task import BabilongTask, Drawn, Stored, StoryIds, noise_ids
from farfield.benchmarks.tasks.babilong.world import (
    GIVERS,
    OPPOSITE,
    PEOPLE,
    THINGS,
    WORLDS,
    draw_story,
    vocabulary,
    words_of,
)
from farfield.benchmarks.tasks.haystack import load_haystack
from farfield.benchmarks.tasks.sample import LackingError, Sample, Split, TooShortError, generator
from farfield.benchmarks.tasks.scoring import label_set
from farfield.benchmarks.tasks.wording import noise_sentences
from farfield.benchmarks.tasks.wording_file import Wording
from farfield.config import ConfigError, DataError, read
from farfield.tokenizers import train_bpe

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "babi"
BYTES = Bytes()
NOISE = load_haystack("noise", BYTES)
MOVED = re.compile(r"(\w+) (?:moved|went|travelled|went back|journeyed) to the (\w+)\.?", re.IGNORECASE)
FILE = """1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Mary went to the garden.
5 Where is Mary? \tgarden\t4
1 John moved to the office.
2 Where is John? \toffice\t1
"""


def task_of(name: str = "qa1", tokenizer: Any = BYTES, haystack: Any = NOISE, **settings: Any) -> BabilongTask:
    wording = Wording(texts_of(name, settings.pop("examples", True)))
    return BabilongTask(name, settings.pop("stories", Drawn()), tokenizer, haystack, wording, **settings)


def solve(facts: str, question: str) -> str:
    """The answer, by a rule a task, from what stands in a text."""
    facts = facts.lower()
    moves = {}
    held: dict[str, str] = {}
    lying: dict[str, str] = {}
    for sentence in re.split(r"[.\n]", facts):
        if moved := MOVED.search(sentence):
            moves[moved[1]] = moved[2]
        elif took := re.search(r"(\w+) (?:took|got|picked up|grabbed) the (\w+) there", sentence):
            held[took[2]] = took[1]
        elif dropped := re.search(r"(\w+) (?:dropped|left|discarded|put down) the (\w+)", sentence):
            held.pop(dropped[2], None)
            lying[dropped[2]] = moves.get(dropped[1], "?")
    asked = question.lower()
    if found := re.search(r"where is the (\w+)", asked):
        return moves.get(held[found[1]], "?") if found[1] in held else lying.get(found[1], "?")
    if found := re.search(r"where is (\w+)", asked):
        return moves.get(found[1], "?")
    if found := re.search(r"is (\w+) in the (\w+)", asked):
        return "yes" if moves.get(found[1]) == found[2] else "no" if found[1] in moves else "?"
    if found := re.search(r"how many objects is (\w+) carrying", asked):
        known = found[1] in facts
        return ("none", "one", "two", "three")[list(held.values()).count(found[1])] if known else "?"
    if found := re.search(r"what is (\w+) of the (\w+)", asked):
        side = re.search(rf"the (\w+) is {found[1]} of the {found[2]}", facts)
        other = re.search(rf"the {found[2]} is {OPPOSITE[found[1]]} of the (\w+)", facts)
        return side[1] if side else other[1] if other else "?"
    if found := re.search(r"what is the (\w+) (\w+) of", asked):
        side = re.search(rf"the {found[1]} is {found[2]} of the (\w+)", facts)
        other = re.search(rf"the (\w+) is {OPPOSITE[found[2]]} of the {found[1]}", facts)
        return side[1] if side else other[1] if other else "?"
    give = r"(?:gave|handed|passed)"
    for form, pattern in (
        (r"what did (\w+) give to (\w+)", rf"{{0}} {give} the (\w+) to {{1}}"),
        (r"who gave the (\w+) to (\w+)", rf"(\w+) {give} the {{0}} to {{1}}"),
        (r"who did (\w+) give the (\w+) to", rf"{{0}} {give} the {{1}} to (\w+)"),
    ):
        if found := re.search(form, asked):
            gift = re.findall(pattern.format(*found.groups()), facts)
            return str(gift[-1]) if gift else "?"
    raise AssertionError(question)


@pytest.mark.parametrize("name", WORLDS)
@given(seed=st.integers(0, 2**30), split=st.sampled_from(["train", "test"]))
@settings(deadline=None, max_examples=25)
def test_stories_of_our_own_have_the_answer_that_their_facts_say(name: str, seed: int, split: Split) -> None:
    story = draw_story(name, generator("facts", seed), split)
    assert solve(" ".join(story.facts), story.question) == story.answer.lower()
    assert label_set(f" {story.answer}", story.answer, LABELS[name], story.question) == 1
    assert story.support
    assert all(0 <= at < len(story.facts) for at in story.support)
    words = {word for text in (*story.facts, story.question, story.answer) for word in words_of(text)}
    assert words <= set(vocabulary())


@pytest.mark.parametrize("name", WORLDS)
def test_the_supporting_facts_are_enough_where_nothing_is_counted(name: str) -> None:
    answers = []
    for seed in range(200):
        story = draw_story(name, generator("facts", seed), "test")
        answers.append(story.answer)
        assert solve(" ".join(story.facts[at] for at in story.support), story.question) == story.answer.lower()
    # No answer is so frequent that guessing it would do.
    assert max(answers.count(answer) for answer in answers) < (150 if name in ("qa6", "qa7") else 80)
    assert set(answers) <= set(LABELS[name])


@pytest.mark.parametrize("name", WORLDS)
def test_train_and_test_share_no_story(name: str) -> None:
    told: dict[Split, set[str]] = {"train": set(), "test": set()}
    for split, stories in told.items():
        for seed in range(120):
            story = draw_story(name, generator("facts", seed), split)
            stories.add(repr((story.facts, story.question)))
    assert not told["train"] & told["test"]


@pytest.mark.parametrize("length", [1024, 4096, 32768])
@pytest.mark.parametrize("name", ["qa1", "qa7"])
def test_a_sample_is_filled_and_holds_its_facts_in_order(name: str, length: int) -> None:
    task = task_of(name)
    for sample in task.generate(0, length, 8, "test"):
        assert len(sample.prompt) + sample.budget == sample.length == length
        assert sample.budget == 20
        story, text = sample.reference, BYTES.decode(sample.prompt.tolist())
        assert isinstance(story, Story)
        context = text[text.rindex("<context>\n") : text.rindex("\n</context>")]
        ends = [0]
        for fact in story.facts:
            ends.append(context.index(fact, ends[-1]) + len(fact))
        for (low, high), at in zip(sample.gold, story.support, strict=True):
            assert text[low:high] == f" {story.facts[at]}"
        assert text.endswith(f"\n</context>\n\nQuestion: {story.question}\nAnswer:")
        assert BYTES.decode(sample.prompt[sample.question :].tolist()).startswith("\n</context>")
        assert list(sample.depths) == sorted(sample.depths)
        assert solve(context, story.question) == story.answer.lower()


def test_facts_stand_anywhere_or_in_a_window() -> None:
    depths = np.array([depth for sample in task_of().generate(0, 4096, 200, "test") for depth in sample.depths])
    assert depths.min() < 0.1
    assert depths.max() > 0.9
    inside = task_of(window=(0.4, 0.6)).generate(0, 8192, 40, "test")
    shares = [depth for sample in inside for depth in sample.depths]
    assert min(shares) >= 0.4
    assert max(shares) <= 0.6
    for sample in task_of(window=(1.0, 1.0)).generate(0, 2048, 4, "test"):
        assert sample.depths[0] == 1


def test_prompts_are_as_published_and_controls_hold_what_they_say() -> None:
    (sample,) = task_of("qa2").generate(0, 2048, 1, "test")
    text = BYTES.decode(sample.prompt.tolist())
    shape = (
        r"(?s)Facts .*\n\n(<example>\n[^<]*\nAnswer: [^<]*\n</example>\n\n){2}<context>\n.*\n</context>\n\nQuestion: .*"
    )
    assert re.fullmatch(shape, text)
    story = sample.reference
    assert isinstance(story, Story)
    closed, gold = (BYTES.decode(sample.prompts[name].tolist()) for name in ("no_context", "gold_only"))
    assert closed.endswith(f"<context>\n\n</context>\n\nQuestion: {story.question}\nAnswer:")
    assert f"<context>\n {' '.join(story.facts)}\n</context>" in gold
    (short,) = task_of("qa2", examples=False).generate(0, 2048, 1, "test")
    assert "<example>" not in BYTES.decode(short.prompt.tolist())


def test_the_choices_are_the_labels() -> None:
    for sample in task_of("qa1").generate(0, 1024, 5, "test"):
        texts = [BYTES.decode(ids.tolist()) for ids in sample.choices]
        assert sorted(texts) == sorted(f" {label}" for label in LABELS["qa1"])
        assert texts[sample.right[0]] == f" {sample.text_answers[0]}"
    story = Story(("Mary got the milk there.",), "What is Mary carrying?", "apple,milk", (0,))
    (sample,) = task_of("qa8", stories=Stored("test", {"test": [story]})).generate(0, 1024, 1, "test")
    assert BYTES.decode(sample.choices[sample.right[0]].tolist()) == " apple,milk"
    outputs = [BYTES.encode(text) for text in (" milk and apple", " milk")]
    assert task_of("qa8").score([sample, sample], outputs) == [1, 0]


def test_own_noise_tells_nothing_of_people_and_things() -> None:
    noise = set(re.findall(r"\w+", " ".join(noise_sentences(1024)).lower()))
    assert not noise & {word.lower() for word in (*PEOPLE, *GIVERS, *THINGS, *PLACES)}


def test_every_task_has_two_examples_of_its_own_form() -> None:
    assert list(EXAMPLES) == list(LABELS) == [f"qa{number}" for number in range(1, 21)]
    for name, examples in EXAMPLES.items():
        assert len(examples) == 2
        assert all(question.endswith("?") for question, _ in examples)
        assert len({answer for _, answer in examples}) == 2, name


def test_files_become_a_story_a_question(tmp_path: Path) -> None:
    file = tmp_path / "qa1_single-supporting-fact_train.txt"
    file.write_text(FILE)
    first, second, third = read_stories(file)
    assert first == Story(
        ("Mary moved to the bathroom.", "John went to the hallway."), "Where is Mary?", "bathroom", (0,)
    )
    assert second.facts == (*first.facts, "Mary went to the garden.")
    assert second.support == (2,)
    assert third.facts == ("John moved to the office.",)
    suite = read(BabilongSuite, {"facts": str(tmp_path), "samples": 50, "lengths": [1024]})
    (task,) = suite.tasks(BYTES)
    assert isinstance(task, BabilongTask)
    assert task.available(1024, "test") == 3
    asked = {sample.reference for sample in task.generate(0, 1024, 3, "test")}
    assert asked == {first, second, third}
    with pytest.raises(LackingError, match=r"babilong_qa1: there is no file with stories of split=train\."):
        task.generate(0, 1024, 1, "train")
    file.with_name("qa1_single-supporting-fact_test.txt").write_text(FILE.replace("Mary", "Sandra"))
    (both,) = suite.tasks(BYTES)
    assert "Sandra" in BYTES.decode(both.generate(0, 1024, 1, "train", first=10**6)[0].prompt.tolist())


def test_a_rule_that_is_not_the_published_one_is_told(tmp_path: Path) -> None:
    told = "qa7: none is right where it is the answer, where the published rule finds one in it, too."
    (tmp_path / "qa1_x_train.txt").write_text(FILE)

    def notes(**given: Any) -> tuple[str, ...]:
        return read(BabilongSuite, given).notes(BYTES)

    books = {"facts": str(tmp_path), "haystack": str(tmp_path)}
    assert notes()[2:] == notes(tasks=["qa1", "qa7"])[2:] == (told,)
    assert notes(tasks=["qa1"])[2:] == notes(scoring="likelihood")[2:] == notes(**books) == ()
    stories, noise = notes(tasks=["qa1"])
    assert stories.startswith("Stories of our own")
    assert noise.startswith("Noise of our own")
    (tmp_path / "qa7_x_train.txt").write_text(FILE)
    assert notes(**books) == (told,)
    suite = read(BabilongSuite, {"tasks": ["qa7"], "lengths": [1024], "samples": 1, "controls": []})
    (grid,) = grids(read_result(evaluate(suite, Solver(BYTES), tmp_path / "out").path))
    assert told in remarks([grid])


def test_an_index_far_away_costs_no_more_than_the_first() -> None:
    far, near = (task_of("qa2").generate(0, 2048, 1, "train", first=at)[0] for at in (10**9, 0))
    assert len(far.prompt) == len(near.prompt)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Mary moved.\n", r"train.txt: line 1: a number and a sentence are needed"),
        ("1 Mary moved.\n2 Where? \tx\n", r"train.txt: line 2: a question, its answer and the numbers of facts before"),
        ("1 Mary moved.\n2 Where? \tx\t7\n", r"train.txt: line 2: a question, its answer and the numbers"),
        ("1 Mary moved.\n", r"train.txt: no question in it\."),
        (b"1 \xff", r"train.txt: not UTF-8 text"),
    ],
)
def test_another_schema_is_told_by_line(tmp_path: Path, text: str | bytes, problem: str) -> None:
    file = tmp_path / "qa1_x_train.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=problem):
        read_stories(file)


def test_mistakes_in_the_settings_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"suite.tasks: babilong has no task 'qa21'"):
        read(BabilongSuite, {"tasks": ["qa21"]}, "suite")
    with pytest.raises(
        ConfigError, match=r"suite.tasks: qa3 has no stories of our own; qa1, qa2, .* have\. Give suite.fac"
    ):
        read(BabilongSuite, {"tasks": ["qa3"]}).tasks(BYTES)
    with pytest.raises(DataError, match=r"suite.facts: 'nowhere' is no folder\."):
        read(BabilongSuite, {"facts": "nowhere"}).tasks(BYTES)
    with pytest.raises(DataError, match=r"suite.facts: .* has no file qa3_\.\.\._train\.txt\."):
        read(BabilongSuite, {"facts": str(tmp_path), "tasks": ["qa3"]}).tasks(BYTES)
    with pytest.raises(ConfigError, match=r"suite.window: \[0.7, 0.2\] given\. Give where it begins"):
        read(BabilongSuite, {"window": [0.7, 0.2]}, "suite")
    with pytest.raises(ConfigError, match=r"suite.haystack: text, and a model of the ids tokenizer reads none"):
        read(BabilongSuite, {"haystack": "books"}).tasks(Numbers(512))
    with pytest.raises(ConfigError, match=r"vocabulary: 64 ids given; babilong in ids needs \d+"):
        read(BabilongSuite, {}).tasks(Numbers(64))
    with pytest.raises(
        TooShortError, match=r"babilong_qa1: a length of 256 tokens is too short .* suite.examples=false"
    ):
        task_of().check(0, 256, 4, "test")


def test_short_books_are_told_or_repeated(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("It was a dark night. The wind blew. Nobody came. " * 20)
    with pytest.raises(LackingError, match=r"needs more text than .*book.txt has: 980 tokens\. .* suite.repeat=true\."):
        task_of(haystack=load_haystack(str(book), BYTES)).check(0, 4096, 2, "test")
    for sample in task_of(haystack=load_haystack(str(book), BYTES, repeat=True)).generate(0, 4096, 2, "test"):
        assert len(sample.prompt) + sample.budget == 4096


def test_stories_that_are_long_for_a_length_are_left_out() -> None:
    long = Story(("Mary moved to the office.",) * 200, "Where is Mary?", "office", (199,))
    short = Story(("Mary moved to the garden.",), "Where is Mary?", "garden", (0,))
    task = task_of(stories=Stored("test", {"test": [long, short]}))
    assert {sample.reference for sample in task.generate(0, 1400, 2, "test")} == {short}
    assert {sample.reference for sample in task.generate(0, 8192, 2, "test")} == {short, long}
    with pytest.raises(TooShortError, match=r"is the least"):
        task.check(0, 128, 1, "test")
    assert [task.available(length, "test") for length in (1400, 8192)] == [1, 2]
    with pytest.raises(TooShortError, match=r"is the least"):
        task.available(128, "test")
    assert task_of().available(1400, "test") > 10**9


@pytest.mark.parametrize("name", ["qa1", "qa2", "qa7"])
def test_the_least_length_of_drawn_stories_is_the_same_whatever_is_asked_and_holds_every_sample(name: str) -> None:
    task = task_of(name, examples=False)
    told = set()
    for seed, n in ((0, 1), (1, 40), (2, 300)):
        with pytest.raises(TooShortError, match=r"(\d+) is the least") as error:
            task.check(seed, 60, n, "test")
        told |= set(re.findall(r"(\d+) is the least", str(error.value)))
    (least,) = map(int, told)
    with pytest.raises(TooShortError, match=f"{least} is the least"):
        task.generate(0, least - 1, 1, "test")
    samples = task.generate(0, least, 200, "test") + task.generate(0, least, 200, "train")
    assert {sample.length for sample in samples} == {least}
    assert all(len(sample.prompt) + sample.budget == least for sample in samples)
    # What fits at once is the same story at any length.
    long = task.generate(0, 4096, 200, "test")
    same = [a.reference == b.reference for a, b in zip(samples, long, strict=False)]
    assert sum(same) / 200 > 0.8


def test_no_question_is_counted_twice(tmp_path: Path) -> None:
    names = "Mary John Daniel Sandra".split()
    lines = [f"1 {name} moved to the {place}.\n2 Where is {name}?\t{place}\t1\n" for name in names
             for place in ("office", "garden")]  # fmt: skip
    long = "".join(f"{at} Mary moved to the office.\n" for at in range(1, 41)) + "41 Where is Mary?\toffice\t40\n"
    (tmp_path / "qa1_x_train.txt").write_text("".join([*lines, long]))
    given = {"facts": str(tmp_path), "samples": 20, "lengths": [128, 1024, 4096], "examples": False, "controls": []}
    result = read_result(evaluate(read(BabilongSuite, given), Solver(BYTES), tmp_path / "out").path)
    assert {cell.length: answers.count for cell, answers in result.cells.items()} == {1024: 8, 4096: 9}
    (grid,) = grids(result)
    assert remarks([grid])[-1:] == ["All questions that there are of babilong_qa1: 8 at 1k, 9 at 4k tokens."]


class Solver(Lookup):
    """Answers by what it has read of the facts."""

    def _reply(self, row: Any) -> list[int]:
        text = BYTES.decode(row.tolist())
        context = text.rsplit("<context>\n", 1)[-1] if "<context>\n" in text else text
        facts, _, question = context.partition("\n</context>\n\nQuestion: ")
        return BYTES.encode(f" {solve(facts, question)}.")


def test_a_seeing_subject_is_right_and_a_blind_one_is_not(tmp_path: Path) -> None:
    suite = read(BabilongSuite, {"lengths": [1024, 2048], "samples": 8, "controls": ["no_context", "gold_only"]})
    outcome = evaluate(suite, Solver(BYTES), tmp_path / "seeing")
    cells = read_result(outcome.path).cells
    assert {cell.task for cell in cells} == {f"babilong_{name}" for name in WORLDS}
    assert {answers.score for cell, answers in cells.items() if cell.condition != "no_context"} == {1}
    assert {answers.score for cell, answers in cells.items() if cell.condition == "no_context"} == {0}
    blind = evaluate(suite, Solver(BYTES, window=80), tmp_path / "blind")
    scores = [answers.score for cell, answers in read_result(blind.path).cells.items() if cell.condition == "full"]
    assert np.mean(scores) < 0.2


def test_ids_are_words_in_noise_of_other_ids() -> None:
    ids = StoryIds(256)
    task = BabilongTask("qa1", Drawn(), ids, noise_ids(ids), Wording({"introduction": "", "question": "{question}"}))
    for sample in task.generate(0, 256, 6, "test"):
        assert len(sample.prompt) + 1 == sample.length == 256
        assert sample.budget == len(sample.answer) == 1
        text = ids.decode(sample.prompt.tolist())
        story = sample.reference
        assert isinstance(story, Story)
        facts = re.sub(r"(~ ?)+", "\n", text.rsplit(" where", 1)[0])
        assert solve(facts.replace(" .", "."), story.question) == story.answer
        assert task.score([sample], [sample.answer.tolist()]) == [1]
        assert {len(choice) for choice in sample.choices} == {1}
        assert max(sample.prompt) < 255
    suite = read(BabilongSuite, {"lengths": [128]})
    assert [made.name for made in suite.tasks(Numbers(256))] == [f"babilong_{name}" for name in WORLDS]


def test_both_tokenizers_fill_the_length() -> None:
    words = " ".join(noise_sentences(200)) + (texts_of("qa1", False)["introduction"] + " ".join(vocabulary())) * 20
    tokenizer = train_bpe([words], 1000)
    task = task_of(tokenizer=tokenizer, haystack=load_haystack("noise", tokenizer), examples=False)
    for length in (256, 1024):
        for sample in task.generate(0, length, 4, "test"):
            assert len(sample.prompt) + sample.budget == length
            for (low, high), at in zip(sample.gold, sample.reference.support, strict=True):  # type: ignore[attr-defined]
                assert tokenizer.decode(sample.prompt[low:high].tolist()) == f" {sample.reference.facts[at]}"  # type: ignore[attr-defined]


def test_a_million_tokens_are_filled() -> None:
    (sample,) = task_of().generate(0, 1 << 20, 1, "test")
    assert len(sample.prompt) + sample.budget == 1 << 20


@pytest.mark.parametrize("name", LABELS)
def test_real_files_are_read_and_answers_are_labels(name: str) -> None:
    if not DATA.is_dir():
        pytest.skip(f"no data in {DATA}")
    file = find_stories(DATA, name, "train")
    assert file is not None
    stories = read_stories(file)
    assert len(stories) == 1000
    for story in stories:
        right = label_set(f"{story.answer}. Next", story.answer, LABELS[name], story.question)
        assert right == (story.answer.lower() not in story.question.lower() or "," in story.answer), story
        assert story.facts
    task = task_of(name, stories=Stored("test", {"test": stories}))
    samples: Sequence[Sample] = task.generate(0, 8192, 5, "test")
    assert task.score(samples, [BYTES.encode(f" {sample.text_answers[0]}.") for sample in samples]) == [1] * 5
    if name in ("qa1", "qa2", "qa4", "qa6"):
        solved = [solve(" ".join(story.facts), story.question) == story.answer for story in stories]
        assert np.mean(solved) > 0.98
