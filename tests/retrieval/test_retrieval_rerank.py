"""Late interaction and maximal marginal relevance beside their definitions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield.config import IndexingError
from farfield.retrieval.diversity import diverse
from farfield.retrieval.embedders import Matrix, unit
from farfield.retrieval.rerank import Late, checked_scores, maxsim


def rows(seed: int, count: int, width: int = 8) -> Matrix:
    return unit(np.random.default_rng(seed).normal(size=(count, width)))


def late(question: Matrix, passage: Matrix) -> float:
    """The sum over the question's tokens of the best product with a token of the passage."""
    return sum(max(float(asked @ token) for token in passage) if len(passage) else -1.0 for asked in question)


@pytest.mark.parametrize("asked", [1, 7])
@pytest.mark.parametrize("lengths", [[1], [3, 1, 63], [0, 5], [5, 0, 2, 0], [0], []])
def test_late_interaction_is_its_definition(asked: int, lengths: list[int]) -> None:
    question, passages = rows(0, asked), [rows(1 + place, length) for place, length in enumerate(lengths)]
    expected = [late(question, passage) for passage in passages]
    np.testing.assert_allclose(maxsim(question, passages), expected, atol=1e-5)


STATES = {"who": 3 * rows(0, 2), "a": 2 * rows(1, 3), "b": rows(2, 4), "c": rows(3, 0)}


@pytest.mark.parametrize("most", [0, 3, 100])
@pytest.mark.parametrize("centred", [False, True])
def test_states_that_are_kept_change_no_score(centred: bool, most: int) -> None:
    read: list[Sequence[str]] = []

    def states(texts: Sequence[str]) -> list[Matrix]:
        read.append(texts)
        return [STATES[text] for text in texts]

    late_interaction = Late(states, centred, most)
    for passages in (["b", "a"], ["a", "c", "a"], ["b"], ["a", "b"]):
        own = [STATES["who"], *(STATES[text] for text in passages)]
        mean = np.concatenate(own).mean(axis=0) if centred else 0
        asked, *found = (unit(one.astype(float) - mean) for one in own)
        expected = [late(asked, passage) for passage in found]
        np.testing.assert_allclose(late_interaction.scores("who", passages), expected, atol=1e-5)
    if most == 100:
        assert read == [["who", "b", "a"], ["who", "c"], ["who"], ["who"]]


class Fixed:
    name = "fixed"

    def __init__(self, scores: Sequence[float]) -> None:
        self._scores = scores

    def scores(self, question: str, passages: Sequence[str]) -> Matrix:
        return np.array(self._scores, np.float32)


@pytest.mark.parametrize("scores", [[1.0], [1.0, 2.0, 3.0], [1.0, float("nan")], [float("inf"), 0.0]])
def test_scores_are_checked(scores: list[float]) -> None:
    with pytest.raises(IndexingError, match=r"^fixed gave scores of shape \(\d,\) for 2 passages, or NaN\.$"):
        checked_scores(Fixed(scores), "who", ["a", "b"])


def marginal(scores: list[float], vectors: Matrix, share: float, count: int) -> list[int]:
    """Maximal marginal relevance, one candidate at a time."""
    low, high = min(scores), max(scores)
    relevance = [(score - low) / (high - low) if high > low else 1.0 for score in scores]
    chosen: list[int] = []
    while len(chosen) < min(count, len(scores)):
        worth = {}
        for place in range(len(scores)):
            if place not in chosen:
                near = max((float(vectors[place].astype(float) @ vectors[one]) for one in chosen), default=0.0)
                worth[place] = share * relevance[place] - (1 - share) * near
        chosen.append(max(worth, key=lambda place: (worth[place], -place)))
    return chosen


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 1000), count=st.integers(1, 12), k=st.integers(1, 14), share=st.sampled_from([0, 0.3, 0.7, 1])
)
def test_maximal_marginal_relevance_is_its_definition(seed: int, count: int, k: int, share: float) -> None:
    draw = np.random.default_rng(seed)
    scores = sorted(draw.random(count).tolist(), reverse=True)
    vectors = rows(seed, count)
    assert diverse(scores, vectors, share, k) == marginal(scores, vectors, share, k)


def test_all_weight_on_relevance_keeps_the_order_and_twins_come_last() -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    assert diverse([3.0, 2.9, 1.0], vectors, 1.0, 3) == [0, 1, 2]
    assert diverse([3.0, 2.9, 1.0], vectors, 0.4, 2) == [0, 2]
    assert diverse([], np.zeros((0, 2), np.float32), 0.5, 3) == []
