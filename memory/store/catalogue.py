"""What a store holds: an SQLite database of entries, by what they have read, and of sessions.

    entries    a state each: its key, the tokens it has read, bytes, when it was stored and last used
    blocks     of entries that can be cut: the digest behind each whole block of their tokens
    sessions   a conversation each: all its tokens, also where no state of it is held any more

On disk every change is one transaction, synced before it counts (WAL, one writer, any number of readers). The index of
what is in memory is the same database, in memory.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from farfield.config import StoreError
from farfield.memory.store.chain import BLOCK, Ids, chain, shared, whole
from farfield.memory.store.policies import Held

__all__ = ["Catalogue", "Entry", "Match", "Session"]

VERSION = 1
SCHEMA = """
CREATE TABLE entries (
    key TEXT PRIMARY KEY, seed TEXT NOT NULL, chain TEXT NOT NULL, length INTEGER NOT NULL, tokens BLOB NOT NULL,
    cuttable INTEGER NOT NULL, session TEXT, bytes INTEGER NOT NULL, stored REAL NOT NULL, used REAL NOT NULL
);
CREATE INDEX entries_chain ON entries (chain);
CREATE INDEX entries_session ON entries (session);
CREATE TABLE blocks (
    digest TEXT NOT NULL, key TEXT NOT NULL REFERENCES entries (key) ON DELETE CASCADE, number INTEGER NOT NULL,
    PRIMARY KEY (digest, key)
) WITHOUT ROWID;
CREATE INDEX blocks_key ON blocks (key);
CREATE TABLE sessions (
    name TEXT PRIMARY KEY, model TEXT NOT NULL, seed TEXT NOT NULL, tokens BLOB NOT NULL
)
"""


@dataclass(frozen=True, eq=False)
class Entry:
    """A state and the tokens (length,) it has read. `cuttable`: it holds the states behind shorter beginnings too."""

    key: str
    seed: str
    tokens: Ids
    cuttable: bool
    session: str | None

    @staticmethod
    def of(seed: str, tokens: Ids, cuttable: bool = False, session: str | None = None) -> Entry:
        """The entry of a state that has read `tokens`, by the model that `seed` stands for."""
        return Entry(whole(chain(seed, tokens), tokens, len(tokens)), seed, tokens, cuttable, session)


@dataclass(frozen=True)
class Match:
    """An entry, and how many tokens of a prompt its state has read; `cut`: it has read more, and is to be cut."""

    key: str
    count: int
    cut: bool


@dataclass(frozen=True, eq=False)
class Session:
    """A conversation: the model that it was held with, the seed of its states, and all its tokens (length,)."""

    name: str
    model: str
    seed: str
    tokens: Ids


class Catalogue:
    """See the file's head. Safe to use from several threads."""

    def __init__(self, file: Path | None, writing: bool = True) -> None:
        """The database in `file`, made where there is none; None: in memory.

        Raises:
            StoreError: it is damaged, of another version, or there is none to read.
        """
        self.name = "memory" if file is None else str(file)
        self._lock, self._writing = threading.RLock(), writing
        self._used: dict[str, float] = {}
        if file is not None and not writing and not file.is_file():
            raise StoreError(f"{file}: no such file, so that there is nothing to read.")
        with self._guard():
            self._db = sqlite3.connect(file or ":memory:", timeout=30, isolation_level=None, check_same_thread=False)
            self._prepare()

    def close(self) -> None:
        """Writes down what was used last, and closes the database."""
        with self._lock, self._guard():
            if self._writing and self._used:
                with self._transaction():
                    pass
            self._db.close()

    def find(self, links: Sequence[str], tokens: Ids, skip: frozenset[str] = frozenset()) -> Match | None:
        """The state that has read the longest beginning of `tokens`, whose chain is `links`.

        A state that has to be cut is cut before the last token: what came behind it there is not known.
        """
        with self._lock, self._guard():
            exact, cut = self._exact(links, tokens, skip), self._cuttable(links, tokens, skip)
        return max((one for one in (exact, cut) if one), key=lambda one: one.count, default=None)

    def entry(self, key: str) -> Entry | None:
        """The entry of this key."""
        with self._lock, self._guard():
            row = self._db.execute(
                "SELECT key, seed, tokens, cuttable, session FROM entries WHERE key = ?", (key,)
            ).fetchone()
        return None if row is None else Entry(row[0], row[1], _ids(row[2]), bool(row[3]), row[4])

    def held(self) -> list[Held]:
        """All entries, in the order of their keys."""
        with self._lock, self._guard():
            rows = self._db.execute("SELECT key, session, bytes, stored, used FROM entries ORDER BY key").fetchall()
        return [
            Held(key, session, size, stored, self._used.get(key, used)) for key, session, size, stored, used in rows
        ]

    def touch(self, key: str, now: float) -> None:
        """Remembers that an entry was used; written down with the next change."""
        with self._lock:
            self._used[key] = now

    def add(self, entry: Entry, size: int, now: float, without: Iterable[str] = ()) -> None:
        """An entry more, and those of the keys `without` less, in one transaction."""
        links = chain(entry.seed, entry.tokens)
        row = (entry.key, entry.seed, links[-1], len(entry.tokens), entry.tokens.tobytes(), entry.cuttable)
        with self._lock, self._guard(), self._transaction():
            self._delete(without)
            self._db.execute(
                "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, entry.session, size, now, now)
            )
            if entry.cuttable:
                rows = [(digest, entry.key, number) for number, digest in enumerate(links) if number]
                self._db.executemany("INSERT INTO blocks VALUES (?, ?, ?)", rows)

    def share(self, key: str) -> None:
        """An entry is no longer its session's alone, so that it stays when the session goes on."""
        with self._lock, self._guard(), self._transaction():
            self._db.execute("UPDATE entries SET session = NULL WHERE key = ?", (key,))

    def remove(self, keys: Iterable[str]) -> None:
        """Entries less, in one transaction."""
        with self._lock, self._guard(), self._transaction():
            self._delete(keys)

    def session(self, name: str) -> Session | None:
        """The session of this name."""
        with self._lock, self._guard():
            row = self._db.execute("SELECT name, model, seed, tokens FROM sessions WHERE name = ?", (name,)).fetchone()
        return None if row is None else Session(row[0], row[1], row[2], _ids(row[3]))

    def sessions(self) -> list[str]:
        """The names of all sessions, sorted."""
        with self._lock, self._guard():
            return [row[0] for row in self._db.execute("SELECT name FROM sessions ORDER BY name")]

    def record(self, session: Session) -> None:
        """Writes down a session, in the place of what was there of this name."""
        row = (session.name, session.model, session.seed, session.tokens.tobytes())
        with self._lock, self._guard(), self._transaction():
            self._db.execute("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?)", row)

    def _prepare(self) -> None:
        self._db.execute("PRAGMA foreign_keys = ON")
        if not self._writing:
            self._db.execute("PRAGMA query_only = ON")
        else:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            if not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                with self._transaction():
                    for statement in SCHEMA.split(";\n"):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version = {VERSION}")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version != VERSION:
            raise StoreError(f"{self.name}: of format {version}, and this version of Farfield reads {VERSION}.")

    def _exact(self, links: Sequence[str], tokens: Ids, skip: frozenset[str]) -> Match | None:
        """The longest state that has read a beginning of `tokens` and nothing else."""
        found = self._db.execute(
            "SELECT key, length FROM entries WHERE chain IN (SELECT value FROM json_each(?)) AND length <= ?"
            " ORDER BY length DESC",
            (json.dumps(links), len(tokens)),
        )
        digests: dict[int, str] = {}
        for key, length in found:
            if length not in digests:
                digests[length] = whole(links, tokens, length)
            if digests[length] == key and key not in skip:
                return Match(key, length, False)
        return None

    def _cuttable(self, links: Sequence[str], tokens: Ids, skip: frozenset[str]) -> Match | None:
        """Of the states that can be cut, the one that has most in common with `tokens`; a block at least."""
        found = self._db.execute(
            "SELECT key, number FROM blocks WHERE digest IN (SELECT value FROM json_each(?)) ORDER BY number DESC, key",
            (json.dumps(links[1:]),),
        )
        best: Match | None = None
        deepest = 0
        for key, number in found:
            if number < deepest:
                break
            if key in skip:
                continue
            deepest = number
            theirs = _ids(self._db.execute("SELECT tokens FROM entries WHERE key = ?", (key,)).fetchone()[0])
            begin = number * BLOCK
            count = min(begin + shared(tokens[begin:], theirs[begin:]), len(tokens) - 1)
            if best is None or count > best.count:
                best = Match(key, count, True)
        return best

    def _delete(self, keys: Iterable[str]) -> None:
        self._db.executemany("DELETE FROM entries WHERE key = ?", [(key,) for key in keys])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """One change, with the times of use since the last one."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            used = [(now, key) for key, now in self._used.items()]
            if used:
                self._db.executemany("UPDATE entries SET used = ? WHERE key = ?", used)
            self._db.execute("COMMIT")
        except BaseException:
            self._db.rollback()
            raise
        self._used.clear()

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """One line for what SQLite cannot do."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            what = "locked by another process" if "locked" in str(error) else f"damaged or not writable: {error}"
            raise StoreError(f"{self.name}: {what}.") from None


def _ids(content: Any) -> Ids:
    return np.frombuffer(content, dtype="<i4")
