"""What a step of training reads, and what every source of it offers. NumPy only; `data.tensors` moves it to torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from farfield.tokenizers import Tokenizer

__all__ = ["PADDING", "UNSCORED", "Batch", "Description", "Ids", "Sets", "Source"]

UNSCORED = -100  # a target that is not scored
PADDING = -1  # the position of a place that holds no token

Ids: TypeAlias = NDArray[np.int64]
Description: TypeAlias = dict[str, str | int | float]


@dataclass(frozen=True, eq=False)
class Sets:
    """Sets of documents that the rows of a batch ask.

    `tokens` and `positions` (sets, documents, length): each document begins at 0 and has its padding behind it; one of
    nothing but padding is none. As many rows that stand together ask a set, and `question` (batch,) is how many of a
    row's first tokens are what it asks.
    """

    tokens: Ids
    positions: Ids
    question: Ids

    def __post_init__(self) -> None:
        assert self.tokens.shape == self.positions.shape
        assert len(self.question) % len(self.tokens) == 0

    def part(self, number: int, parts: int) -> Sets:
        """The sets and the rows of one of so many equal parts of the batch."""
        sets, rows = len(self.tokens) // parts, len(self.question) // parts
        own = slice(number * sets, (number + 1) * sets)
        return Sets(self.tokens[own], self.positions[own], self.question[number * rows : (number + 1) * rows])


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of tokens, all (batch, time).

        tokens      T  h  e  .  A  n  d  #      two documents, "The." and "And", and one place of padding
        targets     h  e  .  ^  n  d  ^  -100   what a model predicts at a token; ^ ends a document
        positions   0  1  2  3  0  1  2  -1     0 starts a document, or a fresh context; -1 is padding

    targets[t] belongs to the logits at t: no shift is left to do. Where there are `sets`, a row is a question, and its
    answer from a set of documents. `documents` (batch, time) stand for the texts that tokens are of, where a source
    knows: copies have the same. `passages` (batch, chunks, count, length) were found for the chunks that end in a row,
    in order; -1 where there is none.
    """

    tokens: Ids
    targets: Ids
    positions: Ids
    sets: Sets | None = None
    documents: NDArray[np.uint64] | None = None
    passages: Ids | None = None

    def __post_init__(self) -> None:
        assert self.tokens.shape == self.targets.shape == self.positions.shape

    @property
    def scored(self) -> int:
        """How many targets count."""
        return int(np.count_nonzero(self.targets != UNSCORED))

    @property
    def read(self) -> int:
        """How many tokens there are, padding left out."""
        documents = 0 if self.sets is None else int(np.count_nonzero(self.sets.positions != PADDING))
        return documents + int(np.count_nonzero(self.positions != PADDING))


class Source(Protocol):
    """Batches to train on and to validate with, pure functions of their number: a run resumed sees the same."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def tokens_per_batch(self) -> int:
        """Rows times places in a row, padding included."""
        ...

    @property
    def validation_batches(self) -> int:
        """How many `validation` has; 0 for none."""
        ...

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0, without end. Safe to call from several threads."""
        ...

    def validation(self, index: int) -> Batch:
        """Batch `index` of those held out, 0 ... validation_batches - 1; the last may have rows of padding only."""
        ...

    def describe(self) -> Description:
        """What a run prints and records of its data."""
        ...
