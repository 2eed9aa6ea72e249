"""BM25 over a few thousand passages: which of them are about the words of a question.

    score(d, q) = sum over words w of q:  idf(w) * f * (k1 + 1) / (f + k1 * (1 - b + b * |d| / mean |d|))

f is how often w is in d, and idf(w) = log(1 + (N - n + 0.5) / (n + 0.5)) for n of N passages with w. Words are lower
case, with neither stemming nor stop words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bm25"]

K1, B = 0.9, 0.4


class Bm25:
    """Passages by word."""

    def __init__(self, texts: Sequence[str]) -> None:
        counts = [Counter(_words(text)) for text in texts]
        sizes = np.array([count.total() for count in counts], dtype=np.float64)
        self.damping = K1 * (1 - B + B * sizes / max(1.0, float(sizes.mean())))
        found: dict[str, list[tuple[int, int]]] = {}
        for passage, count in enumerate(counts):
            for word, often in count.items():
                found.setdefault(word, []).append((passage, often))
        self.found = {word: np.array(entries) for word, entries in found.items()}

    def scores(self, question: str) -> NDArray[np.float64]:
        """(passages,) how well each fits `question`."""
        scores = np.zeros(len(self.damping))
        for word in _words(question):
            if word in self.found:
                passages, often = self.found[word].T
                rarity = np.log(1 + (len(scores) - len(passages) + 0.5) / (len(passages) + 0.5))
                scores[passages] += rarity * often * (K1 + 1) / (often + self.damping[passages])
        return scores

    def nearest(self, question: str) -> list[int]:
        """All passages, the best first, of equal ones the earlier."""
        order: list[int] = np.argsort(-self.scores(question), kind="stable").tolist()
        return order


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
