"""The definition that every store of vectors is held against: a dictionary, and a sort of all inner products."""

from __future__ import annotations

import numpy as np


class Exact:
    """Vectors in a dictionary."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.rows: dict[int, np.ndarray] = {}

    def add(self, ids: np.ndarray, rows: np.ndarray) -> None:
        self.rows.update(zip(ids.tolist(), rows, strict=True))

    def remove(self, ids: np.ndarray) -> int:
        return sum(self.rows.pop(one, None) is not None for one in set(ids.tolist()))

    def search(self, questions: np.ndarray, k: int, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        scores = np.full((len(questions), k), -np.inf)
        ids = np.full((len(questions), k), -1)
        known = sorted(self.rows if among is None else set(self.rows) & set(among.tolist()))
        for row, question in enumerate(questions):
            found = [(-float(question.astype(float) @ self.rows[one].astype(float)), one) for one in known]
            for place, (score, one) in enumerate(sorted(found)[:k]):
                scores[row, place], ids[row, place] = -score, one
        return scores, ids
