"""Vectors made of what the database holds: all of them anew, or, where that gives the same, only what has changed.

    database ──> ids in order ──> a sample ──> lists           (what is searched exactly needs none)
                     └──> blocks of vectors ──> the store, and the exam that says how much of it must be looked at

Vectors are read in blocks and held once, in the store. Where they depend on the whole collection, all
change with every document, and are made anew; so they are where lists fit no longer: at twice, or half, of what they
were trained on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from farfield.progress import Bar
from farfield.retrieval.embedders import Embedder, Matrix, unit
from farfield.retrieval.flat import Flat
from farfield.retrieval.inverted import Inverted, Shape
from farfield.retrieval.settings import VectorConfig
from farfield.retrieval.store import Snapshot
from farfield.retrieval.tuning import RECALL, Exam, build, sample_size, shape_for, tune
from farfield.retrieval.vector_store import Ids, VectorStore
from farfield.retrieval.words import Frequencies, bag, words

__all__ = ["Made", "Source", "Stop", "StoppedError", "UnusableError", "Vectors", "make", "never", "updated"]

CHUNKS_AT_ONCE = 1024
CHUNKS_WITHOUT_BAR = 50_000
QUESTIONS = 128
QUESTION_WORDS = 8
GROWTH = 2

Stop = Callable[[], bool]


class UnusableError(Exception):
    """Stored vectors cannot be searched. The text says why, as the end of 'the vector file ...'."""


class StoppedError(Exception):
    """Whoever makes vectors was asked to stop."""


@dataclass(frozen=True)
class Made:
    """How a store was made: of how many vectors, and where it has lists, how many of them are looked at, and why.

    `recall` is the share of the ten best that was found when that was chosen, for so many `questions`.
    """

    kind: Literal["flat", "ivf", "pq", "qdrant"]
    trained: int
    lists: int | None = None
    probe: int | None = None
    factor: int | None = None
    recall: float | None = None
    questions: int | None = None


@dataclass(frozen=True)
class Vectors:
    """The vectors of one generation of one database; never changed once made.

    They are those of the passages that the embedder's own weights embedded, counted from `centre` (dimension,), where
    the embedder has its vectors centred.
    """

    store: VectorStore
    database: str
    generation: int
    made: Made
    centre: Matrix | None = None

    def fits(self, database: str, generation: int) -> bool:
        """Whether they hold what the database holds in that generation."""
        return (self.database, self.generation) == (database, generation)

    def aimed(self, rows: Matrix) -> Matrix:
        """What an embedder gives (n, dimension), as the store has it: counted from the centre, of length one."""
        return aimed(rows, self.centre)


def aimed(rows: Matrix, centre: Matrix | None) -> Matrix:
    """`rows` (n, dimension) counted from `centre` and of length one; as they are where there is none."""
    return rows if centre is None else unit(rows.astype(np.float64) - centre)


def never() -> bool:
    """Go on to the end."""
    return False


def make(
    snapshot: Snapshot, embedder: Embedder, settings: VectorConfig, gpu: bool = False, stop: Stop = never
) -> Vectors:
    """The vectors of all chunks in a snapshot, in the order that does not tell how the index came about.

    Raises:
        StoppedError: `stop` said so, between two blocks.
    """
    source = Source(snapshot, embedder, stop)
    order = snapshot.order(embedder.version)
    if embedder.centred:
        source = replace(source, centre=source.mean(order))
    shape = shape_for(settings, len(order), gpu)
    store: Flat | Inverted
    if shape is None:
        store, made = Flat(embedder.dimension), Made("flat", len(order))
        for ids, rows in source.blocks(order):
            store.add(ids, rows)
    else:
        store, made = _listed(shape, source, settings, order, gpu)
    return Vectors(store, snapshot.state.database, snapshot.state.generation, made, source.centre)


@dataclass(frozen=True)
class Source:
    """Where vectors come from: what a snapshot keeps, by an embedder, counted from `centre`, until `stop` says so."""

    snapshot: Snapshot
    embedder: Embedder
    stop: Stop = never
    centre: Matrix | None = None

    @functools.cached_property
    def frequencies(self) -> Frequencies:
        """Of all words."""
        return self.snapshot.frequencies()

    def blocks(self, ids: Ids, bar: bool = True) -> Iterator[tuple[Ids, Matrix]]:
        """The vectors of the chunks `ids`, some at a time, in their order.

        Raises:
            StoppedError: between two blocks.
        """
        shown = Bar("vectors", total=len(ids), unit="chunks") if bar and len(ids) > CHUNKS_WITHOUT_BAR else None
        with shown or nullcontext():
            for first in range(0, len(ids), CHUNKS_AT_ONCE):
                if self.stop():
                    raise StoppedError
                part = ids[first : first + CHUNKS_AT_ONCE]
                rows = self.embedder.vectors(self.snapshot.kept(part.tolist()), self.frequencies)
                yield part, aimed(rows, self.centre)
                if shown:
                    shown.step(len(part))

    def mean(self, ids: Ids) -> Matrix:
        """The mean (dimension,) of all vectors, the same however the index came about."""
        total = np.zeros(self.embedder.dimension)
        for _, rows in self.blocks(ids, bar=False):
            total += rows.sum(axis=0, dtype=np.float64)
        return (total / max(len(ids), 1)).astype(np.float32)

    def questions(self, own: Ids, drawn: np.random.Generator) -> Matrix:
        """A question of a few words in a row for each of the chunks `own`, embedded as what users ask is."""
        texts = []
        for passage in self.snapshot.passages(own.tolist()):
            spoken = passage.text.split()
            first = int(drawn.integers(max(1, len(spoken) - QUESTION_WORDS + 1)))
            texts.append(" ".join(spoken[first : first + QUESTION_WORDS]))
        bags = [bag(words(text)) for text in texts]
        return aimed(self.embedder.questions(texts, bags, self.frequencies), self.centre)


def _listed(shape: Shape, source: Source, settings: VectorConfig, order: Ids, gpu: bool) -> tuple[Inverted, Made]:
    """A store of lists, trained, filled and tuned. The same documents give the same store."""
    drawn = np.random.default_rng(0)
    places = np.sort(drawn.choice(len(order), sample_size(shape, len(order)), replace=False))
    sample = np.empty((len(places), source.embedder.dimension), np.float32)
    first = 0
    for _, rows in source.blocks(order[places], bar=False):
        sample[first : first + len(rows)] = rows
        first += len(rows)
    own = order[np.sort(drawn.choice(len(order), min(QUESTIONS, len(order)), replace=False))]
    exam = Exam(source.questions(own, drawn), own)
    store = build(shape, sample, source.blocks(order), exam, gpu)
    tuned = tune(store, exam, settings.recall or RECALL)
    made = Made(shape.kind, len(order), shape.lists, tuned.probe, tuned.factor, round(tuned.recall, 4), tuned.questions)
    return store, made


def updated(
    vectors: Vectors, snapshot: Snapshot, embedder: Embedder, settings: VectorConfig, gpu: bool, stop: Stop
) -> Vectors | None:
    """`vectors`, whose store nobody else holds, brought up to a snapshot; None where they must be made anew.

    Chunk ids are never used twice: one that is there already is the same chunk.
    """
    store, order = vectors.store, snapshot.order(embedder.version)
    if not embedder.steady or not isinstance(store, Flat | Inverted):
        return None
    if not _still_fits(store, vectors.made, len(order), shape_for(settings, len(order), gpu)):
        return None
    known = store.ids
    store.remove(np.setdiff1d(known, order))
    if isinstance(store, Inverted) and store.empty_rows > len(order):
        return None
    fresh = order[~np.isin(order, known)]
    for ids, rows in Source(snapshot, embedder, stop).blocks(fresh):
        store.add(ids, rows)
    return Vectors(store, snapshot.state.database, snapshot.state.generation, vectors.made)


def _still_fits(store: Flat | Inverted, made: Made, count: int, shape: Shape | None) -> bool:
    """Whether a store of `count` vectors would be made in the same way, or nearly so."""
    if isinstance(store, Flat) or shape is None:
        return isinstance(store, Flat) and shape is None
    return store.shape.kind == shape.kind and made.trained / GROWTH <= count <= made.trained * GROWTH
