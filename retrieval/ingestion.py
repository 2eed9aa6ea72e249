"""Files into an index: read, cut, counted, stored, and at the end the vectors of all of it.

    files -> documents -> chunks -> groups of documents -> database (one transaction a group) -> vectors

A document counts as stored when its group is on the disk; the bar moves only then. Whatever was stored when an ingest
is stopped stays, and the next one goes on from there: a file whose bytes and settings are the same is left alone, and
so is a document of a file that was stored in part.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from farfield.config import DataError
from farfield.progress import Bar, say
from farfield.retrieval.chunks import VERSION, cut
from farfield.retrieval.digests import content, digest
from farfield.retrieval.documents import Document, Found, Skipped, find, read_documents, require_files
from farfield.retrieval.embedders import Embedder, build_embedder
from farfield.retrieval.settings import (
    EmbedderConfig,
    HashedConfig,
    HiddenConfig,
    IngestConfig,
    SentenceTransformersConfig,
)
from farfield.retrieval.store import DATABASE, Store, made_with
from farfield.retrieval.vectors import CHANGED, MISSING, OLDER, RETRAINED, rebuilt, renew, want
from farfield.retrieval.writing import Finish, Put, Writer

__all__ = ["IngestResult", "ingest"]

GROUP_DOCUMENTS = 256
GROUP_CHARACTERS = 1_000_000
SKIPPED_SAID = 20


@dataclass(frozen=True)
class IngestResult:
    """What an ingest did.

    Attributes:
        index: the index's name.
        folder: where it lies.
        added, replaced, unchanged, removed: documents.
        skipped: files, or lines of files, that could not be used, with the reason.
        ignored: how many files of other kinds lay between them, by ending.
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
    documents: int
    chunks: int
    seconds: float
    notices: tuple[str, ...]
    renewed: int = 0


def ingest(
    settings: IngestConfig,
    embedder: Embedder | None = None,
    build: Callable[[EmbedderConfig], Embedder] = build_embedder,
) -> IngestResult:
    """Stores the documents at `settings.path` in an index, which is made if it is not there.

    An `embedder` that is handed in takes the place of `settings.embedder`, and must be handed to `open_index` too;
    `build` makes the one that the settings describe. What an embedder of other weights embedded is embedded anew.

    Raises:
        DataError: nothing at the path can be used.
        IndexingError: the index cannot be used, or another process writes to it.
    """
    began = time.monotonic()
    folder = Path(settings.root).expanduser() / settings.index
    found = _checked(settings, folder)
    chosen = None if embedder else _chosen(settings, folder)
    described = None if chosen is None else json.dumps(chosen.mapping())
    with Writer(folder, settings.index, embedder or build(chosen or HashedConfig()), described) as writer:
        work = _Ingest(settings, writer, found)
        work.files()
        if settings.prune:
            work.prune()
        work.renew()
        notices = work.vectors()
        with writer.reading() as snapshot:
            state = snapshot.state
    return IngestResult(
        index=settings.index,
        folder=folder.as_posix(),
        added=work.added,
        replaced=work.replaced,
        unchanged=work.unchanged,
        removed=work.removed,
        skipped=tuple(work.skipped),
        ignored=found.ignored,
        documents=state.documents,
        chunks=state.chunks,
        seconds=time.monotonic() - began,
        notices=notices,
        renewed=work.renewed,
    )


def _checked(settings: IngestConfig, folder: Path) -> Found:
    """The files at the path. None of them holds a document only where the index has some of the path to be pruned.

    Raises:
        DataError: nothing at the path can be used; told before an index is made for nothing.
    """
    found = find(settings.path)
    try:
        _require_usable(found, settings.path)
    except DataError:
        if not settings.prune or not _below(_stored_files(folder, settings.index), found.root):
            raise
    return found


def _chosen(settings: IngestConfig, folder: Path) -> EmbedderConfig | None:
    """The embedder of the settings, else the index's own; its model by a path that holds from everywhere."""
    chosen = settings.embedder
    if chosen is None and (folder / DATABASE).is_file():
        with closing(Store(folder, settings.index)) as store, store.reading() as snapshot:
            return made_with(snapshot.state, settings.index)
    if isinstance(chosen, HiddenConfig | SentenceTransformersConfig) and Path(chosen.model).expanduser().exists():
        return chosen.model_copy(update={"model": Path(chosen.model).expanduser().resolve().as_posix()})
    return chosen or HashedConfig()


def _stored_files(folder: Path, name: str) -> Iterable[str]:
    """The paths of the files that an index holds, where there is one."""
    if not (folder / DATABASE).is_file():
        return ()
    with closing(Store(folder, name)) as store, store.reading() as snapshot:
        return snapshot.files()


def _below(paths: Iterable[str], root: Path) -> list[str]:
    """Those of `paths` that lie at or below `root`, sorted."""
    top = root.as_posix().rstrip("/") + "/"
    return sorted(path for path in paths if f"{path}/".startswith(top))


def _require_usable(found: Found, path: str) -> None:
    """Raises a DataError if no file holds a document."""
    require_files(found, path)
    reason = ""
    for file in found.files:
        for item in _documents(file)[1]:
            if isinstance(item, Document):
                return
            reason = reason or str(item)
    reason = reason or str(found.skipped[0])
    raise DataError(f"path: {path}: none of its {len(found.files + found.skipped)} files can be used. {reason}.")


