"""Needle in a haystack, and the token mode of it: each key, value and word of noise is one id.

    haystack  n n n n n n n n n n            `length - 2 * needles - 3` noise ids, or one phrase of noise repeated
    body      n n n K1 V1 n n n n K2 V2 n n n    needle i of m of a cell of depth d stands at depth d + (1 - d) * i / m
    prompt    body ? K1                      one sample for each question: the first asks for the needle at depth d
    answer    V1

A depth is the share of the haystack that stands before the needle: 0 is the very beginning, 1 just before the question.
`recall_batch` makes training data of the same pairs, noise and questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.tasks.pairs import Disjoint, Pairs
from farfield.benchmarks.tasks.sample import IGNORED, SPLITS, Ids, Sample, Scoring, Split, TooShortError, generator
from farfield.config import ConfigError

__all__ = ["Spacing", "TokenNeedle", "needle_depths", "recall_batch", "spread", "too_short", "weave"]

Spacing = Literal["linear", "sigmoid"]
VERSION = 1
PHRASE = 16  # ids of the phrase that a repeated haystack repeats


def spread(count: int, spacing: Spacing = "linear") -> tuple[float, ...]:
    """`count` depths from 0 to 1, rising: evenly, or densest at both ends (a logistic curve stretched to 0 and 1)."""
    if count == 1:
        return (0.5,)
    even = np.linspace(0.0, 1.0, count)
    if spacing == "sigmoid":
        curve = 1 / (1 + np.exp(-10 * (even - 0.5)))
        even = (curve - curve[0]) / (curve[-1] - curve[0])
    return tuple(round(float(depth), 6) for depth in even)


def needle_depths(depth: float, needles: int) -> tuple[float, ...]:
    """The depths of all needles of a cell: the first at `depth`, the others at even steps behind it."""
    return tuple(depth + (1 - depth) * index / needles for index in range(needles))


def weave(haystack: Ids, places: Sequence[int], needles: Sequence[Ids]) -> Ids:
    """`haystack` with each needle before the token at its place; needles at one place keep their order."""
    pieces = np.split(haystack, places)
    woven = [part for pair in zip(pieces, needles, strict=False) for part in pair]
    return np.concatenate([*woven, pieces[-1]])


def too_short(length: int, needles: int, least: int) -> TooShortError:
    """The error for a length that cannot hold its needles and question."""
    some = "1 needle" if needles == 1 else f"{needles} needles"
    return TooShortError(
        f"needle: a length of {length} tokens is too short for {some}, the question and the answer: "
        f"{least} is the least. Give longer lengths or fewer needles."
    )


@dataclass(frozen=True)
class TokenNeedle:
    """The needle task of single ids. Each index gives `queries` samples that ask about one haystack."""

    pairs: Pairs
    needles: int = 1
    queries: int = 1
    repeat: bool = False
    name: str = "needle_tokens"
    metric: str = "recall"
    placed: bool = True
    scorings: tuple[Scoring, ...] = ("generate", "likelihood")
    stop: tuple[str, ...] = ()
    labels: Mapping[str, float] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        return f"{self.name} {VERSION} {self.pairs} {self.needles} {self.queries} {self.repeat}"

    @cached_property
    def _candidates(self) -> Ids:
        return np.array(self.pairs.values, dtype=np.int32)

    def check(self, seed: int, length: int, n: int, split: Split) -> None:
        least = 2 * self.needles + 4
        if length < least:
            raise too_short(length, self.needles, least)
        self.pairs.draw(generator("sample", seed), 1, self.needles, split)

    def generate(
        self, seed: int, length: int, n: int, split: Split, *, depth: float | None = None, first: int = 0
    ) -> list[Sample]:
        self.check(seed, length, n, split)
        indices = range(first, first + n)
        return [sample for index in indices for sample in self._ask(seed, length, index, split, depth)]

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        return [
            float(list(output[: len(sample.answer)]) == sample.answer.tolist())
            for sample, output in zip(samples, outputs, strict=True)
        ]

    def _ask(self, seed: int, length: int, index: int, split: Split, depth: float | None) -> list[Sample]:
        rng = generator("sample", seed, length, index, SPLITS[split])
        keys, values = (drawn[0] for drawn in self.pairs.draw(rng, 1, self.needles, split))
        haystack = self._haystack(rng, length - 2 * self.needles - 3)
        depths = needle_depths(float(rng.random()) if depth is None else depth, self.needles)
        places = [round(at * len(haystack)) for at in depths]
        needles = list(np.stack([keys, values], axis=1))
        body = weave(haystack, places, needles)
        question = [np.array([self.pairs.query, key], dtype=np.int32) for key in keys[: self.queries]]
        return [
            Sample(
                prompt=np.concatenate([body, question[asked]]),
                answer=values[asked : asked + 1],
                length=length,
                budget=1,
                seed=seed,
                version=VERSION,
                depths=(places[asked] / len(haystack),),
                gold=((places[asked] + 2 * asked, places[asked] + 2 * asked + 2),),
                question=len(body),
                candidates=self._candidates,
                prompts={"no_context": question[asked], "gold_only": np.concatenate([needles[asked], question[asked]])},
            )
            for asked in range(self.queries)
        ]

    def _haystack(self, rng: np.random.Generator, size: int) -> Ids:
        noise = self.pairs.noise
        drawn = rng.integers(noise.start, noise.stop, PHRASE if self.repeat else size, dtype=np.int32)
        return np.resize(drawn, size)


def recall_batch(
    seed: int,
    step: int,
    batch: int,
    length: int,
    pairs: int,
    *,
    vocabulary: int,
    disjoint: Disjoint = "pairs",
    split: Split = "train",
    dense: float = 0.5,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Training data for the suite: tokens and targets, (batch, length) each.

    A target stands at the key of each question, and says what comes next; -100 is not scored:

        tokens    n K1 V1 n n K2 V2 n n ? K2  ? K1  ? K2
        targets   . .  .  . . .  .  . . . V2  . V1  . V2

    A share `dense` of the rows holds `pairs` pairs, no noise, and as many questions as fit: many targets a row, without
    which recall is hardly learned. The others have the suite's shape: 1 to `pairs` pairs at random depths among noise,
    and questions at the end whose number runs from one to all that fit, with few more likely than many.

    Raises:
        ConfigError: the length or the vocabulary is too small for `pairs` pairs.
    """
    if length < 2 * pairs + 2:
        raise ConfigError(f"recall: {pairs} pairs and a question need {2 * pairs + 2} tokens, the length is {length}.")
    ids = Pairs(vocabulary, disjoint)
    rng = generator("recall", seed, step, SPLITS[split])
    keys, values = ids.draw(rng, batch, pairs, split)
    count, asked = _shapes(rng, batch, length, pairs, dense)

    tokens = rng.integers(ids.noise.start, ids.noise.stop, (batch, length))
    targets = np.full((batch, length), IGNORED, dtype=np.int64)
    places, row, pair = _places(rng, count, length - 2 * asked, pairs, length)
    tokens[row, places] = keys[row, pair]
    tokens[row, places + 1] = values[row, pair]
    row, question = np.nonzero(np.arange(asked.max()) < asked[:, None])
    at = length - 2 * asked[row] + 2 * question
    chosen = rng.integers(0, count[row])
    tokens[row, at] = ids.query
    tokens[row, at + 1] = keys[row, chosen]
    targets[row, at + 1] = values[row, chosen]
    return tokens, targets


