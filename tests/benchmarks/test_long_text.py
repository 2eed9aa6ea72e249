"""Windows over long documents beside their definitions, and what is counted of a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import Bytes

from farfield.benchmarks.tasks.long_text import Window, blocks, edges, inputs, middles, rolling, sliding, tokenised

PREFIX = 99


def read(windows: Iterator[Window], count: int, begin: int | None) -> list[tuple[list[int], list[int]]]:
    """What each window reads, and what it predicts and counts, of a document of the ids 0, 1, 2, ..."""
    pairs = [inputs(np.arange(count, dtype=np.int32), window, begin) for window in windows]
    return [(row.tolist(), targets[targets >= 0].tolist()) for row, targets in pairs]


def test_rolling_windows_are_those_of_the_reference() -> None:
    """lm-evaluation-harness's own case: ten tokens, at most four at once, and -1 for its prefix."""
    assert read(rolling(10, 4), 10, -1) == [
        ([-1, 0, 1, 2], [0, 1, 2, 3]),
        ([3, 4, 5, 6], [4, 5, 6, 7]),
        ([5, 6, 7, 8], [8, 9]),
    ]
    assert read(rolling(3, 4), 3, -1) == [([-1, 0, 1], [0, 1, 2])]
    assert read(rolling(8, 4), 8, -1) == [([-1, 0, 1, 2], [0, 1, 2, 3]), ([3, 4, 5, 6], [4, 5, 6, 7])]


def test_rolling_windows_are_those_of_the_harness_at_any_length() -> None:
    theirs = pytest.importorskip("lm_eval.utils", reason="lm-evaluation-harness is not installed")
    for count, length in ((count, length) for count in range(1, 40) for length in range(1, 15)):
        windows = theirs.get_rolling_token_windows(list(range(count)), -1, length, 1)
        disjoint = [theirs.make_disjoint_window(window) for window in windows]
        expected = [([*context, *predicted[:-1]], predicted) for context, predicted in disjoint]
        assert read(rolling(count, length), count, -1) == expected


def test_blocks_and_sliding_windows_as_drawn() -> None:
    assert read(blocks(10, 4), 10, PREFIX) == [
        ([PREFIX, 0, 1, 2], [0, 1, 2, 3]),
        ([PREFIX, 4, 5, 6], [4, 5, 6, 7]),
        ([PREFIX, 8], [8, 9]),
    ]
    assert read(sliding(9, 4, 2), 9, PREFIX) == [
        ([PREFIX, 0, 1, 2], [0, 1, 2, 3]),
        ([PREFIX, 2, 3, 4], [4, 5]),
        ([PREFIX, 4, 5, 6], [6, 7]),
        ([PREFIX, 5, 6, 7], [8]),
    ]


def test_without_a_beginning_the_token_before_a_window_is_its_first() -> None:
    assert read(blocks(6, 4), 6, None) == [([0, 1, 2], [1, 2, 3]), ([3, 4], [4, 5])]
    assert read(sliding(6, 4, 1), 6, None) == [([0, 1, 2], [1, 2, 3]), ([0, 1, 2, 3], [4]), ([1, 2, 3, 4], [5])]
    assert read(blocks(1, 4), 1, None) == [([], [])]


def test_a_stride_of_one_is_the_definition() -> None:
    """Each token behind all that a window allows."""
    for place, (row, counted) in enumerate(read(sliding(30, 7, 1), 30, None)[1:], start=7):
        assert (row, counted) == (list(range(place - 7, place)), [place])


@given(st.integers(1, 80), st.integers(1, 30), st.data())
def test_every_token_counts_once_in_windows_that_are_not_longer(count: int, length: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, length))
    begin = data.draw(st.sampled_from([None, PREFIX]))
    for windows in (blocks(count, length), rolling(count, length), sliding(count, length, stride)):
        pairs = read(windows, count, begin)
        assert [token for _, counted in pairs for token in counted] == list(range(0 if begin is not None else 1, count))
        assert max(len(row) for row, _ in pairs) == min(length, count - (begin is None and count <= length))
    for row, counted in read(sliding(count, length, stride), count, begin)[1:]:
        assert len(row) - len(counted) >= length - stride


def test_buckets_double() -> None:
    assert edges(32) == [0, 32]
    assert edges(20) == [0, 20]
    assert edges(200) == [0, 32, 64, 128, 200]
    assert middles(200) == pytest.approx([16, 32 * 2**0.5, 64 * 2**0.5, 160])
    assert all(low < middle < high for (low, high), middle in zip(pairwise(edges(5000)), middles(5000), strict=True))


def test_bytes_and_words_are_those_of_the_text_that_is_read() -> None:
    whole, cut, empty = "Für drei Tage.", "eins  zwei\ndrei vier", ""
    found = tokenised([("a", whole), ("b", cut), ("c", empty)], Bytes(), 15)
    assert [(one.name, one.bytes, one.words, one.whole) for one in found] == [("a", 15, 3, True), ("b", 15, 3, False)]
    assert bytes(found[1].tokens.tolist()).decode() == "eins  zwei\ndrei"
    (half,) = tokenised([("d", "aü")], Bytes(), 2)
    assert (len(half.tokens), half.bytes, half.whole) == (2, 1, False)  # a token more than what it spells of the text
    (all_of_it,) = tokenised([("e", "x y " * 1000)], Bytes(), None)
    assert (len(all_of_it.tokens), all_of_it.words, all_of_it.whole) == (4000, 2000, True)


@dataclass(frozen=True)
class Lower(Bytes):
    """Does not give its text back."""

    def encode(self, text: str) -> list[int]:
        return list(text.lower().encode())


class Sparse:
    """A token for twenty letters, and how many of them it was given."""

    kind, vocabulary = "letters", 128

    def __init__(self) -> None:
        self.seen = 0

    def encode(self, text: str) -> list[int]:
        self.seen += len(text)
        return [ord(text[at]) for at in range(0, len(text), 20)]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(one) * 20 for one in ids)


def test_a_text_that_is_not_given_back_is_counted_by_its_share() -> None:
    (found,) = tokenised([("a", "One Two Three Four")], Lower(), 9)
    assert (found.bytes, found.words) == (9, 3)


def test_long_texts_are_encoded_as_far_as_they_are_read() -> None:
    tokenizer = Sparse()
    (found,) = tokenised([("a", "a" * 10_000)], tokenizer, 100)
    assert (len(found.tokens), found.bytes, found.whole) == (100, 2000, False)
    assert tokenizer.seen == 1200 + 10_000  # what 100 tokens could be of, and then all of it
