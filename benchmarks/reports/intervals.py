"""95 % intervals of shares and means.

Scores of 0 and 1 are a share, with Wilson's interval. Fractional scores (F1, the share of four values that was found)
are a mean, with Student's interval, cut off at 0 and 1. Scores that are all alike have no spread to make Student's
interval of: they get Wilson's, which holds for any scores from 0 to 1, for none spread more than those of 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from farfield.benchmarks.reports.spread import NORMAL, mean_half

__all__ = ["mean_interval", "wilson"]


def wilson(hits: float, n: int) -> tuple[float, float]:
    """The Wilson 95 % interval of a share of `hits` among `n`; all of 0 to 1 when nothing was seen."""
    if n == 0:
        return 0.0, 1.0
    share, weight = hits / n, 1 + NORMAL * NORMAL / n
    middle = (share + NORMAL * NORMAL / (2 * n)) / weight
    half = NORMAL / weight * math.sqrt(share * (1 - share) / n + NORMAL * NORMAL / (4 * n * n))
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == n else middle + half)


def mean_interval(scores: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of `scores`, each 0 to 1: Wilson's for 0 and 1, else Student's."""
    if len(set(scores)) <= 1 or all(score in (0, 1) for score in scores):
        return wilson(sum(scores), len(scores))
    mean, half = sum(scores) / len(scores), mean_half(scores)
    assert half is not None, "scores that are not all alike are two or more"
    return max(0.0, mean - half), min(1.0, mean + half)
