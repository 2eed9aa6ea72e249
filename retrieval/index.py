"""An index as it is searched: documents in a database, vectors beside it, and the fusion of what both find.

    with open_index("handbook") as index:
        for hit in index.search("Who signs for it?", k=3):
            hit.path, hit.start, hit.end, hit.score, hit.text

Every search sees one generation of the database. The vectors are of the same generation, except while documents are
being ingested: then they stay what they were when that began (chunks replaced since are passed over), and new
documents are found by their words at once, by their vectors when the ingest has ended.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from farfield.config import ConfigError, IndexingError, unknown
from farfield.progress import say
from farfield.retrieval.embedders import Embedder, build_embedder
from farfield.retrieval.evidence import Quote, quoted, rarities
from farfield.retrieval.filters import Filter
from farfield.retrieval.held import Held
from farfield.retrieval.hits import Answer, Hit
from farfield.retrieval.making import Vectors
from farfield.retrieval.rerank import Reranker
from farfield.retrieval.search import Search, Tools
from farfield.retrieval.settings import EmbedderConfig, RerankConfig, RetrievalConfig
from farfield.retrieval.store import DATABASE, Snapshot, Store, made_with
from farfield.retrieval.vectors import VECTORS
from farfield.retrieval.words import term, words

__all__ = ["Builder", "Index", "IndexStats", "open_index"]


class Builder(Protocol):
    """Makes embedders and re-rankers; where they are models, `farfield.embedding.Models` does."""

    def embedder(self, config: EmbedderConfig) -> Embedder:
        """The embedder that `config` describes."""

    def reranker(self, config: RerankConfig, embedder: EmbedderConfig | None) -> Reranker:
        """The re-ranker that `config` describes, for an index with this embedder (None: one that was handed in)."""


class Weightless:
    """Makes what needs no model."""

    def embedder(self, config: EmbedderConfig) -> Embedder:
        return build_embedder(config)

    def reranker(self, config: RerankConfig, embedder: EmbedderConfig | None) -> Reranker:
        raise IndexingError(f"retrieval.rerank: kind '{config.kind}' needs a model. Use farfield.open_index.")


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

    def __init__(
        self, folder: Path, name: str, settings: RetrievalConfig, embedder: Embedder | None, builder: Builder
    ) -> None:
        self.folder, self.name, self.settings = folder, name, settings
        self._store, self._builder = Store(folder, name), builder
        self._embedder, self._stale = embedder, tuple[str, ...]()
        self._held: Held | None = None
        self._reranker: Reranker | None = None
        with self._store.reading() as snapshot:
            self._made = _made(snapshot, name, embedder)
            if settings.search != "lexical":
                self._holder(snapshot).current(snapshot)
        if settings.rerank.kind != "none":
            self._reranker = builder.reranker(settings.rerank, self._made)

    @property
    def embedder(self) -> Embedder:
        """What made the vectors; a model is loaded when it is first needed."""
        if self._embedder is None:
            assert self._made is not None
            self._embedder = self._builder.embedder(self._made)
        return self._embedder

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def notices(self) -> tuple[str, ...]:
        """A line for each time that the vectors had to be rebuilt since it was opened, and for what they lack."""
        return (self._held.notices if self._held else ()) + self._stale

    def close(self) -> None:
        """Closes the database. A search afterwards opens it again."""
        if self._held:
            self._held.close()
        self._store.close()

    def search(self, question: str, k: int | None = None, where: Filter | None = None) -> list[Hit]:
        """The `k` passages that answer `question` best, the best first; fewer where fewer share a word with it."""
        return self.answer(question, k, where).hits

    def search_batch(
        self, questions: Sequence[str], k: int | None = None, where: Filter | None = None
    ) -> list[list[Hit]]:
        """As `search` for each of `questions`, which are embedded and compared all at once."""
        return [answer.hits for answer in self.answers(questions, k, where)]

    def answer(self, question: str, k: int | None = None, where: Filter | None = None, explain: bool = False) -> Answer:
        """As `search`, with the time that each stage took, and on request what each found.

        Args:
            question: what is asked. k: passages, by default the setting's.
            where: only passages of documents that this filter means, as in {"kind": "pdf"}.
            explain: tell the candidates of each stage.

        Raises:
            ConfigError: k below 1, or a filter with values that cannot be compared.
        """
        return self.answers([question], k, where, explain)[0]

    def answers(
        self, questions: Sequence[str], k: int | None = None, where: Filter | None = None, explain: bool = False
    ) -> list[Answer]:
        """As `answer` for each of `questions`."""
        k = self.settings.k if k is None else k
        if k < 1:
            raise ConfigError(f"k: {k} given. It should be at least 1.")
        if isinstance(questions, str):
            raise ConfigError("questions: one text given, where a list is needed, as in ['Who signs for it?'].")
        with self._store.reading() as snapshot:
            return Search(snapshot, self.settings, self._tools(), k).answers(questions, where, explain)

    def quote(self, hit: Hit, question: str, answer: str = "") -> Quote | None:
        """The sentence of a passage that holds most of the question and the answer; None where none holds any."""
        asked = words(f"{question} {answer}")
        with self._store.reading() as snapshot:
            return quoted(hit.text, hit.start, rarities(asked, snapshot.frequencies({term(word) for word in asked})))

    def _tools(self) -> Tools:
        def reranker() -> Reranker:
            assert self._reranker is not None
            return self._reranker

        return Tools(lambda: self.embedder, self._vectors, reranker)

    def _vectors(self, snapshot: Snapshot) -> Vectors:
        """The vectors for a snapshot.

        Raises:
            IndexingError: there are none yet.
        """
        vectors = self._holder(snapshot).current(snapshot)
        if vectors is None:
            raise IndexingError(f"index '{self.name}': its vectors are being made; retrieval.wait=always waits.")
        return vectors

    def _holder(self, snapshot: Snapshot) -> Held:
        if self._held is None:
            _check_maker(snapshot, self.name, self.embedder)
            self._held = Held(self._store, self.embedder, self.settings)
            self._stale = _stale(snapshot, self.name, self.embedder)
        return self._held

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


def _made(snapshot: Snapshot, name: str, given: Embedder | None) -> EmbedderConfig | None:
    """The embedder that made the index, as the database describes it; None for one that was handed in."""
    if given is None:
        return made_with(snapshot.state, name)
    _check_maker(snapshot, name, given)
    return None if snapshot.state.settings is None else made_with(snapshot.state, name)


def _check_maker(snapshot: Snapshot, name: str, embedder: Embedder) -> None:
    """Raises an IndexingError unless `embedder` is what made the index."""
    if embedder.name != snapshot.state.embedder:
        raise IndexingError(
            f"index '{name}' was made by embedder '{snapshot.state.embedder}'; '{embedder.name}' given."
        )


def _stale(snapshot: Snapshot, name: str, embedder: Embedder) -> tuple[str, ...]:
    """A line where passages were embedded by other weights than those of `embedder`; it is said, too."""
    count = snapshot.stale(embedder.version)
    if not count:
        return ()
    notice = (
        f"index '{name}': {count} of {snapshot.state.chunks} passages were embedded by other weights of the model,"
        " and are found by their words alone. The next ingest into it embeds them anew."
    )
    say(notice)
    return (notice,)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def open_index(
    name: str | Path,
    root: str | Path = "indexes",
    settings: RetrievalConfig | None = None,
    embedder: Embedder | None = None,
    builder: Builder | None = None,
) -> Index:
    """The index `name` in the folder `root`, or the one at a path.

    Args:
        name: a name, or a path (anything with a separator in it, or a `Path`) of an index's folder.
        root: the folder of indexes.
        settings: how to search; the defaults if not given.
        embedder: needed only where the index was made by an embedder that was handed in.
        builder: makes embedders and re-rankers that are models; `farfield.open_index` brings one.

    Raises:
        IndexingError: there is no such index, or it cannot be used.
    """
    separated = isinstance(name, Path) or "/" in name or os.sep in name
    folder = Path(name).expanduser() if separated else Path(root).expanduser() / name
    if (folder / DATABASE).is_file():
        return Index(folder, folder.name, settings or RetrievalConfig(), embedder, builder or Weightless())
    known = sorted(file.parent.name for file in folder.parent.glob(f"*/{DATABASE}"))
    raise IndexingError(
        f"index: {unknown('there is no index', folder.name, known)} Looked in {folder.parent}."
        f" Make it with: farfield ingest path=... index={folder.name}"
    )
