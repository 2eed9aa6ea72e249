from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield.benchmarks.tasks.layout import behind, weave
from farfield.benchmarks.tasks.needle import Ground, TokenNeedle, spread
from farfield.benchmarks.tasks.pairs import Disjoint, Pairs
from farfield.benchmarks.tasks.sample import Sample, Split, generator, hashed
from farfield.benchmarks.tasks.token_plans import KeyedPairs
from farfield.config import ConfigError

SPLITS: list[Split] = ["train", "test"]
KINDS: list[Disjoint] = ["pairs", "ids"]


def parsed(sample: Sample, pairs: Pairs) -> tuple[dict[int, int], int]:
    """The pairs in a sample's haystack, and the key it asks for; everything else must be noise."""
    body, (query, key) = sample.prompt[:-2], sample.prompt[-2:]
    assert query == pairs.query
    at = [place for place, token in enumerate(body) if token in pairs.keys]
    found = {int(body[place]): int(body[place + 1]) for place in at}
    rest = np.delete(body, [*at, *(place + 1 for place in at)])
    assert len(found) == len(at)
    assert all(token in pairs.noise for token in rest)
    return found, int(key)


@given(
    seed=st.integers(0, 2**40),
    length=st.integers(20, 300),
    depth=st.floats(0, 1),
    needles=st.integers(1, 6),
    vocabulary=st.sampled_from([96, 128, 1000]),
    disjoint=st.sampled_from(KINDS),
    split=st.sampled_from(SPLITS),
    haystack=st.sampled_from(["noise", "repeat"]),
)
@settings(deadline=None, max_examples=50)
def test_a_sample_fills_its_length_and_holds_its_gold(
    seed: int,
    length: int,
    depth: float,
    needles: int,
    vocabulary: int,
    disjoint: Disjoint,
    split: Split,
    haystack: Ground,
) -> None:
    pairs = Pairs(vocabulary, disjoint)
    task = TokenNeedle(pairs, KeyedPairs(needles, needles), haystack)
    samples = task.generate(seed, length, 2, split, depth=depth)
    assert len(samples) == 2 * needles
    for number, sample in enumerate(samples):
        found, key = parsed(sample, pairs)
        assert len(sample.prompt) + sample.budget == length == sample.length
        assert sample.prompt.dtype == sample.answer.dtype == np.int32
        assert len(found) == needles
        assert [found[key]] == sample.answer.tolist()
        keys, values = (np.array(list(part), dtype=np.int32) for part in (found.keys(), found.values()))
        assert pairs.within(keys, values, split).all()
        assert len(set(values.tolist())) == needles
        noise = length - 2 * needles - 3
        wanted = behind(depth, needles)[number % needles]
        assert abs(sample.depths[0] - wanted) <= 0.5 / noise + 1e-9
        place = int(np.flatnonzero(sample.prompt[:-2] == key)[0])
        assert (place - 2 * (number % needles)) / noise == pytest.approx(sample.depths[0])
        assert sample.candidates is not None
        assert sample.answer[0] in sample.candidates


def test_depths_of_a_row_differ_in_the_needle_s_place_only() -> None:
    task = TokenNeedle(Pairs(128), KeyedPairs(3))
    rows = [task.generate(7, 100, 4, "test", depth=depth) for depth in spread(5)]
    for samples in zip(*rows, strict=True):
        assert len({tuple(sorted(sample.prompt.tolist())) for sample in samples}) == 1
        noise = {tuple(token for token in sample.prompt.tolist() if token in Pairs(128).noise) for sample in samples}
        assert len(noise) == 1
        assert len({tuple(sample.prompt[-2:].tolist()) for sample in samples}) == 1
    assert rows[2][0].prompt[: round(0.5 * 91)].tolist() == rows[4][0].prompt[: round(0.5 * 91)].tolist()


def test_a_sample_depends_on_its_seed_length_index_and_split_and_on_nothing_else() -> None:
    task = TokenNeedle(Pairs(128))
    every = task.generate(3, 64, 6, "test", depth=0.5)
    later = task.generate(3, 64, 2, "test", depth=0.5, first=4)
    assert [sample.prompt.tolist() for sample in every[4:]] == [sample.prompt.tolist() for sample in later]
    others = [
        task.generate(4, 64, 1, "test", depth=0.5),
        task.generate(3, 65, 1, "test", depth=0.5),
        task.generate(3, 64, 1, "train", depth=0.5),
        every[1:],
    ]
    assert all(other[0].prompt[:40].tolist() != every[0].prompt[:40].tolist() for other in others)


def test_without_a_depth_needles_stand_anywhere() -> None:
    depths = [sample.depths[0] for sample in TokenNeedle(Pairs(128)).generate(0, 400, 200, "train")]
    assert np.histogram(depths, bins=4, range=(0, 1))[0].min() > 25


@given(count=st.integers(1, 1000), spacing=st.sampled_from(["linear", "sigmoid"]))
@settings(deadline=None)
def test_depths_rise_from_0_to_1(count: int, spacing: str) -> None:
    depths = spread(count, "sigmoid" if spacing == "sigmoid" else "linear")
    assert len(depths) == count
    assert all(low < high for low, high in pairwise(depths))
    assert (depths[0], depths[-1]) == ((0.0, 1.0) if count > 1 else (0.5, 0.5))


def test_sigmoid_depths_are_densest_at_both_ends() -> None:
    steps = np.diff(spread(11, "sigmoid"))
    assert np.allclose(steps, steps[::-1], atol=1e-5)
    assert steps[0] < steps[2] < steps[4]
    assert np.allclose(np.diff(spread(11)), 0.1)


