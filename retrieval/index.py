"""An index as it is searched: documents in a database, vectors beside it, and the fusion of what both find.

    with open_index("handbook") as index:
        for hit in index.search("Who signs for it?", k=3):
            hit.path, hit.start, hit.end, hit.score, hit.text

Every search sees one generation of the database. The vectors are of the same generation, except while documents are
being ingested: then they stay what they were when that began (chunks replaced since are passed over), and new
documents are found by their words at once, by their vectors when the ingest has ended.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from farfield.config import ConfigError, IndexingError, read, unknown
from farfield.retrieval.embedders import Embedder, build_embedder
from farfield.retrieval.fusion import Fused, best, fuse, ranked
from farfield.retrieval.held import Held
from farfield.retrieval.settings import EmbedderConfig, RetrievalConfig
from farfield.retrieval.store import DATABASE, Passage, Snapshot, Store
from farfield.retrieval.vector_store import pairs
from farfield.retrieval.vectors import VECTORS
from farfield.retrieval.words import BAG, bag, words

__all__ = ["Answer", "Hit", "Index", "IndexStats", "open_index"]


@dataclass(frozen=True)
class Hit:
    """A passage found: characters `start` to `end` of a document, and why it was found.

    Attributes:
        path: the file, as an absolute path.
        key: the document within it; empty where the file is the document.
        heading: the Markdown headings above it, `Handbook > Leave`.
        chunk: its id in the index.
        score: after fusion; larger is better. It tells an order, not how good a passage is.
        dense, lexical: its rank in each list, from 1; None where it is not in that list.
    """

    path: str
    key: str
    title: str
    heading: str
    chunk: int
    start: int
    end: int
    text: str
    score: float
    dense: int | None
    lexical: int | None

    @property
    def source(self) -> str:
        """The document in one word: `handbook.md`, or `corpus.jsonl#4983`."""
        return f"{self.path}#{self.key}" if self.key else self.path


@dataclass(frozen=True)
class Answer:
    """The passages found, the best first, the generation of the documents they are from, and seconds by stage."""

    hits: list[Hit]
    generation: int
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class IndexStats:
    """What an index holds. `generation` grows with every change."""

    name: str
    files: int
    documents: int
    chunks: int
    words: int
    generation: int
    embedder: str
    dimension: int
    database_bytes: int
    vector_bytes: int


class Index:
    """A folder with documents and their vectors, open for search from any number of threads."""

    def __init__(self, folder: Path, name: str, settings: RetrievalConfig, embedder: Embedder | None) -> None:
        self.folder, self.name, self.settings = folder, name, settings
        self._store = Store(folder, name)
        with self._store.reading() as snapshot:
            self.embedder = _embedder(snapshot, name, embedder)
            self._held = Held(folder, name, self.embedder)
            if settings.search != "lexical":
                self._held.current(snapshot)

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def notices(self) -> tuple[str, ...]:
        """A line for each time that the vectors had to be rebuilt since it was opened."""
        return self._held.notices

    def close(self) -> None:
        """Closes the database. A search afterwards opens it again."""
        self._store.close()

    def search(self, question: str, k: int | None = None) -> list[Hit]:
        """The `k` passages that answer `question` best, the best first; fewer where fewer share a word with it."""
        return self.answer(question, k).hits

    def answer(self, question: str, k: int | None = None) -> Answer:
        """As `search`, with the time that each stage took: embed, dense, lexical, fuse."""
        k = self.settings.k if k is None else k
        if k < 1:
            raise ConfigError(f"k: {k} given. It should be at least 1.")
        clock = _Clock()
        with self._store.reading() as snapshot:
            found = self._found(snapshot, question, max(k, self.settings.candidates), clock)
            hits = self._fused(snapshot, found, k)
            clock.stop("fuse")
            return Answer(hits, snapshot.state.generation, clock.seconds)

    def stats(self) -> IndexStats:
        """What the index holds now."""
        with self._store.reading() as snapshot:
            state = snapshot.state
            return IndexStats(
                name=self.name,
                files=snapshot.count("files"),
                documents=state.documents,
                chunks=state.chunks,
                words=snapshot.count("terms"),
                generation=state.generation,
                embedder=state.embedder,
                dimension=self.embedder.dimension,
                database_bytes=_size(self.folder / DATABASE) + _size(self.folder / f"{DATABASE}-wal"),
                vector_bytes=_size(self.folder / VECTORS),
            )

    def _found(
        self, snapshot: Snapshot, question: str, count: int, clock: _Clock
    ) -> dict[str, list[tuple[int, float]]]:
        """What each list finds: (chunk, score), the best first."""
        asked, found = words(question), {}
        if self.settings.search != "lexical":
            store = self._held.current(snapshot).store
            clock.stop("load")
            bagged = bag(asked)
            frequencies = snapshot.frequencies(np.frombuffer(bagged, BAG)["term"].tolist())
            vector = self.embedder.question(question, bagged, frequencies)
            clock.stop("embed")
            near = best(lambda most: pairs(store.search(vector, most)), count)
            found["dense"] = [(chunk, score) for chunk, score in near if score > 0]
            clock.stop("dense")
        if self.settings.search != "dense":
            found["lexical"] = best(lambda most: snapshot.lexical(asked, most), count)
            clock.stop("lexical")
        return found

    def _fused(self, snapshot: Snapshot, found: Mapping[str, list[tuple[int, float]]], k: int) -> list[Hit]:
        """The best `k` of all lists together."""
        places = snapshot.places({chunk for one in found.values() for chunk, _ in one})
        count = max(k, self.settings.candidates)
        lists = {name: ranked(one, places, count) for name, one in found.items()}
        weights = {"dense": self.settings.dense_weight, "lexical": 1.0}
        chosen = fuse(lists, weights, places, self.settings.constant)[:k]
        passages = snapshot.passages([one.chunk for one in chosen])
        return [_hit(one, passage) for one, passage in zip(chosen, passages, strict=True)]


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def stop(self, stage: str) -> None:
        """`stage` ends now; the next begins."""
        now = time.perf_counter()
        self.seconds[stage] = now - self._last
        self._last = now


def _hit(fused: Fused, passage: Passage) -> Hit:
    return Hit(
        path=passage.path,
        key=passage.key,
        title=passage.title,
        heading=passage.heading,
        chunk=fused.chunk,
        start=passage.start,
        end=passage.end,
        text=passage.text,
        score=fused.score,
        dense=fused.ranks.get("dense"),
        lexical=fused.ranks.get("lexical"),
    )


def _embedder(snapshot: Snapshot, name: str, given: Embedder | None) -> Embedder:
    """The embedder that made the index: the one given, or the one that the database describes."""
    state = snapshot.state
    if given is None and state.settings is None:
        raise IndexingError(f"index '{name}' was made by embedder '{state.embedder}', which must be given to open it.")
    if given is None:
        given = build_embedder(read(EmbedderConfig, json.loads(state.settings or ""), f"index '{name}'"))
    if given.name != state.embedder:
        raise IndexingError(f"index '{name}' was made by embedder '{state.embedder}'; '{given.name}' given.")
    return given


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def open_index(
    name: str | Path,
    root: str | Path = "indexes",
    settings: RetrievalConfig | None = None,
    embedder: Embedder | None = None,
) -> Index:
    """The index `name` in the folder `root`, or the one at a path.

    Args:
        name: a name, or a path (anything with a separator in it, or a `Path`) of an index's folder.
        root: the folder of indexes.
        settings: how to search; the defaults if not given.
        embedder: needed only where the index was made by an embedder that was handed in.

    Raises:
        IndexingError: there is no such index, or it cannot be used.
    """
    separated = isinstance(name, Path) or "/" in name or os.sep in name
    folder = Path(name).expanduser() if separated else Path(root).expanduser() / name
    if (folder / DATABASE).is_file():
        return Index(folder, folder.name, settings or RetrievalConfig(), embedder)
    known = sorted(file.parent.name for file in folder.parent.glob(f"*/{DATABASE}"))
    raise IndexingError(
        f"index: {unknown('there is no index', folder.name, known)} Looked in {folder.parent}."
        f" Make it with: farfield ingest path=... index={folder.name}"
    )
