from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruler_solver import solve_ids, words_of_example

from farfield.benchmarks.tasks.pairs import Disjoint, Pairs
from farfield.benchmarks.tasks.ruler.catalogue import NAMES, token_tasks
from farfield.benchmarks.tasks.ruler.frequent_words import ZETA, counted, vocabulary
from farfield.benchmarks.tasks.ruler.niah import SPECS
from farfield.benchmarks.tasks.ruler.tokens import judge_ids
from farfield.benchmarks.tasks.ruler.vocabulary import Vocabulary
from farfield.benchmarks.tasks.sample import LackingError, Sample, Split

ASKING = [name for name in NAMES if not name.startswith("qa")]
PAIRS = Pairs(4096)
TASKS = {task.name: task for task in token_tasks(NAMES, PAIRS)}


@pytest.mark.parametrize("name", ASKING)
@pytest.mark.parametrize("length", [256, 1023, 4096, 131072])
def test_every_length_is_filled_to_the_last_id(name: str, length: int) -> None:
    task = TASKS[name]
    task.check(0, length, 2, "test")
    for sample in task.generate(0, length, 2, "test"):
        assert sample.length == len(sample.prompt) + sample.budget == length
        assert sample.budget == len(sample.answer)
        assert sample.prompt.min() >= 0
        assert sample.prompt.max() < 4095
        assert task.score([sample], [sample.answer.tolist()]) == [1.0]
        spans = [sample.prompt[low:high].tolist() for low, high in sample.gold]
        assert isinstance(sample.reference, tuple)
        for gold in sample.reference:
            assert any(list(gold) == span[at : at + len(gold)] for span in spans for at in range(len(span)))
        assert sample.prompt[sample.question] == PAIRS.query
        assert not len(np.flatnonzero(sample.prompt[sample.question + 1 :] == PAIRS.query))
        assert len({choice.tobytes() for choice in sample.choices}) == len(sample.choices) > len(sample.right)
        assert {tuple(sample.choices[at].tolist()) for at in sample.right} == set(sample.reference)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("disjoint", ["pairs", "ids"])
@pytest.mark.parametrize("name", ASKING)
def test_a_solver_finds_the_answer_in_the_prompt_and_not_without_it(
    name: str, disjoint: Disjoint, split: Split
) -> None:
    pairs = Pairs(2048, disjoint)
    (task,) = token_tasks([name], pairs)
    samples = task.generate(1, 2000, 5, split)
    for condition, score in (("full", 1.0), ("gold_only", 1.0), ("no_context", 0.0)):
        prompts = [sample.prompts.get(condition, sample.prompt) for sample in samples]  # type: ignore[call-overload]
        outputs = [solve_ids(name, prompt, pairs) for prompt in prompts]
        assert task.score(samples, outputs) == [score] * 5, condition


@pytest.mark.parametrize(("name", "spec"), SPECS.items())
def test_needles_have_the_structure_of_the_text_mode(name: str, spec: object) -> None:
    own = SPECS[name]
    key, value = (4 if kind == "uuids" else 1 for kind in (own.key, own.value))
    for sample in TASKS[name].generate(0, 1024, 5, "test"):
        assert len(sample.gold) == own.queries * own.values
        assert {high - low for low, high in sample.gold} == {key + value}
        assert len(sample.prompt) - sample.question == 1 + own.queries * key
        body = sample.prompt[: sample.question]
        noise = (body >= PAIRS.noise.start).sum()
        if own.haystack == "needles":
            assert noise < key + value
        else:
            assert len(body) - noise == own.keys * own.values * (key + value)
            ids = body[body >= PAIRS.noise.start]
            assert (len(np.unique(ids)) <= 16) == (own.haystack == "noise")
        asked = {int(one) for one in sample.prompt[sample.question + 1 :: key]}
        assert sum(int(one) in asked for one in body) >= own.values * own.queries


def test_a_chain_is_one_and_stands_behind_an_example() -> None:
    for sample in TASKS["vt"].generate(0, 3000, 5, "test"):
        first, last = np.flatnonzero(sample.prompt == PAIRS.query).tolist()
        assert last == sample.question
        example, body = sample.prompt[: first + 7], sample.prompt[first + 7 : last]
        assert len(example) == 500
        assert set(example[-5:].tolist()) == {one for one in example[:first].tolist() if one in PAIRS.keys}
        value = int(sample.prompt[-1])
        lines = [sample.prompt[low:high].tolist() for low, high in sample.gold]
        names = [line[0] for line in lines]
        assert lines == [[name, before] for name, before in zip(names, [value, *names], strict=False)]
        assert names == sample.answer.tolist()
        assert sum(int(one) in PAIRS.keys or int(one) in PAIRS.values for one in body) == 10
        assert not {*names, value} & set(example.tolist())


