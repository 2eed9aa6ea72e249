from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farfield.benchmarks.reports.intervals import mean_interval, wilson


@given(n=st.integers(0, 10_000), share=st.floats(0, 1))
def test_the_interval_holds_the_share_and_shrinks(n: int, share: float) -> None:
    hits = round(share * n)
    low, high = wilson(hits, n)
    assert 0 <= low < high <= 1
    assert n == 0 or low <= hits / n <= high
    other_low, other_high = wilson(n - hits, n)
    assert (other_low, other_high) == pytest.approx((1 - high, 1 - low))
    more_low, more_high = wilson(4 * hits, 4 * n)
    assert n == 0 or more_high - more_low < high - low


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # Published values of the Wilson interval, and 0 of n: the upper end is z² / (n + z²).
    [
        (50, 100, 0.4038, 0.5962),
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
        (0, 20, 0.0, 3.841459 / 23.841459),
        (20, 20, 1 - 3.841459 / 23.841459, 1.0),
    ],
)
def test_the_interval_has_the_known_values(hits: int, n: int, low: float, high: float) -> None:
    assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)


def test_fractions_have_the_interval_of_their_mean() -> None:
    scores = [0.25, 0.5, 0.75, 1.0, 0.5]
    mean, deviation = np.mean(scores), np.std(scores, ddof=1)
    half = 2.7764 * deviation / np.sqrt(5)
    assert mean_interval(scores) == pytest.approx((mean - half, mean + half), rel=1e-4)


def test_the_interval_stays_within_the_scale_and_never_has_no_width() -> None:
    assert mean_interval([1.0, 1.0, 0.5])[1] == 1.0
    assert mean_interval([0.0, 0.0, 0.0, 0.2])[0] == 0.0
    assert mean_interval([0.5] * 4) == wilson(2, 4)
    assert mean_interval([0.5]) == wilson(0.5, 1)
    assert mean_interval([0, 1, 1, 1]) == wilson(3, 4)


def test_nineteen_of_twenty_intervals_hold_the_mean() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        low, high = mean_interval((rng.binomial(4, 0.7, 20) / 4).tolist())
        held += low <= 0.7 <= high
    assert 930 <= held <= 970