def _documents(file: Path) -> tuple[bytes, Iterator[Document | Skipped]]:
    """A file's bytes and its documents; a file that the system does not hand out is named as skipped."""
    try:
        data = file.read_bytes()
    except OSError as error:
        return b"", iter([Skipped(file.as_posix(), f"cannot be read ({error.strerror})")])
    return data, read_documents(file, data)


def _kilo(count: int) -> int:
    """`count` bytes in kilobytes, rounded up, so that no file is nothing."""
    return -(-count // 1000)


class _Ingest:
    """One run over the files: what waits to be written, and what was done so far."""

    def __init__(self, settings: IngestConfig, writer: Writer, found: Found) -> None:
        self.added = self.replaced = self.unchanged = self.removed = self.renewed = 0
        self.skipped: list[Skipped] = []
        self._settings, self._chunk = settings, settings.chunk
        self._cut = (VERSION, json.dumps(settings.chunk.mapping(), sort_keys=True))
        self._writer, self._found = writer, found
        self._waiting: list[Put | Finish] = []
        self._characters = self._read = 0
        with writer.reading() as snapshot:
            self._stored = snapshot.files()

    def files(self) -> None:
        """Stores every file that was found."""
        if self._found.ignored:
            kinds = ", ".join(f"{kind} {count}" for kind, count in self._found.ignored.items())
            say(f"ingest: files of other kinds are left out ({kinds})")
        total = sum(file.stat().st_size for file in self._found.files if file.exists())
        for item in self._found.skipped:
            self._skip(item)
        with Bar("ingest", total=_kilo(total), unit="kB") as bar:
            for file in self._found.files:
                self._file(file, bar)
            self._write(bar)
        if len(self.skipped) > SKIPPED_SAID:
            say(f"ingest: skipped {len(self.skipped) - SKIPPED_SAID} more")

    def prune(self) -> None:
        """Forgets the files at or below the ingested path that are there no longer."""
        present = {file.as_posix() for file in self._found.files}
        gone = [path for path in _below(self._stored, self._found.root) if path not in present]
        self._count([Finish(path, None, frozenset()) for path in gone])

    def renew(self) -> None:
        """Embeds anew, group by group, what other weights of the embedder's model embedded."""
        with self._writer.reading() as snapshot:
            stale = snapshot.stale(self._writer.embedder.version)
        if not stale:
            return
        say(f"ingest: {stale} passages were embedded by other weights of the model; they are embedded anew")
        with Bar("embed", total=stale, unit="passages") as bar:
            while done := self._writer.renew(GROUP_DOCUMENTS):
                self.renewed += done
                bar.step(done)

    def vectors(self) -> tuple[str, ...]:
        """Brings the vectors up to date; a line for each thing that was wrong with them."""
        began = time.monotonic()
        settings = want(self._writer.folder, self._settings.vectors)
        gpu = self._settings.device == "cuda"
        with self._writer.reading() as snapshot:
            made, reason = renew(self._writer.folder, snapshot, self._writer.embedder, settings, None, gpu)
        changed = self.added or self.replaced or self.removed or self.renewed
        expected = (MISSING, OLDER, RETRAINED, CHANGED) if changed else (CHANGED,)
        if reason is None or str(reason) in expected:
            return ()
        notice = rebuilt(self._writer.name, reason, made, time.monotonic() - began)
        say(notice)
        return (notice,)

    def _file(self, file: Path, bar: Bar) -> None:
        """Puts what is new in a file on the list of what is to be written."""
        path, (data, documents) = file.as_posix(), _documents(file)
        mark = digest(data, file.suffix.lower(), *self._cut)
        with self._writer.reading() as snapshot:
            stored = snapshot.documents(path)
        if stored and self._stored.get(path) == mark:
            self.unchanged += len(stored)
        else:
            keys, clean = self._new(path, documents, stored, bar)
            if keys or not data.strip():
                self._waiting.append(Finish(path, mark if clean else None, frozenset(keys)))
        self._read += len(data)
        if len(self._waiting) >= GROUP_DOCUMENTS or not self._waiting:
            self._write(bar)

    def _new(
        self, path: str, documents: Iterator[Document | Skipped], stored: Mapping[str, bytes], bar: Bar
    ) -> tuple[set[str], bool]:
        """Lists the new and changed documents of a file; the keys of all, and whether all could be read."""
        keys: set[str] = set()
        clean = True
        for item in documents:
            if isinstance(item, Skipped):
                self._skip(item)
                clean = False
                continue
            keys.add(item.key)
            mark = digest(item.title, item.text, item.markdown, *self._cut)
            if stored.get(item.key) == mark:
                self.unchanged += 1
                continue
            chunks = cut(item.text, self._chunk, item.markdown)
            self._waiting.append(Put(path, item.key, item.title, mark, chunks, content=content(item.text)))
            self._characters += len(item.text)
            if len(self._waiting) >= GROUP_DOCUMENTS or self._characters >= GROUP_CHARACTERS:
                self._write(bar)
        return keys, clean

    def _skip(self, item: Skipped) -> None:
        self.skipped.append(item)
        if len(self.skipped) <= SKIPPED_SAID:
            say(f"ingest: skipped {item}")

    def _write(self, bar: Bar) -> None:
        """Writes what waits, and only then tells of it."""
        self._count(self._waiting)
        self._waiting, self._characters = [], 0
        bar.step(_kilo(self._read) - bar.done, note=f"{self.added + self.replaced + self.unchanged} documents")

    def _count(self, operations: list[Put | Finish]) -> None:
        if operations:
            changes = self._writer.apply(operations)
            self.added += changes.added
            self.replaced += changes.replaced
            self.removed += changes.removed
