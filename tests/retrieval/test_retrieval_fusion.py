from __future__ import annotations

import pytest

from farfield.retrieval.fusion import best, fuse, ranked
from farfield.retrieval.store import Place

PLACES = {chunk: Place("a", "", 100 - chunk) for chunk in range(100)}


def test_fusion_is_its_formula() -> None:
    fused = fuse({"dense": [1, 2, 3], "lexical": [3, 4]}, {"dense": 0.5, "lexical": 1.0}, PLACES, constant=60)
    assert [(one.chunk, dict(one.ranks)) for one in fused] == [
        (3, {"dense": 3, "lexical": 1}),
        (4, {"lexical": 2}),
        (1, {"dense": 1}),
        (2, {"dense": 2}),
    ]
    assert [one.score for one in fused] == pytest.approx([0.5 / 63 + 1 / 61, 1 / 62, 0.5 / 61, 0.5 / 62])


def test_equal_scores_are_ordered_by_place() -> None:
    fused = fuse({"dense": [1, 2], "lexical": [2, 1]}, {"dense": 1.0, "lexical": 1.0}, PLACES)
    assert [one.chunk for one in fused] == [2, 1]
    assert ranked([(5, 1.0), (7, 1.0), (6, 2.0)], PLACES, 3) == [6, 7, 5]


def test_chunks_that_are_gone_are_left_out() -> None:
    assert ranked([(500, 3.0), (5, 1.0)], PLACES, 2) == [5]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 50, 51, 60])
def test_all_that_tie_with_the_last_are_fetched(count: int) -> None:
    scores = [5.0] + [4.0] * 50 + [3.0] * 3
    found = best(lambda most: list(enumerate(scores))[:most], count)
    assert len(found) == {1: 1, 2: 51, 3: 51, 5: 51, 50: 51, 51: 51, 60: 54}[count]
