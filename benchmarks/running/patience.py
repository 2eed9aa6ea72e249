"""A subject that is asked again, after a while, where it cannot answer now."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.subjects.subject import Capability, Chat, Prefilled, Reading, Subject, TemporaryError, Written
from farfield.benchmarks.tasks.sample import Ids, Tokenizer, Turn
from farfield.progress import say

__all__ = ["Patient"]

R = TypeVar("R")

FIRST, LONGEST = 1.0, 60.0  # seconds until the first time, which double, and at most


@dataclass(frozen=True)
class Patient:
    """`subject`, each of whose answers is waited for: asked again `patience` times, after 1, 2, 4, ... seconds."""

    subject: Subject
    patience: int
    wait: Callable[[float], None] = time.sleep

    @property
    def name(self) -> str:
        return self.subject.name

    @property
    def tokenizer(self) -> Tokenizer:
        return self.subject.tokenizer

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self.subject.capabilities

    def describe(self) -> Mapping[str, object]:
        """See `Subject`, as for all that follow."""
        return self.subject.describe()

    def state_bytes(self, length: int) -> int:
        return self.subject.state_bytes(length)

    def prefill(self, tokens: NDArray[np.int64], after: Prefilled | None = None) -> Prefilled:
        return self._patiently(lambda: self.subject.prefill(tokens, after))

    def select(self, prefilled: Prefilled, rows: Sequence[int]) -> Prefilled:
        return self.subject.select(prefilled, rows)

    def generate(self, prefilled: Prefilled, budget: int, stop: tuple[str, ...] = ()) -> Written:
        return self._patiently(lambda: self.subject.generate(prefilled, budget, stop))

    def score(self, prefilled: Prefilled, candidates: NDArray[np.int64]) -> NDArray[np.floating]:
        return self._patiently(lambda: self.subject.score(prefilled, candidates))

    def choose(self, prefilled: Prefilled, choices: Sequence[Sequence[Ids]]) -> list[NDArray[np.float64]]:
        return self._patiently(lambda: self.subject.choose(prefilled, choices))

    def rounding(self, prefilled: Prefilled) -> NDArray[np.float64]:
        return self.subject.rounding(prefilled)

    def read(self, tokens: NDArray[np.int64], targets: NDArray[np.int64], after: Prefilled | None = None) -> Reading:
        return self._patiently(lambda: self.subject.read(tokens, targets, after))

    def taking(self, turn: Turn) -> Patient:
        """The same subject, whose prompts stand there if it is asked in a chat."""
        if not isinstance(self.subject, Chat):
            return self
        return Patient(self.subject.taking(turn), self.patience, self.wait)

    def without_memory(self) -> Patient:
        return Patient(self.subject.without_memory(), self.patience, self.wait)

    def shuffled(self, prefilled: Prefilled, seed: int) -> Prefilled:
        return self.subject.shuffled(prefilled, seed)

    def _patiently(self, ask: Callable[[], R]) -> R:
        for attempt in range(self.patience):
            try:
                return ask()
            except TemporaryError as error:
                seconds = min(FIRST * 2**attempt, LONGEST)
                say(f"{self.name}: {error} Asking again in {seconds:.0f} s.")
                self.wait(seconds)
        return ask()
