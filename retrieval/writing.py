"""Changes of an index's database: one writer at a time, every change whole or not at all.

The writer holds a lock for as long as it lives; the system frees it when the process ends, however it ends. Documents
are written in groups, one transaction a group, synced to the disk before it is reported. The lock is an empty SQLite
file held exclusively: the one kind of lock that the standard library has on every system.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from farfield.config import IndexingError
from farfield.retrieval.chunks import Chunk
from farfield.retrieval.digests import digest
from farfield.retrieval.embedders import Embedder
from farfield.retrieval.filters import Metadata, facts
from farfield.retrieval.settings import EmbedderConfig
from farfield.retrieval.store import SCHEMA, Snapshot, Store, check_schema, connect, embedded, guard, made_with
from farfield.retrieval.words import BAG, bag, words

__all__ = ["Changes", "Counted", "Finish", "LockedError", "Put", "Writer", "count_words", "lock", "maker"]

LOCK = "writer.lock"
PLAIN_TEXT = "A plain text."
"""What every embedder that works makes a vector of."""


class Counted(NamedTuple):
    """The words of a chunk, one after another, and as a bag."""

    words: str
    bag: bytes


@dataclass(frozen=True)
class Put:
    """Store a document, in place of the one that has its file and key.

    Attributes:
        digest: changes with anything that would store it otherwise.
        content: the same for the same text (`digests.content`): of several documents that share it, the first by path
            and key is searched, and the others are its duplicates. None: it is searched in any case.
        metadata: what filters find it by.
        counted: the words of each chunk (`count_words`), where they have been counted already.
    """

    path: str
    key: str
    title: str
    digest: bytes
    chunks: Sequence[Chunk]
    kind: str = "text"
    metadata: Metadata = field(default_factory=dict)
    content: bytes | None = None
    counted: Sequence[Counted] = ()


@dataclass(frozen=True)
class Finish:
    """A file is stored to its end: documents whose keys are not among `keys` leave, and so does a file without any.

    `keys` are None for a file whose keys the writer has noted (`Writer.note`): there may be any number of them.
    """

    path: str
    digest: bytes | None
    keys: frozenset[str] | None


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
        self.unembedded = 0
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
        with guard(self.name):
            first = set(map(id, self._firsts(operations)))
        puts = [operation for operation in operations if isinstance(operation, Put) and id(operation) in first]
        entries = dict(zip(map(id, puts), self._entries(puts), strict=True))
        with guard(self.name), self._transaction():
            change = _Change(self._connection, self._entries, self.embedder.version)
            for operation in operations:
                if isinstance(operation, Put):
                    change.put(operation, entries.get(id(operation)))
                else:
                    change.finish(operation)
            return change.settle()

    def renew(self, count: int) -> int:
        """Embeds up to `count` chunks anew that other weights embedded; how many. They are on the disk afterwards."""
        with self.reading() as snapshot:
            stale = snapshot.stale_texts(self.embedder.version, count)
        extras = self._kept(list(stale.values()))
        with guard(self.name), self._transaction():
            for chunk, extra in zip(stale, extras, strict=True):
                fields = self._connection.execute(
                    'SELECT start, "end", page, heading, text, bag FROM chunks WHERE id = ?', (chunk,)
                ).fetchone()
                self._connection.execute(
                    "UPDATE chunks SET extra = ?, version = ?, digest = ? WHERE id = ?",
                    (extra, self.embedder.version, digest(*fields, extra), chunk),
                )
            if stale:
                self._connection.execute("UPDATE state SET generation = generation + 1")
        return len(stale)

    def note(self, path: str, key: str, line: int) -> int:
        """Notes that a document is on a line of a file; the line where it was noted first.

        What is noted of a file is forgotten with its `Finish`. It lies on the disk, so that it may be any number.
        """
        with guard(self.name):
            self._connection.execute("INSERT OR IGNORE INTO noted VALUES (?, ?, ?)", (path, key, line))
            row = self._connection.execute("SELECT line FROM noted WHERE path = ? AND key = ?", (path, key)).fetchone()
            return int(row[0])

    def _prepare(self) -> None:
        """Makes the tables of a new database; checks those of an old one, and that its embedder is ours."""
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA cache_size = -8192")
        if not self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            with self._transaction():
                for statement in SCHEMA.strip().split(";\n"):
                    self._connection.execute(statement)
                self._connection.execute(
                    "INSERT INTO state VALUES (1, ?, ?, ?, 0, 0, 0)",
                    (uuid.uuid4().hex, self.embedder.name, self._settings),
                )
        self._connection.execute(
            "CREATE TEMP TABLE noted (path TEXT, key TEXT, line INTEGER, PRIMARY KEY (path, key)) WITHOUT ROWID"
        )
        check_schema(self._connection, self.name)
        made_by = Snapshot(self._connection, self.name).state.embedder
        if made_by != self.embedder.name:
            raise IndexingError(
                f"index '{self.name}' was made by embedder '{made_by}'; '{self.embedder.name}' given."
                " Give the same, or another index."
            )
        # A model that was moved: its name is the same, and where it lies now is what the next reader needs.
        with self._transaction():
            self._connection.execute("UPDATE state SET settings = ? WHERE settings IS NOT ?1", (self._settings,))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.rollback()
            raise

    def _firsts(self, operations: Sequence[Put | Finish]) -> Iterator[Put]:
        """The documents whose content no other has: only these need to be embedded at once."""
        seen: set[bytes] = set()
        for one in operations:
            if not isinstance(one, Put):
                continue
            if one.content is None or (one.content not in seen and not self._has_other(one)):
                yield one
            seen.add(one.content or b"")

    def _has_other(self, document: Put) -> bool:
        """Whether another document of the same content is stored."""
        row = self._connection.execute(
            "SELECT 1 FROM documents JOIN files ON files.id = file WHERE content = ? AND NOT (path = ? AND key = ?)",
            (document.content, document.path, document.key),
        ).fetchone()
        return row is not None

    def _kept(self, texts: Sequence[str]) -> list[bytes | None]:
        """What the embedder keeps of each text; nothing (b""), counted as `unembedded`, where it makes no vector.

        Raises:
            IndexingError: it makes a vector of no text at all.
        """
        try:
            return list(self.embedder.keep(texts))
        except IndexingError:
            if len(texts) == 1:
                self.embedder.keep([PLAIN_TEXT])
                self.unembedded += 1
                return [b""]
        middle = len(texts) // 2
        return self._kept(texts[:middle]) + self._kept(texts[middle:])

    def _entries(self, puts: Sequence[Put]) -> list[list[Entry]]:
        """The chunks of each document, counted and embedded."""
        extras = iter(
            self._kept([embedded(chunk.heading, put.title, chunk.text) for put in puts for chunk in put.chunks])
        )
        return [
            [
                Entry(chunk, *counted, next(extras))
                for chunk, counted in zip(put.chunks, put.counted or count_words(put.title, put.chunks), strict=True)
            ]
            for put in puts
        ]


def maker(
    folder: Path, name: str, given: Embedder | None, build: Callable[[EmbedderConfig], Embedder]
) -> tuple[Embedder, str | None]:
    """The embedder that made the index in `folder`, and its settings: the one given, or the one that it describes.

    Raises:
        IndexingError: it was made by one that was handed in, and none is.
    """
    with closing(Store(folder, name)) as store, store.reading() as snapshot:
        state = snapshot.state
    return given or build(made_with(state, name)), state.settings


def count_words(title: str, chunks: Sequence[Chunk]) -> list[Counted]:
    """The words of each chunk of a document, with those of what stands above it."""
    found = [words(embedded(chunk.heading, title, chunk.text)) for chunk in chunks]
    return [Counted(" ".join(one), bag(one)) for one in found]


class _Change:
    """One transaction's worth of changes, and what they add up to."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        entries: Callable[[Sequence[Put]], Sequence[Sequence[Entry]]],
        version: str,
    ) -> None:
        self._connection, self._entries, self._version = connection, entries, version
        self._shared: set[bytes] = set()
        self._files: dict[str, int] = {}
        self._chunks: list[tuple[object, ...]] = []
        self._words: list[tuple[int, str]] = []
        self._new: list[bytes] = []
        self._old: list[bytes] = []
        self._added = self._replaced = self._removed = 0
        last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'chunks'").fetchone()
        self._last = int(last[0]) if last else 0

    def put(self, document: Put, entries: Sequence[Entry] | None) -> None:
        """Stores a document, as a spare if there are no `entries`; its file counts as unfinished from here on."""
        file = self._file(document.path)
        old = self._connection.execute(
            "SELECT id FROM documents WHERE file = ? AND key = ?", (file, document.key)
        ).fetchone()
        if old:
            self._drop(old[0])
            self._replaced += 1
        else:
            self._added += 1
        fields = (document.key, document.title, document.digest, document.kind, json.dumps(dict(document.metadata)))
        length = document.chunks[-1].end if document.chunks else 0
        number = self._connection.execute(
            "INSERT INTO documents (file, key, title, digest, kind, metadata, length, content)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (file, *fields, length, document.content),
        ).lastrowid
        self._connection.executemany(
            "INSERT INTO facts VALUES (?, ?, ?)", [(*fact, number) for fact in facts(document.metadata)]
        )
        if entries is None:
            self._spare(number, document.chunks)
            self._shared.add(document.content or b"")
        else:
            self._fill(number, entries)

    def finish(self, file: Finish) -> None:
        """Removes the documents that a file no longer holds, and a file that holds none."""
        for number in self._left(file):
            self._drop(number)
            self._removed += 1
        self._connection.execute("DELETE FROM noted WHERE path = ?", (file.path,))
        self._connection.execute("UPDATE files SET digest = ? WHERE path = ?", (file.digest, file.path))
        self._connection.execute(
            "DELETE FROM files WHERE path = ? AND id NOT IN (SELECT file FROM documents)", (file.path,)
        )

    def _left(self, file: Finish) -> list[int]:
        """The documents that a file no longer holds."""
        sql, parameters = "SELECT key FROM noted WHERE noted.path = ?", file.path
        if file.keys is not None:
            sql, parameters = "SELECT value FROM json_each(?)", json.dumps(list(file.keys))
        rows = self._connection.execute(
            f"SELECT documents.id FROM documents JOIN files ON files.id = file WHERE path = ? AND key NOT IN ({sql})",
            (file.path, parameters),
        )
        return [row[0] for row in rows]

    def settle(self) -> Changes:
        """Writes the chunks, and brings frequencies, totals and the generation up to date."""
        for content in sorted(self._shared):
            self._choose(content)
        self._flush()
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

    def _flush(self) -> None:
        """Writes the chunks that wait."""
        self._connection.executemany(
            'INSERT INTO chunks (id, document, start, "end", page, heading, text, bag, extra, version,'
            " digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            self._chunks,
        )
        self._connection.executemany("INSERT INTO lexicon (rowid, words) VALUES (?, ?)", self._words)
        self._chunks, self._words = [], []

    def _choose(self, content: bytes) -> None:
        """Of the documents with one content, lets the first by path and key be searched, and no other."""
        rows = self._connection.execute(
            "SELECT documents.id, path, key, title, spares.chunks FROM documents JOIN files ON files.id = file"
            " LEFT JOIN spares ON spares.document = documents.id WHERE content = ? ORDER BY path, key",
            (content,),
        ).fetchall()
        if not rows:
            return
        first = rows[0][0]
        for number in [row[0] for row in rows[1:] if row[4] is None]:
            self._flush()
            self._spare(number, self._chunks_of(number))
            self._empty(number)
        if rows[0][4] is not None:
            self._wake(*rows[0])
        self._connection.execute(
            "UPDATE documents SET original = nullif(?, id) WHERE content = ? AND original IS NOT nullif(?, id)",
            (first, content, first),
        )

    def _wake(self, number: int, path: str, key: str, title: str, packed: bytes) -> None:
        """A spare becomes a document that is searched."""
        chunks = [Chunk(*fields) for fields in json.loads(zlib.decompress(packed))]
        (entries,) = self._entries([Put(path, key, title, b"", chunks)])
        self._connection.execute("DELETE FROM spares WHERE document = ?", (number,))
        self._fill(number, entries)

    def _spare(self, document: int | None, chunks: Sequence[Chunk]) -> None:
        """Keeps the chunks of a document where no search finds them."""
        fields = [(one.start, one.end, one.heading, one.text, one.page) for one in chunks]
        packed = zlib.compress(json.dumps(fields, ensure_ascii=False).encode(), 1)
        self._connection.execute("INSERT INTO spares VALUES (?, ?)", (document, packed))

    def _chunks_of(self, document: int) -> list[Chunk]:
        rows = self._connection.execute(
            'SELECT start, "end", heading, text, page FROM chunks WHERE document = ? ORDER BY start', (document,)
        )
        return [Chunk(*row) for row in rows]

    def _file(self, path: str) -> int:
        """The id of a file, which is marked as unfinished."""
        if path not in self._files:
            self._connection.execute("INSERT OR IGNORE INTO files (path) VALUES (?)", (path,))
            self._connection.execute("UPDATE files SET digest = NULL WHERE path = ?", (path,))
            row = self._connection.execute("SELECT id FROM files WHERE path = ?", (path,)).fetchone()
            self._files[path] = int(row[0])
        return self._files[path]

    def _fill(self, document: int | None, entries: Iterable[Entry]) -> None:
        """Lists the chunks of a document to be written."""
        for entry in entries:
            self._last += 1
            chunk = entry.chunk
            fields = (chunk.start, chunk.end, chunk.page, chunk.heading, chunk.text, entry.bag, entry.extra)
            self._chunks.append((self._last, document, *fields, self._version, digest(*fields)))
            self._words.append((self._last, entry.words))
            self._new.append(entry.bag)

    def _drop(self, document: int) -> None:
        """Deletes a document. If others share its content, one of them is searched in its place when all is settled."""
        self._empty(document)
        content = self._connection.execute("SELECT content FROM documents WHERE id = ?", (document,)).fetchone()[0]
        if content is not None:
            self._shared.add(content)
        self._connection.execute("DELETE FROM documents WHERE id = ?", (document,))

    def _empty(self, document: int) -> None:
        """Deletes the chunks of a document."""
        rows = self._connection.execute("SELECT id, bag FROM chunks WHERE document = ?", (document,)).fetchall()
        self._old.extend(row[1] for row in rows)
        self._connection.executemany("DELETE FROM lexicon WHERE rowid = ?", [row[:1] for row in rows])
        self._connection.execute("DELETE FROM chunks WHERE document = ?", (document,))


def _terms(bags: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """The terms of all bags, one after another."""
    return np.ascontiguousarray(np.frombuffer(b"".join(bags), BAG)["term"])
