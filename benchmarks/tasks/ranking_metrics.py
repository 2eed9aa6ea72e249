"""How good rankings, and decisions by a score, are: pure functions.

A ranking is document ids, the best first, each once; `relevant` has the grade of each document that is of use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["area", "average_precision", "decided", "hit", "kept_share", "ndcg", "recall", "reciprocal_rank"]

Floats = npt.NDArray[np.float64]


def ndcg(ranking: Sequence[str], relevant: Mapping[str, int], k: int) -> float:
    """Normalised discounted cumulative gain at `k`: the sum of grade / log2(rank + 1) over that of the best ranking."""
    gain = sum(max(0, relevant.get(key, 0)) / math.log2(rank + 1) for rank, key in enumerate(ranking[:k], start=1))
    best = sorted((grade for grade in relevant.values() if grade > 0), reverse=True)[:k]
    ideal = sum(grade / math.log2(rank + 1) for rank, grade in enumerate(best, start=1))
    return gain / ideal if ideal else 0.0


def recall(ranking: Sequence[str], relevant: Mapping[str, int], k: int) -> float:
    """The share of the relevant documents among the first `k`."""
    wanted = {key for key, grade in relevant.items() if grade > 0}
    return len(wanted & set(ranking[:k])) / len(wanted) if wanted else 0.0


def reciprocal_rank(ranking: Sequence[str], relevant: Mapping[str, int], k: int) -> float:
    """One over the rank of the first relevant document; 0 where it is not among the first `k`."""
    ranks = (rank for rank, key in enumerate(ranking[:k], start=1) if relevant.get(key, 0) > 0)
    return 1 / next(ranks, math.inf)


def average_precision(ranking: Sequence[str], relevant: Mapping[str, int], k: int) -> float:
    """The sum of the precision at each relevant document among the first `k`, over the number of relevant ones."""
    wanted = {key for key, grade in relevant.items() if grade > 0}
    ranks = [rank for rank, key in enumerate(ranking[:k], start=1) if key in wanted]
    return sum(found / rank for found, rank in enumerate(ranks, start=1)) / len(wanted) if wanted else 0.0


def hit(ranking: Sequence[str], relevant: Mapping[str, int], k: int) -> float:
    """1 where a relevant document is among the first `k`, else 0."""
    return float(any(relevant.get(key, 0) > 0 for key in ranking[:k]))


def area(good: Sequence[float], bad: Sequence[float]) -> float:
    """The chance that a score of a good case is above that of a bad one, equal ones as half: the area under the ROC."""
    high, low = np.sort(np.asarray(good)), np.sort(np.asarray(bad))
    below = np.searchsorted(low, high, "left").sum() + np.searchsorted(low, high, "right").sum()
    return float(below) / (2 * len(high) * len(low))


def kept_share(good: Sequence[float], share: float) -> float:
    """The largest threshold that at least this share of the scores reaches."""
    ordered = np.sort(np.asarray(good))[::-1]
    return float(ordered[math.ceil(share * len(ordered)) - 1])


def decided(good: Sequence[float], bad: Sequence[float], least: float) -> tuple[float, float]:
    """(precision, recall) of telling the bad cases by scores below `least`; precision is 1 where none is told."""
    told, wrong = sum(score < least for score in bad), sum(score < least for score in good)
    return (told / (told + wrong) if told + wrong else 1.0), told / len(bad)
