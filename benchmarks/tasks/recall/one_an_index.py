"""What most tasks of recall share: each index is one sample, drawn by itself, with its gold where the task puts it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from farfield.benchmarks.tasks.sample import Sample, Split

__all__ = ["OneAnIndex"]


class OneAnIndex(ABC):
    """A task whose samples are drawn one by one, at no depth that could be asked for.

    Its name is all that tells it from its kin, and its answers end where their budget does.
    """

    placed: ClassVar[bool] = False
    stop: ClassVar[tuple[str, ...]] = ()
    labels: ClassVar[Mapping[str, float]] = MappingProxyType({})

    @abstractmethod
    def check(self, seed: int, length: int, n: int, split: Split) -> None:
        """As of every task."""

    @abstractmethod
    def _draw(self, seed: int, length: int, index: int, split: Split) -> Sample:
        """The sample of this index."""

    def generate(
        self, seed: int, length: int, n: int, split: Split, *, depth: float | None = None, first: int = 0
    ) -> list[Sample]:
        self.check(seed, length, n, split)
        return [self._draw(seed, length, index, split) for index in range(first, first + n)]
