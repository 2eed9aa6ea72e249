"""What token mode hides and asks: a plan for each kind of needle.

KeyedPairs   n n K1 V1 n n K2 V2 n n ? K1            -> V1
OneKeyPairs  n n K V1 n n K V2 n n K V3 ? K          -> V1 V2 V3, in any order
ManyPairs    n n K1 V1 n n K2 V2 n n ? K1 ? K2       read: V1 behind K1, V2 behind K2, as in training
SaidTwice    n n n K V K V n n n n ? K               -> V
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from farfield.benchmarks.tasks.layout import Asked, Frame, anywhere, behind
from farfield.benchmarks.tasks.pairs import Pairs
from farfield.benchmarks.tasks.sample import IGNORED, Ids, Sample, Scoring

__all__ = ["ONE_PAIR", "KeyedPairs", "ManyPairs", "OneKeyPairs", "Plan", "SaidTwice"]

CHOICES = 16  # values among which those of one key are looked for by likelihood


class Plan(Protocol):
    """A kind of needle. Its repr tells its settings."""

    @property
    def name(self) -> str: ...

    @property
    def needles(self) -> int:
        """Pairs that are hidden."""
        ...

    @property
    def placed(self) -> bool: ...

    @property
    def scorings(self) -> tuple[Scoring, ...]: ...

    def frame(self, pairs: Pairs, keys: Ids, values: Ids, rng: np.random.Generator) -> Frame:
        """What is hidden and asked of the pairs `keys` and `values`, (needles,) each."""
        ...

    def depths(self, rng: np.random.Generator, depth: float) -> tuple[float, ...]:
        """Of all needles of a frame, the first at `depth`."""
        ...

    def score(self, sample: Sample, output: Sequence[int]) -> float: ...


@dataclass(frozen=True)
class KeyedPairs:
    """`needles` pairs; `queries` samples ask for one each. By `apart`, the others stand anywhere."""

    needles: int = 1
    queries: int = 1
    apart: bool = False
    name: str = "needle"
    placed: bool = True
    scorings: tuple[Scoring, ...] = ("generate", "likelihood")

    def frame(self, pairs: Pairs, keys: Ids, values: Ids, rng: np.random.Generator) -> Frame:
        candidates = np.arange(pairs.values.start, pairs.values.stop, dtype=np.int32)
        asked = [
            Asked(_question(pairs, keys[at : at + 1]), values[at : at + 1], (at,), candidates=candidates)
            for at in range(self.queries)
        ]
        return Frame(list(np.stack([keys, values], axis=1)), asked, budget=1)

    def depths(self, rng: np.random.Generator, depth: float) -> tuple[float, ...]:
        return anywhere(rng, depth, self.needles) if self.apart else behind(depth, self.needles)

    def score(self, sample: Sample, output: Sequence[int]) -> float:
        return float(list(output[: len(sample.answer)]) == sample.answer.tolist())


ONE_PAIR = KeyedPairs()


@dataclass(frozen=True)
class OneKeyPairs:
    """One key with several values, all of them asked: the share found among as many ids."""

    needles: int = 4
    name: ClassVar[str] = "multi_value"
    placed: ClassVar[bool] = False
    scorings: ClassVar[tuple[Scoring, ...]] = ("generate", "likelihood")

    def frame(self, pairs: Pairs, keys: Ids, values: Ids, rng: np.random.Generator) -> Frame:
        bound = pairs.bound(keys, values)
        every = np.setdiff1d(np.arange(pairs.values.start, pairs.values.stop, dtype=np.int32), bound)
        others = rng.choice(every, min(len(every), max(CHOICES, 2 * self.needles) - self.needles), replace=False)
        asked = Asked(
            _question(pairs, keys[:1]),
            bound,
            tuple(range(self.needles)),
            choices=tuple(value[None] for value in np.concatenate([bound, others])),
            right=tuple(range(self.needles)),
        )
        return Frame([np.array([keys[0], value], dtype=np.int32) for value in bound], [asked], budget=self.needles)

    def depths(self, rng: np.random.Generator, depth: float) -> tuple[float, ...]:
        return anywhere(rng, depth, self.needles)

    def score(self, sample: Sample, output: Sequence[int]) -> float:
        return len(set(sample.answer.tolist()) & set(output[: self.needles])) / self.needles


@dataclass(frozen=True)
class ManyPairs:
    """Several pairs, all of them asked one after the other in one prompt: the share of questions answered."""

    needles: int = 4
    name: ClassVar[str] = "multi_query"
    placed: ClassVar[bool] = False
    scorings: ClassVar[tuple[Scoring, ...]] = ("read",)

    def frame(self, pairs: Pairs, keys: Ids, values: Ids, rng: np.random.Generator) -> Frame:
        question = np.concatenate([_question(pairs, keys[at : at + 1]) for at in range(self.needles)])
        targets = np.full(len(question), IGNORED, dtype=np.int32)
        targets[1::2] = values
        asked = Asked(question, values, tuple(range(self.needles)), targets=targets)
        return Frame(list(np.stack([keys, values], axis=1)), [asked], budget=1)

    def depths(self, rng: np.random.Generator, depth: float) -> tuple[float, ...]:
        return anywhere(rng, depth, self.needles)

    def score(self, sample: Sample, output: Sequence[int]) -> float:
        return float(np.mean([got == gold for got, gold in zip(output, sample.answer.tolist(), strict=True)]))


@dataclass(frozen=True)
class SaidTwice:
    """A passkey: one pair, said twice in a row."""

    needles: ClassVar[int] = 1
    name: ClassVar[str] = "passkey"
    placed: ClassVar[bool] = True
    scorings: ClassVar[tuple[Scoring, ...]] = ("generate", "likelihood")

    def frame(self, pairs: Pairs, keys: Ids, values: Ids, rng: np.random.Generator) -> Frame:
        once = ONE_PAIR.frame(pairs, keys, values, rng)
        return Frame([np.tile(once.needles[0], 2)], once.asked, once.budget)

    def depths(self, rng: np.random.Generator, depth: float) -> tuple[float, ...]:
        return (depth,)

    def score(self, sample: Sample, output: Sequence[int]) -> float:
        return ONE_PAIR.score(sample, output)


def _question(pairs: Pairs, key: Ids) -> Ids:
    return np.concatenate([np.array([pairs.query], dtype=np.int32), key])
