"""Documents out of an index, and what an ingest or a removal tells of itself.

    remove("handbook", {"path": "/docs/old"})                    farfield ingest index=handbook remove=docs/old
    remove("handbook", {"language": "de", "year": [2019, 2020]})

What is forgotten is not barred: where its file still lies at an ingested path, the next ingest stores it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from farfield.config import DataError, IndexingError, unknown
from farfield.progress import say
from farfield.retrieval.documents import Skipped
from farfield.retrieval.embedders import Embedder, build_embedder
from farfield.retrieval.filters import Filter
from farfield.retrieval.settings import EmbedderConfig, VectorConfig
from farfield.retrieval.store import DATABASE, Duplicate
from farfield.retrieval.vectors import CHANGED, MISSING, OLDER, RETRAINED, rebuilt, renew, want
from farfield.retrieval.writing import Finish, Writer, maker

__all__ = ["IngestResult", "remove", "renew_vectors"]

GROUP_FILES = 256


@dataclass(frozen=True)
class IngestResult:
    """What an ingest did.

    Attributes:
        index: the index's name.
        folder: where it lies.
        added, replaced, unchanged, removed: documents.
        skipped: files, or lines of files, that could not be used, with the reason.
        ignored: how many files of other kinds lay between them, by ending.
        duplicates: the documents, at or below the ingested path, that have the content of another.
        documents, chunks: what the index holds now.
        seconds: how long it took.
        notices: lines about what was mended.
        renewed: chunks that were embedded anew, for the model's weights have changed.
    """

    index: str
    folder: str
    added: int
    replaced: int
    unchanged: int
    removed: int
    skipped: tuple[Skipped, ...]
    ignored: Mapping[str, int]
    duplicates: tuple[Duplicate, ...]
    documents: int
    chunks: int
    seconds: float
    notices: tuple[str, ...]
    renewed: int = 0


def remove(
    index: str,
    where: str | Filter,
    root: str | Path = "indexes",
    embedder: Embedder | None = None,
    build: Callable[[EmbedderConfig], Embedder] = build_embedder,
) -> IngestResult:
    """Forgets the documents of an index that `where` means: a path or a pattern of paths, or a filter.

    A relative path begins at the working folder. An `embedder` is needed where the index was made by one that was
    handed in; `build` makes any other.

    Raises:
        DataError: no document is meant.
        IndexingError: there is no such index, or it cannot be written to.
    """
    began = time.monotonic()
    folder = Path(root).expanduser() / index
    if not (folder / DATABASE).is_file():
        known = sorted(file.parent.name for file in folder.parent.glob(f"*/{DATABASE}"))
        raise IndexingError(f"index: {unknown('there is no index', index, known)} Looked in {folder.parent}.")
    meant = {"path": _absolute(where)} if isinstance(where, str) else where
    with Writer(folder, index, *maker(folder, index, embedder, build)) as writer:
        gone = _finishes(writer, meant)
        if not gone:
            raise DataError(f"remove: {where} means no document of index '{index}'.")
        removed = 0
        for first in range(0, len(gone), GROUP_FILES):
            removed += writer.apply(gone[first : first + GROUP_FILES]).removed
        notices = renew_vectors(writer, changed=True)
        with writer.reading() as snapshot:
            state, duplicates = snapshot.state, tuple(snapshot.duplicates())
    done = IngestResult(
        *(index, folder.as_posix(), 0, 0, 0, removed, (), {}, duplicates, state.documents, state.chunks),
        seconds=time.monotonic() - began,
        notices=notices,
    )
    return done


def _absolute(path: str) -> str:
    """A path as files are stored by it; a pattern that begins with `*` means any folder."""
    return path if path.startswith("*") else Path(path).expanduser().resolve().as_posix()


def _finishes(writer: Writer, where: Filter) -> list[Finish]:
    """What leaves each file that holds some of the documents meant."""
    with writer.reading() as snapshot:
        meant = snapshot.meant(where)
        finishes = []
        for path, documents in groupby(meant, key=lambda one: one[0]):
            gone = {key for _, key in documents}
            finishes.append(Finish(path, None, frozenset(key for key in snapshot.documents(path) if key not in gone)))
        return finishes


def renew_vectors(
    writer: Writer, changed: bool, settings: VectorConfig | None = None, gpu: bool = False
) -> tuple[str, ...]:
    """Brings the vectors of an index up to date; a line for each thing that was wrong with them.

    `changed` says whether documents have; `settings` how vectors are to be kept from now on.
    """
    began = time.monotonic()
    kept = want(writer.folder, settings or VectorConfig())
    with writer.reading() as snapshot:
        made, reason = renew(writer.folder, snapshot, writer.embedder, kept, None, gpu)
    notices = []
    if writer.unembedded:
        notices.append(
            f"index '{writer.name}': the embedder made no vector of {writer.unembedded} chunks (numbers that are not"
            " finite); they are found by their words alone"
        )
    expected = (MISSING, OLDER, RETRAINED, CHANGED) if changed else (CHANGED,)
    if reason is not None and str(reason) not in expected:
        notices.append(rebuilt(writer.name, reason, made, time.monotonic() - began))
    for notice in notices:
        say(notice)
    return tuple(notices)
