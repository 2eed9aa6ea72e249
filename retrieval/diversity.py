"""Maximal marginal relevance (Carbonell and Goldstein 1998, https://doi.org/10.1145/290941.291025).

    next = argmax over the rest of   lambda * relevance(d) - (1 - lambda) * max over the chosen s of <d, s>

Relevance is a passage's score so far, scaled to 0..1 over the candidates, so that lambda = 1 keeps their order;
similarity is the cosine of their vectors. Of equal ones, the one that stood first is taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from farfield.retrieval.embedders import Matrix

__all__ = ["diverse"]


def diverse(scores: Sequence[float], vectors: Matrix, share: float, count: int) -> list[int]:
    """Places of `count` candidates in the order in which they are chosen.

    Args:
        scores: (candidates,), the best first. vectors: (candidates, dimension) of length one, or zero.
        share: lambda, from 0 to 1. count: how many, at most.
    """
    relevance = _scaled(np.asarray(scores, np.float64))
    likeness = np.zeros(len(relevance))
    left = np.ones(len(relevance), bool)
    chosen: list[int] = []
    while len(chosen) < min(count, len(relevance)):
        marginal = np.where(left, share * relevance - (1 - share) * likeness, -np.inf)
        place = int(marginal.argmax())
        near = vectors.astype(np.float64) @ vectors[place]
        likeness = np.maximum(likeness, near) if chosen else near
        left[place] = False
        chosen.append(place)
    return chosen


def _scaled(scores: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """`scores` from 0 to 1; all 1 where they are equal."""
    low, high = (scores.min(), scores.max()) if len(scores) else (0.0, 0.0)
    return (scores - low) / (high - low) if high > low else np.ones_like(scores)
