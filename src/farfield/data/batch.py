"""What a step of training reads, and what every source of it offers. NumPy only; `data.tensors` moves it to torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from farfield.tokenizers import Tokenizer

__all__ = ["PADDING", "UNSCORED", "Batch", "Description", "Ids", "Source"]

UNSCORED = -100  # a target that is not scored
PADDING = -1  # the position of a place that holds no token

Ids: TypeAlias = NDArray[np.int64]
Description: TypeAlias = dict[str, str | int | float]


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of tokens, all (batch, time).

        tokens      T  h  e  .  A  n  d  #      two documents, "The." and "And", and one place of padding
        targets     h  e  .  ^  n  d  ^  -100   what a model predicts at a token; ^ ends a document
        positions   0  1  2  3  0  1  2  -1     0 starts a document, or a fresh context; -1 is padding

    targets[t] belongs to the logits at t: no shift is left to do.
    """

    tokens: Ids
    targets: Ids
    positions: Ids

    def __post_init__(self) -> None:
        assert self.tokens.shape == self.targets.shape == self.positions.shape

    @property
    def scored(self) -> int:
        """How many targets count."""
        return int(np.count_nonzero(self.targets != UNSCORED))

    @property
    def read(self) -> int:
        """How many tokens there are, padding left out."""
        return int(np.count_nonzero(self.positions != PADDING))


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