def test_several_needles_stand_at_even_steps_behind_the_first() -> None:
    assert behind(0.2, 4) == pytest.approx((0.2, 0.4, 0.6, 0.8))
    assert behind(1.0, 3) == (1.0, 1.0, 1.0)
    row = np.arange(10, 14, dtype=np.int32)
    needles = [np.array([1, 2], dtype=np.int32), np.array([3], dtype=np.int32), np.array([4], dtype=np.int32)]
    assert weave(row, [0, 2, 2], needles).tolist() == [1, 2, 10, 11, 3, 4, 12, 13]
    assert weave(row, [4, 4, 4], needles).tolist() == [10, 11, 12, 13, 1, 2, 3, 4]


def test_a_repeated_haystack_repeats_one_phrase() -> None:
    (sample,) = TokenNeedle(Pairs(128), haystack="repeat").generate(0, 105, 1, "test", depth=0.0)
    noise = sample.prompt[2:-2]
    assert (noise[16:] == noise[:-16]).all()
    assert len(set(noise.tolist())) > 4


def test_only_the_exact_value_scores() -> None:
    task = TokenNeedle(Pairs(128))
    samples = task.generate(0, 32, 4, "test", depth=0.5)
    gold = [int(sample.answer[0]) for sample in samples]
    assert task.score(samples, [[gold[0]], [gold[1] + 1], [], [gold[3], 5]]) == [1.0, 0.0, 0.0, 1.0]


def test_a_million_tokens_are_filled_to_the_last() -> None:
    task = TokenNeedle(Pairs(8192), KeyedPairs(8))
    samples = [task.generate(0, 1 << 20, 1, "test", depth=depth)[0] for depth in spread(11)]
    assert {sample.prompt.size for sample in samples} == {(1 << 20) - 1}


@pytest.mark.parametrize(
    ("task", "length", "line"),
    [
        (
            TokenNeedle(Pairs(128)),
            5,
            "needle: a length of 5 tokens is too short for 1 needle, the question and the answer: 6 is the least. "
            "Give longer lengths or fewer needles.",
        ),
        (
            TokenNeedle(Pairs(128), KeyedPairs(8)),
            19,
            "needle: a length of 19 tokens is too short for 8 needles, the question and the answer: 20 is the least. "
            "Give longer lengths or fewer needles.",
        ),
        (
            TokenNeedle(Pairs(64), KeyedPairs(8)),
            100,
            "vocabulary: 64 ids have room for 5 pairs, not for 8. Give fewer pairs or a vocabulary of 88 or more.",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(task: TokenNeedle, length: int, line: str) -> None:
    with pytest.raises(ConfigError) as error:
        task.check(0, length, 1, "test")
    assert str(error.value) == line
    with pytest.raises(ConfigError):
        task.generate(0, length, 1, "test", depth=0.5)


@pytest.mark.parametrize("needles", [1, 3])
def test_the_least_length_works(needles: int) -> None:
    task = TokenNeedle(Pairs(128), KeyedPairs(needles))
    least = 2 * needles + 4
    task.check(0, least, 1, "test")
    for depth in (0.0, 0.5, 1.0):
        assert task.generate(0, least, 1, "test", depth=depth)[0].prompt.size == least - 1


@given(vocabulary=st.integers(16, 5000), disjoint=st.sampled_from(KINDS), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_ranges_of_ids_do_not_overlap_and_leave_the_end_free(vocabulary: int, disjoint: Disjoint, seed: int) -> None:
    pairs = Pairs(vocabulary, disjoint)
    ranges = [range(pairs.query, pairs.query + 1), pairs.keys, pairs.values, pairs.noise]
    assert [part.start for part in ranges[1:]] == [part.stop for part in ranges[:-1]]
    assert ranges[-1].stop == vocabulary - 1
    assert min(map(len, ranges[1:])) >= 1
    for split in SPLITS:
        keys, values = pairs.draw(generator("recall", seed), 3, pairs.room(split), split)
        assert all(len(set(row)) == pairs.room(split) for row in [*keys.tolist(), *values.tolist()])
        assert pairs.within(keys, values, split).all()
        assert not pairs.within(keys, values, "test" if split == "train" else "train").any()


def test_pairs_split_leaves_every_key_and_value_to_training_and_ids_none() -> None:
    rng = generator("recall", 0)
    for disjoint, shared in (("pairs", True), ("ids", False)):
        pairs = Pairs(128, "pairs" if disjoint == "pairs" else "ids")
        drawn = {split: pairs.draw(rng, 4000, 4, split) for split in SPLITS}
        for train, test in zip(drawn["train"], drawn["test"], strict=True):
            assert bool(set(train.ravel().tolist()) & set(test.ravel().tolist())) == shared
        together = {split: set(zip(*(part.ravel().tolist() for part in drawn[split]), strict=True)) for split in SPLITS}
        assert not together["train"] & together["test"]
    assert set(Pairs(128).draw(rng, 4000, 4, "train")[0].ravel().tolist()) == set(Pairs(128).keys)
    assert set(Pairs(128).draw(rng, 4000, 4, "train")[1].ravel().tolist()) == set(Pairs(128).values)


def test_the_hash_is_even_and_a_small_vocabulary_is_refused() -> None:
    assert np.bincount(hashed(np.arange(4096))).tolist() == pytest.approx([1024] * 4, abs=8)
    with pytest.raises(ConfigError, match=r"^vocabulary: 15 ids given, token mode needs 16 or more.$"):
        Pairs(15)
