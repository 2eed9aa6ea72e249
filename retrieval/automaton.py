"""The automaton of a datastore: it says where to look next without a search.

As in RetoMaton, Alon et al. 2022, https://arxiv.org/abs/2201.12431:

    neighbours of this step         entries whose value is the token that came
                                    └─> the entries behind them: pointers
    pointers >= least               ──> the next step measures them and the clusters they lie in, and searches nothing
    fewer                           ──> the next step searches, and measures the pointers beside what it finds

A cluster joins entries whose keys lie together; a pointer stands for all of its cluster. Where no search is saved
(`least` infinite) the neighbours are those of kNN-LM, with the pointers beside them.

Shapes: N entries, D width of a key, K neighbours, C clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from farfield.retrieval.datastore import Datastore, Floats, Ints, Neighbours

__all__ = ["Automaton", "Clusters", "Steps", "cluster"]

ROUNDS = 8
SAMPLE = 100_000
BLOCK = 1 << 16
GROUP = 256  # clusters of a group, in the two levels of the clustering


@dataclass(frozen=True, eq=False)
class Clusters:
    """Which entries lie together: `of` (N,) is each entry's cluster, `members(c)` its entries, ascending."""

    of: npt.NDArray[np.int32]
    order: Ints
    starts: Ints

    @staticmethod
    def made(of: npt.NDArray[np.int32]) -> Clusters:
        """Of the cluster of each entry (N,)."""
        order = np.argsort(of, kind="stable").astype(np.int64)
        count = int(of.max()) + 1 if len(of) else 0
        return Clusters(of, order, np.searchsorted(of[order], np.arange(count + 1)).astype(np.int64))

    def members(self, one: int) -> Ints:
        """The entries of a cluster."""
        return self.order[self.starts[one] : self.starts[one + 1]]


@dataclass(frozen=True, eq=False)
class Automaton:
    """Where to look next. `least` pointers save a search, and no more than `most` entries are measured."""

    store: Datastore
    clusters: Clusters
    least: int = 1
    most: int = 1024

    def pointers(self, entries: Ints, values: Ints, token: int) -> Ints:
        """The entries behind those of `entries` (K,) whose values (K,) are the token that came, and their clusters'.

        The pointers themselves come first, then clusters, those with more pointers first, cut at `most`.
        """
        direct = self.store.following(entries[values == token])[: self.most]
        if not len(direct):
            return direct
        found, counts = np.unique(self.clusters.of[direct], return_counts=True)
        room, parts = self.most - len(direct), [direct]
        for one in found[np.lexsort((found, -counts))]:
            if room <= 0:
                break
            more = np.setdiff1d(self.clusters.members(int(one)), direct)[:room]
            parts.append(more)
            room -= len(more)
        return np.concatenate(parts)


