"""Changes of an index's database: one writer at a time, every change whole or not at all.

The writer holds a lock for as long as it lives; the system frees it when the process ends, however it ends. Documents
are written in groups, one transaction a group, synced to the disk before it is reported. The lock is an empty SQLite
file held exclusively: the one kind of lock that the standard library has on every system.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from farfield.config import IndexingError
from farfield.retrieval.chunks import Chunk
from farfield.retrieval.embedders import Embedder
from farfield.retrieval.store import SCHEMA, Snapshot, check_schema, connect, digest, guard
from farfield.retrieval.words import BAG, bag, words

__all__ = ["Changes", "Finish", "LockedError", "Put", "Writer", "lock"]

LOCK = "writer.lock"


@dataclass(frozen=True)
class Put:
    """Store a document, in place of the one that has its file and key."""

    path: str
    key: str
    title: str
    digest: bytes
    chunks: Sequence[Chunk]


@dataclass(frozen=True)
class Finish:
    """A file is stored to its end: documents whose keys are not among `keys` leave, and so does a file without any."""

    path: str
    digest: bytes | None
    keys: frozenset[str]


@dataclass(frozen=True)
class Changes:
    """How many documents a group of operations added, replaced and removed."""

    added: int
    replaced: int
    removed: int


@dataclass(frozen=True)
class Entry:
    """A chunk ready to be written."""

    chunk: Chunk
    words: str
    bag: bytes
    extra: bytes | None


class LockedError(IndexingError):
    """The right to write to an index cannot be had now."""


@contextmanager
def lock(folder: Path, name: str) -> Iterator[None]:
    """Holds the right to write to the index in `folder`.

    Raises:
        LockedError: somebody else holds it, or the folder cannot be written to.
    """
    with ExitStack() as stack:
        try:
            file = sqlite3.connect(folder / LOCK, timeout=0, isolation_level=None, check_same_thread=False)
            stack.enter_context(closing(file))
            file.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            raise LockedError(
                f"index '{name}' is being written by another process. Wait until it has ended."
            ) from error
        yield


class Writer:
    """Writes to the index in `folder`, which is made if it is not there. Use it as a context.

    Raises:
        IndexingError: another process writes, the database cannot be used, or another embedder made it.
    """

    def __init__(self, folder: Path, name: str, embedder: Embedder, settings: str | None) -> None:
        self.folder, self.name, self.embedder = folder, name, embedder
        self._settings = settings
        self._open = ExitStack()
        self._connection: sqlite3.Connection

    def __enter__(self) -> Writer:
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack, guard(self.name):
            stack.enter_context(lock(self.folder, self.name))
            self._connection = stack.enter_context(closing(connect(self.folder, "rwc")))
            self._prepare()
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @contextmanager
    def reading(self) -> Iterator[Snapshot]:
        """What the database holds now; nothing else can change it as long as the writer lives."""
        with guard(self.name):
            yield Snapshot(self._connection, self.name)

    def apply(self, operations: Sequence[Put | Finish]) -> Changes:
        """Carries out `operations` in one transaction. When this returns, they are on the disk."""
        puts = [operation for operation in operations if isinstance(operation, Put)]
        entries = iter(self._entries(puts))
        with guard(self.name), self._transaction():
            change = _Change(self._connection)
            for operation in operations:
                if isinstance(operation, Put):
                    change.put(operation, next(entries))
                else:
                    change.finish(operation)
            return change.settle()

    def _prepare(self) -> None:
        """Makes the tables of a new database; checks those of an old one, and that its embedder is ours."""
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA cache_size = -65536")
        if not self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            with self._transaction():
                for statement in SCHEMA.strip().split(";\n"):
                    self._connection.execute(statement)
                self._connection.execute(
                    "INSERT INTO state VALUES (1, ?, ?, ?, 0, 0, 0)",
                    (uuid.uuid4().hex, self.embedder.name, self._settings),
                )
        check_schema(self._connection, self.name)
        made_by = Snapshot(self._connection, self.name).state.embedder
        if made_by != self.embedder.name:
            raise IndexingError(
                f"index '{self.name}' was made by embedder '{made_by}'; '{self.embedder.name}' given."
                " Give the same, or another index."
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.rollback()
            raise

    def _entries(self, puts: Sequence[Put]) -> list[list[Entry]]:
        """The chunks of each document, counted and embedded; a chunk's words include those of what stands above it."""
        chunks = [(put, chunk) for put in puts for chunk in put.chunks]
        texts = [f"{chunk.heading or put.title}\n{chunk.text}" for put, chunk in chunks]
        extras = iter(self.embedder.keep(texts))
        found = iter([words(text) for text in texts])
        return [
            [Entry(chunk, " ".join(one := next(found)), bag(one), next(extras)) for chunk in put.chunks] for put in puts
        ]


