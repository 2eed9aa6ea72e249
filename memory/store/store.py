"""The store: a tier in memory before a tier on disk, reading ahead and writing behind.

    put ──> memory ──> waiting, at most `buffer` bytes ──> disk          one thread writes
    find <── memory <── parts, one after another <── disk                 one thread reads, one fetches for the queue

What `put` was given is on the disk when `flush` has returned. A state that was read whole from the disk is kept in
memory from then on. Folders have one writer; other processes open them with writing=False and keep what they put in
their own memory.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from farfield.config import StoreError
from farfield.memory.store.catalogue import Entry, Match, Session
from farfield.memory.store.chain import chain, shared, token_ids
from farfield.memory.store.files import DamagedError, Part
from farfield.memory.store.policies import POLICIES, ahead, expired
from farfield.memory.store.settings import StoreConfig
from farfield.memory.store.tiers import Eviction, Tier, disk_tier, memory_tier, size

__all__ = ["Found", "StateStore"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Found:
    """A state that has read the first `count` tokens of a prompt; where `cut`, it has read more and is to be cut.

    It has `parts` parts; `part(index)` waits for one of them.
    """

    key: str
    count: int
    cut: bool
    tier: Literal["memory", "disk"]
    parts: int
    part: Callable[[int], Part]
    """Raises DamagedError where the part is not what was stored: `StateStore.reject` the key, and find again."""


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A state that is to be written."""

    entry: Entry
    bytes: int
    written: Future[None]


