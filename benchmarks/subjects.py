"""How the runner sees a model: any model, through five methods.

state = subject.prefill(haystack)                       # (batch, time) ids
one = subject.prefill(question_one, state)              # a state is a value: both go on from the same haystack
two = subject.prefill(question_two, state)
subject.generate(one, budget=8)                         # greedy, one list of ids for each row
subject.score(two, candidates)                          # log-probabilities of single next ids
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.tasks.sample import Tokenizer

__all__ = ["Capability", "Prefilled", "Subject"]

Capability = Literal["prefill", "generate", "score"]

# What a subject knows after some tokens: its state and its last logits. Only the subject looks inside.
Prefilled = object


class Subject(Protocol):
    """A model that can be asked."""

    @property
    def name(self) -> str: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What it can do; the runner skips what needs more, and says so."""
        ...

    def describe(self) -> Mapping[str, object]:
        """Architecture, memory, parameters and whatever tells two models apart, as plain values.

        Two subjects with equal descriptions count as one model when a stopped run is resumed, so it holds a fingerprint
        of the weights. `trained_length`, where it is known, is marked in pictures.
        """
        ...

    def state_bytes(self, length: int) -> int:
        """Bytes that the state of one row holds after `length` tokens."""
        ...

    def prefill(self, tokens: NDArray[np.int64], after: Prefilled | None = None) -> Prefilled:
        """What is known after `tokens` (batch, time), one or more a row; `after` stays as it was."""
        ...

    def generate(self, prefilled: Prefilled, budget: int, stop: tuple[str, ...] = ()) -> list[list[int]]:
        """At most `budget` ids for each row, the most likely at each step; a text of `stop` may end a row early."""
        ...

    def score(self, prefilled: Prefilled, candidates: NDArray[np.int64]) -> NDArray[np.floating]:
        """Log-probabilities (batch, n), in nats, of `candidates` (batch, n) as the next id."""
        ...