class _Change:
    """One transaction's worth of changes, and what they add up to."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._files: dict[str, int] = {}
        self._chunks: list[tuple[object, ...]] = []
        self._words: list[tuple[int, str]] = []
        self._new: list[bytes] = []
        self._old: list[bytes] = []
        self._added = self._replaced = self._removed = 0
        last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'chunks'").fetchone()
        self._last = int(last[0]) if last else 0

    def put(self, document: Put, entries: Iterable[Entry]) -> None:
        """Stores a document; its file counts as unfinished from here on."""
        file = self._file(document.path)
        old = self._connection.execute(
            "SELECT id FROM documents WHERE file = ? AND key = ?", (file, document.key)
        ).fetchone()
        if old:
            self._drop(old[0])
            self._replaced += 1
        else:
            self._added += 1
        number = self._connection.execute(
            "INSERT INTO documents (file, key, title, digest) VALUES (?, ?, ?, ?)",
            (file, document.key, document.title, document.digest),
        ).lastrowid
        for entry in entries:
            self._chunk(number, entry)

    def finish(self, file: Finish) -> None:
        """Removes the documents that a file no longer holds, and a file that holds none."""
        rows = self._connection.execute(
            "SELECT documents.id, key FROM documents JOIN files ON files.id = file WHERE path = ?", (file.path,)
        ).fetchall()
        for number, key in rows:
            if key not in file.keys:
                self._drop(number)
                self._removed += 1
        if file.keys:
            self._connection.execute("UPDATE files SET digest = ? WHERE path = ?", (file.digest, file.path))
        else:
            self._connection.execute("DELETE FROM files WHERE path = ?", (file.path,))

    def settle(self) -> Changes:
        """Writes the chunks, and brings frequencies, totals and the generation up to date."""
        self._connection.executemany(
            'INSERT INTO chunks (id, document, start, "end", heading, text, bag, extra, digest)'
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            self._chunks,
        )
        self._connection.executemany("INSERT INTO lexicon (rowid, words) VALUES (?, ?)", self._words)
        for bags, sign in ((self._new, 1), (self._old, -1)):
            terms, counts = np.unique(_terms(bags), return_counts=True)
            self._connection.executemany(
                "INSERT INTO terms VALUES (?, ?) ON CONFLICT (term) DO UPDATE SET chunks = chunks + excluded.chunks",
                zip(terms.tolist(), (sign * counts).tolist(), strict=True),
            )
        if self._old:
            self._connection.execute("DELETE FROM terms WHERE chunks = 0")
        if self._added or self._replaced or self._removed:
            self._connection.execute(
                "UPDATE state SET generation = generation + 1, documents = documents + ?, chunks = chunks + ?",
                (self._added - self._removed, len(self._new) - len(self._old)),
            )
        return Changes(self._added, self._replaced, self._removed)

    def _file(self, path: str) -> int:
        """The id of a file, which is marked as unfinished."""
        if path not in self._files:
            self._connection.execute("INSERT OR IGNORE INTO files (path) VALUES (?)", (path,))
            self._connection.execute("UPDATE files SET digest = NULL WHERE path = ?", (path,))
            row = self._connection.execute("SELECT id FROM files WHERE path = ?", (path,)).fetchone()
            self._files[path] = int(row[0])
        return self._files[path]

    def _chunk(self, document: int | None, entry: Entry) -> None:
        self._last += 1
        chunk = entry.chunk
        fields = (chunk.start, chunk.end, chunk.heading, chunk.text, entry.bag, entry.extra)
        self._chunks.append((self._last, document, *fields, digest(*fields)))
        self._words.append((self._last, entry.words))
        self._new.append(entry.bag)

    def _drop(self, document: int) -> None:
        rows = self._connection.execute("SELECT id, bag FROM chunks WHERE document = ?", (document,)).fetchall()
        self._old.extend(row[1] for row in rows)
        self._connection.executemany("DELETE FROM lexicon WHERE rowid = ?", [row[:1] for row in rows])
        self._connection.execute("DELETE FROM documents WHERE id = ?", (document,))


def _terms(bags: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """The terms of all bags, one after another."""
    return np.ascontiguousarray(np.frombuffer(b"".join(bags), BAG)["term"])
