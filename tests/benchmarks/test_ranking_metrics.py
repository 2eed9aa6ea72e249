"""Metrics of rankings beside cases that were computed by hand."""

from __future__ import annotations

import math

import pytest

from farfield.benchmarks.tasks.ranking_metrics import (
    area,
    average_precision,
    decided,
    hit,
    kept_share,
    ndcg,
    recall,
    reciprocal_rank,
)

RELEVANT = {"a": 2, "b": 1, "c": 0}


@pytest.mark.parametrize(
    ("ranking", "k", "found"),
    [
        (["a", "b"], 10, 1.0),
        (["b", "a"], 10, (1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3))),
        (["c", "x", "a"], 10, (2 / 2) / (2 + 1 / math.log2(3))),
        (["c", "x", "a"], 2, 0.0),
        (["b", "a"], 1, 0.5),
        ([], 10, 0.0),
    ],
)
def test_ndcg_has_linear_gains(ranking: list[str], k: int, found: float) -> None:
    assert ndcg(ranking, RELEVANT, k) == pytest.approx(found)


def test_nothing_relevant_is_zero() -> None:
    assert ndcg(["c"], {"c": 0}, 10) == recall(["c"], {"c": 0}, 10) == hit(["c"], {"c": 0}, 1) == 0.0
    assert average_precision(["c"], {"c": 0}, 10) == 0.0


@pytest.mark.parametrize(
    ("ranking", "k", "share", "first", "there"),
    [(["c", "b", "x", "a"], 10, 1.0, 0.5, 1.0), (["c", "b", "x", "a"], 3, 0.5, 0.5, 1.0), (["x"], 5, 0.0, 0.0, 0.0)],
)
def test_recall_first_rank_and_hits(ranking: list[str], k: int, share: float, first: float, there: float) -> None:
    assert (recall(ranking, RELEVANT, k), reciprocal_rank(ranking, RELEVANT, k), hit(ranking, RELEVANT, k)) == (
        share,
        first,
        there,
    )


@pytest.mark.parametrize(
    ("ranking", "k", "found"),
    [
        (["a", "b"], 10, 1.0),
        (["x", "a", "c", "b"], 10, (1 / 2 + 2 / 4) / 2),
        (["x", "a", "c", "b"], 3, (1 / 2) / 2),
        (["x", "c"], 10, 0.0),
    ],
)
def test_average_precision_is_over_all_that_are_relevant(ranking: list[str], k: int, found: float) -> None:
    assert average_precision(ranking, RELEVANT, k) == pytest.approx(found)


def test_a_grade_below_zero_is_no_gain() -> None:
    assert ndcg(["x", "a"], {"a": 1, "x": -2}, 10) == pytest.approx(1 / math.log2(3))


def test_the_area_counts_pairs() -> None:
    good, bad = [0.9, 0.5, 0.2], [0.5, 0.1]
    pairs = sum((one > other) + 0.5 * (one == other) for one in good for other in bad)
    assert area(good, bad) == pairs / 6
    assert area([1.0], [0.0]) == 1.0


def test_a_threshold_keeps_its_share_and_is_judged() -> None:
    good = [0.9, 0.8, 0.7, 0.1]
    assert [kept_share(good, share) for share in (0.5, 0.75, 0.76, 1.0)] == [0.8, 0.7, 0.1, 0.1]
    assert decided(good, [0.6, 0.75, 0.05], 0.7) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert decided(good, [0.6], 0.0) == (1.0, 0.0)
