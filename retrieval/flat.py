"""The one place that touches FAISS: exact inner-product search over vectors that carry their own ids.

`IndexIDMap2` over `IndexFlatIP`, and nothing else: over inverted lists the same wrapper returns wrong ids after a
removal, without an error (faiss#4656). Everything FAISS would take without a word is checked before it is called.

FAISS is loaded when the first index is. Searches go one question at a time, which starts no threads in FAISS; so a
process that is forked off after a search can search too (faiss#5206 hangs otherwise).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from farfield.config import IndexingError
from farfield.retrieval.embedders import Matrix

__all__ = ["Flat", "faiss_version"]

BLOCK = 1 << 20


def _faiss() -> ModuleType:
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise IndexingError(
            f"an index needs FAISS, which cannot be loaded ({error}). Install it with: pip install 'farfield[cpu]'"
        ) from error


def faiss_version() -> str:
    """The version of FAISS in use."""
    return str(_faiss().__version__)


class Flat:
    """Vectors (count, dimension), each with an id of its own."""

    def __init__(self, dimension: int) -> None:
        faiss = _faiss()
        self._index: Any = faiss.IndexIDMap2(faiss.IndexFlatIP(dimension))

    @property
    def count(self) -> int:
        """How many vectors there are."""
        return int(self._index.ntotal)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self._index.d)

    def add(self, ids: npt.NDArray[np.int64], rows: Matrix) -> None:
        """Adds `rows` (n, dimension) under `ids` (n,), which must be new: FAISS keeps twins without a word."""
        self._check(rows)
        if ids.shape != rows.shape[:1]:
            raise IndexingError(f"{ids.size} ids for {rows.shape[0]} vectors.")
        self._index.add_with_ids(np.ascontiguousarray(rows, np.float32), np.ascontiguousarray(ids, np.int64))

    def search(self, question: Matrix, count: int) -> list[tuple[int, float]]:
        """The nearest vectors to `question` (1, dimension) as (id, inner product), the best first, `count` at most."""
        self._check(question)
        count = min(count, self.count)
        if count < 1:
            return []
        scores, ids = self._index.search(np.ascontiguousarray(question, np.float32), count)
        return [(int(one), float(score)) for one, score in zip(ids[0], scores[0], strict=True) if one >= 0]

    def write(self, sink: Callable[[bytes], object]) -> None:
        """Hands the index to `sink`, block by block."""
        faiss = _faiss()
        faiss.write_index(self._index, faiss.PyCallbackIOWriter(sink, BLOCK))

    @classmethod
    def read(cls, source: Callable[[int], bytes]) -> Flat:
        """The index that `write` wrote; `source` returns up to so many bytes.

        Raises:
            ValueError: these bytes are no such index.
        """
        faiss = _faiss()
        try:
            index = faiss.read_index(faiss.PyCallbackIOReader(source, BLOCK))
        except RuntimeError as error:
            raise ValueError(f"FAISS cannot read it: {error}") from error
        inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap2) else None
        if not isinstance(inner, faiss.IndexFlat) or inner.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError("not a flat inner-product index with ids")
        out = cls.__new__(cls)
        out._index = index
        return out

    def _check(self, rows: Matrix) -> None:
        if rows.ndim != 2 or rows.shape[1] != self.dimension:
            raise IndexingError(f"vectors of shape {rows.shape} given to an index of (n, {self.dimension}).")
        if not np.isfinite(rows).all():
            raise IndexingError("a vector holds a number that is not finite.")
