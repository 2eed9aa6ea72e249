"""What every store of vectors does, and what it may be given: the seam between an index and FAISS, or a server.

    store.add(ids, rows)                      ids (n,), rows (n, dimension)
    scores, ids = store.search(questions, k)  (q, k) each, the best first; -inf and -1 where there are no more
    store.remove(ids)

A score is the inner product; higher is better. Equal scores are ordered by id, so that what is exact, what is near and
what is far away can be held against each other. `FileStore` is a store that is kept as bytes; see `vectors.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from farfield.config import IndexingError
from farfield.retrieval.embedders import Matrix

__all__ = [
    "FileStore",
    "Found",
    "Ids",
    "VectorStore",
    "checked_count",
    "checked_ids",
    "checked_rows",
    "nothing",
    "ordered",
    "pairs",
    "settled",
    "widened",
]

Ids = npt.NDArray[np.int64]

NO_ID = -1


class Found(NamedTuple):
    """What a search found for each question: `scores` (questions, k) and `ids` (questions, k), the best first."""

    scores: Matrix
    ids: Ids


class VectorStore(Protocol):
    """Vectors, each with an id of its own (0 or more). Searches may run side by side, but not beside a change.

    Vectors are checked: a wrong shape, a number that is not finite, an id that is there already raise an IndexingError,
    and then nothing has changed.
    """

    @property
    def count(self) -> int:
        """How many vectors there are."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""

    def add(self, ids: Ids, rows: Matrix) -> None:
        """Adds `rows` (n, dimension) under `ids` (n,), which must be new; what replaces a vector is removed before."""

    def remove(self, ids: Ids) -> int:
        """Removes the vectors under `ids` (n,), and returns how many there were; other ids are passed over."""

    def search(self, questions: Matrix, k: int, among: Ids | None = None) -> Found:
        """The `k` vectors of the highest inner product with each of `questions` (q, dimension).

        `among` (m,), ascending, are the ids that may be found; all of them where it is None.
        """


class FileStore(VectorStore, Protocol):
    """A store that is kept as bytes."""

    def write(self, sink: Callable[[bytes], object]) -> None:
        """Hands the store to `sink`, block by block."""


def checked_rows(rows: npt.ArrayLike, dimension: int) -> Matrix:
    """`rows` as contiguous float32 (n, dimension): FAISS takes NaN, and converts other types, without a word.

    Raises:
        IndexingError: another shape, or a number that is not finite as float32.
    """
    given = np.asarray(rows)
    if given.ndim != 2 or given.shape[1] != dimension:
        raise IndexingError(f"vectors of shape {given.shape} given to an index of (n, {dimension}).")
    with np.errstate(over="ignore"):
        out = np.ascontiguousarray(given, np.float32)
    if not np.isfinite(out).all():
        raise IndexingError("a vector holds a number that is not finite.")
    return out


def checked_ids(ids: npt.ArrayLike, count: int) -> Ids:
    """`ids` as contiguous int64 (count,).

    Raises:
        IndexingError: more or fewer, no integers, one below 0 or one that comes twice.
    """
    given = np.asarray(ids)
    if given.shape != (count,):
        raise IndexingError(f"{given.size} ids for {count} vectors.")
    if count and given.dtype.kind not in "iu":
        raise IndexingError(f"ids of type {given.dtype} given. They should be integers.")
    out = np.ascontiguousarray(given, np.int64)
    if count and out.min() < 0:
        raise IndexingError(f"id {out.min()} given. Ids are 0 or more.")
    if np.unique(out).size < count:
        raise IndexingError("an id comes twice among those to be added.")
    return out


def checked_count(k: int) -> int:
    """`k` if so many vectors can be asked for.

    Raises:
        IndexingError: it is below 0.
    """
    if k < 0:
        raise IndexingError(f"{k} vectors asked for. It should be 0 or more.")
    return k


def ordered(scores: Matrix, ids: Ids) -> Found:
    """(q, k) each, scores falling: equal ones by id, and -inf where there is no id. Only rows with ties are sorted."""
    absent = ids == NO_ID
    if absent.any():
        scores = np.where(absent, np.float32(-np.inf), scores)
    tied = (scores[:, 1:] == scores[:, :-1]).any(axis=1)
    if tied.any():
        order = np.lexsort((ids[tied], -scores[tied]), axis=-1)
        scores[tied] = np.take_along_axis(scores[tied], order, -1)
        ids[tied] = np.take_along_axis(ids[tied], order, -1)
    return Found(scores, ids)


def settled(fetch: Callable[[Matrix, int], Found], questions: Matrix, k: int, there: int, most: int) -> Found:
    """The best `k` of what `fetch` finds, of equal scores those with the lowest ids, in rows of k or a few more.

    One more than `k` shows whether the last ties with one that is left out; for such questions more are fetched, until
    the tie ends, or all that are `there` are looked at, or `most`.
    """
    asked = min(k + 1, there)
    found = fetch(questions, asked)
    if asked <= k:
        return found
    tied = np.flatnonzero((found.scores[:, k] == found.scores[:, k - 1]) & (found.ids[:, k] != NO_ID))
    while tied.size and asked < min(there, most):
        asked = min(8 * asked, there)
        more = fetch(questions[tied], asked)
        found.scores[tied, :k], found.ids[tied, :k] = more.scores[:, :k], more.ids[:, :k]
        tied = tied[(more.ids[:, -1] != NO_ID) & (more.scores[:, -1] == more.scores[:, k - 1])]
    return found


def nothing(questions: int) -> Found:
    """What is found for so many questions where there is nothing."""
    return Found(np.zeros((questions, 0), np.float32), np.zeros((questions, 0), np.int64))


def widened(found: Found, k: int) -> Found:
    """The first `k` columns, with padding where there are fewer."""
    missing = k - found.ids.shape[1]
    if missing <= 0:
        return Found(found.scores[:, :k], found.ids[:, :k])
    room = ((0, 0), (0, missing))
    return Found(np.pad(found.scores, room, constant_values=-np.inf), np.pad(found.ids, room, constant_values=NO_ID))


def pairs(found: Found) -> list[tuple[int, float]]:
    """What was found for a single question as (id, score), without padding."""
    there = found.ids[0] != NO_ID
    return list(zip(found.ids[0][there].tolist(), found.scores[0][there].tolist(), strict=True))
