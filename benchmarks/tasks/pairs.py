"""The ids of token mode, and pairs of a key and a value that belong to training or to testing.

    0        1 ... K     K+1 ... 2K     2K+1 ... n-2     n-1
    query    keys        values         noise            end of a document

What is tested must never have been trained, and there are two ways to split:

    pairs    each key and each value is trained, a quarter of their pairings never: a model that has to learn the
             embedding of an id can be tested fairly
    ids      a quarter of the keys and a quarter of the values is never trained
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.tasks.sample import Ids, Split, hashed
from farfield.config import ConfigError

__all__ = ["Disjoint", "Pairs"]

Disjoint = Literal["pairs", "ids"]
SMALLEST = 16


@dataclass(frozen=True)
class Pairs:
    """The ranges of a vocabulary of `vocabulary` ids, and the pairs of each split."""

    vocabulary: int
    disjoint: Disjoint = "pairs"

    def __post_init__(self) -> None:
        if self.vocabulary < SMALLEST:
            raise ConfigError(f"vocabulary: {self.vocabulary} ids given, token mode needs {SMALLEST} or more.")

    @property
    def query(self) -> int:
        """The id that stands before a key that is asked for."""
        return 0

    @cached_property
    def keys(self) -> range:
        # Three eighths for the keys, as many for the values, in fours: a quarter is held out.
        return range(1, 1 + 4 * (3 * (self.vocabulary - 2) // 32))

    @cached_property
    def values(self) -> range:
        return range(self.keys.stop, self.keys.stop + len(self.keys))

    @cached_property
    def noise(self) -> range:
        return range(self.values.stop, self.vocabulary - 1)

    def room(self, split: Split) -> int:
        """The most pairs that one sequence can hold."""
        quarter = len(self.keys) // 4
        return 3 * quarter if self.disjoint == "ids" and split == "train" else quarter

    def draw(self, rng: np.random.Generator, rows: int, count: int, split: Split) -> tuple[Ids, Ids]:
        """Keys and values, (rows, count) each, of pairs in `split`; within a row no key and no value comes twice.

        Raises:
            ConfigError: the vocabulary is too small for `count` pairs.
        """
        if count > self.room(split):
            least = next(
                n for n in range(self.vocabulary, 32 * count + 64) if Pairs(n, self.disjoint).room(split) >= count
            )
            raise ConfigError(
                f"vocabulary: {self.vocabulary} ids have room for {self.room(split)} pairs, not for {count}. "
                f"Give fewer pairs or a vocabulary of {least} or more."
            )
        size, quarter = len(self.keys), len(self.keys) // 4
        if self.disjoint == "ids":
            low, high = (0, 3 * quarter) if split == "train" else (3 * quarter, size)
            keys, values = (low + _distinct(rng, rows, high - low, count) for _ in range(2))
        else:
            # The values come in blocks of four, and each key has its own place in a block for testing.
            keys, blocks = _distinct(rng, rows, size, count), _distinct(rng, rows, quarter, count)
            other = rng.integers(1, 4, (rows, count)) if split == "train" else 0
            values = 4 * blocks + (hashed(keys) + other) % 4
        return (keys + self.keys.start).astype(np.int32), (values + self.values.start).astype(np.int32)

    def bound(self, keys: Ids, values: Ids) -> Ids:
        """(n,) values that belong to the first of the `keys` (n,) as the `values` belong to theirs: in one split."""
        if self.disjoint == "ids":
            return values
        value, key = values - self.values.start, keys - self.keys.start
        other = hashed(key[:1].astype(np.int64)) - hashed(key.astype(np.int64))
        moved: Ids = (self.values.start + 4 * (value // 4) + (value + other) % 4).astype(np.int32)
        return moved

    def within(self, keys: Ids, values: Ids, split: Split) -> NDArray[np.bool_]:
        """Which of the pairs belong to `split`."""
        key, value = (keys - self.keys.start).astype(np.int64), (values - self.values.start).astype(np.int64)
        if self.disjoint == "ids":
            border = 3 * (len(self.keys) // 4)
            held: NDArray[np.bool_] = (key >= border) & (value >= border)
            trained: NDArray[np.bool_] = (key < border) & (value < border)
            return held if split == "test" else trained
        paired: NDArray[np.bool_] = value % 4 == hashed(key)
        return paired if split == "test" else ~paired


def _distinct(rng: np.random.Generator, rows: int, size: int, count: int) -> NDArray[np.int64]:
    """(rows, count) numbers below `size`, each at most once within a row."""
    return np.argsort(rng.random((rows, size)), axis=1)[:, :count]
