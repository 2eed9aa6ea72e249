"""95 % intervals of shares and means.

Scores of 0 and 1 are a share, with Wilson's interval. Fractional scores (F1, the share of four values that was found)
are a mean, with Student's interval, cut off at 0 and 1. Scores that are all alike have no spread to make Student's
interval of: they get Wilson's, which holds for any scores from 0 to 1, for none spread more than those of 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["half_width", "mean_interval", "student", "wilson"]

Z = 1.959964  # the normal quantile of a 95 % interval


def wilson(hits: float, n: int) -> tuple[float, float]:
    """The Wilson 95 % interval of a share of `hits` among `n`; all of 0 to 1 when nothing was seen."""
    if n == 0:
        return 0.0, 1.0
    share, weight = hits / n, 1 + Z * Z / n
    middle = (share + Z * Z / (2 * n)) / weight
    half = Z / weight * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == n else middle + half)


def mean_interval(scores: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of `scores`, each 0 to 1: Wilson's for 0 and 1, else Student's."""
    if len(set(scores)) <= 1 or all(score in (0, 1) for score in scores):
        return wilson(sum(scores), len(scores))
    mean, half = sum(scores) / len(scores), half_width(scores)
    return max(0.0, mean - half), min(1.0, mean + half)


def half_width(values: Sequence[float]) -> float:
    """Half of Student's 95 % interval of the mean of two or more `values`."""
    n, mean = len(values), sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (n - 1)
    return student(n - 1) * math.sqrt(variance / n)


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t with so many degrees of freedom, to 0.15 %.

    Closed forms for one and two, else the expansion in powers of 1 / freedom of Abramowitz and Stegun, 26.7.5.
    """
    if freedom == 1:
        return math.tan(0.475 * math.pi)
    if freedom == 2:
        return 0.95 * math.sqrt(2 / (1 - 0.95**2))
    x, square = Z, Z * Z
    terms = (
        x * (square + 1) / 4,
        x * ((5 * square + 16) * square + 3) / 96,
        x * (((3 * square + 19) * square + 17) * square - 15) / 384,
        x * ((((79 * square + 776) * square + 1482) * square - 1920) * square - 945) / 92160,
    )
    return x + sum(term / float(freedom**power) for power, term in enumerate(terms, start=1))
