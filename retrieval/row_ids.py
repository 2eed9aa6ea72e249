"""Which id stands in which row of a FAISS index, and the other way round.

FAISS numbers rows itself here. Its own maps from rows to ids break silently over inverted lists (faiss#4656), and its
refining index takes no ids at all; with a map of ours one rule holds for every kind of index.

    ids     row -> id, -1 for a row that was removed and still takes room
    runs    sorted ids with their rows, each run more than twice as long as the next: adding costs O(log n) an id, and
            finding one is a binary search in few runs
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from farfield.config import IndexingError
from farfield.retrieval.vector_store import NO_ID, Ids, checked_ids

__all__ = ["RowIds"]

Run = tuple[Ids, Ids]

BLOCK = 1 << 20


class RowIds:
    """The ids of the rows of an index."""

    def __init__(self, ids: Ids | None = None) -> None:
        self._ids = np.zeros(0, np.int64)
        self._used = 0
        self._runs: list[Run] = []
        self.live = 0
        if ids is not None:
            self._take(ids)

    @property
    def ids(self) -> Ids:
        """The id of each row (rows,)."""
        return self._ids[: self._used]

    def check_new(self, ids: npt.ArrayLike, count: int) -> Ids:
        """`ids` for `count` more rows.

        Raises:
            IndexingError: they are not `count` different ids, or one of them has a row.
        """
        out = checked_ids(ids, count)
        known = out[self.rows(out) >= 0]
        if known.size:
            raise IndexingError(f"id {known[0]} is in the index already. Remove it before it is added again.")
        return out

    def append(self, ids: Ids) -> None:
        """The next rows have these ids."""
        rows = np.arange(self._used, self._used + ids.size)
        if rows.size and rows[-1] >= self._ids.size:
            self._ids = np.concatenate([self.ids, np.full(max(self._used, ids.size), NO_ID)])
        self._ids[rows] = ids
        self._used += ids.size
        self.live += ids.size
        order = np.argsort(ids)
        self._push((ids[order], rows[order]))

    def rows(self, ids: Ids) -> Ids:
        """The row of each of `ids` (n,); -1 for one that has none."""
        out = np.full(ids.shape, NO_ID)
        for known, rows in self._runs:
            place = np.minimum(np.searchsorted(known, ids), known.size - 1)
            out = np.where(known[place] == ids, rows[place], out)
        return out

    def of(self, rows: Ids) -> Ids:
        """The id of each of `rows`, of any shape; -1, of which FAISS makes its padding, stays."""
        if not self._used:
            return rows
        return np.where(rows < 0, NO_ID, self._ids[np.maximum(rows, 0)])

    def close(self, rows: Ids) -> None:
        """Removes `rows`, and those behind them move up, as FAISS does in a flat index."""
        self._take(np.delete(self.ids, rows))

    def kill(self, rows: Ids) -> None:
        """Removes `rows`; every other row stays where it is."""
        ids = self.ids.copy()
        ids[rows] = NO_ID
        self._take(ids)

    def write(self, sink: Callable[[bytes], object]) -> None:
        """Hands the ids to `sink`: 8 bytes a row, little-endian."""
        for first in range(0, self._used, BLOCK):
            sink(self.ids[first : first + BLOCK].astype("<i8").tobytes())

    @classmethod
    def read(cls, source: Callable[[int], bytes], rows: int | None) -> RowIds:
        """The ids of `rows` rows (None: of as many as there are), which are all that is left in `source`.

        Raises:
            ValueError: there are more or fewer, or one comes twice.
        """
        parts = []
        while part := source(BLOCK):
            parts.append(part)
        data = b"".join(parts)
        if len(data) != 8 * (len(data) // 8 if rows is None else rows):
            raise ValueError(f"{len(data)} bytes of ids for {'some' if rows is None else rows} vectors")
        ids = np.frombuffer(data, "<i8").astype(np.int64)
        live = ids[ids != NO_ID]
        if (live < 0).any() or np.unique(live).size != live.size:
            raise ValueError("an id comes twice, or is none")
        return cls(ids)

    def _take(self, ids: Ids) -> None:
        self._ids, self._used = ids, ids.size
        rows = np.flatnonzero(ids != NO_ID)
        order = rows[np.argsort(ids[rows])]
        self.live = rows.size
        self._runs = []
        self._push((ids[order], order))

    def _push(self, run: Run) -> None:
        if run[0].size:
            self._runs.append(run)
        while len(self._runs) > 1 and self._runs[-2][0].size <= 2 * self._runs[-1][0].size:
            last, before = self._runs.pop(), self._runs.pop()
            ids, rows = (np.concatenate(both) for both in zip(before, last, strict=True))
            order = np.argsort(ids, kind="stable")
            self._runs.append((ids[order], rows[order]))