class StateStore:
    """See the file's head. To be used from one thread."""

    def __init__(
        self,
        folder: Path | None,
        config: StoreConfig | None = None,
        *,
        writing: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """A store in `folder`, which is made; without one, in memory alone.

        Raises:
            StoreError: another process writes there, there is nothing to read, or its index is damaged.
        """
        self.config, self.clock = config or StoreConfig(), clock
        self._eviction = Eviction(POLICIES[self.config.policy], self.config.ttl)
        self._memory = memory_tier(self.config.memory, self._eviction)
        self._disk: Tier[bytes] | None = None
        if folder is not None:
            self._disk = disk_tier(folder, self.config.disk, self._eviction, writing)
        self._writes = self._disk if writing else None
        self._changing = threading.RLock()  # of the tier in memory, which the reading threads fill
        self._rejected: set[str] = set()
        self._waiting: dict[str, _Waiting] = {}
        self._pools = {name: ThreadPoolExecutor(1, f"store-{name}") for name in ("write", "read", "fetch")}

    def __enter__(self) -> StateStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def put(
        self,
        seed: str,
        tokens: Sequence[int],
        parts: Sequence[Part],
        *,
        cuttable: bool = False,
        session: str | None = None,
    ) -> None:
        """Keeps the state that a model has behind `tokens`; that of a session takes the place of its last one.

        Args:
            seed: of the model. tokens: all that the state has read, at least one.
            parts: its tensors on the CPU, in the order in which they will be needed; nobody changes them any more.
            cuttable: whether the states behind shorter beginnings can be cut from it.
            session: whose it is; None: everybody's.

        Raises:
            StoreError: an earlier state could not be written.
        """
        entry = Entry.of(seed, token_ids(tokens), cuttable, session)
        self._rejected.discard(entry.key)
        self._settled()
        with self._changing:
            self._memory.put(entry, parts, self.clock())
        if self._writes is not None and entry.key not in self._waiting:
            self._write_behind(entry, parts)

    def find(self, seed: str, tokens: Sequence[int]) -> Found | None:
        """The state of the model that has read the longest beginning of `tokens`; from memory where both have it."""
        ids = token_ids(tokens)
        links = chain(seed, ids)
        with self._changing:
            self._memory.expire(self.clock())
            near = self._memory.catalogue.find(links, ids)
        self._await(seed, tokens, 0 if near is None else near.count)
        while self._disk is not None:
            far = self._disk.catalogue.find(links, ids, self._passed_over())
            if far is None or (near is not None and near.count >= far.count):
                break
            found = self._far(far)
            if found is not None:
                return found
        return None if near is None else self._near(near)

    def reject(self, key: str, why: DamagedError) -> None:
        """Takes a damaged state away, and says so; where others write the folder, it is passed over from now on."""
        log.warning("%s", why)
        with self._changing:
            if self._memory.catalogue.entry(key) is not None:
                self._memory.drop([key])
        if self._writes is not None:
            self._pools["write"].submit(self._writes.drop, [key]).result()
        else:
            self._rejected.add(key)

    def session(self, name: str) -> Session | None:
        """The session of this name, with all its tokens, whether a state of it is held or not."""
        for tier in (self._memory, self._disk):
            found = None if tier is None else tier.catalogue.session(name)
            if found is not None:
                return found
        return None

    def sessions(self) -> list[str]:
        """The names of all sessions, sorted."""
        catalogues = [tier.catalogue for tier in (self._memory, self._disk) if tier is not None]
        return sorted({name for catalogue in catalogues for name in catalogue.sessions()})

    def record(self, session: Session) -> None:
        """Writes down what a session has read; on the disk when this returns, where there is one to write to."""
        (self._memory if self._writes is None else self._writes).catalogue.record(session)

    def expect(self, queue: Sequence[str]) -> None:
        """Tells the sessions that will come next, in order: what the policy `scheduled` spares, and fetches ahead."""
        self._eviction.queue = tuple(queue)
        if self._disk is None:
            return
        held = self._disk.catalogue.held()
        keys = {one.session: one.key for one in held if one.session is not None}
        with self._changing:
            near = {one.key for one in self._memory.catalogue.held()}
        for session in ahead(queue, held, self.config.memory):
            key = keys.get(session)
            if key is not None and key not in near:
                self._pools["fetch"].submit(self._fetch, key)

    def warm(self) -> None:
        """Brings all that is on the disk into memory, as far as there is room; the newest last."""
        if self._disk is not None:
            for one in sorted(self._disk.catalogue.held(), key=lambda one: one.used):
                self._pools["fetch"].submit(self._fetch, one.key)
            self.fetched()

    def fetched(self) -> None:
        """Waits until what `expect` fetches is there."""
        self._pools["fetch"].submit(lambda: None).result()

    def flush(self) -> None:
        """Waits until all that was put is on the disk.

        Raises:
            StoreError: something could not be written.
        """
        for waiting in list(self._waiting.values()):
            waiting.written.exception()
        self._settled()

    @property
    def held(self) -> dict[str, int]:
        """Bytes of states in each tier."""
        tiers: dict[str, Tier[bytes] | Tier[Sequence[Part]] | None] = {"memory": self._memory, "disk": self._disk}
        return {name: sum(one.bytes for one in tier.catalogue.held()) for name, tier in tiers.items() if tier}

    def close(self) -> None:
        """Writes what waits, and ends the threads.

        Raises:
            StoreError: something could not be written.
        """
        try:
            self.flush()
        finally:
            for pool in self._pools.values():
                pool.shutdown(wait=True, cancel_futures=True)
            for tier in (self._memory, self._disk):
                if tier is not None:
                    tier.close()

    def _write_behind(self, entry: Entry, parts: Sequence[Part]) -> None:
        """Hands a state to the thread that writes; waits first while more than `buffer` bytes wait."""
        need = size(parts)
        while self._waiting and sum(one.bytes for one in self._waiting.values()) + need > self.config.buffer:
            next(iter(self._waiting.values())).written.exception()
            self._settled()
        written = self._pools["write"].submit(self._write, entry, parts)
        self._waiting[entry.key] = _Waiting(entry, need, written)

    def _write(self, entry: Entry, parts: Sequence[Part]) -> None:
        assert self._writes is not None
        self._writes.put(entry, parts, self.clock())

    def _settled(self) -> None:
        """Forgets what has been written.

        Raises:
            StoreError: something could not be written; it is forgotten too.
        """
        done = [key for key, one in self._waiting.items() if one.written.done()]
        errors = [self._waiting.pop(key).written.exception() for key in done]
        for error in errors:
            if error is not None:
                raise error

    def _await(self, seed: str, tokens: Sequence[int], count: int) -> None:
        """Waits for states that are not in memory any more, and whose writing would give more than `count` tokens."""
        ids = token_ids(tokens)
        for one in list(self._waiting.values()):
            if one.entry.seed == seed and shared(one.entry.tokens, ids) > count:
                one.written.exception()

    def _passed_over(self) -> frozenset[str]:
        """What is on disk and not to be found: damaged, or unused for too long."""
        assert self._disk is not None
        if self.config.ttl is None:
            return frozenset(self._rejected)
        old = expired(self._disk.catalogue.held(), self.clock(), self.config.ttl)
        return frozenset(self._rejected.union(one.key for one in old))

    def _near(self, match: Match) -> Found:
        with self._changing:
            self._memory.catalogue.touch(match.key, self.clock())
            parts = self._memory.shelf.read(match.key)
        if self._writes is not None:
            self._writes.catalogue.touch(match.key, self.clock())
        return Found(match.key, match.count, match.cut, "memory", len(parts), parts.__getitem__)

    def _far(self, match: Match) -> Found | None:
        """A state on disk, whose parts are being read; None where it is gone or damaged."""
        assert self._disk is not None
        self._disk.catalogue.touch(match.key, self.clock())
        entry = self._disk.catalogue.entry(match.key)
        try:
            parts = self._disk.shelf.read(match.key)
        except DamagedError as error:
            self.reject(match.key, error)
            return None
        arriving: list[Future[Part]] = [Future() for _ in range(len(parts))]
        self._pools["read"].submit(self._read, entry, parts, arriving)
        return Found(match.key, match.count, match.cut, "disk", len(parts), lambda index: arriving[index].result())

    def _read(self, entry: Entry | None, parts: Sequence[Part], arriving: Sequence[Future[Part]]) -> None:
        """Reads the parts in order, and keeps them in memory once all are there."""
        for index, future in enumerate(arriving):
            try:
                future.set_result(parts[index])
            except StoreError as error:
                for later in arriving[index:]:
                    later.set_exception(error)
                return
        self._promote(entry, [future.result() for future in arriving])

    def _promote(self, entry: Entry | None, parts: Sequence[Part]) -> None:
        """Keeps in memory what was read from the disk, unless its session is there already, and further."""
        if entry is None:
            return
        with self._changing:
            held = self._memory.catalogue.held()
            if entry.session is None or all(one.session != entry.session for one in held):
                self._memory.put(entry, parts, self.clock())

    def _fetch(self, key: str) -> None:
        """Reads a state from the disk into memory, if it is still there and whole."""
        assert self._disk is not None
        entry = self._disk.catalogue.entry(key)
        try:
            parts = self._disk.shelf.read(key)
            read = [parts[index] for index in range(len(parts))]
        except DamagedError:
            return  # told when it is asked for
        self._promote(entry, read)
