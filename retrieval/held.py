"""The vectors that an open index searches: kept while they fit, read or made again when they do not."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from farfield.progress import say
from farfield.retrieval.embedders import Embedder
from farfield.retrieval.store import Snapshot
from farfield.retrieval.vectors import UnusableError, Vectors, load, make, rebuilt, renew
from farfield.retrieval.writing import LockedError, lock

__all__ = ["Held"]


class Held:
    """The vectors of one open index, for any number of threads, and for processes forked off this one.

    `notices` holds a line for each time that they had to be rebuilt.
    """

    def __init__(self, folder: Path, name: str, embedder: Embedder) -> None:
        self.folder, self.name, self.embedder = folder, name, embedder
        self.notices: tuple[str, ...] = ()
        self._vectors: Vectors | None = None
        self._renewing = threading.Lock()
        self._process = os.getpid()

    def current(self, snapshot: Snapshot) -> Vectors:
        """Vectors for a snapshot; while documents are being ingested, those from before that began."""
        if self._process != os.getpid():
            self._process, self._renewing = os.getpid(), threading.Lock()
        held = self._vectors
        if held and held.fits(snapshot.state):
            return held
        with self._renewing:
            self._vectors = self._renewed(snapshot, self._vectors)
            return self._vectors

    def _renewed(self, snapshot: Snapshot, held: Vectors | None) -> Vectors:
        """The vectors on the disk; where they are of no use, new ones; while somebody else writes, what there is."""
        with suppress(UnusableError):
            stored = load(self.folder, snapshot.state, self.embedder, held)
            if stored.generation >= snapshot.state.generation:
                return stored
            held = stored
        try:
            with lock(self.folder, self.name):
                began = time.monotonic()
                made, reason = renew(self.folder, snapshot, self.embedder, held)
        except LockedError:
            return held or make(snapshot, self.embedder)
        if reason:
            notice = rebuilt(self.name, reason, made, time.monotonic() - began)
            self.notices += (notice,)
            say(notice)
        return made
