"""Intervals beside scipy's, and how often they hold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from farfield.benchmarks.reports.spread import mean_half, median_half, quantile, ratio_half


@pytest.mark.parametrize("freedom", [1, 2, 5, 10, 11, 20, 99])
def test_quantiles_of_student(freedom: int) -> None:
    assert quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-4)


def test_the_mean_is_a_ratio_to_ones() -> None:
    values = np.random.default_rng(0).normal(size=9)
    low, high = stats.t.interval(0.95, 8, values.mean(), stats.sem(values))
    assert mean_half(values.tolist()) == pytest.approx((high - low) / 2, rel=1e-4)
    assert mean_half([1.0]) is None


def test_the_interval_of_a_ratio_holds_as_often_as_it_says() -> None:
    """Documents of very different sizes, whose rate is 2 bits a byte."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(1000):
        size = rng.lognormal(3, 0.7, size=20)
        bits = size * rng.normal(2, 0.3, size=20)
        half = ratio_half(bits.tolist(), size.tolist())
        assert half is not None
        held += abs(bits.sum() / size.sum() - 2) < half
    assert 0.91 < held / 1000 < 0.98


def test_documents_at_one_rate_leave_nothing_open() -> None:
    assert ratio_half([2.0, 4.0, 20.0], [1.0, 2.0, 10.0]) == 0


def test_the_median_is_between_ordered_values() -> None:
    assert median_half([5.0, 1.0, 2.0, 9.0, 4.0]) == 4.0  # the smallest and the largest of five
    many = np.random.default_rng(2).permutation(101).tolist()
    # The binomial's 2.5 % quantile of 101: the 41st from either end.
    assert median_half(many) == 101 // 2 - (stats.binom.ppf(0.025, 101, 0.5) - 1)
