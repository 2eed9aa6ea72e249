"""Every kind of needle: what a prompt holds, who can answer it, and who cannot."""

from __future__ import annotations

import re
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Bytes, Numbers
from solvers import Solver, small_bpe

from farfield.benchmarks.running.results import read_result
from farfield.benchmarks.running.runner import evaluate
from farfield.benchmarks.suites.needle import NeedleSuite
from farfield.benchmarks.tasks.associations import FAMILIES
from farfield.benchmarks.tasks.haystack import load_haystack
from farfield.benchmarks.tasks.layout import anywhere, nearest
from farfield.benchmarks.tasks.needle import Ground, TokenNeedle
from farfield.benchmarks.tasks.no_literal import NoLiteral, associations
from farfield.benchmarks.tasks.pairs import Disjoint, Pairs
from farfield.benchmarks.tasks.sample import IGNORED, Sample, Split, Tokenizer, generator
from farfield.benchmarks.tasks.stories import Keyed, ManyKeys, OneKey, Passkey, Story
from farfield.benchmarks.tasks.text_needle import TextNeedle
from farfield.benchmarks.tasks.token_plans import KeyedPairs, ManyPairs, OneKeyPairs, Plan, SaidTwice
from farfield.benchmarks.tasks.wording import listed
from farfield.config import ConfigError, DataError, read

SPLITS: list[Split] = ["train", "test"]
TOKENIZERS: dict[str, Tokenizer] = {"bytes": Bytes(), "bpe": small_bpe()}
STORIES: dict[str, Story] = {
    "needle": Keyed(3, 2),
    "multi_key": Keyed(4, apart=True, name="multi_key"),
    "multi_value": OneKey(3),
    "multi_query": ManyKeys(4),
    "passkey": Passkey(),
    "no_literal": NoLiteral(4),
}
PLANS: dict[str, Plan] = {
    "multi_key": KeyedPairs(4, apart=True, name="multi_key"),
    "multi_value": OneKeyPairs(3),
    "multi_query": ManyPairs(4),
    "passkey": SaidTwice(),
}


def solve(text: str) -> str:
    """The answer to a prompt, from its text and knowledge of the world."""
    body, _, question = text.rpartition("\n")
    if "password" in question:
        found = re.findall(r"password of the day is (\d+)\.", body)
        return f" {found[0]}." if found else ""
    if "secret number" in question:
        keys = re.findall(r"\w+ \w+(?=,|\?| and )", question.removeprefix("What ").split("?")[0] + "?")
        keys = [key.removeprefix("of ") for key in keys]
        found = [value for key in keys for value in re.findall(rf"numbers? of {key} is (\d+)\.", body)]
        return f" {listed(found)}."
    for family in FAMILIES:
        for clue, meaning in family.associations:
            if family.question.format(meaning=meaning) in question:
                hidden = re.escape(family.needle.format(name="NAME", clue=clue)).replace("NAME", r"(\w+)")
                found = re.findall(hidden, body)
                return f" {found[0]}." if found else ""
    return ""


@pytest.mark.parametrize("scoring", ["generate", "likelihood"])
@pytest.mark.parametrize("tokenizer", list(TOKENIZERS))
def test_who_reads_answers_and_who_is_blind_does_not(scoring: str, tokenizer: str, tmp_path: Path) -> None:
    mapping = {"tasks": [], "lengths": [700], "depths": 2, "samples": 3, "scoring": scoring}
    suite = read(NeedleSuite, {**mapping, "controls": ["no_context", "gold_only"]})
    asked = TOKENIZERS[tokenizer]
    for name, subject, wanted in (
        ("reads", Solver(asked, solve), 1.0),
        ("blind", Solver(asked, lambda text: "7"), 0.0),
    ):
        result = read_result(evaluate(suite, subject, tmp_path / name).path)
        assert {cell.task for cell in result.cells} == {f"{kind}_text" for kind in STORIES}
        for cell, answers in result.cells.items():
            assert answers.score == (0.0 if cell.condition == "no_context" else wanted), cell


@cache
def made(kind: str, tokenizer: str, among: bool) -> TextNeedle:
    asked = TOKENIZERS[tokenizer]
    haystack = None if among and kind != "passkey" else load_haystack("repeat", asked)
    return TextNeedle(asked, haystack, STORIES[kind])


def spans(sample: Sample, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode(sample.prompt[low:high].tolist()) for low, high in sample.gold]


