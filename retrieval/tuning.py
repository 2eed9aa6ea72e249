"""How an index of lists is laid out, and how much of it must be looked at so that enough is found.

Questions are drawn and answered exactly while the vectors are stored; then the smallest number of lists is taken with
which the share of their ten best that is found reaches the target, two standard errors above it included. A question
never counts the passage that it was drawn from: a stored vector finds itself, whatever is left out.

    all lists:  the factor with which codes alone lose at most half of what may be lost (`pq`)
    then:       the least lists with which that factor reaches the target

No time is measured: what is built is a function of the vectors alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from farfield.retrieval.embedders import Matrix
from farfield.retrieval.faiss_library import library
from farfield.retrieval.inverted import BEST, PER_LIST, Inverted, Shape
from farfield.retrieval.settings import VectorConfig
from farfield.retrieval.vector_store import NO_ID, Found, Ids, VectorStore

__all__ = ["RECALL", "Exam", "Tuned", "build", "recalls", "sample_size", "shape_for", "tune"]

RECALL = 0.95
EXACT_BELOW = 50_000
TRAINED_FROM = 1_000
LEAST_PER_LIST = 39
MOST_LISTS = 4096
FACTORS = (2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Tuned:
    """What was chosen, and the recall of the ten best that was measured with it, over so many questions."""

    probe: int
    factor: int
    recall: float
    questions: int


def shape_for(settings: VectorConfig, count: int, gpu: bool = False) -> Shape | None:
    """The lists for `count` vectors; None: exact search. Too few to train lists on are always searched exactly.

    Lists are the power of two next to 2 sqrt(count). A GPU has no index of the kind `pq`.
    """
    kind = settings.kind or "auto"
    if kind == "auto":
        kind = "flat" if count < EXACT_BELOW else "ivf" if gpu else "pq"
    if kind not in ("ivf", "pq") or count < TRAINED_FROM:
        return None
    lists = 2 ** round(math.log2(2 * math.sqrt(count)))
    return Shape("ivf" if kind == "ivf" else "pq", min(lists, MOST_LISTS, count // LEAST_PER_LIST))


def sample_size(shape: Shape, count: int) -> int:
    """On how many of `count` vectors the lists are trained: FAISS wants 39 for each, and uses up to 256."""
    return min(count, PER_LIST * shape.lists)


class Exam:
    """Questions (q, dimension), and what exact search finds for them, vectors being shown block by block.

    `own` (q,) are the ids of the vectors that questions were drawn from, which do not count.
    """

    def __init__(self, questions: Matrix, own: Ids) -> None:
        asked = questions.any(axis=1)  # a question of zeros finds anything
        self.questions, self.own = np.ascontiguousarray(questions[asked]), own[asked]
        self._heap = library().ResultHeap(len(self.questions), BEST + 1, keep_max=True)

    def see(self, ids: Ids, rows: Matrix) -> None:
        """More of the vectors (n, dimension) that are searched."""
        if len(self.questions) and len(rows):
            faiss = library()
            most = min(BEST + 1, len(rows))
            scores, places = faiss.knn(self.questions, rows, most, metric=faiss.METRIC_INNER_PRODUCT)
            self._heap.add_result(scores, ids[places])

    def truth(self) -> Found:
        """The ten best of all vectors seen."""
        self._heap.finalize()
        return without(Found(self._heap.D, self._heap.I), self.own)

    def answers(self, store: VectorStore) -> Found:
        """The ten best that `store` finds."""
        return without(store.search(self.questions, BEST + 1), self.own)


def without(found: Found, own: Ids) -> Found:
    """All but the last column, without the id `own` (q,) of each row."""
    last = np.argsort(found.ids == own[:, None], axis=1, kind="stable")[:, :-1]
    return Found(np.take_along_axis(found.scores, last, 1), np.take_along_axis(found.ids, last, 1))


def recalls(found: Found, truth: Found) -> npt.NDArray[np.float64]:
    """Of the best k of each question (q, k), the share that was found: (q,). What ties with the last of them counts."""
    there = truth.ids != NO_ID
    last = np.where(there, truth.scores, np.inf).min(axis=1, keepdims=True)
    ties = found.scores >= last - 1e-6 * np.abs(np.where(np.isfinite(last), last, 0))
    hit = (found.ids != NO_ID) & (ties | (found.ids[:, :, None] == truth.ids[:, None, :]).any(axis=2))
    wanted = there.sum(axis=1)
    return np.asarray(np.minimum(hit.sum(axis=1), wanted) / np.maximum(wanted, 1), np.float64)


def build(shape: Shape, sample: Matrix, blocks: Iterable[tuple[Ids, Matrix]], exam: Exam, gpu: bool) -> Inverted:
    """A store of all `blocks` of (ids, vectors), trained on `sample`, not yet tuned; the exam sees them too."""
    store = Inverted(shape, sample, gpu)
    for ids, rows in blocks:
        store.add(ids, rows)
        exam.see(ids, rows)
    return store


def tune(store: Inverted, exam: Exam, target: float) -> Tuned:
    """Sets `probe` and `factor` of a store that holds what the exam has seen."""
    truth, lists = exam.truth(), store.shape.lists
    if not len(truth.ids):  # no question has a word that is known: all is looked at
        store.probe, store.factor = lists, FACTORS[-1]
        return Tuned(store.probe, store.factor, 1.0, 0)

    @functools.cache
    def shares(probe: int, factor: int) -> npt.NDArray[np.float64]:
        store.probe, store.factor = probe, factor
        return recalls(exam.answers(store), truth)

    def reaches(probe: int, factor: int, goal: float) -> bool:
        found = shares(probe, factor)
        return bool(found.mean() - 2 * found.std() / math.sqrt(found.size) >= goal)

    factor = 1
    if store.shape.kind == "pq":
        factor = least(FACTORS, lambda factor: reaches(lists, factor, (1 + target) / 2))
    probe = least(steps(lists), lambda probe: reaches(probe, factor, target))
    recall = float(shares(probe, factor).mean())
    store.probe, store.factor = probe, factor
    return Tuned(probe, factor, recall, len(truth.ids))


def steps(lists: int) -> list[int]:
    """Numbers of lists to choose from: 1 to all of them, each about a fifth more than the one before."""
    exponents = range(4 * math.ceil(math.log2(lists)) + 1)
    return sorted({min(lists, round(2 ** (exponent / 4))) for exponent in exponents} | {lists})


def least(values: Sequence[int], holds: Callable[[int], bool]) -> int:
    """The first of `values`, ascending, for which `holds`; the last where none does. It holds for all behind it."""
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        if holds(values[middle]):
            high = middle
        else:
            low = middle + 1
    return values[low]
