from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from farfield.benchmarks.tasks.recall.mqar import Filler, Held, Mqar
from farfield.benchmarks.tasks.sample import IGNORED, LackingError, Sample, Split, TooShortError, hashed
from farfield.config import ConfigError

SPLITS: list[Split] = ["train", "test"]


def solved(prompt: list[int], pairs: int) -> dict[int, int]:
    """What stands behind each later place of a key, from the prompt alone: a place and its value."""
    known = {prompt[at]: prompt[at + 1] for at in range(0, 2 * pairs, 2)}
    return {at: known[prompt[at]] for at in range(2 * pairs, len(prompt)) if prompt[at] in known}


@given(
    pairs=st.integers(1, 20),
    spare=st.integers(0, 60),
    seed=st.integers(0, 2**40),
    power=st.sampled_from([0.01, 0.5, 1.0]),
    disjoint=st.sampled_from(["pairs", "seeds"]),
    split=st.sampled_from(SPLITS),
)
@settings(deadline=None, max_examples=60)
def test_a_row_is_what_the_definition_says(
    pairs: int, spare: int, seed: int, power: float, disjoint: Held, split: Split
) -> None:
    length = 4 * pairs + 2 * spare
    task = Mqar(256, pairs, power, disjoint=disjoint)
    for sample in task.generate(seed, length, 2, split):
        assert sample.targets is not None
        assert len(sample.prompt) == len(sample.targets) == sample.length == length
        keys, values = sample.prompt[: 2 * pairs : 2], sample.prompt[1 : 2 * pairs : 2]
        assert len(set(keys.tolist())) == len(set(values.tolist())) == pairs
        assert keys.min() >= 1
        assert keys.max() < 128 <= values.min()
        assert values.max() < 256
        places = np.flatnonzero(sample.targets != IGNORED)
        assert solved(sample.prompt.tolist(), pairs) == dict(zip(places, sample.targets[places], strict=True))
        assert sorted(sample.prompt[places].tolist()) == sorted(keys.tolist())  # each key once more
        assert (places % 2 == 0).all()
        assert not np.delete(sample.prompt, [*range(2 * pairs), *places]).any()  # the values are no input
        assert sample.answer.tolist() == sample.targets[places].tolist()
        if disjoint == "pairs":
            held = (values - 128) % 4 == hashed((keys - 1).astype(np.int64))
            assert held.all() if split == "test" else not held.any()


@pytest.mark.parametrize("filler", ["zero", "random"])
def test_controls_are_the_questions_without_pairs_and_the_pairs_with_the_questions_alone(filler: Filler) -> None:
    for sample in Mqar(128, 6, filler=filler).generate(3, 80, 5, "test"):
        assert sample.targets is not None
        blank, alone = sample.prompts["no_context"], sample.prompts["gold_only"]
        assert blank[12:].tolist() == sample.prompt[12:].tolist()
        assert sample.asked["no_context"].tolist() == sample.targets.tolist()
        assert (blank[:12] == 0).all() if filler == "zero" else (blank[:12] != sample.prompt[:12]).any()
        targets = sample.asked["gold_only"]
        places = np.flatnonzero(targets != IGNORED)
        assert places.tolist() == [12, 14, 16, 18, 20, 22]
        assert solved(alone.tolist(), 6) == dict(zip(places, targets[places], strict=True))
        assert alone[places].tolist() == sample.prompt[np.flatnonzero(sample.targets != IGNORED)].tolist()


def published_slots(space: int, pairs: int, power: float, rng: np.random.Generator) -> list[int]:
    """Slots from 0 on, one after the other, each as often as its density among those that are left."""
    left, found = {slot: power * (slot + 1) ** (power - 1) for slot in range(space)}, []
    for _ in range(pairs):
        at = rng.random() * sum(left.values())
        for slot, density in left.items():  # noqa: B007  the one it stops at
            at -= density
            if at < 0:
                break
        found.append(slot)
        del left[slot]
    return found


