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
from farfield.retrieval.gpu import MOST, GpuCopy
from farfield.retrieval.row_ids import RowIds
from farfield.retrieval.vector_store import Found, Ids, checked_count, checked_rows, nothing, ordered, settled, widened

__all__ = ["Flat"]


class Flat:
    """Vectors (count, dimension), each with an id of its own; float32."""

    def __init__(self, dimension: int) -> None:
        self._index: Any = library().IndexFlatIP(dimension)
        self._rows = RowIds()
        self._gpu: Any = None

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
        self._gpu = None

    def use_gpu(self) -> None:
        """Searches go to a copy on the GPU from now on, until the store changes.

        Raises:
            ConfigError: there is no GPU.
        """
        self._gpu = self._gpu or GpuCopy(self._index)

    def remove(self, ids: Ids) -> int:
        """See `VectorStore.remove`. All vectors behind the first that goes are moved."""
        rows = self._rows.rows(np.unique(np.asarray(ids, np.int64)))
        rows = rows[rows >= 0]
        if rows.size:
            self._index.remove_ids(chosen_rows(rows, self.count))
            self._rows.close(rows)
            self._gpu = None
        return rows.size

    def search(self, questions: Matrix, k: int, among: Ids | None = None) -> Found:
        """See `VectorStore.search`. Up to 19 questions at once are answered as each alone, to the last bit.

        More of them go through a matrix product, which may round otherwise.
        """
        questions = checked_rows(questions, self.dimension)
        allowed = None if among is None else self._rows.rows(np.asarray(among, np.int64))
        allowed = allowed if allowed is None else allowed[allowed >= 0]
        there = self.count if allowed is None else allowed.size
        if not len(questions) or not there or not checked_count(k):
            return widened(nothing(len(questions)), k)
        parameters = None
        if allowed is not None:
            parameters = library().SearchParameters(sel=chosen_rows(allowed, self.count))

        def fetch(questions: Matrix, asked: int) -> Found:
            here = self._gpu is None or parameters is not None or asked > MOST
            scores, rows = (self._index if here else self._gpu).search(questions, asked, params=parameters)
            return ordered(scores, self._rows.of(rows))

        return widened(settled(fetch, questions, k, there, there), k)

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
        known = type(index) is faiss.IndexFlatIP and index.is_trained
        if not known or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError("not a flat inner-product index")
        out = cls.__new__(cls)
        out._gpu = None
        out._index, out._rows = index, RowIds.read(source, index.ntotal)
        if out.count != index.ntotal:
            raise ValueError("a vector has no id")
        return out