@pytest.mark.parametrize(("kind", "tokenizer"), list(product(STORIES, TOKENIZERS)))
@given(
    seed=st.integers(0, 2**30),
    length=st.integers(640, 1500),
    depth=st.one_of(st.none(), st.floats(0, 1)),
    split=st.sampled_from(SPLITS),
    among=st.booleans(),
)
@settings(deadline=None, max_examples=5)
def test_a_sample_fills_its_length_and_its_gold_is_where_it_says(
    kind: str, tokenizer: str, seed: int, length: int, depth: float | None, split: Split, among: bool
) -> None:
    story, asked = STORIES[kind], TOKENIZERS[tokenizer]
    samples = made(kind, tokenizer, among).generate(seed, length, 2, split, depth=depth)
    for sample in samples:
        assert len(sample.prompt) + sample.budget == sample.length == length
        text = asked.decode(sample.prompt.tolist())
        assert text.startswith(story.introduction)
        golds = spans(sample, asked)
        assert all(gold in text for gold in golds)
        assert [any(value in gold for gold in golds) for value in sample.text_answers] == [True] * len(
            sample.text_answers
        )
        assert solve(text).strip(" .") != ""
        assert story.score(solve(text), sample.text_answers) == 1.0
        room = len(sample.prompt[: sample.question]) - sum(high - low for low, high in sample.gold)
        assert all(0 <= at <= 1 for at in sample.depths)
        if depth is not None and sample is samples[0]:
            assert abs(sample.depths[0] - depth) * room < 60
        right = {asked.decode(sample.choices[at].tolist()).strip(" .") for at in sample.right}
        assert right <= ({listed(sample.text_answers)} | set(sample.text_answers))
        assert len({choice.tobytes() for choice in sample.choices}) == len(sample.choices) >= 8
        assert sample.question == len(sample.prompt) - len(sample.prompts["no_context"]) + len(
            asked.encode(story.introduction)
        )


@pytest.mark.parametrize("kind", STORIES)
def test_prompts_in_pieces_are_the_tokens_of_their_text(kind: str) -> None:
    """From the first whole sentence on: the one before it has lost its beginning, maybe within a word."""
    task = made(kind, "bpe", False)
    for sample in task.generate(0, 1500, 3, "test", depth=0.9):
        text = small_bpe().decode(sample.prompt.tolist())[len(task.story.introduction) :]
        whole = small_bpe().encode(text[text.index(". ") + 1 :])
        assert sample.prompt[-len(whole) :].tolist() == whole


@pytest.mark.parametrize("kind", STORIES)
def test_depths_of_a_row_share_what_comes_before_the_gold(kind: str) -> None:
    task = TextNeedle(TOKENIZERS["bytes"], load_haystack("noise", TOKENIZERS["bytes"]), STORIES[kind])
    rows = [task.generate(3, 1500, 2, "test", depth=depth) for depth in (0.6, 1.0)]
    for low, high in zip(*rows, strict=True):
        assert low.text_answers == high.text_answers
        assert sorted(low.prompt.tolist()) == sorted(high.prompt.tolist())
        shared = int(np.argmax(low.prompt != high.prompt))
        assert shared > 200
        assert shared >= min(low.gold)[0] or kind == "needle"


def test_others_than_the_first_stand_anywhere() -> None:
    """Where the asked needle always came first, a model that recalls the first needle would be right at every depth."""
    for task in (
        TextNeedle(TOKENIZERS["bytes"], load_haystack("noise", TOKENIZERS["bytes"]), STORIES["multi_key"]),
        TokenNeedle(Pairs(128), PLANS["multi_key"]),
    ):
        firsts = 0
        for sample in task.generate(0, 800, 60, "test", depth=0.5):
            text = sample.prompt[: sample.gold[0][0]].tolist()
            before = (
                "secret number of" in TOKENIZERS["bytes"].decode(text)
                if isinstance(task, TextNeedle)
                else any(token in Pairs(128).keys for token in text)
            )
            firsts += not before
        assert firsts < 20  # an eighth of 60 at depth 0.5
    rng = generator("sample", 0)
    assert anywhere(rng, 0.25, 1) == (0.25,)
    assert nearest(np.array([0, 4, 10]), 7) == 4
    assert [nearest(np.array([0, 4, 10]), at) for at in (0, 2, 2.1, 7.1, 10, 11)] == [0, 0, 4, 10, 10, 10]