def drawn_slots(task: Mqar, length: int, rows: int) -> NDArray[np.int64]:
    """(rows, pairs): the slot of each pair's question, in the order of the pairs."""
    found = []
    for sample in task.generate(0, length, rows, "train"):
        prompt = sample.prompt.tolist()
        keys = prompt[: 2 * task.pairs : 2]
        found.append([(prompt.index(key, 2 * task.pairs) - 2 * task.pairs) // 2 for key in keys])
    return np.array(found)


def test_questions_follow_the_power_law_of_the_definition() -> None:
    """Zoology's own statistics for a length of 256 and 16 pairs, and a slow draw of the definition."""
    drawn = drawn_slots(Mqar(8192, 16, disjoint="seeds"), 256, 1500)
    rng = np.random.default_rng(0)
    slow = np.array([published_slots(112, 16, 0.01, rng) for _ in range(400)])
    for slots, error in ((drawn, 0.01), (slow, 0.02)):
        assert slots.mean() == pytest.approx(28.1, abs=40 * error)
        assert np.median(slots) == pytest.approx(16, abs=1)
        assert (slots < 11.2).mean() == pytest.approx(0.42, abs=error)
        assert (slots >= 56).mean() == pytest.approx(0.188, abs=error)
    assert drawn.min() == 0
    assert drawn.max() == 111
    # The first pairs are asked sooner, for their slots are drawn first.
    assert drawn.mean(axis=0) == pytest.approx(slow.mean(axis=0), abs=6)
    assert drawn[:, 0].mean() < drawn[:, -1].mean() - 6


def test_a_uniform_law_asks_anywhere() -> None:
    samples = Mqar(512, 8, 1.0, disjoint="seeds").generate(0, 256, 500, "test")
    places = np.concatenate([np.flatnonzero(_targets(one) != IGNORED) for one in samples])
    assert places.mean() == pytest.approx((16 + 254) / 2, abs=4)


@pytest.mark.parametrize("filler", ["zero", "random"])
def test_filler_may_be_any_id(filler: Filler) -> None:
    rows = np.stack([one.prompt for one in Mqar(64, 4, filler=filler).generate(0, 60, 200, "test")])
    rest = rows[:, 9::2]  # behind the pairs, between the slots
    assert set(rest.ravel().tolist()) == ({0} if filler == "zero" else set(range(64)))


def test_splits_seeds_lengths_and_indices_differ_and_nothing_else_matters() -> None:
    task = Mqar(256, 4)
    every = task.generate(3, 64, 6, "test")
    assert [one.prompt.tolist() for one in every[4:]] == [
        one.prompt.tolist() for one in task.generate(3, 64, 2, "test", first=4)
    ]
    others = [task.generate(4, 64, 1, "test"), task.generate(3, 66, 1, "test"), task.generate(3, 64, 1, "train")]
    rows = [one[0].prompt[:8].tolist() for one in [*others, every, every[1:]]]
    assert len({tuple(row) for row in rows}) == len(rows)


def test_score_is_the_share_of_right_values() -> None:
    (sample,) = Mqar(256, 4).generate(0, 64, 1, "test")
    gold = sample.answer.tolist()
    outputs = [gold, [gold[0], 0, gold[2], 0], [0] * 4]
    assert Mqar(256, 4).score([sample] * 3, outputs) == [1, 0.5, 0]


@pytest.mark.parametrize(
    ("task", "length", "kind", "line"),
    [
        (
            Mqar(256, 8),
            30,
            TooShortError,
            "recall: mqar_8 needs four tokens for each of its 8 pairs: 32 is the least length, 30 is given. Give "
            "longer lengths or fewer pairs.",
        ),
        (Mqar(256, 8), 65, ConfigError, "recall: mqar has even lengths, 65 is given. Give 66."),
        (
            Mqar(64, 4),
            64,
            LackingError,
            "recall: mqar needs more ids than tokens, and there are 64 ids for a length of 64. Give shorter lengths, "
            "or a model with a vocabulary of 66 or more.",
        ),
        (
            Mqar(66, 16),
            64,
            LackingError,
            "recall: 66 ids have room for 8 pairs with disjoint=pairs, not for 16. Give fewer pairs or a model with a "
            "larger vocabulary.",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(task: Mqar, length: int, kind: type[Exception], line: str) -> None:
    with pytest.raises(kind) as error:
        task.check(0, length, 1, "test")
    assert str(error.value) == line


def test_a_million_tokens_take_no_time() -> None:
    (sample,) = Mqar(2**21, 1024).generate(0, 2**20, 1, "test")
    assert len(sample.answer) == 1024


def _targets(sample: Sample) -> NDArray[np.int32]:
    assert sample.targets is not None
    return sample.targets
