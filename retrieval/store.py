"""The database of an index: files, documents, chunks and word frequencies, in SQLite. It is the truth.

    state        one row: identity, embedder, generation (grows with every change), totals
    files        path, digest of its bytes and of the settings it was cut with (none while it is being stored)
      documents  key within the file, title, digest, kind, metadata (JSON), length, digest of the content
        chunks   span, page, heading, text, bag of words, the embedder's own bytes, digest of all of these;
                   version of the embedder's weights
        spares   of a duplicate, in place of chunks: what they will be when its original is gone
        facts    the metadata again, by name and value, for filters
    terms        term -> in how many chunks it occurs
    lexicon      full-text index (FTS5, BM25, Porter stems) over the words of each chunk; its rowid is the chunk's id

One process writes, any number read (write-ahead log). A reader sees one generation for as long as its snapshot is open.
Chunk ids are never used twice, so an id from an older generation is either the same chunk or gone.
"""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from farfield.config import Config, IndexingError, read
from farfield.retrieval.digests import digest
from farfield.retrieval.embedders import Kept
from farfield.retrieval.filters import Filter, Metadata, condition
from farfield.retrieval.settings import EmbedderConfig
from farfield.retrieval.words import Frequencies, term

__all__ = [
    "DATABASE",
    "Duplicate",
    "Passage",
    "Place",
    "Snapshot",
    "State",
    "Store",
    "connect",
    "embedded",
    "guard",
    "made_with",
]

DATABASE = "documents.sqlite"
APPLICATION = 0x46524644
SCHEMA_VERSION = 2
BUSY_SECONDS = 10.0
QUESTION_WORDS = 64
DAMAGE = ("malformed", "not a database", "corrupt", "decode", "constructor failed", "no such table", "constraint")

SCHEMA = f"""
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1), database TEXT NOT NULL, embedder TEXT NOT NULL, settings TEXT,
    generation INTEGER NOT NULL, documents INTEGER NOT NULL, chunks INTEGER NOT NULL);
CREATE TABLE files (id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, digest BLOB);
CREATE TABLE documents (
    id INTEGER PRIMARY KEY, file INTEGER NOT NULL REFERENCES files ON DELETE CASCADE,
    key TEXT NOT NULL, title TEXT NOT NULL, digest BLOB NOT NULL, kind TEXT NOT NULL, metadata TEXT NOT NULL,
    length INTEGER NOT NULL, content BLOB, original INTEGER, UNIQUE (file, key));
CREATE INDEX contents ON documents (content) WHERE content IS NOT NULL;
CREATE TABLE facts (
    name TEXT NOT NULL, value TEXT NOT NULL, document INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE,
    PRIMARY KEY (name, value, document)) WITHOUT ROWID;
CREATE INDEX fact_documents ON facts (document);
CREATE TABLE spares (document INTEGER PRIMARY KEY REFERENCES documents ON DELETE CASCADE, chunks BLOB NOT NULL);
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE,
    start INTEGER NOT NULL, "end" INTEGER NOT NULL, page INTEGER, heading TEXT NOT NULL, text TEXT NOT NULL,
    bag BLOB NOT NULL, extra BLOB, version TEXT NOT NULL, digest BLOB NOT NULL, UNIQUE (document, start));
CREATE INDEX chunk_versions ON chunks (version);
CREATE TABLE terms (term INTEGER PRIMARY KEY, chunks INTEGER NOT NULL);
CREATE VIRTUAL TABLE lexicon USING fts5 (words, tokenize = 'porter unicode61 remove_diacritics 0');
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {SCHEMA_VERSION};
"""


@dataclass(frozen=True)
class State:
    """What the database says about itself."""

    database: str
    embedder: str
    settings: str | None
    generation: int
    documents: int
    chunks: int


class _Made(Config):
    """What the database says of how its vectors are made."""

    embedder: EmbedderConfig


def made_with(state: State, name: str) -> EmbedderConfig:
    """The settings of the embedder that made the index `name`.

    Raises:
        IndexingError: it was handed in, and is known by its name alone.
    """
    if state.settings is None:
        raise IndexingError(f"index '{name}' was made by embedder '{state.embedder}', which must be given to open it.")
    return read(_Made, {"embedder": json.loads(state.settings)}, f"index '{name}'").embedder


class Place(NamedTuple):
    """Where a chunk stands among all: the order in which ties are broken and vectors are stored."""

    path: str
    key: str
    start: int


@dataclass(frozen=True)
class Passage:
    """A chunk as it is shown: characters `start` to `end` of the document `key` in the file `path`.

    `page` is the page on which it begins, from 1, where its document has pages.
    """

    path: str
    key: str
    title: str
    heading: str
    start: int
    end: int
    text: str
    page: int | None
    metadata: Metadata


