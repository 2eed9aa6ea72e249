"""Multi-query associative recall (MQAR), as zoology defines it: all pairs first, then each key once more.

    prompt    k1 v1 k2 v2 k3 v3  .  .  k2 .  k1 .  .  .  .  .  k3 .      length 18 with 3 pairs: 6 query slots
    targets   .  .  .  .  .  .   .  .  v2 .  v1 .  .  .  .  .  v3 .      the value is no input: it is only asked for
    slot                         1     2     3     4     5     6

A key is drawn from 1 ... V/2 - 1, a value from V/2 ... V - 1, each at most once in a row. The slots are drawn without
replacement, slot i as often as i^(a - 1): with a = 0.01 nearly all questions come soon, with a = 1 they come anywhere.
What is neither pair nor question is 0, or (`filler`) any id at random. V counts the ids of the tokenizer without its
last, which ends a document.

    no_context   .  .  .  .  .  .   .  .  k2 .  k1 .  .  .  .  .  k3 .      filler in the place of the pairs
    gold_only    k1 v1 k2 v2 k3 v3  k2 .  k1 .  k3 .                        the slots that ask, and no other

Arora et al., Zoology, https://arxiv.org/abs/2312.04927; HazyResearch/zoology, data/multiquery_ar.py. Its conditions: an
even length, V above the length, and four tokens for each pair. There, training and testing differ in the seed alone
(disjoint=seeds); with disjoint=pairs each key has a quarter of the values for testing only, and as many pairs fit as
there are blocks of four values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.tasks.recall.strings import share
from farfield.benchmarks.tasks.sample import (
    IGNORED,
    SPLITS,
    Ids,
    LackingError,
    Sample,
    Scoring,
    Split,
    TooShortError,
    generator,
    hashed,
)
from farfield.config import ConfigError

__all__ = ["Filler", "Held", "Mqar"]

Filler = Literal["zero", "random"]
Held = Literal["pairs", "seeds"]
VERSION = 2


@dataclass(frozen=True)
class Mqar:
    """MQAR with one number of pairs. `ids` is the V of the definition."""

    ids: int
    pairs: int
    power: float = 0.01
    filler: Filler = "zero"
    disjoint: Held = "pairs"

    metric: str = "accuracy"
    placed: bool = False
    scorings: tuple[Scoring, ...] = ("read",)
    stop: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"mqar_{self.pairs}"

    @property
    def labels(self) -> Mapping[str, float]:
        return {"pairs": self.pairs}

    @property
    def fingerprint(self) -> str:
        return f"{self.name} {VERSION} {self.ids} {self.power} {self.filler} {self.disjoint}"

    @property
    def keys(self) -> range:
        return range(1, self.ids // 2)

    @property
    def values(self) -> range:
        return range(self.ids // 2, self.ids)

    def check(self, seed: int, length: int, n: int, split: Split) -> None:
        if length < 4 * self.pairs:
            raise TooShortError(
                f"recall: {self.name} needs four tokens for each of its {self.pairs} pairs: {4 * self.pairs} is the "
                f"least length, {length} is given. Give longer lengths or fewer pairs."
            )
        if length % 2:
            raise ConfigError(f"recall: mqar has even lengths, {length} is given. Give {length + 1}.")
        if self.ids <= length:
            raise LackingError(
                f"recall: mqar needs more ids than tokens, and there are {self.ids} ids for a length of {length}. Give "
                f"shorter lengths, or a model with a vocabulary of {length + 2} or more."
            )
        room = min(len(self.keys), len(self.values) // 4 if self.disjoint == "pairs" else len(self.values))
        if self.pairs > room:
            raise LackingError(
                f"recall: {self.ids} ids have room for {room} pairs with disjoint={self.disjoint}, not for {self.pairs}"
                ". Give fewer pairs or a model with a larger vocabulary."
            )

    def generate(
        self, seed: int, length: int, n: int, split: Split, *, depth: float | None = None, first: int = 0
    ) -> list[Sample]:
        self.check(seed, length, n, split)
        slots = self._slots(length)
        return [self._draw(seed, length, index, split, slots) for index in range(first, first + n)]

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        return share(samples, outputs)

    def _slots(self, length: int) -> NDArray[np.float64]:
        """The probability of each query slot."""
        weights: NDArray[np.float64] = np.arange(1, (length - 2 * self.pairs) // 2 + 1, dtype=np.float64) ** (
            self.power - 1
        )
        weights /= weights.sum()
        return weights

    def _draw(self, seed: int, length: int, index: int, split: Split, slots: NDArray[np.float64]) -> Sample:
        rng = generator("sample", seed, length, index, SPLITS[split])
        keys, values = self._pairs(rng, split)
        asked = rng.choice(len(slots), self.pairs, replace=False, p=slots)
        places = 2 * self.pairs + 2 * asked
        prompt = self._filled(rng, length)
        prompt[: 2 * self.pairs : 2], prompt[1 : 2 * self.pairs : 2] = keys, values
        prompt[places] = keys
        targets = np.full(length, IGNORED, dtype=np.int32)
        targets[places] = values
        blank = np.concatenate([self._filled(rng, 2 * self.pairs), prompt[2 * self.pairs :]])
        kept = np.concatenate([np.arange(2 * self.pairs), *([place, place + 1] for place in np.sort(places))])
        return Sample(
            prompt=prompt,
            answer=targets[targets != IGNORED],
            length=length,
            budget=0,
            seed=seed,
            version=VERSION,
            gold=((0, 2 * self.pairs),),
            question=2 * self.pairs,
            targets=targets,
            prompts={"no_context": blank, "gold_only": prompt[kept]},
            asked={"no_context": targets, "gold_only": targets[kept]},
        )

    def _filled(self, rng: np.random.Generator, size: int) -> Ids:
        if self.filler == "zero":
            return np.zeros(size, dtype=np.int32)
        return rng.integers(0, self.ids, size, dtype=np.int32)

    def _pairs(self, rng: np.random.Generator, split: Split) -> tuple[Ids, Ids]:
        """Different keys and different values, (pairs,) each."""
        keys = rng.choice(len(self.keys), self.pairs, replace=False)
        if self.disjoint == "seeds":
            values = rng.choice(len(self.values), self.pairs, replace=False)
        else:
            # Values come in blocks of four, and each key has its own place in a block for testing.
            blocks = rng.choice(len(self.values) // 4, self.pairs, replace=False)
            other = rng.integers(1, 4, self.pairs) if split == "train" else 0
            values = 4 * blocks + (hashed(keys) + other) % 4
        return (keys + self.keys.start).astype(np.int32), (values + self.values.start).astype(np.int32)
