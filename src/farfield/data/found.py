"""Sources that look for passages: those of another source, with what a database has for their text.

    NeighbourSource     batch.passages (B, C, k, r): k passages for each chunk that ends in a row
    PromptSource        tokens  # # p p p p q q q t t t      a row behind the passages p that its first tokens q found
                        scored  - - - - - - - + + + + -      neither passages nor what found them

Each batch is a function of its number, as that of the source it is made of. Passages are looked for in the thread that
makes batches ahead; those of validation, which comes again and again, are kept.

Shapes: B batch, T time, C chunks that end in a row, k passages, r tokens of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from farfield.data.asking import asked_by, chunk_ends, with_past
from farfield.data.batch import PADDING, UNSCORED, Batch, Description, Ids, Source
from farfield.retrieval.neighbours import Database
from farfield.tokenizers import Tokenizer

__all__ = ["NeighbourSource", "PromptSource", "Search"]


@dataclass(frozen=True)
class Search:
    """How passages are looked for: `count` of `length` tokens; `overlap` as in `Database.search`."""

    database: Database
    count: int
    length: int
    overlap: float | None


@dataclass(frozen=True)
class NeighbourSource:
    """The batches of `inner`, with passages for each chunk that ends in them."""

    inner: Source
    search: Search
    kept: dict[int, Ids] = field(default_factory=dict, repr=False, compare=False)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.inner.tokenizer

    @property
    def tokens_per_batch(self) -> int:
        return self.inner.tokens_per_batch

    @property
    def validation_batches(self) -> int:
        return self.inner.validation_batches

    def batch(self, step: int) -> Batch:
        batch = self.inner.batch(step)
        return replace(batch, passages=self._passages(batch, lambda back: _earlier(self.inner.batch, step, back)))

    def validation(self, index: int) -> Batch:
        batch = self.inner.validation(index)
        if index not in self.kept:
            found = self._passages(batch, lambda back: _earlier(self.inner.validation, index, back))
            self.kept[index] = found
        return replace(batch, passages=self.kept[index])

    def describe(self) -> Description:
        return {**self.inner.describe(), **_told(self.search, "for each chunk")}

    def _passages(self, batch: Batch, before: Callable[[int], Batch | None]) -> Ids:
        """(B, C, k, r) for the c-th chunk that ends in row b; -1 where there is none."""
        search, size = self.search, self.search.database.manifest.chunk
        ends = chunk_ends(batch.positions, size)
        row, column = np.nonzero(ends)
        lead = max(0, size - 1 - int(column.min())) if len(column) else 0
        tokens, offset = with_past(batch, lead, before)
        wanted = [
            asked_by(batch, b, end - size, end, size, tokens, offset)
            for b, end in zip(row.tolist(), (column + 1).tolist(), strict=True)
        ]
        found = search.database.search(wanted, search.count, search.overlap)
        number = ends.cumsum(1)[row, column] - 1
        passages = np.full((len(ends), int(ends.sum(1).max()), search.count, search.length), PADDING, np.int64)
        passages[row, number] = search.database.passages(found, search.length)
        return passages


@dataclass(frozen=True)
class PromptSource:
    """The rows of `inner` behind passages that their first tokens find, `budget` tokens of them at most."""

    inner: Source
    search: Search
    budget: int

    @property
    def tokenizer(self) -> Tokenizer:
        return self.inner.tokenizer

    @property
    def tokens_per_batch(self) -> int:
        inner = self.inner.tokens_per_batch
        return int(inner + self.budget * len(self.inner.batch(0).tokens))

    @property
    def validation_batches(self) -> int:
        return self.inner.validation_batches

    def batch(self, step: int) -> Batch:
        return self._prompted(self.inner.batch(step))

    def validation(self, index: int) -> Batch:
        return self._prompted(self.inner.validation(index))

    def describe(self) -> Description:
        return {**self.inner.describe(), **_told(self.search, "before each row"), "passages' budget": self.budget}

    def _prompted(self, batch: Batch) -> Batch:
        """Each row behind its passages; padding stands before them."""
        rows, asking = len(batch.tokens), self._asking(batch)
        wanted = [
            asked_by(batch, row, 0, int(asking[row]), 2 * self.search.length) for row in range(rows) if asking[row]
        ]
        found = np.full((rows, self.search.count), -1, np.int64)
        found[asking > 0] = self.search.database.search(wanted, self.search.count, self.search.overlap)
        passages = self.search.database.passages(found[:, ::-1], self.search.length).reshape(rows, -1)
        tokens = np.full((rows, self.budget), self.tokenizer.end, np.int64)
        positions, targets = np.full_like(tokens, PADDING), batch.targets.copy()
        behind = batch.positions.copy()
        for row in range(rows):
            ids = passages[row][passages[row] >= 0][-self.budget :]
            tokens[row, self.budget - len(ids) :] = ids
            positions[row, self.budget - len(ids) :] = np.arange(len(ids))
            behind[row, : self._first(batch, row)] += len(ids)
            targets[row, : max(int(asking[row]) - 1, 0)] = UNSCORED
        unscored = np.full_like(tokens, UNSCORED)
        return Batch(np.hstack((tokens, batch.tokens)), np.hstack((unscored, targets)), np.hstack((positions, behind)))

    def _asking(self, batch: Batch) -> Ids:
        """(B,) how many of a row's first tokens look for passages: those of a chunk, of its first document."""
        size = self.search.database.manifest.chunk
        return np.array([min(size, self._first(batch, row)) for row in range(len(batch.tokens))], np.int64)

    @staticmethod
    def _first(batch: Batch, row: int) -> int:
        """How many tokens of a row, which begins at position 0, are of its first document."""
        return int((batch.positions[row] == np.arange(batch.positions.shape[1])).sum())


def _earlier(make: Callable[[int], Batch], number: int, back: int) -> Batch | None:
    return make(number - back) if back <= number else None


def _told(search: Search, when: str) -> Description:
    return {
        "passages": f"{search.count} of {search.length} tokens {when}",
        "database": f"{search.database.manifest.chunks} chunks, {search.database.fingerprint}",
    }