class Duplicate(NamedTuple):
    """A document with the same content as another, its original, by whose chunks it is found."""

    path: str
    key: str
    original_path: str
    original_key: str

    def __str__(self) -> str:
        mine, theirs = (f"{path}#{key}" if key else path for path, key in (self[:2], self[2:]))
        return f"{mine} is the same as {theirs}"


def embedded(heading: str, title: str, text: str) -> str:
    """A chunk as it is counted and embedded: below what stands above it."""
    return f"{heading or title}\n{text}"


@contextmanager
def guard(name: str) -> Iterator[None]:
    """Turns whatever SQLite complains about into one line about the index `name`."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise _damaged(name, "text that is not UTF-8") from error
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.Error as error:
        text = str(error)
        if any(sign in text for sign in DAMAGE):
            raise _damaged(name, text) from error
        if "locked" in text:
            raise IndexingError(f"index '{name}' is busy: another process is writing to it. Try again.") from error
        raise IndexingError(f"index '{name}': {DATABASE} cannot be used ({text}).") from error


def _damaged(name: str, what: str) -> IndexingError:
    return IndexingError(
        f"index '{name}': {DATABASE} is damaged ({what})."
        " Restore it from a copy, or delete the index's folder and ingest the documents again."
    )


def connect(folder: Path, mode: str) -> sqlite3.Connection:
    """A connection to the database in `folder`; `mode` is SQLite's (`rw`, `rwc`).

    Where the folder is read-only and no log lies beside the database, the file is opened as one that cannot change.
    """
    file = folder / DATABASE
    fixed = not os.access(folder, os.W_OK) and not file.with_name(DATABASE + "-wal").exists()
    options = "mode=ro&immutable=1" if fixed else f"mode={mode}"
    connection = sqlite3.connect(
        f"{file.resolve().as_uri()}?{options}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def check_schema(connection: sqlite3.Connection, name: str) -> None:
    """Raises an IndexingError unless the database is one of ours, of the schema that this version reads."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if (application, version) == (0, 0):
        raise IndexingError(f"index '{name}' holds no documents. Make it with: farfield ingest path=... index={name}")
    if application != APPLICATION:
        raise IndexingError(f"index '{name}': {DATABASE} is the database of another program.")
    if version != SCHEMA_VERSION:
        raise IndexingError(
            f"index '{name}' has schema {version}; this version reads {SCHEMA_VERSION}. Ingest into a new index."
        )


