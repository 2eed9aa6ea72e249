"""How far a number may be off: half of its 95 % interval, from documents, questions or repeats.

The items are what is drawn at random: intervals speak of other documents or questions of the same kind, not of another
seed of the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["mean_half", "median_half", "quantile", "ratio_half"]

SHARE = 0.95
# Student's 97.5 % quantiles at 1 to 10 degrees of freedom; beyond, the expansion of `quantile` is exact to 1e-4.
FEW = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
NORMAL = 1.959964


def quantile(freedom: int) -> float:
    """Student's 97.5 % quantile at so many degrees of freedom, at least 1."""
    if freedom <= len(FEW):
        return FEW[freedom - 1]
    z = NORMAL
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def mean_half(values: Sequence[float]) -> float | None:
    """Of the mean, by Student's t; None for fewer than two values."""
    return ratio_half(values, [1.0] * len(values))


def ratio_half(above: Sequence[float], below: Sequence[float]) -> float | None:
    """Of sum(above) / sum(below), as the bits of documents over their bytes; None for fewer than two.

    The linearised standard error of a ratio, with Student's t.
    """
    if len(above) < 2:
        return None
    top, bottom = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    left = top - top.sum() / bottom.sum() * bottom
    error = math.sqrt(float((left**2).sum()) * len(left) / (len(left) - 1)) / float(bottom.sum())
    return quantile(len(left) - 1) * error


def median_half(values: Sequence[float]) -> float:
    """Half of the interval of the median between two of the ordered values, whatever their distribution.

    The k-th from either end, k as large as it can be with at least 95 % between them; of five values or fewer, the
    smallest and the largest, which hold 93.75 % of five.
    """
    ordered, count = sorted(values), len(values)
    outside, k = 0.5**count, 1
    while k + 1 <= count // 2 and 2 * (outside + math.comb(count, k) * 0.5**count) <= 1 - SHARE:
        outside += math.comb(count, k) * 0.5**count
        k += 1
    return (ordered[count - k] - ordered[k - 1]) / 2
