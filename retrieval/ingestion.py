"""Files into an index: read, cut, counted, stored, and at the end the vectors of all of it.

    files -> pieces of work -> documents, chunks, words -> groups of documents -> database -> vectors
    gathering.py               preparing.py, in as many         one transaction a group,
                               processes as there are cores     by this process alone

A document counts as stored when its group is on the disk; the bar moves only then. Whatever was stored when an ingest
is stopped stays, and the next one goes on from there: a file whose bytes and settings are the same is left alone, and
so is a document of a file that was stored in part. How many processes take part changes nothing in what is stored.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

from farfield.config import DataError
from farfield.progress import Bar, say
from farfield.retrieval.chunks import Offsets
from farfield.retrieval.documents import Document, Found, Skipped, check_parsers, find, require_files
from farfield.retrieval.documents.hub import Dataset, open_dataset
from farfield.retrieval.documents.lines import repeated
from farfield.retrieval.embedders import Embedder, build_embedder
from farfield.retrieval.gathering import file_tasks, look, row_tasks
from farfield.retrieval.gpu import require_gpu
from farfield.retrieval.preparing import Done, Preparation, Same, Task
from farfield.retrieval.qdrant import check_url
from farfield.retrieval.removal import IngestResult, remove, renew_vectors
from farfield.retrieval.settings import (
    EmbedderConfig,
    HashedConfig,
    HiddenConfig,
    IngestConfig,
    SentenceTransformersConfig,
)
from farfield.retrieval.store import DATABASE, Duplicate, Snapshot, Store, made_with
from farfield.retrieval.vectors import wanted
from farfield.retrieval.workers import Pool, cores
from farfield.retrieval.writing import Finish, Put, Writer

__all__ = ["IngestResult", "ingest"]

GROUP_DOCUMENTS = 256
GROUP_CHARACTERS = 1_000_000
SKIPPED_SAID = 20
BYTES_A_WORKER = 4_000_000
ROWS_A_WORKER = 4_000
"""Less than this takes less time than a process to start."""


def ingest(
    settings: IngestConfig,
    embedder: Embedder | None = None,
    build: Callable[[EmbedderConfig], Embedder] = build_embedder,
    offsets: Offsets | None = None,
) -> IngestResult:
    """Stores the documents at `settings.path` in an index, which is made if it is not there; or forgets some.

    An `embedder` that is handed in takes the place of `settings.embedder`, and must be handed to `open_index` too;
    `build` makes the one that the settings describe. What an embedder of other weights embedded is embedded anew.
    `offsets` says where tokens begin, where chunks are measured in tokens; it must be possible to pickle it.

    Raises:
        DataError: nothing at the path can be used, or a parser is not installed.
        IndexingError: the index cannot be used, another process writes to it, or a worker was killed.
        ConfigError: vectors are to be made on a GPU, which is not there.
    """
    if settings.remove is not None:
        return remove(settings.index, settings.remove, settings.root, embedder, build)
    began = time.monotonic()
    folder = Path(settings.root).expanduser() / settings.index
    check_url(settings.vectors.over(wanted(folder)))
    if settings.device == "cuda":
        require_gpu()
    preparation = Preparation.of(settings, folder, offsets)
    found = _checked(settings, preparation)
    chosen = None if embedder else _chosen(settings, folder)
    described = None if chosen is None else json.dumps(chosen.mapping())
    with Writer(folder, settings.index, embedder or build(chosen or HashedConfig()), described) as writer:
        work = _Ingest(preparation, writer, found)
        work.store(settings.workers)
        if settings.prune and isinstance(found, Found):
            work.prune(found)
        work.renew()
        changed = bool(work.added or work.replaced or work.removed or work.renewed)
        notices = renew_vectors(writer, changed, settings.vectors, settings.device == "cuda")
        duplicates = work.duplicates()
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
        ignored=found.ignored if isinstance(found, Found) else {},
        duplicates=duplicates,
        documents=state.documents,
        chunks=state.chunks,
        seconds=time.monotonic() - began,
        notices=notices,
        renewed=work.renewed,
    )


def _checked(settings: IngestConfig, preparation: Preparation) -> Found | Dataset:
    """What is at the path. No file holds a document only where the index has some of the path to be pruned.

    Raises:
        DataError: nothing at the path can be used; told before an index is made for nothing.
    """
    path = settings.path or ""
    if settings.source == "dataset":
        return open_dataset(path, settings.dataset)
    found = find(path)
    check_parsers({file.suffix.lower() for file in found.files})
    try:
        _require_usable(found, path, preparation)
    except DataError:
        if not settings.prune or not _below(_stored_files(preparation), found.root):
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


def _stored_files(preparation: Preparation) -> Iterable[str]:
    """The paths of the files that an index holds, where there is one."""
    if not (preparation.folder / DATABASE).is_file():
        return ()
    with closing(Store(preparation.folder, preparation.index)) as store, store.reading() as snapshot:
        return snapshot.files()


def _below(paths: Iterable[str], root: Path) -> list[str]:
    """Those of `paths` that lie at or below `root`, sorted."""
    top = root.as_posix().rstrip("/") + "/"
    return sorted(path for path in paths if f"{path}/".startswith(top))


def _require_usable(found: Found, path: str, preparation: Preparation) -> None:
    """Raises a DataError if no file holds a document."""
    require_files(found, path)
    reason = ""
    for file in found.files:
        for item in look(file, preparation):
            if isinstance(item, Document):
                return
            reason = reason or str(item)
    reason = reason or str(found.skipped[0])
    raise DataError(f"path: {path}: none of its {len(found.files + found.skipped)} files can be used. {reason}.")


class _Ingest:
    """One run over files, or rows: what waits to be written, and what was done so far."""

    def __init__(self, preparation: Preparation, writer: Writer, found: Found | Dataset) -> None:
        self.added = self.replaced = self.unchanged = self.removed = self.renewed = 0
        self.skipped: list[Skipped] = []
        self._preparation, self._writer, self._found = preparation, writer, found
        self._waiting: list[Put | Finish] = []
        self._characters = self._read = 0
        self._parts = _Parts("")

    def store(self, workers: int | None) -> None:
        """Stores all that was found."""
        tasks, total, unit = self._dataset() if isinstance(self._found, Dataset) else self._files()
        if workers is None:
            workers = min(cores(), total // BYTES_A_WORKER if unit == "kB" else total // ROWS_A_WORKER)
        total = _kilo(total) if unit == "kB" else total
        with Bar("ingest", total=total, unit=unit) as bar, Pool(workers, self._preparation) as pool:
            for done in pool.map(tasks):
                self._take(done, bar)
            self._write(bar)
        if len(self.skipped) > SKIPPED_SAID:
            say(f"ingest: skipped {len(self.skipped) - SKIPPED_SAID} more")

    def prune(self, found: Found) -> None:
        """Forgets the files at or below the ingested path that are there no longer."""
        present = {file.as_posix() for file in found.files}
        with self._writer.reading() as snapshot:
            gone = [path for path in _below(snapshot.files(), found.root) if path not in present]
        for first in range(0, len(gone), GROUP_DOCUMENTS):
            self._count([Finish(path, None, frozenset()) for path in gone[first : first + GROUP_DOCUMENTS]])

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

    def duplicates(self) -> tuple[Duplicate, ...]:
        """The documents among those ingested that have the content of another; they are told."""
        root = self._found.path if isinstance(self._found, Dataset) else self._found.root.as_posix()
        with self._writer.reading() as snapshot:
            found = tuple(one for one in snapshot.duplicates() if _below([one.path], Path(root)))
        for one in found[:SKIPPED_SAID]:
            say(f"ingest: duplicate {one}")
        if len(found) > SKIPPED_SAID:
            say(f"ingest: {len(found) - SKIPPED_SAID} more duplicates")
        return found

    def _files(self) -> tuple[Iterator[Task | Done], int, str]:
        """The work that the files are, and their bytes."""
        assert isinstance(self._found, Found)
        if self._found.ignored:
            kinds = ", ".join(f"{kind} {count}" for kind, count in self._found.ignored.items())
            say(f"ingest: files of other kinds are left out ({kinds})")
        for item in self._found.skipped:
            self._skip(item)
        total = sum(file.stat().st_size for file in self._found.files if file.exists())
        return file_tasks(self._found.files, self._preparation, self._snapshot), total, "kB"

    def _dataset(self) -> tuple[Iterator[Task | Done], int, str]:
        """The work that the rows of a data set are, and how many they are."""
        assert isinstance(self._found, Dataset)
        return row_tasks(self._found, self._preparation, self._snapshot), self._found.length, "rows"

    def _snapshot(self) -> Snapshot:
        with self._writer.reading() as snapshot:
            return snapshot

    def _take(self, done: Done, bar: Bar) -> None:
        """Puts what is new in a file, or in a part of one, on the list of what is to be written."""
        self.unchanged += done.unchanged
        self._read += done.bytes
        if done.path != self._parts.path:
            self._parts = _Parts(done.path)
        for number, item in done.items:
            self._put(done, number, item, bar)
        if done.mark is not None and (self._parts.documents or done.emptied):
            keys = frozenset(self._parts.keys) if done.whole else None
            self._waiting.append(Finish(done.path, done.mark if self._parts.clean else None, keys))
        if len(self._waiting) >= GROUP_DOCUMENTS or not self._waiting:
            self._write(bar)

    def _put(self, done: Done, number: int, item: Put | Same | Skipped, bar: Bar) -> None:
        """Lists a document, unless its key is that of another in its file."""
        if not isinstance(item, Skipped) and not done.whole:
            before = self._writer.note(done.path, item.key, number)
            item = item if before == number else repeated(done.path, number, item.key, before)
        if isinstance(item, Skipped):
            self._skip(item)
            self._parts.clean = False
            return
        self._parts.documents += 1
        if done.whole:
            self._parts.keys.append(item.key)
        if isinstance(item, Same):
            self.unchanged += 1
            return
        self._waiting.append(item)
        self._characters += item.chunks[-1].end
        if len(self._waiting) >= GROUP_DOCUMENTS or self._characters >= GROUP_CHARACTERS:
            self._write(bar)

    def _skip(self, item: Skipped) -> None:
        self.skipped.append(item)
        if len(self.skipped) <= SKIPPED_SAID:
            say(f"ingest: skipped {item}")

    def _write(self, bar: Bar) -> None:
        """Writes what waits, and only then tells of it."""
        self._count(self._waiting)
        self._waiting, self._characters = [], 0
        read = _kilo(self._read) if bar.unit == "kB" else self._read
        bar.step(read - bar.done, note=f"{self.added + self.replaced + self.unchanged} documents")

    def _count(self, operations: list[Put | Finish]) -> None:
        if operations:
            changes = self._writer.apply(operations)
            self.added += changes.added
            self.replaced += changes.replaced
            self.removed += changes.removed


class _Parts:
    """What was seen of the file that is being read: how many documents, their keys if they are few, any flaw."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.documents = 0
        self.keys: list[str] = []
        self.clean = True


def _kilo(count: int) -> int:
    """`count` bytes in kilobytes, rounded up, so that no file is nothing."""
    return -(-count // 1000)
