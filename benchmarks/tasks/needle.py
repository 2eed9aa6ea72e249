"""Needle in a haystack, and the token mode of it: each key, value and word of noise is one id.

    haystack  n n n n n n n n n n            noise ids, or one phrase of noise repeated, or other pairs
    body      n n n K1 V1 n n n n K2 V2 n n n
    prompt    body ? K1                      one sample for each question: the first asks for the needle at depth d
    answer    V1

What else may be hidden and asked stands in `farfield.benchmarks.tasks.token_plans`.

A depth is the share of the haystack that stands before the needle: 0 is the very beginning, 1 just before the question.
`recall_batch` makes training data of the same pairs, noise and questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.tasks.layout import Frame, lay_out, too_short
from farfield.benchmarks.tasks.pairs import Disjoint, Pairs
from farfield.benchmarks.tasks.sample import IGNORED, SPLITS, Ids, Sample, Scoring, Split, generator
from farfield.benchmarks.tasks.token_plans import ONE_PAIR, Plan
from farfield.config import ConfigError

__all__ = ["Ground", "Spacing", "TokenNeedle", "recall_batch", "spread"]

Ground = Literal["noise", "repeat", "needles"]
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


@dataclass(frozen=True)
class TokenNeedle:
    """A needle task of single ids. The plan says what is hidden and asked: by default one pair, by its key."""

    pairs: Pairs
    plan: Plan = ONE_PAIR
    haystack: Ground = "noise"
    metric: str = "recall"
    stop: tuple[str, ...] = ()
    labels: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.plan.name}_tokens"

    @property
    def placed(self) -> bool:
        return self.plan.placed

    @property
    def scorings(self) -> tuple[Scoring, ...]:
        return self.plan.scorings

    @property
    def fingerprint(self) -> str:
        return f"{self.name} {VERSION} {self.pairs} {self.plan} {self.haystack}"

    def check(self, seed: int, length: int, n: int, split: Split) -> None:
        frame, _ = self._frame(generator("sample", seed), split)
        if length <= frame.size:
            raise too_short(length, self.plan.needles, frame.size + 1)

    def generate(
        self, seed: int, length: int, n: int, split: Split, *, depth: float | None = None, first: int = 0
    ) -> list[Sample]:
        self.check(seed, length, n, split)
        indices = range(first, first + n)
        return [sample for index in indices for sample in self._ask(seed, length, index, split, depth)]

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        return [self.plan.score(sample, output) for sample, output in zip(samples, outputs, strict=True)]

    def _ask(self, seed: int, length: int, index: int, split: Split, depth: float | None) -> list[Sample]:
        rng = generator("sample", seed, length, index, SPLITS[split])
        frame, others = self._frame(rng, split)
        room = length - frame.size
        haystack = self._fill(rng, room, others)
        depths = self.plan.depths(rng, float(rng.random()) if depth is None else depth)
        places = [self._place(at, room) for at in depths]
        return lay_out(frame, haystack, places, length=length, seed=seed, version=VERSION)

    def _frame(self, rng: np.random.Generator, split: Split) -> tuple[Frame, Ids]:
        """What is hidden and asked, and (n, 2) other pairs, of which a haystack of needles is made."""
        least = self.plan.needles + (self.haystack == "needles")
        drawn = max(least, self.pairs.room(split)) if self.haystack == "needles" else least
        keys, values = (part[0] for part in self.pairs.draw(rng, 1, drawn, split))
        own = slice(self.plan.needles)
        frame = self.plan.frame(self.pairs, keys[own], values[own], rng)
        return frame, np.stack([keys, values], axis=1)[self.plan.needles :]

    def _fill(self, rng: np.random.Generator, size: int, others: Ids) -> Ids:
        """(size,) ids of haystack. Among needles, one of noise makes the number even."""
        noise = self.pairs.noise
        if self.haystack == "needles":
            picked = others[rng.integers(0, len(others), size // 2)].ravel()
            return np.concatenate([rng.integers(noise.start, noise.stop, size % 2, dtype=np.int32), picked])
        drawn = rng.integers(noise.start, noise.stop, PHRASE if self.haystack == "repeat" else size, dtype=np.int32)
        return np.resize(drawn, size)

    def _place(self, at: float, size: int) -> int:
        """Tokens before a needle at the depth `at`: between two pairs, where there are pairs."""
        return size % 2 + 2 * round(at * (size // 2)) if self.haystack == "needles" else round(at * size)


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
