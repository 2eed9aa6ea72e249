from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farfield.benchmarks.reports.paired import holm, mcnemar, paired, sign_flips


def binomial(k: int, n: int) -> float:
    return math.comb(n, k) / 2**n


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 0), (3, 3), (2, 9), (30, 12)])
def test_mcnemar_is_the_sum_over_all_splits_that_are_no_likelier(gained: int, lost: int) -> None:
    n = gained + lost
    expected = sum(binomial(k, n) for k in range(n + 1) if binomial(k, n) <= binomial(gained, n) * (1 + 1e-12))
    assert mcnemar(gained, lost) == pytest.approx(min(1.0, expected))
    assert mcnemar(gained, lost) == mcnemar(lost, gained)


def test_mcnemar_has_known_values() -> None:
    # By hand, 2 * (1 + 6) / 64; and Agresti's ratings of a prime minister, whose z² is 17.36.
    assert mcnemar(1, 5) == pytest.approx(14 / 64)
    assert mcnemar(86, 150) == pytest.approx(3.7e-5, rel=0.05)


@given(st.lists(st.sampled_from([-1.0, -0.5, -0.25, 0.0, 0.1, 0.25, 1.0]), min_size=1, max_size=9))
def test_few_signs_are_all_tried(differences: list[float]) -> None:
    n = len(differences)
    sums = [
        sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in itertools.product((-1, 1), repeat=n)
    ]
    seen = abs(sum(differences)) - 1e-9
    assert sign_flips(differences) == pytest.approx(np.mean([abs(total) >= seen for total in sums]))


def test_many_signs_are_drawn_and_near_the_exact_answer() -> None:
    # Differences of one size are McNemar's case, whose answer is known.
    differences = [0.5] * 20 + [-0.5] * 10
    assert sign_flips(differences) == pytest.approx(mcnemar(20, 10), abs=0.01)
    assert 0 < sign_flips([0.5] * 60) < 1e-4
    assert sign_flips([0.0, 0.0]) == 1.0


def test_pairs_of_zero_and_one_are_judged_by_mcnemar() -> None:
    first, second = [1] * 6 + [0] * 10 + [1] * 4, [1] * 6 + [1] * 9 + [0] + [1] * 2 + [0] * 2
    found = paired(first, second)
    assert (found.n, found.first, found.second, found.test) == (20, 0.5, 0.85, "McNemar, exact")
    assert found.difference == pytest.approx(0.35)
    assert found.p == mcnemar(9, 2)
    # Bonett and Price: Wald's with one pair added to each disagreement.
    up, down = 10 / 22, 3 / 22
    half = 1.959964 * math.sqrt((up + down - (up - down) ** 2) / 22)
    assert (found.low, found.high) == pytest.approx((up - down - half, up - down + half))


def test_other_pairs_are_judged_by_permutation() -> None:
    found = paired([0.25, 0.5, 0.75, 0.5], [0.5, 0.75, 0.75, 1.0])
    assert found.test == "permutation, exact"
    assert found.difference == pytest.approx(0.25)
    assert found.p == pytest.approx(2 / 8)
    assert found.low < 0.25 < found.high
    bounded = paired([0.25, 0.5], [0.5, 1.0], limit=1)
    assert (bounded.low, bounded.high) == (-1, 1)
    assert paired([0.25], [0.5]).high == math.inf


def test_swapping_the_two_turns_the_sign_only() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.random(30).tolist(), rng.random(30).tolist()
    one, other = paired(first, second), paired(second, first)
    assert one.p == other.p
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_false_alarms_are_as_rare_as_said() -> None:
    rng = np.random.default_rng(2)
    alarms = sum(
        paired((a := rng.random(12)).tolist(), (a + rng.normal(0, 0.2, 12)).tolist()).p < 0.05 for _ in range(200)
    )
    assert alarms <= 20


def test_holm_has_the_textbook_values() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
