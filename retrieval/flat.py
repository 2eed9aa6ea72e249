"""Exact search: every vector is compared with the question.

`IndexFlatIP`, whose rows FAISS numbers anew after a removal, with our own map from rows to ids. In a file the index is
followed by the ids of its rows, 8 bytes each, little-endian.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from farfield.retrieval.embedders import Matrix
from farfield.retrieval.faiss_library import chosen_rows, library, read_index, write_index
from farfield.retrieval.row_ids import RowIds
from farfield.retrieval.vector_store import Found, Ids, checked_count, checked_rows, ordered, widened

__all__ = ["Flat"]


class Flat:
    """Vectors (count, dimension), each with an id of its own; float32."""

    def __init__(self, dimension: int) -> None:
        self._index: Any = library().IndexFlatIP(dimension)
        self._rows = RowIds()

    @property
    def count(self) -> int:
        """How many vectors there are."""
        return self._rows.live

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self._index.d)

    @property
    def ids(self) -> Ids:
        """The ids (count,), in no order."""
        return self._rows.ids

    def add(self, ids: Ids, rows: Matrix) -> None:
        """See `VectorStore.add`."""
        rows = checked_rows(rows, self.dimension)
        ids = self._rows.check_new(ids, len(rows))
        self._index.add(rows)
        self._rows.append(ids)

    def remove(self, ids: Ids) -> int:
        """See `VectorStore.remove`. All vectors behind the first that goes are moved."""
        rows = self._rows.rows(np.unique(np.asarray(ids, np.int64)))
        rows = rows[rows >= 0]
        if rows.size:
            self._index.remove_ids(chosen_rows(rows, self.count))
            self._rows.close(rows)
        return rows.size

    def search(self, questions: Matrix, k: int, among: Ids | None = None) -> Found:
        """See `VectorStore.search`. Up to 19 questions at once are answered as each alone, to the last bit.

        More of them go through a matrix product, which may round otherwise.
        """
        questions = checked_rows(questions, self.dimension)
        allowed = None if among is None else self._rows.rows(np.asarray(among, np.int64))
        allowed = allowed if allowed is None else allowed[allowed >= 0]
        there = self.count if allowed is None else allowed.size
        asked = min(checked_count(k) + 1, there)  # one more shows whether the last ties with what is left out
        if not len(questions) or not asked or not k:
            return widened(Found(*_nothing(len(questions))), k)
        parameters = None
        if allowed is not None:
            parameters = library().SearchParameters(sel=chosen_rows(allowed, self.count))
        scores, rows = self._index.search(questions, asked, params=parameters)
        found = ordered(scores, self._rows.of(rows))
        if asked > k:
            self._settle(found, questions, k, parameters)
        return widened(found, k)

    def _settle(self, found: Found, questions: Matrix, k: int, parameters: Any) -> None:
        """Where the last of `k` ties with one that is left out, all that tie are looked at: the lowest ids stay."""
        open_ties = np.flatnonzero(found.scores[:, k] == found.scores[:, k - 1])
        for one in open_ties:
            last = float(found.scores[one, k - 1])
            below = last - 1e-6 * abs(last) - float(np.finfo(np.float32).tiny)
            _, scores, rows = self._index.range_search(questions[one : one + 1], below, params=parameters)
            ids = self._rows.of(rows)
            order = np.lexsort((ids, -scores))[: k + 1]
            if order.size > k:
                found.scores[one], found.ids[one] = scores[order], ids[order]

    def write(self, sink: Callable[[bytes], object]) -> None:
        """See `FileStore.write`."""
        write_index(self._index, sink)
        self._rows.write(sink)

    @classmethod
    def read(cls, source: Callable[[int], bytes], size: int) -> Flat:
        """The store that `write` wrote; `source` returns up to so many bytes of the `size` that there are.

        Raises:
            ValueError: these bytes are no such store.
        """
        faiss = library()
        index = read_index(source, size)
        if type(index) is not faiss.IndexFlatIP or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError("not a flat inner-product index")
        out = cls.__new__(cls)
        out._index, out._rows = index, RowIds.read(source, index.ntotal)
        if out.count != index.ntotal:
            raise ValueError("a vector has no id")
        return out


def _nothing(questions: int) -> tuple[Matrix, Ids]:
    return np.zeros((questions, 0), np.float32), np.zeros((questions, 0), np.int64)
