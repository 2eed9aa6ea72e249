"""data=needle: recall tasks made on the fly, of the same pairs, noise and questions as the needle suite asks about."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from farfield.benchmarks.tasks.needle import recall_batch
from farfield.benchmarks.tasks.pairs import Disjoint
from farfield.benchmarks.tasks.sample import Split
from farfield.config import Config, ConfigError
from farfield.data.batch import Batch, Description
from farfield.tokenizers import IdsTokenizer

__all__ = ["NeedleData", "NeedleSource"]

VALIDATION_SEED = 0  # whatever the training's seed, so that runs are compared on the same questions


class NeedleData(Config):
    """Pairs of a key and a value among noise, and questions for the values of keys.

    vocabulary: ids; a question mark, keys, values, noise and the end token share them.
    length: tokens of a row.
    pairs: the most pairs in a row.
    disjoint: what training never sees and validation and the suite ask: `pairs` of known ids, or `ids` themselves.
    dense: the share of rows that are nothing but pairs and questions, without which recall is hardly learned.
    validation: batches of the other split, the same for every seed.
    """

    kind: Literal["needle"] = "needle"
    vocabulary: int = Field(512, ge=16, le=1_000_000)
    length: int = Field(256, ge=4)
    pairs: int = Field(8, ge=1)
    disjoint: Disjoint = "pairs"
    dense: float = Field(0.5, ge=0, le=1)
    validation: int = Field(4, ge=0)

    @model_validator(mode="after")
    def _room(self) -> NeedleData:
        """Too many pairs for the length or the vocabulary are a mistake in the settings, not of the first step."""
        try:
            for split in ("train", "test"):
                self.draw(0, 0, 1, split)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    def draw(self, seed: int, step: int, batch: int, split: Split) -> Batch:
        """(batch, length) rows; every row is one document."""
        tokens, targets = recall_batch(
            seed,
            step,
            batch,
            self.length,
            self.pairs,
            vocabulary=self.vocabulary,
            disjoint=self.disjoint,
            split=split,
            dense=self.dense,
        )
        return Batch(tokens, targets, np.tile(np.arange(self.length, dtype=np.int64), (batch, 1)))

    def open(self, seed: int, batch: int) -> NeedleSource:
        """The source."""
        return NeedleSource(self, seed, batch)


class NeedleSource:
    """Batches that are drawn when asked for; no two steps have the same."""

    def __init__(self, config: NeedleData, seed: int, batch: int) -> None:
        self.config, self.seed, self.rows = config, seed, batch
        self.tokenizer = IdsTokenizer(config.vocabulary)

    @property
    def tokens_per_batch(self) -> int:
        return self.rows * self.config.length

    @property
    def validation_batches(self) -> int:
        return self.config.validation

    def batch(self, step: int) -> Batch:
        return self.config.draw(self.seed, step, self.rows, "train")

    def validation(self, index: int) -> Batch:
        return self.config.draw(VALIDATION_SEED, index, self.rows, "test")

    def describe(self) -> Description:
        return {
            "data": "needle",
            "tokenizer": f"{self.tokenizer.kind}, {self.tokenizer.vocabulary} ids",
            "pairs": self.config.pairs,
            "held out": self.config.disjoint,
            "length": self.config.length,
        }
