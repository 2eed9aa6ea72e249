"""From files to what is written: read, cut and count the words. The same in the main process and in others.

    Files  ──┐                      ┌─ Put      to be stored
    Lines  ──┼─ Preparer(task) ─────┼─ Same     stored already
    Rows   ──┘     one Done a file  └─ Skipped  named, and left out

A piece of work says where something lies; whoever takes it reads it. What is stored already is asked of the database,
which any number of processes may read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from farfield.retrieval.chunks import VERSION, Offsets, cut
from farfield.retrieval.digests import content, digest
from farfield.retrieval.documents import Document, Skipped, read_documents, read_lines
from farfield.retrieval.documents.document import too_large
from farfield.retrieval.documents.lines import parse_entry
from farfield.retrieval.settings import ChunkConfig, IngestConfig
from farfield.retrieval.store import Snapshot, Store
from farfield.retrieval.writing import Put, count_words

__all__ = [
    "Done",
    "Files",
    "Item",
    "Lines",
    "Preparation",
    "Preparer",
    "Rows",
    "Same",
    "Task",
    "file_mark",
    "read_part",
]

BLOCK = 1 << 20


@dataclass(frozen=True)
class Files:
    """Files that are read as a whole."""

    paths: tuple[str, ...]


@dataclass(frozen=True)
class Lines:
    """`length` bytes of JSON lines from `offset` on; the first line has the number `first`."""

    path: str
    offset: int
    length: int
    first: int


@dataclass(frozen=True)
class Rows:
    """Rows of a data set, the first of them the number `first`."""

    path: str
    first: int
    entries: tuple[dict[str, object], ...]


Task = Files | Lines | Rows


@dataclass(frozen=True)
class Same:
    """A document that is stored as it is."""

    key: str


Item = tuple[int, Put | Same | Skipped]
"""What became of a document, and its line where it has one."""


@dataclass(frozen=True)
class Done:
    """What was found in (a part of) the file `path`.

    Attributes:
        items: its documents that are new or must be looked at.
        unchanged: how many documents a file holds of which nothing changed.
        mark: the digest of a file of which nothing follows; None where more does.
        emptied: whether the file has nothing in it.
        whole: whether these are all documents of the file.
        bytes: how many were read; of a data set, rows.
    """

    path: str
    items: tuple[Item, ...] = ()
    unchanged: int = 0
    mark: bytes | None = None
    emptied: bool = False
    whole: bool = False
    bytes: int = 0


@dataclass(frozen=True)
class Preparation:
    """How documents of one ingest are prepared: all that another process needs to know.

    `marks` are what a document's digest holds beside the document: other settings store it anew.
    """

    folder: Path
    index: str
    chunk: ChunkConfig
    encoding: str
    duplicates: bool
    largest: int
    offsets: Offsets | None
    marks: tuple[object, ...]

    @classmethod
    def of(cls, settings: IngestConfig, folder: Path, offsets: Offsets | None) -> Preparation:
        """What `settings` say about it."""
        keeps = settings.duplicates == "keep"
        chunk = json.dumps(settings.chunk.mapping() | {"tokenizer": offsets and offsets.name}, sort_keys=True)
        return cls(
            folder,
            settings.index,
            settings.chunk,
            settings.encoding,
            keeps,
            settings.largest,
            offsets,
            marks=(VERSION, chunk, settings.encoding, keeps),
        )


class Preparer:
    """Does pieces of work, one after another."""

    def __init__(self, preparation: Preparation) -> None:
        self.preparation = preparation
        self._store = Store(preparation.folder, preparation.index)

    def __call__(self, task: Task) -> list[Done]:
        """What each file of a piece of work holds."""
        with closing(self._store), self._store.reading() as snapshot:
            if isinstance(task, Files):
                return [self._file(Path(path), snapshot) for path in task.paths]
            documents = _rows(task) if isinstance(task, Rows) else read_part(task, self.preparation)
            bytes_read = task.length if isinstance(task, Lines) else len(task.entries)
            return [Done(task.path, tuple(self._items(task.path, documents, snapshot)), bytes=bytes_read)]

    def _file(self, path: Path, snapshot: Snapshot) -> Done:
        """What a file holds that is read as a whole."""
        name = path.as_posix()
        try:
            size = path.stat().st_size
            if size > self.preparation.largest:
                return Done(name, ((0, Skipped(name, too_large(size, self.preparation.largest))),), bytes=size)
            data = path.read_bytes()
        except OSError as error:
            return Done(name, ((0, Skipped(name, f"cannot be read ({error.strerror})")),))
        mark = digest(data, path.suffix.lower(), *self.preparation.marks)
        stored = snapshot.documents(name)
        if stored and snapshot.mark(name) == mark:
            return Done(name, unchanged=len(stored), bytes=len(data))
        documents = ((0, item) for item in read_documents(path, data, self.preparation.encoding))
        items = tuple(self._items(name, documents, snapshot))
        return Done(name, items, mark=mark, emptied=not data.strip(), whole=True, bytes=len(data))

    def _items(
        self, path: str, documents: Iterable[tuple[int, Document | Skipped]], snapshot: Snapshot
    ) -> Iterator[Item]:
        """What is to be done with each document: those that are stored as they are need not be cut."""
        found = list(documents)
        stored = snapshot.digests(path, [item.key for _, item in found if isinstance(item, Document)])
        for number, item in found:
            yield number, item if isinstance(item, Skipped) else self._prepared(path, item, stored)

    def _prepared(self, path: str, document: Document, stored: Mapping[str, bytes]) -> Put | Same:
        preparation = self.preparation
        about = json.dumps(document.metadata, sort_keys=True), repr(document.headings), repr(document.pages)
        mark = digest(document.title, document.text, document.kind, *about, *self.preparation.marks)
        if stored.get(document.key) == mark:
            return Same(document.key)
        chunks = cut(document.text, preparation.chunk, document.headings, document.pages, preparation.offsets)
        return Put(
            path,
            document.key,
            document.title,
            mark,
            chunks,
            document.kind,
            document.metadata,
            None if preparation.duplicates else content(document.text),
            count_words(document.title, chunks),
        )


def read_part(task: Lines, preparation: Preparation) -> Iterator[tuple[int, Document | Skipped]]:
    """The documents on some lines of a file."""
    try:
        with Path(task.path).open("rb") as file:
            file.seek(task.offset)
            data = file.read(task.length)
    except OSError as error:
        yield 0, Skipped(task.path, f"cannot be read ({error.strerror})")
        return
    yield from read_lines(task.path, data, preparation.encoding, task.first, preparation.largest)


def _rows(task: Rows) -> Iterator[tuple[int, Document | Skipped]]:
    for number, entry in enumerate(task.entries, task.first):
        try:
            yield number, parse_entry(entry, f"row {number}")
        except ValueError as error:
            yield number, Skipped(f"{task.path}:{number}", str(error))


def file_mark(path: Path, marks: Sequence[object]) -> bytes:
    """The digest of a file of any size and of the settings.

    Raises:
        OSError: it cannot be read.
    """
    checksum = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            checksum.update(block)
    return digest(checksum.digest(), path.suffix.lower(), *marks)
