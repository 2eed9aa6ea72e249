"""Vectors on a Qdrant server, where one machine's memory is outgrown; the database stays here, and stays the truth.

    collection farfield-<database>    a point a chunk: its id, its vector (inner product), nothing else
        metadata                      database, generation, embedder, and how many points there should be

The metadata is the manifest: a collection of another embedder or generation, or one whose filling was broken off, is
found by it, and filled again. While points are changed the generation in it is -1, which is older than any.
docs/scaling.md says when to use it, and how.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from farfield.config import IndexingError
from farfield.retrieval.embedders import Embedder, Matrix
from farfield.retrieval.making import Made, Source, Stop, UnusableError, Vectors
from farfield.retrieval.settings import VectorConfig
from farfield.retrieval.store import Snapshot, State
from farfield.retrieval.vector_store import (
    NO_ID,
    Found,
    Ids,
    checked_count,
    checked_ids,
    checked_rows,
    nothing,
    ordered,
    settled,
    widened,
)

__all__ = ["QdrantStore", "check_url", "connect", "load", "renew"]

AT_ONCE = 512
FILTER_AT_ONCE = 10_000
MOST_TIES = 4096
FILLING = -1


def connect(url: str) -> Any:
    """A client of the server at `url`.

    Raises:
        IndexingError: its package is not installed, or there is no such address.
    """
    try:
        client = importlib.import_module("qdrant_client")
    except ImportError as error:
        raise IndexingError(
            f"vectors.kind: qdrant needs its client, which cannot be loaded ({error})."
            " Install it with: pip install 'farfield[qdrant]'"
        ) from error
    try:  # the client's own check of versions would run in a thread, and warn where there is no server
        return client.QdrantClient(url=url, check_compatibility=False)
    except ValueError as error:
        raise IndexingError(
            f"vectors.url: '{url}' is no address of a server ({error}). As in http://host:6333"
        ) from error


@contextmanager
def guard(where: str) -> Iterator[None]:
    """Turns what the client complains about into one line."""
    exceptions = importlib.import_module("qdrant_client.http.exceptions")
    try:
        yield
    except exceptions.ApiException as error:
        reason = " ".join(str(error).split())[:200]
        raise IndexingError(f"vectors.url: the Qdrant server at {where} cannot do what is asked ({reason}).") from error


class QdrantStore:
    """The vectors in a collection. `where` names the server in messages."""

    def __init__(self, client: Any, collection: str, dimension: int, where: str = "memory") -> None:
        self._client, self._collection, self._where = client, collection, where
        self._dimension = dimension
        self._models = importlib.import_module("qdrant_client.models")

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._dimension

    @property
    def count(self) -> int:
        """How many vectors there are; the server counts them."""
        with guard(self._where):
            return int(self._client.count(self._collection, exact=True).count)

    def metadata(self) -> dict[str, Any] | None:
        """What the collection says about itself; None where there is none."""
        with guard(self._where):
            if not self._client.collection_exists(self._collection):
                return None
            return dict(self._client.get_collection(self._collection).config.metadata or {})

    def create(self, metadata: dict[str, Any]) -> None:
        """An empty collection: the one there is, with the shards and replicas that somebody gave it, where it fits."""
        models = self._models
        space = models.VectorParams(size=self._dimension, distance=models.Distance.DOT)
        with guard(self._where):
            if self._fits():
                everything = models.FilterSelector(filter=models.Filter())
                self._client.delete(self._collection, points_selector=everything, wait=True)
                self._client.update_collection(self._collection, metadata=metadata)
                return
            self._client.delete_collection(self._collection)
            self._client.create_collection(self._collection, vectors_config=space, metadata=metadata)

    def _fits(self) -> bool:
        """Whether there is a collection of such vectors."""
        if not self._client.collection_exists(self._collection):
            return False
        held = self._client.get_collection(self._collection).config.params.vectors
        wanted = (self._dimension, self._models.Distance.DOT)
        return isinstance(held, self._models.VectorParams) and (held.size, held.distance) == wanted

    def mark(self, metadata: dict[str, Any]) -> None:
        """The collection says this about itself from now on."""
        with guard(self._where):
            self._client.update_collection(self._collection, metadata=metadata)

    def all_ids(self) -> Ids:
        """The ids of all points, ascending."""
        found: list[int] = []
        place = None
        with guard(self._where):
            while True:
                points, place = self._client.scroll(
                    self._collection, limit=FILTER_AT_ONCE, offset=place, with_payload=False
                )
                found += [point.id for point in points]
                if place is None:
                    return np.sort(np.array(found, np.int64))

    def add(self, ids: Ids, rows: Matrix) -> None:
        """See `VectorStore.add`."""
        rows = checked_rows(rows, self._dimension)
        ids = checked_ids(ids, len(rows))
        known = self._known(ids)
        if known.size:
            raise IndexingError(f"id {known[0]} is in the index already. Remove it before it is added again.")
        with guard(self._where):
            for first in range(0, len(ids), AT_ONCE):
                part = slice(first, first + AT_ONCE)
                batch = self._models.Batch(ids=ids[part].tolist(), vectors=rows[part].tolist())
                self._client.upsert(self._collection, points=batch, wait=True)

    def remove(self, ids: Ids) -> int:
        """See `VectorStore.remove`."""
        known = self._known(np.unique(np.asarray(ids, np.int64)))
        with guard(self._where):
            for first in range(0, len(known), AT_ONCE):
                points = self._models.PointIdsList(points=known[first : first + AT_ONCE].tolist())
                self._client.delete(self._collection, points_selector=points, wait=True)
        return known.size

    def search(self, questions: Matrix, k: int, among: Ids | None = None) -> Found:
        """See `VectorStore.search`. Small collections are searched exactly by the server, large ones by its graph."""
        questions = checked_rows(questions, self._dimension)
        allowed = None if among is None else np.asarray(among, np.int64)
        there = sys.maxsize if allowed is None else allowed.size
        if not len(questions) or not there or not checked_count(k):
            return widened(nothing(len(questions)), k)

        def fetch(questions: Matrix, asked: int) -> Found:
            if allowed is None:
                return self._fetch(questions, asked, None)
            parts = [allowed[first : first + FILTER_AT_ONCE] for first in range(0, there, FILTER_AT_ONCE)]
            found = [self._fetch(questions, asked, part.tolist()) for part in parts]
            return _merged(found, asked)

        return widened(settled(fetch, questions, k, there, MOST_TIES), k)

    def _fetch(self, questions: Matrix, k: int, among: list[int] | None) -> Found:
        models, chosen = self._models, None
        if among is not None:
            chosen = models.Filter(must=[models.HasIdCondition(has_id=among)])
        requests = [models.QueryRequest(query=one, limit=k, filter=chosen) for one in questions.tolist()]
        with guard(self._where):
            answers = self._client.query_batch_points(self._collection, requests=requests)
        scores = np.full((len(questions), k), -np.inf, np.float32)
        ids = np.full((len(questions), k), NO_ID)
        for row, answer in enumerate(answers):
            scores[row, : len(answer.points)] = [point.score for point in answer.points]
            ids[row, : len(answer.points)] = [point.id for point in answer.points]
        return ordered(scores, ids)

    def _known(self, ids: Ids) -> Ids:
        """Those of `ids` that have a point."""
        found: list[int] = []
        with guard(self._where):
            for first in range(0, len(ids), FILTER_AT_ONCE):
                part = ids[first : first + FILTER_AT_ONCE].tolist()
                found += [one.id for one in self._client.retrieve(self._collection, part, with_payload=False)]
        return np.array(found, np.int64)


def _merged(parts: list[Found], k: int) -> Found:
    """The best `k` of several lists for the same questions."""
    scores = np.concatenate([part.scores for part in parts], axis=1)
    ids = np.concatenate([part.ids for part in parts], axis=1)
    order = np.lexsort((ids, -scores), axis=-1)[:, :k]
    return Found(np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1))


def load(settings: VectorConfig, state: State, embedder: Embedder) -> Vectors:
    """The vectors on the server, of whatever generation.

    Raises:
        UnusableError: there are none, or they are of another embedder, or were left half filled.
        IndexingError: the server cannot be asked.
    """
    store = _store(settings, state, embedder)
    said = store.metadata()
    if said is None:
        raise UnusableError("is missing")
    if (said.get("embedder"), said.get("dimension")) != (embedder.name, embedder.dimension):
        raise UnusableError("belongs to another index")
    if said.get("version") != embedder.version:
        raise UnusableError("was made by other weights of the model")
    generation, centre = said.get("generation"), said.get("centre")
    if not isinstance(generation, int) or generation == FILLING or store.count != said.get("count"):
        raise UnusableError("is damaged")
    middle = None if centre is None else np.array(centre, np.float32)
    return Vectors(store, state.database, generation, Made("qdrant", store.count), middle)


def renew(
    settings: VectorConfig, snapshot: Snapshot, embedder: Embedder, stop: Stop
) -> tuple[Vectors, UnusableError | None]:
    """Vectors for a snapshot: those on the server; with what is new where the others stay; or all of them anew."""
    state, reason = snapshot.state, None
    store = _store(settings, state, embedder)
    order = snapshot.order(embedder.version)
    source = Source(snapshot, embedder, stop)
    if embedder.centred:
        source = replace(source, centre=source.mean(order))
    told = {
        "embedder": embedder.name,
        "version": embedder.version,
        "dimension": embedder.dimension,
        "count": len(order),
        "centre": None if source.centre is None else source.centre.tolist(),
    }
    try:
        found = load(settings, state, embedder)
        if found.generation == state.generation:
            return found, None
        reason = UnusableError("is older than the documents")
        known = store.all_ids() if embedder.steady else None
    except UnusableError as error:
        reason, known = error, None
    if known is None:
        known = np.zeros(0, np.int64)
        store.create({**told, "generation": FILLING})
    else:
        store.mark({**told, "generation": FILLING})
    store.remove(np.setdiff1d(known, order))
    fresh = order[~np.isin(order, known)]
    for ids, rows in source.blocks(fresh):
        store.add(ids, rows)
    store.mark({**told, "generation": state.generation})
    return Vectors(store, state.database, state.generation, Made("qdrant", len(order)), source.centre), reason


def check_url(settings: VectorConfig) -> None:
    """Raise IndexingError where vectors are to be kept on a server, and none is named."""
    if settings.kind == "qdrant" and settings.url is None:
        raise IndexingError(
            "vectors.kind: qdrant given without vectors.url. Give the server's, as in vectors.url=http://host:6333, or "
            "keep them here with vectors.kind=auto."
        )


def _store(settings: VectorConfig, state: State, embedder: Embedder) -> QdrantStore:
    check_url(settings)
    assert settings.url is not None
    client = connect(settings.url)
    return QdrantStore(client, f"farfield-{state.database}", embedder.dimension, settings.url)
