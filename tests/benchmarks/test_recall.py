from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield.benchmarks.tasks.needle import TokenNeedle, recall_batch
from farfield.benchmarks.tasks.pairs import Disjoint, Pairs
from farfield.benchmarks.tasks.sample import Split
from farfield.benchmarks.tasks.token_plans import KeyedPairs
from farfield.config import ConfigError


def questions(row: np.ndarray, pairs: Pairs) -> tuple[dict[int, int], list[tuple[int, int]], int]:
    """The pairs of a row, its questions as (place of the key, key), and where the questions begin."""
    begin = int(np.flatnonzero(row == pairs.query)[0])
    at = [place for place in range(begin) if row[place] in pairs.keys]
    found = {int(row[place]): int(row[place + 1]) for place in at}
    rest = np.delete(row[:begin], [*at, *(place + 1 for place in at)])
    assert all(token in pairs.noise for token in rest)
    assert (row[begin::2] == pairs.query).all()
    return found, [(place, int(row[place])) for place in range(begin + 1, len(row), 2)], begin


@given(
    seed=st.integers(0, 2**33),
    step=st.integers(0, 10**6),
    pairs=st.integers(1, 8),
    extra=st.integers(2, 90),
    vocabulary=st.sampled_from([96, 256]),
    disjoint=st.sampled_from(["pairs", "ids"]),
    split=st.sampled_from(["train", "test"]),
    dense=st.sampled_from([0.0, 0.5, 1.0]),
)
@settings(deadline=None, max_examples=50)
def test_targets_are_the_values_of_the_keys_that_are_asked_for(
    seed: int, step: int, pairs: int, extra: int, vocabulary: int, disjoint: Disjoint, split: Split, dense: float
) -> None:
    length, ids = 2 * pairs + extra, Pairs(vocabulary, disjoint)
    tokens, targets = recall_batch(
        seed, step, 5, length, pairs, vocabulary=vocabulary, disjoint=disjoint, split=split, dense=dense
    )
    assert tokens.shape == targets.shape == (5, length)
    assert tokens.dtype == targets.dtype == np.int64
    for row, target in zip(tokens, targets, strict=True):
        found, asked, _ = questions(row, ids)
        assert 1 <= len(found) <= pairs
        scored = np.flatnonzero(target != -100)
        assert [place for place, _ in asked] == scored.tolist()
        assert [found[key] for _, key in asked] == target[scored].tolist()
        assert scored[-1] == length - 1
        keys, values = (np.array(list(part), dtype=np.int32) for part in (found.keys(), found.values()))
        assert ids.within(keys, values, split).all()


def test_dense_rows_hold_all_pairs_at_the_front_and_ask_as_often_as_they_can() -> None:
    tokens, targets = recall_batch(0, 0, 16, 64, 8, vocabulary=256, dense=1.0)
    assert ((targets != -100).sum(axis=1) == 24).all()
    assert all(questions(row, Pairs(256))[2] == 16 for row in tokens)


def test_other_rows_have_the_shape_of_the_suite() -> None:
    ids, count, begins, places = Pairs(256), [], [], []
    tokens, _ = recall_batch(1, 0, 1000, 64, 8, vocabulary=256, dense=0.0)
    for row in tokens:
        found, asked, begin = questions(row, ids)
        count.append(len(found))
        begins.append(len(asked))
        places += [place / (begin - 2) for place in range(begin) if row[place] in ids.keys and len(asked) == 1]
    assert set(count) == set(range(1, 9))
    assert np.mean(np.array(begins) == 1) > 0.15
    assert np.mean(np.array(begins) > 8) > 0.2
    assert np.histogram(places, bins=4, range=(0, 1))[0] == pytest.approx([len(places) / 4] * 4, rel=0.2)
    # A sample of the suite with its answer is such a row.
    (sample,) = TokenNeedle(ids, KeyedPairs(8)).generate(0, 64, 1, "train")
    found, asked, _ = questions(sample.prompt, ids)
    assert len(found) == 8
    assert asked == [(62, sample.prompt[-1])]
    assert found[int(sample.prompt[-1])] == sample.answer[0]


def test_a_batch_is_a_function_of_its_seed_and_step() -> None:
    first, again, later, other = (
        recall_batch(seed, step, 8, 64, 8, vocabulary=256)[0].tolist()
        for seed, step in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert first == again
    assert first != later
    assert first != other
    assert later != other


def test_training_never_sees_a_pair_that_is_tested() -> None:
    ids, trained = Pairs(96), set()
    for step in range(200):
        tokens, _ = recall_batch(0, step, 32, 40, 8, vocabulary=96)
        row, at = np.nonzero((tokens[:, :-1] >= ids.keys.start) & (tokens[:, :-1] < ids.keys.stop))
        after = tokens[row, at + 1]
        value = (after >= ids.values.start) & (after < ids.values.stop)
        trained |= set(zip(tokens[row, at][value].tolist(), after[value].tolist(), strict=True))
    samples = TokenNeedle(ids).generate(0, 40, 300, "test", depth=0.5)
    tested = {(int(sample.prompt[-1]), int(sample.answer[0])) for sample in samples}
    assert len(trained) > 0.7 * len(ids.keys) * len(ids.values)
    assert len(tested) > 100
    assert not trained & tested


def test_too_short_a_row_is_refused() -> None:
    recall_batch(0, 0, 2, 18, 8, vocabulary=256)
    with pytest.raises(ConfigError, match=r"^recall: 8 pairs and a question need 18 tokens, the length is 17.$"):
        recall_batch(0, 0, 2, 17, 8, vocabulary=256)