def pairs_in(ids: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(word) for word in ids.reshape(-1, 2).tolist()]


@pytest.mark.parametrize(("length", "often", "seldom"), [(256, 6, 1), (4095, 6, 1), (4096, 30, 3), (20000, 30, 3)])
def test_common_words_come_as_often_as_published(length: int, often: int, seldom: int) -> None:
    for sample in TASKS["cwe"].generate(0, length, 3, "test"):
        end = 2 * words_of_example(sample.prompt, PAIRS) + 1
        shown = Counter(pairs_in(sample.prompt[: int(np.flatnonzero(sample.prompt == PAIRS.query)[0])]))
        assert sorted(shown.values()) == ([1] * 10 + [3] * 10 if often == 6 else [3] * 30 + [10] * 10)
        assert set(pairs_in(sample.prompt[end - 20 : end])) == {
            word for word in shown if shown[word] == max(shown.values())
        }
        body = sample.prompt[end : sample.question]
        left = int((body >= PAIRS.noise.start).sum())
        assert left < 2 * seldom
        found = Counter(pairs_in(body[left:]))
        assert {word for word in found if found[word] == often} == set(pairs_in(sample.answer))
        assert sorted(set(found.values())) == [seldom, often]
        assert len(sample.right) == 10


@pytest.mark.parametrize("length", [256, 1024, 131072])
def test_coded_words_come_as_often_as_the_zeta_law_says(length: int) -> None:
    for sample in TASKS["fwe"].generate(0, length, 3, "test"):
        body = sample.prompt[: sample.question]
        dots = int((body == PAIRS.noise.start).sum())
        found = Counter(pairs_in(body[body != PAIRS.noise.start]))
        ranked = [count for _, count in found.most_common()]
        near = range(int(ranked[0] * 4 * ZETA), int((ranked[0] + 1) * 4 * ZETA) + 1)
        laws = [counted(n, vocabulary(length)) for n in near]
        assert any(law[1:].tolist() == ranked and dots >= law[0] > 0.9 * dots for law in laws)
        assert [word for word, _ in found.most_common(3)] == pairs_in(sample.answer)
        assert len(ranked) == 3 or ranked[2] > ranked[3]


@given(
    ids=st.integers(16, 700),
    disjoint=st.sampled_from(["pairs", "ids"]),
    split=st.sampled_from(["train", "test"]),
    length=st.integers(1, 600),
    name=st.sampled_from(ASKING),
)
@settings(deadline=None, max_examples=200)
def test_a_vocabulary_and_a_length_give_samples_or_a_reason(
    ids: int, disjoint: Disjoint, split: Split, length: int, name: str
) -> None:
    (task,) = token_tasks([name], Pairs(ids, disjoint))
    reason = ""
    try:
        task.check(0, length, 1, split)
    except LackingError as error:
        reason = str(error)
    if reason:
        assert "is the least" in reason or f"a vocabulary of {ids} ids has " in reason
    else:
        (sample,) = task.generate(0, length, 1, split)
        assert sample.length == length
        assert sample.prompt.max() < ids - 1


@given(ids=st.integers(16, 300), disjoint=st.sampled_from(["pairs", "ids"]), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_what_is_tested_was_never_trained(ids: int, disjoint: Disjoint, seed: int) -> None:
    pairs = Pairs(ids, disjoint)
    rng = np.random.default_rng(seed)
    for split in ("train", "test"):
        words = Vocabulary(pairs, split)  # type: ignore[arg-type]
        all_words = words.words(rng, "cwe", words.size)
        assert len(np.unique(all_words, axis=0)) == words.size
        assert pairs.within(all_words[:, 0], all_words[:, 1], split).all()  # type: ignore[arg-type]
        keys = words.keys(rng, "vt", 1).repeat(20)
        assert pairs.within(keys, words.pairs_of(rng, keys), split).all()  # type: ignore[arg-type]
    sizes = [Vocabulary(pairs, split).size for split in ("train", "test")]  # type: ignore[arg-type]
    assert sum(sizes) == len(pairs.keys) ** 2 if disjoint == "pairs" else sizes[0] == 9 * sizes[1]


def test_an_output_scores_what_stands_in_it() -> None:
    sample = Sample(np.zeros(1, np.int32), np.zeros(1, np.int32), 2, 1, 0, 1, reference=((7, 8), (9,)))
    for output, score in [([7, 8, 9], 1), ([9, 7, 8], 1), ([7, 9, 8], 0.5), ([8, 7], 0), ([], 0), ([7], 0)]:
        assert judge_ids(sample, output) == score


def test_there_are_no_questions_about_documents() -> None:
    for name in ("qa_1", "qa_2"):
        with pytest.raises(
            LackingError, match=rf"^{name}: asks about documents of text, and the ids tokenizer reads none"
        ):
            TASKS[name].check(0, 4096, 1, "test")
