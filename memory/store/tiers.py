"""A tier of a store: a shelf with a budget in bytes, in memory or on disk, and the index of what stands on it.

At no time does a tier hold more bytes than its budget: what has to go goes before the new state comes. Of a session
whose state is replaced, the old one stays until the new one is there, where the budget has room for both.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from farfield.config import StoreError
from farfield.memory.store.catalogue import Catalogue, Entry
from farfield.memory.store.files import Part, StateFile, serialised, write_whole
from farfield.memory.store.policies import Held, Policy, expired, lru, victims

__all__ = ["DiskShelf", "Eviction", "MemoryShelf", "Shelf", "Tier", "disk_tier", "memory_tier", "size"]

INDEX, STATES, LOCK = "index.sqlite", "states", "writer.lock"

P = TypeVar("P")


@dataclass
class Eviction:
    """Who goes: a policy, the seconds unused after which any state goes, and the sessions that are expected."""

    policy: Policy = lru
    ttl: float | None = None
    queue: Sequence[str] = field(default_factory=tuple)


class Shelf(Protocol[P]):
    """Where states stand by key. A P is a state made ready for it."""

    def ready(self, key: str, parts: Sequence[Part]) -> P: ...

    def size(self, made: P) -> int:
        """Bytes that it will take."""

    def write(self, key: str, made: P) -> None: ...

    def read(self, key: str) -> Sequence[Part]:
        """The parts of a state.

        Raises:
            DamagedError: it is not what was stored.
        """

    def delete(self, key: str) -> None: ...

    def close(self) -> None: ...


def size(parts: Sequence[Part]) -> int:
    """Bytes of the tensors."""
    return sum(tensor.numel() * tensor.element_size() for part in parts for tensor in part.values())


class MemoryShelf:
    """Tensors as they are."""

    def __init__(self) -> None:
        self._states: dict[str, Sequence[Part]] = {}

    def ready(self, key: str, parts: Sequence[Part]) -> Sequence[Part]:
        return parts

    def size(self, made: Sequence[Part]) -> int:
        return size(made)

    def write(self, key: str, made: Sequence[Part]) -> None:
        self._states[key] = made

    def read(self, key: str) -> Sequence[Part]:
        return self._states[key]

    def delete(self, key: str) -> None:
        del self._states[key]

    def close(self) -> None:
        self._states.clear()


class DiskShelf:
    """A file each, for one writer at a time and any number of readers."""

    def __init__(self, folder: Path, writing: bool) -> None:
        """The files in `folder`; to write there, nobody else may.

        Raises:
            StoreError: somebody else does, or the folder cannot be written.
        """
        self.folder, self._held = folder / STATES, None
        if writing:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"{folder}: cannot be written: {error.strerror}.") from None
            self._held = _lock(folder)

    def ready(self, key: str, parts: Sequence[Part]) -> bytes:
        return serialised(key, parts)

    def size(self, made: bytes) -> int:
        return len(made)

    def write(self, key: str, made: bytes) -> None:
        write_whole(self._file(key), made)

    def read(self, key: str) -> Sequence[Part]:
        return StateFile(self._file(key), key)

    def delete(self, key: str) -> None:
        self._file(key).unlink(missing_ok=True)

    def close(self) -> None:
        if self._held is not None:
            self._held.close()

    def sweep(self, keys: Sequence[str]) -> list[str]:
        """Removes files that no key stands for, as a kill leaves them; returns the keys that have no file."""
        names = {self._file(key).name for key in keys}
        present = set()
        for file in self.folder.iterdir():
            if file.name in names:
                present.add(file.name)
            else:
                file.unlink()
        return [key for key in keys if self._file(key).name not in present]

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def _lock(folder: Path) -> sqlite3.Connection:
    """The right to write, which the system takes back when the process ends, however it ends."""
    held = sqlite3.connect(folder / LOCK, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        held.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        held.close()
        what = "another process writes there" if "locked" in str(error) else str(error)
        raise StoreError(f"{folder}: {what}. Wait until it has ended, or take another folder.") from None
    return held


class Tier(Generic[P]):
    """See the file's head. Changes come from one thread at a time."""

    def __init__(self, catalogue: Catalogue, shelf: Shelf[P], budget: int, eviction: Eviction) -> None:
        self.catalogue, self.shelf, self.budget, self.eviction = catalogue, shelf, budget, eviction

    def put(self, entry: Entry, parts: Sequence[Part], now: float) -> bool:
        """Keeps a state; False where it is larger than the budget, and the tier as it was.

        It takes the place of what its session had here.
        """
        there = self.catalogue.entry(entry.key)
        if there is not None:
            self.catalogue.touch(entry.key, now)
            if there.session not in (None, entry.session):
                self.catalogue.share(entry.key)
            return True
        made = self.shelf.ready(entry.key, parts)
        need = self.shelf.size(made)
        if need > self.budget:
            return False
        replaced = self._room(entry, need, now)
        self.shelf.write(entry.key, made)
        self.catalogue.add(entry, need, now, replaced)
        for key in replaced:
            self.shelf.delete(key)
        return True

    def drop(self, keys: Sequence[str]) -> None:
        """Takes states away: first from the index, so that nobody finds what is gone."""
        if keys:
            self.catalogue.remove(keys)
            for key in keys:
                self.shelf.delete(key)

    def expire(self, now: float) -> None:
        """Takes away what has not been used for too long."""
        if self.eviction.ttl is not None:
            self.drop([one.key for one in expired(self.catalogue.held(), now, self.eviction.ttl)])

    def close(self) -> None:
        self.catalogue.close()
        self.shelf.close()

    def _room(self, entry: Entry, need: int, now: float) -> list[str]:
        """Makes room for `need` bytes; the keys that the entry is to replace and that are still there."""
        self.expire(now)
        held = self.catalogue.held()
        replaced = [one for one in held if entry.session is not None and one.session == entry.session]
        others = [one for one in held if one not in replaced]
        both = need + sum(one.bytes for one in replaced)
        if both > self.budget:
            self.drop([one.key for one in replaced])
            replaced, both = [], need
        self.drop([one.key for one in self._victims(others, both)])
        return [one.key for one in replaced]

    def _victims(self, others: Sequence[Held], need: int) -> list[Held]:
        return victims(others, need, self.budget, self.eviction.policy, self.eviction.queue)


def memory_tier(budget: int, eviction: Eviction) -> Tier[Sequence[Part]]:
    """A tier in this process."""
    return Tier(Catalogue(None), MemoryShelf(), budget, eviction)


def disk_tier(folder: Path, budget: int, eviction: Eviction, writing: bool) -> Tier[bytes]:
    """A tier in a folder, without what a kill may have left half done.

    Raises:
        StoreError: another process writes there, there is nothing to read, or the index is damaged.
    """
    shelf = DiskShelf(folder, writing)
    try:
        catalogue = Catalogue(folder / INDEX, writing)
        if writing:
            catalogue.remove(shelf.sweep([one.key for one in catalogue.held()]))
    except BaseException:
        shelf.close()
        raise
    return Tier(catalogue, shelf, budget, eviction)
