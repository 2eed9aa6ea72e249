"""The first passages of a ranking, read again and ordered anew.

Late interaction (ColBERT, Khattab and Zaharia 2020, https://arxiv.org/abs/2004.12832) compares every token of the
question with every token of a passage, by the cosine of their states:

    score(q, d) = sum over tokens i of q of  max over tokens j of d of  <q_i, d_j>

A re-ranker is anything with `scores`; those that are models stand in `farfield.embedding`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from farfield.config import IndexingError
from farfield.retrieval.embedders import Matrix, unit

__all__ = ["Late", "Reranker", "checked_scores", "maxsim"]


class Reranker(Protocol):
    """Tells how well passages answer a question."""

    @property
    def name(self) -> str:
        """Who it is, for messages."""

    def scores(self, question: str, passages: Sequence[str]) -> Matrix:
        """(passages,): larger is better."""


def maxsim(question: Matrix, passages: Sequence[Matrix]) -> Matrix:
    """(passages,): for each passage (tokens, d) the sum over the question's rows (q, d) of the largest product.

    A passage without tokens has nothing that a token could be like: its score is minus one for each.
    """
    lengths = [len(passage) for passage in passages]
    scores = np.full(len(passages), -float(len(question)), np.float32)
    filled = np.flatnonzero(lengths)
    if not len(filled) or not len(question):
        return scores
    products = question @ np.concatenate(passages).T
    starts = np.cumsum([0, *(lengths[place] for place in filled[:-1])])
    scores[filled] = np.maximum.reduceat(products, starts, axis=1).sum(axis=0)
    return scores


class Late:
    """Late interaction over `states`: of each of several texts its tokens' (tokens, d), in any length.

    Passages are asked for again and again: the states of those that came last are kept, up to `most` tokens of them.
    With `centred`, states are counted from the mean of all that are compared: those of language models point in one
    direction more than they differ.
    """

    name = "late interaction"

    def __init__(
        self, states: Callable[[Sequence[str]], Sequence[Matrix]], centred: bool = False, most: int = 1 << 16
    ) -> None:
        self._states, self._centred, self._most = states, centred, most
        self._kept: OrderedDict[str, Matrix] = OrderedDict()
        self._held = 0
        self._changing = threading.Lock()

    def scores(self, question: str, passages: Sequence[str]) -> Matrix:
        """(passages,)."""
        with self._changing:
            known = {text: self._kept[text] for text in passages if text in self._kept}
        fresh = [text for text in dict.fromkeys(passages) if text not in known]
        asked, *found = self._read([question, *fresh])
        known.update(zip(fresh, found, strict=True))
        with self._changing:
            self._keep(known)
        own = [known[text] for text in passages]
        if self._centred:
            mean = np.concatenate([asked, *own]).mean(axis=0, dtype=np.float64)
            asked, *own = (unit(one.astype(np.float64) - mean) for one in (asked, *own))
        return maxsim(asked, own)

    def _read(self, texts: Sequence[str]) -> list[Matrix]:
        """The states of texts; of length one, where nothing is taken off them later."""
        found = self._states(texts)
        return list(found) if self._centred else [unit(one.astype(np.float64)) for one in found]

    def _keep(self, known: Mapping[str, Matrix]) -> None:
        """`known` are the newest; what is too much leaves, the oldest first."""
        for text, states in known.items():
            self._held += 0 if text in self._kept else len(states)
            self._kept[text] = states
            self._kept.move_to_end(text)
        while self._held > self._most:
            self._held -= len(self._kept.popitem(last=False)[1])


def checked_scores(reranker: Reranker, question: str, passages: Sequence[str]) -> npt.NDArray[np.float64]:
    """The scores (passages,).

    Raises:
        IndexingError: not one finite number for each passage.
    """
    scores = np.asarray(reranker.scores(question, passages), np.float64)
    if scores.shape != (len(passages),) or not np.isfinite(scores).all():
        raise IndexingError(
            f"{reranker.name} gave scores of shape {scores.shape} for {len(passages)} passages, or NaN."
        )
    return scores
