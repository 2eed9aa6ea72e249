"""The ids of token mode as the recipes draw them, so that what is tested was never trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.tasks.pairs import Pairs
from farfield.benchmarks.tasks.sample import Ids, LackingError, Split, hashed

__all__ = ["Vocabulary"]


@dataclass(frozen=True)
class Vocabulary:
    """Keys and values of a split, and words made of both."""

    pairs: Pairs
    split: Split

    @property
    def _held(self) -> bool:
        """Whether the split has ids of its own."""
        return self.pairs.disjoint == "ids"

    def allowed(self, ids: range) -> range:
        """Those of the keys or the values that the split may use."""
        border = 3 * (len(ids) // 4)
        if not self._held:
            return ids
        return ids[:border] if self.split == "train" else ids[border:]

    @property
    def _each(self) -> int:
        """Values that a key may have."""
        if self._held:
            return len(self.allowed(self.pairs.values))
        return len(self.pairs.keys) // 4 * (3 if self.split == "train" else 1)

    @property
    def size(self) -> int:
        """Pairs of the split."""
        return len(self.allowed(self.pairs.keys)) * self._each

    def bound(self, keys: NDArray[np.int64], number: NDArray[np.int64]) -> NDArray[np.int64]:
        """The values with these numbers, below `_each`, of these keys."""
        if self._held:
            return self.allowed(self.pairs.values).start + number
        place = hashed(keys - self.pairs.keys.start)
        if self.split == "train":
            place, number = place + 1 + number % 3, number // 3
        return self.pairs.values.start + 4 * number + place % 4

    def keys(self, rng: np.random.Generator, task: str, count: int) -> NDArray[np.int64]:
        """Different keys."""
        allowed = self.allowed(self.pairs.keys)
        if count > len(allowed):
            raise self.too_small(task, f"{count} different keys", len(allowed))
        return rng.permutation(np.array(allowed))[:count]

    def values(self, rng: np.random.Generator, task: str, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """A value for each of `keys`, all different. A key may come more than once."""
        kept = 3 if self.split == "train" and not self._held else 1  # values that a key has of each four
        if len(keys) > self._each // kept:
            raise self.too_small(task, f"{len(keys)} different values", self._each // kept)
        return self.bound(
            keys, kept * rng.permutation(self._each // kept)[: len(keys)] + rng.integers(0, kept, len(keys))
        )

    def words(self, rng: np.random.Generator, task: str, count: int) -> NDArray[np.int64]:
        """Different pairs, (count, 2)."""
        if count > self.size:
            raise self.too_small(task, f"{count} different words", self.size)
        index = rng.choice(self.size, count, replace=False)
        keys = self.allowed(self.pairs.keys).start + index // self._each
        return np.stack([keys, self.bound(keys, index % self._each)], axis=1)

    def pairs_of(self, rng: np.random.Generator, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """A value for each key, drawn anew each time."""
        return self.bound(keys, rng.integers(0, self._each, len(keys)))

    def noise(self, rng: np.random.Generator, count: int) -> Ids:
        """Ids that are neither keys nor values."""
        return rng.integers(self.pairs.noise.start, self.pairs.noise.stop, count, dtype=np.int32)

    def too_small(self, task: str, needed: str, there: int) -> LackingError:
        return LackingError(
            f"{task}: {needed} are needed, and a vocabulary of {self.pairs.vocabulary} ids has {there} for the split "
            f"'{self.split}'. Give shorter lengths or a model with a larger vocabulary."
        )
