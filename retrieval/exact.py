"""Exact search for many questions at once: one matrix product, and the best of each row.

    scores, ids = Exact(vectors).search(questions, k)     (q, k) each, the best first; -inf and -1 behind the last

Several times faster than FAISS asked for as many at once (docs/log.md), and the vectors may lie on disk. A score is the
inner product; equal ones are ordered by id, which is the vector's row. `Nearest` is the seam for whatever is faster
where there are very many vectors.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from farfield.retrieval.embedders import Matrix

__all__ = ["Exact", "Nearest"]

BLOCK = 1 << 17  # vectors that are compared at once

Ids = npt.NDArray[np.int64]


class Nearest(Protocol):
    """What finds the vectors of the highest inner product."""

    def search(self, questions: Matrix, k: int) -> tuple[Matrix, Ids]:
        """Scores and ids (q, k) for each of `questions` (q, dimension), the best first; -inf and -1 behind the last."""


class Exact:
    """Vectors (n, dimension) float32, in memory or mapped from disk."""

    def __init__(self, vectors: Matrix) -> None:
        self.vectors = vectors

    def search(self, questions: Matrix, k: int) -> tuple[Matrix, Ids]:
        """See `Nearest.search`."""
        scores = np.full((len(questions), k), -np.inf, np.float32)
        ids = np.full((len(questions), k), -1, np.int64)
        for first in range(0, len(self.vectors), BLOCK):
            new = questions @ self.vectors[first : first + BLOCK].T
            last = max(new.shape[1] - k, 0)
            chosen = np.argpartition(new, last, axis=1)[:, last:]
            best = np.take_along_axis(new, chosen, 1)
            scores, ids = _joined(np.hstack((scores, best)), np.hstack((ids, first + chosen)), k)
        return scores, ids


def _joined(scores: Matrix, ids: Ids, k: int) -> tuple[Matrix, Ids]:
    """The best k of (q, n) candidates, in order."""
    order = np.lexsort((ids, -scores), axis=-1)[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)