@pytest.mark.parametrize(
    ("kind", "text", "values", "score"),
    [
        ("multi_value", " 1111111, 2222222, and 3333333.", ["3333333", "1111111", "2222222"], 1),
        ("multi_value", " 1111111 and 1111111, 2222222.", ["3333333", "1111111", "2222222"], 2 / 3),
        ("multi_value", " 9999999, 8888888, 7777777, 1111111", ["3333333", "1111111", "2222222"], 0),
        ("multi_query", " 12345678, 22222222", ["1234567", "2222222"], 0),
        ("multi_query", " 2222222 and 1234567", ["1234567", "2222222"], 1),
        ("passkey", " 12345.", ["12345"], 1),
        ("passkey", " is12345, 54321", ["12345"], 1),
        ("passkey", " 123456.", ["12345"], 0),
        ("passkey", " 54321, no: 12345", ["12345"], 0),
        ("passkey", " none", ["12345"], 0),
        ("no_literal", " It must be BELADEK.\nOr Tomavun", ["Beladek"], 1),
        ("no_literal", "\nBeladek", ["Beladek"], 1),
        ("no_literal", " Tomavun\nBeladek", ["Beladek"], 0),
        ("no_literal", " Beladeks", ["Beladek"], 0),
        ("no_literal", "", ["Beladek"], 0),
    ],
)
def test_how_answers_are_judged(kind: str, text: str, values: list[str], score: float) -> None:
    assert STORIES[kind].score(text, values) == pytest.approx(score)


def content(text: str) -> set[str]:
    """Words that carry meaning, cut to five letters so that forms of a word are one."""
    plain = set("a an and any as at by for from in into is it its of on or over than the to up with who which".split())
    return {word[:5] for word in re.findall(r"[\w]+", text.lower())} - plain


def test_question_and_needle_share_no_word_of_content() -> None:
    assert sum(len(family.associations) for family in FAMILIES) >= 40
    asked = content(NoLiteral().wording["question"].format(question=""))
    for family in FAMILIES:
        meanings = [meaning for _, meaning in family.associations]
        assert len(set(meanings)) == len(meanings)
        for clue, meaning in family.associations:
            needle = content(family.needle.format(name="", clue=clue))
            question = content(family.question.format(meaning=meaning)) | asked
            assert not needle & question, (needle & question, clue)


def test_train_and_test_share_no_association_name_or_value() -> None:
    halves = [{(family.name, meaning) for family, _, meaning in associations(split)} for split in SPLITS]
    assert not halves[0] & halves[1]
    assert sorted(map(len, halves)) == [28, 28]
    for story in STORIES.values():
        drawn = [{value for seed in range(60) for value in answers_of(story, seed, split)} for split in SPLITS]
        assert len(drawn[0]) > 50
        assert not drawn[0] & drawn[1]
        if not isinstance(story, Passkey):
            others = [{about for _, about in story.others(split)} for split in SPLITS]
            assert not others[0] & others[1]


def answers_of(story: Story, seed: int, split: Split) -> list[str]:
    return [value for question in story.plot(generator("sample", seed), split).questions for value in question.values]


def test_no_needle_of_a_haystack_of_needles_answers_the_question() -> None:
    for kind in ("multi_key", "multi_value", "no_literal"):
        task = TextNeedle(TOKENIZERS["bytes"], None, STORIES[kind])
        for sample in task.generate(0, 6000, 6, "test"):
            text = TOKENIZERS["bytes"].decode(sample.prompt.tolist())
            assert sorted(re.findall(r"\w+", solve(text))) == sorted(
                {*sample.text_answers} | ({"and"} if len(sample.text_answers) > 1 else set())
            )
    with pytest.raises(ConfigError, match="passkey hides the only password"):
        TextNeedle(TOKENIZERS["bytes"], None, Passkey()).check(0, 1000, 1, "test")


