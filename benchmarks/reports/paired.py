"""Paired tests: the same questions, asked of two models.

Pairs of 0 and 1 are judged by McNemar's exact test: of those that only one of the two got right, how likely is so
uneven a split if either were right as often? The difference has the interval of Bonett and Price (2012): Wald's, with
one pair added to each kind of disagreement.

Other pairs are judged by permutation: if the two were alike, each difference could as well have the other sign. All
signs are tried where there are few, else 20,000 drawn ones. The difference has Student's interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from farfield.benchmarks.reports.spread import NORMAL, mean_half

__all__ = ["Paired", "holm", "mcnemar", "paired", "sign_flips"]

EXACT = 14  # differences whose signs are all tried: 16,384 patterns
DRAWN = 20_000
CHUNK = 2_000


@dataclass(frozen=True)
class Paired:
    """Two means over `n` pairs, their difference (second less first) with its 95 % interval, and how it was tested."""

    n: int
    first: float
    second: float
    low: float
    high: float
    p: float
    test: str

    @property
    def difference(self) -> float:
        return self.second - self.first


def paired(first: Sequence[float], second: Sequence[float], limit: float = math.inf) -> Paired:
    """Compares values that belong together, one or more of them. No difference can be larger than `limit`."""
    pairs, n = list(zip(first, second, strict=True)), len(first)
    means = sum(first) / n, sum(second) / n
    if all(value in (0, 1) for value in (*first, *second)):
        gained, lost = sum(a < b for a, b in pairs), sum(a > b for a, b in pairs)
        up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
        half = NORMAL * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
        low, high = max(-1.0, up - down - half), min(1.0, up - down + half)
        return Paired(n, *means, low, high, mcnemar(gained, lost), "McNemar, exact")
    differences = [b - a for a, b in pairs]
    spread = mean_half(differences)
    half = math.inf if spread is None else spread  # one pair tells nothing of the spread
    middle, test = means[1] - means[0], "permutation" + (", exact" if _few(differences) else "")
    low, high = max(-limit, middle - half), min(limit, middle + half)
    return Paired(n, *means, low, high, sign_flips(differences), test)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided probability of so uneven a split of the pairs that differ, if either way were as likely."""
    n = gained + lost
    tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1))
    return min(1.0, float(2 * tail / 2**n))


def sign_flips(differences: Sequence[float]) -> float:
    """Two-sided probability of a mean so far from zero, if the sign of each difference were a coin's."""
    moved = np.array([difference for difference in differences if difference], dtype=np.float64)
    if not moved.size:
        return 1.0
    # Sums that are equal but for rounding count as equal.
    least = abs(moved.sum()) - 1e-9 * np.abs(moved).sum()
    if _few(differences):
        patterns = np.arange(2**moved.size)[:, None] >> np.arange(moved.size) & 1
        return float((np.abs((2 * patterns - 1) @ moved) >= least).mean())
    rng, reached = np.random.default_rng(0), 0
    for _ in range(DRAWN // CHUNK):
        signs = rng.integers(0, 2, (CHUNK, moved.size), dtype=np.int8) * 2 - 1
        reached += int((np.abs(signs @ moved) >= least).sum())
    # The one that was seen is counted too, so that the probability is never too small.
    return (reached + 1) / (DRAWN + 1)


def _few(differences: Sequence[float]) -> bool:
    return sum(difference != 0 for difference in differences) <= EXACT


def holm(probabilities: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the chance of one false alarm among all stays below each of these."""
    n, corrected, largest = len(probabilities), [0.0] * len(probabilities), 0.0
    for rank, at in enumerate(sorted(range(n), key=lambda at: probabilities[at])):
        largest = max(largest, min(1.0, (n - rank) * probabilities[at]))
        corrected[at] = largest
    return corrected
