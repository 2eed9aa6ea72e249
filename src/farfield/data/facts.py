"""data=facts: sets of documents that hold a fact each, and questions for some of them, made on the fly.

    documents   n n K1 V1 n     n K2 V2 n n     K3 V3 n n n          each is read by itself
    rows        ? K2 V2         ? K1 V1                              the value is scored, what stands before it asks

Pairs and noise are those of the needle tasks. As published for memories of amortized contexts, several questions ask
one set.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from farfield.benchmarks.tasks.pairs import Disjoint, Pairs
from farfield.benchmarks.tasks.sample import Split, generator
from farfield.config import Config, ConfigError
from farfield.data.batch import PADDING, UNSCORED, Batch, Description, Sets
from farfield.tokenizers import IdsTokenizer

__all__ = ["FactsData", "FactsSource"]

VALIDATION_SEED = 0  # whatever the training's seed, so that runs are compared on the same questions
PARTS: dict[Split, int] = {"train": 0, "test": 1}


class FactsData(Config):
    """Sets of documents with a pair of a key and a value each, and questions for the values of some keys.

    vocabulary: ids; a question mark, keys, values, noise and the end token share them.
    documents: least and most documents of a set.
    length: tokens of a document: its pair, and noise around it.
    questions: rows that ask one set, each for another of its documents.
    disjoint: what training never sees and validation asks: `pairs` of known ids, or `ids` themselves.
    validation: batches of the other split, the same for every seed.
    """

    kind: Literal["facts"] = "facts"
    vocabulary: int = Field(512, ge=16, le=1_000_000)
    documents: tuple[int, int] = (4, 8)
    length: int = Field(8, ge=2)
    questions: int = Field(4, ge=1)
    disjoint: Disjoint = "pairs"
    validation: int = Field(4, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> FactsData:
        """What no set can hold is a mistake in the settings, not of the first step."""
        least, most = self.documents
        if not 1 <= least <= most:
            raise ValueError(f".documents: {[least, most]} given. The least is 1 or more, and the most no less.")
        if self.questions > least:
            raise ValueError(
                f".questions: {self.questions} given, but a set may have {least} documents. At most {least}."
            )
        try:
            for split in PARTS:
                self.draw(0, 0, 1, split)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    def draw(self, seed: int, step: int, sets: int, split: Split) -> Batch:
        """Rows (sets * questions, 2) that ask `sets` sets."""
        ids, most = Pairs(self.vocabulary, self.disjoint), self.documents[1]
        rng = generator("facts", seed, step, PARTS[split])
        keys, values = ids.draw(rng, sets, most, split)
        count = rng.integers(self.documents[0], most + 1, (sets, 1))
        tokens = rng.integers(ids.noise.start, ids.noise.stop, (sets, most, self.length))
        at = rng.integers(0, self.length - 1, (sets, most, 1))
        np.put_along_axis(tokens, at, keys[..., None], 2)
        np.put_along_axis(tokens, at + 1, values[..., None], 2)
        there = np.arange(most) < count
        positions = np.where(there[..., None], np.arange(self.length), PADDING)
        lots = np.where(there, rng.random((sets, most)), 2.0)
        chosen = lots.argsort(1)[:, : self.questions]
        asked, answers = (np.take_along_axis(array, chosen, 1).reshape(-1) for array in (keys, values))
        rows = np.stack((np.full_like(asked, ids.query), asked), 1).astype(np.int64)
        targets = np.stack((np.full_like(answers, UNSCORED), answers), 1).astype(np.int64)
        places = np.tile(np.arange(2, dtype=np.int64), (len(rows), 1))
        question = np.full(len(rows), 2, dtype=np.int64)
        return Batch(rows, targets, places, Sets(tokens, positions, question))

    def open(self, seed: int, batch: int) -> FactsSource:
        """The source."""
        return FactsSource(self, seed, batch)


class FactsSource:
    """Batches of as many sets as the training has rows, drawn when asked for; no two steps have the same."""

    def __init__(self, config: FactsData, seed: int, batch: int) -> None:
        self.config, self.seed, self.sets = config, seed, batch
        self.tokenizer = IdsTokenizer(config.vocabulary)

    @property
    def tokens_per_batch(self) -> int:
        return self.sets * (self.config.documents[1] * self.config.length + 2 * self.config.questions)

    @property
    def validation_batches(self) -> int:
        return self.config.validation

    def batch(self, step: int) -> Batch:
        return self.config.draw(self.seed, step, self.sets, "train")

    def validation(self, index: int) -> Batch:
        return self.config.draw(VALIDATION_SEED, index, self.sets, "test")

    def describe(self) -> Description:
        least, most = self.config.documents
        return {
            "data": "facts",
            "tokenizer": f"{self.tokenizer.kind}, {self.tokenizer.vocabulary} ids",
            "documents": f"{least} to {most} of {self.config.length} tokens",
            "questions": self.config.questions,
            "held out": self.config.disjoint,
        }