@given(
    seed=st.integers(0, 2**30),
    length=st.integers(30, 300),
    kind=st.sampled_from(list(PLANS)),
    haystack=st.sampled_from(["noise", "repeat", "needles"]),
    disjoint=st.sampled_from(["pairs", "ids"]),
    split=st.sampled_from(SPLITS),
)
@settings(deadline=None, max_examples=60)
def test_token_mode_hides_what_it_asks(
    seed: int, length: int, kind: str, haystack: Ground, disjoint: Disjoint, split: Split
) -> None:
    pairs = Pairs(128, disjoint)
    task = TokenNeedle(pairs, PLANS[kind], haystack)
    for sample in task.generate(seed, length, 2, split):
        assert len(sample.prompt) + sample.budget == sample.length == length
        body = sample.prompt[: sample.question].tolist()
        found: dict[int, list[int]] = {}
        for at, token in enumerate(body):
            if token in pairs.keys:
                found.setdefault(token, []).append(body[at + 1])
                assert body[at + 1] in pairs.values
        assert sum(token in pairs.values for token in body) == sum(map(len, found.values()))
        if haystack == "needles":
            assert sum(token in pairs.noise for token in body) <= 1
        keys = sample.prompt[sample.question + 1 :: 2].tolist()
        if kind == "multi_query":
            assert [found[key] for key in keys] == [[value] for value in sample.answer.tolist()]
            assert sample.targets is not None
            assert sample.targets[sample.targets != IGNORED].tolist() == sample.answer.tolist()
            assert sample.prompt[sample.targets != IGNORED].tolist() == keys
            assert task.score([sample], [sample.answer.tolist()]) == [1.0]
            assert task.score([sample], [[*sample.answer.tolist()[:-1], 0]]) == [0.75]
        else:
            assert set(found[keys[0]]) == set(sample.answer.tolist())
            assert len(found[keys[0]]) == {"multi_key": 1, "multi_value": 3, "passkey": 2}[kind]
        for low, high in sample.gold:
            assert set(body[low:high]) <= {*keys, *sample.answer.tolist()}
            assert set(body[low:high]) & set(keys)
        for key, values in found.items():
            owners = np.full(len(values), key, dtype=np.int32)
            assert pairs.within(owners, np.array(values, dtype=np.int32), split).all()


def test_values_of_one_key_count_in_any_order_and_once() -> None:
    task = TokenNeedle(Pairs(128), OneKeyPairs(3))
    (sample,) = task.generate(0, 60, 1, "test")
    first, second, third = sample.answer.tolist()
    assert task.score([sample] * 3, [[third, first, second], [first, first, first], [0, 0, 0, first]]) == pytest.approx(
        [1, 1 / 3, 0]
    )
    assert {int(sample.choices[at][0]) for at in sample.right} == {first, second, third}
    assert len({choice.tobytes() for choice in sample.choices}) == 16


def test_the_ids_model_is_asked_in_every_kind(tmp_path: Path) -> None:
    """Only what a subject can do is asked: here it writes and tells likelihoods, but cannot be read."""
    subject = Solver(Numbers(), lambda text: "3", capabilities=frozenset({"state", "generate"}))
    suite = read(NeedleSuite, {"tasks": [], "lengths": [100], "depths": 2, "samples": 3, "controls": []})
    result = read_result(evaluate(suite, subject, tmp_path).path)
    assert {cell.task for cell in result.cells} == {f"{kind}_tokens" for kind in STORIES} - {
        "multi_query_tokens",
        "no_literal_tokens",
    }
    assert {cell.task for cell in result.skipped} == {"multi_query_tokens"}


def test_wording_of_the_user_s_own(tmp_path: Path) -> None:
    path = tmp_path / "landmark.yaml"
    path.write_text(
        'passkey:\n  introduction: "An important thing is hidden here.\\n"\n'
        '  needle: "\\nThe key is {value}. Remember. {value} is the key."\n'
        '  question: "\\nWhat is the key? The key is"\n'
        "no_literal: {introduction: 'Read.'}\n",
        encoding="utf-8",
    )
    suite = NeedleSuite(tasks=("passkey",), wording=str(path))
    (task,) = suite.tasks(TOKENIZERS["bytes"])
    (sample,) = task.generate(0, 600, 1, "test")
    text = TOKENIZERS["bytes"].decode(sample.prompt.tolist())
    assert text.startswith("An important thing is hidden here.\n")
    assert text.endswith("\nWhat is the key? The key is")
    assert spans(sample, TOKENIZERS["bytes"]) == [
        f"\nThe key is {sample.text_answers[0]}. Remember. {sample.text_answers[0]} is the key."
    ]
    assert task.fingerprint != NeedleSuite(tasks=("passkey",)).tasks(TOKENIZERS["bytes"])[0].fingerprint
    path.write_text("passky: {}")
    with pytest.raises(DataError) as error:
        suite.tasks(TOKENIZERS["bytes"])
    assert str(error.value) == (
        f"{path}: unknown section 'passky'. Did you mean 'passkey'? Known: multi_key, multi_query, multi_value, "
        "needle, no_literal, passkey."
    )