def _shapes(
    rng: np.random.Generator, batch: int, length: int, pairs: int, dense: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many pairs and how many questions each row has."""
    is_dense = rng.random(batch) < dense
    count = np.where(is_dense, pairs, rng.integers(1, pairs + 1, batch))
    most = (length - 2 * count) // 2
    few = np.floor(np.exp(rng.random(batch) * np.log(most + 1))).astype(np.int64)  # log-uniform, 1 to most
    return count, np.where(is_dense, most, np.clip(few, 1, most))


def _places(
    rng: np.random.Generator, count: NDArray[np.int64], context: NDArray[np.int64], pairs: int, length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Where `count` pairs begin in each row's first `context` tokens, uniformly and without overlap.

    Returns places, rows and numbers of the pairs, one entry a pair.
    """
    # A pair counts as one unit: choose which units are pairs, then make room for the second token of each.
    units = context - count
    lots = rng.random((len(count), length))
    lots[np.arange(length) >= units[:, None]] = 2.0
    order = np.argpartition(lots, pairs - 1, axis=1)[:, :pairs]
    order = np.take_along_axis(order, np.argsort(np.take_along_axis(lots, order, 1), axis=1), 1)
    used = np.arange(pairs) < count[:, None]
    starts = np.sort(np.where(used, order, length), axis=1) + np.arange(pairs)
    row, pair = np.nonzero(used)
    return starts[row, pair], row, pair