class Steps:
    """Rows that go on token by token, each with its pointers; counts the searches that they save.

    steps = Steps(automaton, rows=2, k=32)
    found = steps.read(keys)            # neighbours of the next token of each row
    steps.came(tokens)                  # the tokens that came
    """

    def __init__(self, automaton: Automaton, rows: int, k: int) -> None:
        self.automaton, self.k = automaton, k
        self.searches = self.steps = 0
        self.searched: list[bool] = []  # in the last step, by row
        self._pointers = [np.zeros(0, np.int64)] * rows
        self._last: Neighbours | None = None

    @property
    def saved(self) -> float:
        """The fraction of searches saved (FoSS)."""
        return 1 - self.searches / self.steps if self.steps else 0.0

    def read(self, keys: Floats, without: Ints | None = None) -> Neighbours:
        """The neighbours of keys (rows, D), in as many columns as a row needs; `without` as in `Datastore.search`."""
        store, rows = self.automaton.store, len(keys)
        needed = np.array([row for row in range(rows) if len(self._pointers[row]) < self.automaton.least], np.int64)
        self.steps, self.searches = self.steps + rows, self.searches + len(needed)
        self.searched = np.isin(np.arange(rows), needed).tolist()
        found = (
            store.search(keys[needed], self.k, None if without is None else without[needed]) if len(needed) else None
        )
        at = {int(row): place for place, row in enumerate(needed)}
        parts = []
        for row in range(rows):
            pointers = self._pointers[row]
            if without is not None:
                pointers = pointers[store.documents(pointers) != without[row]]
            measured = store.measure(keys[row], pointers)
            if row in at and found is not None:
                there = found.entries[at[row]] >= 0
                pointers = np.concatenate([found.entries[at[row]][there], pointers])
                measured = np.concatenate([found.distances[at[row]][there], measured])
                pointers, first = np.unique(pointers, return_index=True)
                measured = measured[first]
            parts.append((pointers, measured))
        self._last = self._padded(parts)
        return self._last

    def came(self, tokens: Sequence[int]) -> None:
        """The tokens (rows,) that came behind what was last read."""
        assert self._last is not None
        for row, token in enumerate(tokens):
            self._pointers[row] = self.automaton.pointers(self._last.entries[row], self._last.values[row], token)

    def select(self, rows: Sequence[int]) -> None:
        """Only these rows go on."""
        self._pointers = [self._pointers[row] for row in rows]

    def _padded(self, parts: Sequence[tuple[Ints, Floats]]) -> Neighbours:
        width = max(1, *(len(entries) for entries, _ in parts)) if parts else 1
        entries, distances = np.full((len(parts), width), -1), np.full((len(parts), width), np.inf, np.float32)
        for row, (one, near) in enumerate(parts):
            order = np.lexsort((one, near))
            entries[row, : len(one)], distances[row, : len(one)] = one[order], near[order]
        stored = self.automaton.store.values[np.maximum(entries, 0)].astype(np.int64)
        return Neighbours(entries, np.where(entries >= 0, stored, -1), distances)


def cluster(keys: npt.NDArray[np.float16], size: int, seed: int = 0) -> npt.NDArray[np.int32]:
    """The cluster of each key (N, D), about `size` keys in each: k-means in two levels, groups and their parts.

    Two levels, so that it takes N (N / size)^(1/2) products and not N^2 / size.
    """
    wanted = max(1, round(len(keys) / size))
    groups = max(1, min(GROUP, round(wanted**0.5)))
    source = np.random.default_rng(np.random.SeedSequence([seed]))
    group = _assigned(keys, _centres(keys, groups, source))
    out, first = np.zeros(len(keys), np.int32), 0
    for one in range(groups):
        inside = np.flatnonzero(group == one)
        if not len(inside):
            continue
        own = keys[inside]
        parts = max(1, round(len(inside) / size))
        places = _assigned(own, _centres(own, parts, source))
        _, numbers = np.unique(places, return_inverse=True)  # a centre without keys has no cluster
        out[inside] = first + numbers.astype(np.int32)
        first += int(numbers.max()) + 1
    return out


def _centres(keys: npt.NDArray[np.float16], count: int, source: np.random.Generator) -> Floats:
    """Centres (count, D) of unit vectors, by a few rounds over a sample; one that loses its keys stays where it was."""
    drawn = source.choice(len(keys), min(len(keys), max(SAMPLE, 4 * count)), replace=False)
    sample = keys[np.sort(drawn)].astype(np.float32)
    centres = sample[source.choice(len(sample), count, replace=False)]
    for _ in range(ROUNDS if count > 1 else 0):
        places = _assigned(sample, centres)
        sums = np.zeros_like(centres)
        np.add.at(sums, places, sample)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(lengths > 0, sums / np.where(lengths > 0, lengths, 1), centres).astype(np.float32)
    return centres


def _assigned(keys: npt.NDArray[np.floating], centres: Floats) -> npt.NDArray[np.int32]:
    """The nearest centre of each key."""
    out = np.zeros(len(keys), np.int32)
    for first in range(0, len(keys), BLOCK):
        part = slice(first, first + BLOCK)
        out[part] = (keys[part].astype(np.float32) @ centres.T).argmax(1)
    return out
