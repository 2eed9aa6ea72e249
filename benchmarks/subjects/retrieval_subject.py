"""The retrieval engine as the runner sees it: no model, with nothing that a model can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.subjects.subject import Capability, Prefilled, Reading, Subject, Written
from farfield.benchmarks.tasks.sample import Ids, Tokenizer
from farfield.config import ModelError

__all__ = ["RetrievalSubject"]


class RetrievalSubject:
    """What suites measure that need no model. Whatever asks one is told so in one line."""

    capabilities: frozenset[Capability] = frozenset()

    def __init__(self, name: str = "retrieval") -> None:
        self.name = name

    def describe(self) -> Mapping[str, object]:
        """Its parts are told by the suite's settings: what is embedded by whom, and how lists are joined."""
        return {"name": self.name, "architecture": "retrieval", "memory": None, "parameters": 0}

    def state_bytes(self, length: int) -> int:
        return 0

    @property
    def tokenizer(self) -> Tokenizer:
        _no_model()

    def prefill(self, tokens: NDArray[np.int64], after: Prefilled | None = None) -> Prefilled:
        _no_model()

    def select(self, prefilled: Prefilled, rows: Sequence[int]) -> Prefilled:
        _no_model()

    def generate(self, prefilled: Prefilled, budget: int, stop: tuple[str, ...] = ()) -> Written:
        _no_model()

    def score(self, prefilled: Prefilled, candidates: NDArray[np.int64]) -> NDArray[np.floating]:
        _no_model()

    def choose(self, prefilled: Prefilled, choices: Sequence[Sequence[Ids]]) -> list[NDArray[np.float64]]:
        _no_model()

    def rounding(self, prefilled: Prefilled) -> NDArray[np.float64]:
        _no_model()

    def read(self, tokens: NDArray[np.int64], targets: NDArray[np.int64], after: Prefilled | None = None) -> Reading:
        _no_model()

    def without_memory(self) -> Subject:
        _no_model()

    def shuffled(self, prefilled: Prefilled, seed: int) -> Prefilled:
        _no_model()


def _no_model() -> NoReturn:
    raise ModelError("model: none is given, and this suite asks one. Name it, as in model=runs/<name>.")
