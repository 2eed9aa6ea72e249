from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield.data.layout import InOrder, Layout, Rows, Shuffled, Stream, Streams, StreamsOnce
from farfield.data.split import Parts, split

sizes = st.lists(st.integers(1, 12), min_size=1, max_size=12)
shapes = {"batch": st.integers(1, 4), "length": st.integers(1, 9), "seed": st.integers(0, 2**40)}


def parts_of(document_sizes: list[int]) -> Parts:
    """Documents of so many tokens, their end included, one after another in a store."""
    bounds = np.concatenate([[0], np.cumsum(document_sizes)]).astype(np.int64)
    return Parts(bounds[:-1], bounds[1:])


def readable(parts: Parts) -> list[int]:
    """The places of all tokens to read: each document's but its last."""
    return [place for start, stop in zip(parts.starts, parts.stops, strict=True) for place in range(start, stop - 1)]


def steps(layout: Layout, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Places and positions of the first `count` steps, (count, batch, time)."""
    rows = [layout.rows(step) for step in range(count)]
    for made in rows:
        assert made.places.dtype == made.positions.dtype == np.int64
    return np.stack([made.places for made in rows]), np.stack([made.positions for made in rows])


def read_in_windows(rows: Rows, starts: set[int]) -> list[int]:
    """The places that were read, each row checked to be a fresh context of whole stretches of documents."""
    found: list[int] = []
    for places, positions in zip(rows.places.tolist(), rows.positions.tolist(), strict=True):
        used = [(place, at) for place, at in zip(places, positions, strict=True) if at >= 0]
        assert positions[len(used) :] == [-1] * (len(positions) - len(used))  # padding only at the end
        assert not used or used[0][1] == 0
        for (before, previous), (place, position) in pairwise(used):
            if position == 0:
                assert place in starts
            else:
                assert (place, position) == (before + 1, previous + 1)
        found.extend(place for place, _ in used)
    return found


@given(document_sizes=sizes, **shapes)
@settings(deadline=None, max_examples=120)
def test_each_epoch_reads_each_token_once(document_sizes: list[int], batch: int, length: int, seed: int) -> None:
    parts = parts_of(document_sizes)
    if parts.tokens == 0:
        return
    layout = Shuffled(Stream(parts), batch, length, seed)
    assert layout.windows == -(-parts.tokens // length)
    places, positions = steps(layout, 3 * layout.windows)
    for epoch in range(3):  # epochs follow each other row by row, not step by step
        window = slice(epoch * layout.windows, (epoch + 1) * layout.windows)
        rows = Rows(places.reshape(-1, length)[window], positions.reshape(-1, length)[window])
        assert sorted(read_in_windows(rows, set(parts.starts.tolist()))) == readable(parts)


def test_epochs_differ_in_order_and_in_where_they_cut() -> None:
    layout = Shuffled(Stream(parts_of([1001, 501, 301])), 1, 10, seed=3)
    places, _ = steps(layout, 4 * layout.windows)
    epochs = places[:, 0].reshape(4, layout.windows, 10)
    orders = [epoch[:, 0].tolist() for epoch in epochs]
    assert all(order != sorted(order) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert len({frozenset(order) for order in orders}) > 1
    assert abs(np.corrcoef(orders[0], orders[1])[0, 1]) < 0.4


@given(document_sizes=sizes, **shapes)
@settings(deadline=None)
def test_validation_reads_each_token_once_in_order(
    document_sizes: list[int], batch: int, length: int, seed: int
) -> None:
    parts = parts_of(document_sizes)
    layout = InOrder(Stream(parts), batch, length)
    found = [
        place
        for step in range(layout.steps)
        for place in read_in_windows(layout.rows(step), set(parts.starts.tolist()))
    ]
    assert found == readable(parts)


@given(document_sizes=sizes, **shapes)
@settings(deadline=None, max_examples=120)
def test_streams_go_on_where_they_stopped(document_sizes: list[int], batch: int, length: int, seed: int) -> None:
    parts = parts_of(document_sizes)
    order = readable(parts)
    if len(order) < batch:
        return
    layout = Streams(Stream(parts), batch, length)
    places, positions = steps(layout, 2 * layout.steps + 1)
    starts = set(parts.starts.tolist())
    covered: list[int] = []
    for row in range(batch):
        first, end = row * len(order) // batch, (row + 1) * len(order) // batch
        share = order[first:end]
        covered.extend(share)
        position = 0
        for number, (place, given_position) in enumerate(
            zip(places[:, row].ravel().tolist(), positions[:, row].ravel().tolist(), strict=True)
        ):
            anew = number % len(share) == 0
            position = 0 if anew or place in starts else position + 1
            assert (place, given_position) == (share[number % len(share)], position)
    assert covered == order


@given(document_sizes=sizes, **shapes)
@settings(deadline=None)
def test_streams_for_validation_read_their_stretch_once(
    document_sizes: list[int], batch: int, length: int, seed: int
) -> None:
    parts = parts_of(document_sizes)
    once = StreamsOnce(Stream(parts), batch, length)
    if once.steps == 0:
        assert parts.tokens == 0
        return
    places, positions = steps(once, once.steps)
    assert (places[positions < 0] == 0).all()
    rows = [places[:, row][positions[:, row] >= 0].tolist() for row in range(batch)]
    assert [place for row in rows for place in row] == readable(parts)
    if parts.tokens >= batch:
        endless, with_positions = steps(Streams(Stream(parts), batch, length), once.steps)
        used = positions >= 0
        assert (endless[used] == places[used]).all()
        assert (with_positions[used] == positions[used]).all()


def test_the_drawn_example() -> None:
    rows = InOrder(Stream(parts_of([6, 3, 4])), 3, 4).rows(0)
    assert rows.positions.tolist() == [[0, 1, 2, 3], [0, 0, 1, 0], [0, 1, -1, -1]]
    assert rows.places.tolist() == [[0, 1, 2, 3], [4, 6, 7, 9], [10, 11, 0, 0]]


keys_of = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=12)


@given(data=st.data(), keys=keys_of, fraction=st.floats(0, 0.5))
def test_validation_and_training_share_no_token(data: st.DataObject, keys: list[int], fraction: float) -> None:
    lengths = data.draw(st.lists(st.integers(2, 30), min_size=len(keys), max_size=len(keys)))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    parts = split(offsets, np.array(keys, np.uint64), fraction)
    tokens = [
        {place for start, stop in zip(part.starts, part.stops, strict=True) for place in range(start, stop)}
        for part in (parts.train, parts.validation)
    ]
    assert tokens[0].isdisjoint(tokens[1])
    assert tokens[0] | tokens[1] == set(range(offsets[-1]))
    assert parts.train.tokens > 0
    assert bool(tokens[1]) == (fraction > 0 and (len(set(keys)) > 1 or max(lengths) > 3))


def whole(count: int) -> np.ndarray:
    return np.arange(count + 1, dtype=np.int64) * 10


def test_about_the_fraction_is_held_out_and_growth_moves_nothing() -> None:
    keys = np.random.default_rng(0).integers(0, 2**64, 4000, dtype=np.uint64)
    small, large = split(whole(2000), keys[:2000], 0.1), split(whole(4000), keys, 0.1)
    assert 320 < len(large.validation.starts) < 480
    assert set(small.validation.starts) == {start for start in large.validation.starts if start < 20_000}
    assert large.how == f"{len(large.validation.starts)} of 4000 documents"


def test_copies_of_a_text_are_on_one_side() -> None:
    keys = np.array([7, 2**63, 7, 2**63, 7], np.uint64)
    parts = split(whole(5), keys, 0.1)
    assert parts.validation.starts.tolist() == [0, 20, 40]
    assert parts.train.starts.tolist() == [10, 30]


@pytest.mark.parametrize("keys", [[2**63, 2**63 + 1, 2**64 - 1], [0, 1, 2]])
def test_at_least_one_document_is_on_each_side(keys: list[int]) -> None:
    parts = split(whole(3), np.array(keys, np.uint64), 0.5)
    assert len(parts.validation.starts) >= 1
    assert len(parts.train.starts) >= 1


def test_of_a_single_document_the_last_part_is_held_out() -> None:
    parts = split(np.array([0, 1000]), np.array([5], np.uint64), 0.05)
    assert (parts.train.starts.tolist(), parts.train.stops.tolist()) == ([0], [950])
    assert (parts.validation.starts.tolist(), parts.validation.stops.tolist()) == ([950], [1000])
    assert parts.how == "the last 5.0% of the only document"


@pytest.mark.parametrize("size", [2, 3])
def test_a_single_document_too_short_to_cut_is_trained_on(size: int) -> None:
    parts = split(np.array([0, size]), np.array([5], np.uint64), 0.05)
    assert (parts.train.tokens, parts.validation.tokens) == (size - 1, 0)