class Snapshot:
    """One generation of the database, as seen within one read transaction."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self._connection, self._name = connection, name
        row = connection.execute(
            "SELECT database, embedder, settings, generation, documents, chunks FROM state"
        ).fetchone()
        if row is None:
            raise _damaged(name, "it does not say what it holds")
        self.state = State(*row)

    def frequencies(self, terms: Iterable[int] | None = None) -> Frequencies:
        """In how many chunks each of `terms` occurs, or each term that there is."""
        if terms is None:
            rows = self._connection.execute("SELECT term, chunks FROM terms ORDER BY term")
        else:
            rows = self._connection.execute(
                "SELECT term, chunks FROM terms WHERE term IN (SELECT value FROM json_each(?)) ORDER BY term",
                (json.dumps(list(terms)),),
            )
        table = np.fromiter(itertools.chain.from_iterable(rows), np.int64).reshape(-1, 2)
        return Frequencies(self.state.chunks, table[:, 0].copy(), table[:, 1].copy())

    def order(self, version: str) -> npt.NDArray[np.int64]:
        """Ids (chunks,) of all that these weights embedded, in an order that does not tell how the index came about.

        Chunks of which an embedder made no vector (nothing, not NULL) are left out.
        """
        rows = self._connection.execute(
            "SELECT chunks.id FROM files CROSS JOIN documents ON documents.file = files.id"
            " CROSS JOIN chunks ON chunks.document = documents.id"
            " WHERE chunks.version = ? AND extra IS NOT x'' ORDER BY files.path, documents.key, chunks.start",
            (version,),
        )
        return np.fromiter((row[0] for row in rows), np.int64)

    def stale(self, version: str) -> int:
        """How many chunks other weights than these embedded."""
        fresh = self._connection.execute("SELECT count(*) FROM chunks WHERE version = ?", (version,)).fetchone()
        return self.state.chunks - int(fresh[0])

    def stale_texts(self, version: str, count: int) -> dict[int, str]:
        """Up to `count` chunks that other weights than these embedded: id and what is to be embedded."""
        rows = self._connection.execute(
            "SELECT chunks.id, heading, title, text FROM chunks JOIN documents ON documents.id = document"
            " WHERE version < ?1 OR version > ?1 LIMIT ?2",
            (version, count),
        )
        return {row[0]: embedded(*row[1:]) for row in rows}

    def kept(self, ids: Sequence[int]) -> list[Kept]:
        """What is kept of the chunks `ids`, in their order."""
        rows = self._connection.execute(
            'SELECT id, digest, start, "end", page, heading, text, bag, extra, version FROM chunks'
            " WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(ids)),),
        )
        found = {row[0]: Kept(row[7], row[8], row[9]) for row in rows if self._sound(row[1], row[2:9])}
        return [found[one] for one in ids]

    def lexical(
        self, words: Sequence[str], count: int, among: npt.NDArray[np.int64] | None = None
    ) -> list[tuple[int, float]]:
        """The best `count` chunks (id, score) for any of `words` by BM25, the best first; of those `among`, if given.

        Only words and quotes of our own making reach FTS5, so that no question is a syntax error. Words of more than
        half of the chunks weigh nothing in FTS5's BM25; they are left out where others remain, and so are all but
        the 64 rarest: both only cost time.
        """
        known = self.frequencies({term(word) for word in words})
        counts = dict(zip(known.terms.tolist(), known.counts.tolist(), strict=True))
        usable = sorted({word for word in words if term(word) in counts}, key=lambda word: (counts[term(word)], word))
        rare = [word for word in usable if 2 * counts[term(word)] <= known.chunks] or usable
        if not rare:
            return []
        query = " OR ".join(f'"{word}"' for word in rare[:QUESTION_WORDS])
        there, parameters = "", [query]
        if among is not None:
            there, parameters = " AND rowid IN (SELECT value FROM json_each(?))", [query, json.dumps(among.tolist())]
        rows = self._connection.execute(
            f"SELECT rowid, -rank FROM lexicon WHERE lexicon MATCH ?{there} ORDER BY rank, rowid LIMIT ?",
            (*parameters, count),
        )
        return rows.fetchall()

    def places(self, ids: Iterable[int]) -> dict[int, Place]:
        """Where the chunks `ids` stand; those that are not there are left out."""
        rows = self._connection.execute(
            "SELECT chunks.id, files.path, documents.key, chunks.start FROM chunks"
            " JOIN documents ON documents.id = chunks.document JOIN files ON files.id = documents.file"
            " WHERE chunks.id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(ids)),),
        )
        return {row[0]: Place(*row[1:]) for row in rows}

    def passages(self, ids: Sequence[int]) -> list[Passage]:
        """The chunks `ids` in their order."""
        rows = self._connection.execute(
            'SELECT chunks.id, chunks.digest, chunks.start, chunks."end", chunks.page, chunks.heading, chunks.text,'
            " chunks.bag, chunks.extra, files.path, documents.key, documents.title, documents.metadata FROM chunks"
            " JOIN documents ON documents.id = chunks.document JOIN files ON files.id = documents.file"
            " WHERE chunks.id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(ids)),),
        )
        found = {row[0]: _passage(*row[2:]) for row in rows if self._sound(row[1], row[2:9])}
        return [found[one] for one in ids]

    def matching(self, where: Filter) -> npt.NDArray[np.int64]:
        """The ids (chunks,) of all chunks of the documents that `where` means, ascending.

        A duplicate has no chunks: where one is meant, they are those of its original.

        Raises:
            ConfigError: a value in `where` is of no kind that can be compared.
        """
        sql, parameters = condition(where)
        rows = self._connection.execute(
            "SELECT id FROM chunks WHERE document IN (SELECT coalesce(original, documents.id)"
            f" FROM documents JOIN files ON files.id = file WHERE {sql}) ORDER BY id",
            parameters,
        )
        return np.fromiter((row[0] for row in rows), np.int64)

    def standing_in(self, ids: Iterable[int], where: Filter) -> dict[int, Passage]:
        """Of the chunks `ids` those whose document `where` does not mean: as they stand in the duplicate that it means.

        Of several the first by path and key; the span and the words are the duplicate's own.
        """
        sql, parameters = condition(where)
        rows = self._connection.execute(
            "SELECT chunks.id, chunks.start * 1.0 / max(own.length, 1), files.path, documents.key, documents.title,"
            " documents.metadata, documents.length, spares.chunks FROM chunks"
            " JOIN documents own ON own.id = chunks.document JOIN documents ON documents.original = own.id"
            " JOIN files ON files.id = documents.file JOIN spares ON spares.document = documents.id"
            f" WHERE chunks.id IN (SELECT value FROM json_each(?)) AND {sql} AND own.id NOT IN"
            f" (SELECT documents.id FROM documents JOIN files ON files.id = documents.file WHERE {sql})"
            " ORDER BY files.path DESC, documents.key DESC",  # the first comes last, and stays
            (json.dumps(list(ids)), *parameters, *parameters),
        )
        return {row[0]: _spare(*row[1:]) for row in rows}

    def meant(self, where: Filter) -> list[tuple[str, str]]:
        """The documents (path, key) that `where` means, sorted."""
        sql, parameters = condition(where)
        rows = self._connection.execute(
            f"SELECT path, key FROM documents JOIN files ON files.id = file WHERE {sql} ORDER BY path, key", parameters
        )
        return rows.fetchall()

    def duplicates(self) -> list[Duplicate]:
        """All documents that are stored as duplicates of others, by path and key."""
        rows = self._connection.execute(
            "SELECT files.path, documents.key, f.path, d.key FROM documents JOIN files ON files.id = documents.file"
            " JOIN documents d ON d.id = documents.original JOIN files f ON f.id = d.file"
            " ORDER BY files.path, documents.key"
        )
        return [Duplicate(*row) for row in rows]

    def files(self) -> dict[str, bytes | None]:
        """The digest of each stored file, by path; None for one that was not stored to its end."""
        return dict(self._connection.execute("SELECT path, digest FROM files").fetchall())

    def documents(self, path: str) -> dict[str, bytes]:
        """The digest of each document of a file, by key."""
        rows = self._connection.execute(
            "SELECT key, documents.digest FROM documents JOIN files ON files.id = file WHERE path = ?", (path,)
        )
        return dict(rows.fetchall())

    def mark(self, path: str) -> bytes | None:
        """The digest of a stored file; None for one that is not there, or was not stored to its end."""
        row = self._connection.execute("SELECT digest FROM files WHERE path = ?", (path,)).fetchone()
        return row[0] if row else None

    def digests(self, path: str, keys: Sequence[str]) -> dict[str, bytes]:
        """The digests of those of the documents `keys` of a file that are stored."""
        rows = self._connection.execute(
            "SELECT key, documents.digest FROM documents JOIN files ON files.id = file WHERE path = ?"
            " AND key IN (SELECT value FROM json_each(?))",
            (path, json.dumps(list(keys))),
        )
        return dict(rows.fetchall())

    def count(self, table: str) -> int:
        """Rows of one of the database's own tables."""
        return int(self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def _sound(self, expected: bytes, fields: Sequence[object]) -> bool:
        if digest(*fields) != expected:
            raise _damaged(self._name, "a stored passage does not fit its checksum")
        return True


def _passage(
    start: int,
    end: int,
    page: int | None,
    heading: str,
    text: str,
    bag: bytes,
    extra: bytes | None,
    path: str,
    key: str,
    title: str,
    metadata: str,
) -> Passage:
    return Passage(path, key, title, heading, start, end, text, page, json.loads(metadata))


def _spare(place: float, path: str, key: str, title: str, metadata: str, length: int, packed: bytes) -> Passage:
    """Of the chunks that a duplicate keeps aside, the one that begins nearest to this share of its text."""
    kept = json.loads(zlib.decompress(packed))
    start, end, heading, text, page = min(kept, key=lambda fields: abs(fields[0] - place * length))
    return Passage(path, key, title, heading, start, end, text, page, json.loads(metadata))


class Store:
    """Reads the database in `folder`, from any number of threads, and from processes forked off this one."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self._idle: list[sqlite3.Connection] = []
        self._inherited: list[sqlite3.Connection] = []
        self._process = os.getpid()

    @contextmanager
    def reading(self) -> Iterator[Snapshot]:
        """A snapshot of the newest generation, unchanged for as long as the context lasts."""
        with guard(self.name):
            connection = self._borrow()
            try:
                connection.execute("BEGIN")
                yield Snapshot(connection, self.name)
                connection.execute("ROLLBACK")
            except BaseException:
                connection.close()
                raise
            self._idle.append(connection)

    def _borrow(self) -> sqlite3.Connection:
        """A connection that nobody else uses. SQLite forbids to use, and to close, one from before a fork."""
        if self._process != os.getpid():
            self._inherited, self._idle = self._inherited + self._idle, []
            self._process = os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            connection = connect(self.folder, "rw")
        try:
            check_schema(connection, self.name)
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Closes the connections that are not in use."""
        while self._idle and self._process == os.getpid():
            self._idle.pop().close()
