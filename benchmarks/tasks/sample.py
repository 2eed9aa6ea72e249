"""What a task asks and how answers are judged: plain data, no model, no torch.

One sample of token mode, drawn: a needle at depth 0.4 of ten noise tokens. The length, 15, counts the answer:

    prompt   n n n n K V n n n n n n ? K        what a model prefills
                     └─┘             └─┘
                    needle         question
    answer                               V      what it should go on with

A task is a pure function of (seed, length, index, split): the n-th sample is the same whatever else is asked for, and
at every depth of one (length, index) only the needle's place changes, so that prompts share their beginnings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ids", "Sample", "Split", "Task", "Tokenizer", "generator", "hashed"]

Ids = NDArray[np.int32]
Split = Literal["train", "test"]

# One stream of random numbers for each purpose, whatever the seed.
STREAMS = {"sample": 1, "recall": 2, "noise": 3, "facts": 4}


@dataclass(frozen=True, eq=False)
class Sample:
    """One question to a model.

    prompt:       (tokens,) ids to prefill
    answer:       gold ids; a generation of `budget` tokens is judged
    length:       tokens of the prompt and of the budget together
    text_answers: gold texts; empty in token mode
    depths:       where each gold needle stands: the share of the haystack before it, 0 to 1
    candidates:   (n,) single ids, one of them the answer, for a choice by likelihood; None where there is none
    """

    prompt: Ids
    answer: Ids
    length: int
    budget: int
    seed: int
    version: int
    text_answers: tuple[str, ...] = ()
    depths: tuple[float, ...] = ()
    candidates: Ids | None = None


class Tokenizer(Protocol):
    """What a task needs of a tokenizer."""

    @property
    def kind(self) -> str: ...

    @property
    def vocabulary(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int], /) -> str: ...


class Task(Protocol):
    """A source of samples and their judge."""

    @property
    def name(self) -> str: ...

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end a generation early."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal for two tasks only if they make the same samples."""
        ...

    def check(self, seed: int, length: int, n: int, split: Split) -> None:
        """Raises ConfigError if one of these samples cannot be made, naming the length that can."""
        ...

    def generate(
        self, seed: int, length: int, n: int, split: Split, *, depth: float | None = None, first: int = 0
    ) -> list[Sample]:
        """The samples of the indices `first` to `first + n - 1`, the same number for each, in the order of the indices.

        All samples of one index ask about the same text, with the gold at `depth`, or anywhere if it is None.
        """
        ...

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        """The share of the gold answers, 0 to 1, that each output holds."""
        ...


def generator(stream: str, *parts: int) -> np.random.Generator:
    """A generator of its own for each stream and each tuple of non-negative parts."""
    return np.random.default_rng(np.random.SeedSequence((STREAMS[stream], len(parts), *parts)))


def hashed(index: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number of 0, 1, 2, 3 for each index, spread evenly and without a visible pattern (Fibonacci hashing)."""
    spread: NDArray[np.uint64] = np.right_shift(index.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15), np.uint64(62))
    return spread.astype(np.int64)
