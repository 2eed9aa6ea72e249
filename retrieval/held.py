"""The vectors that an open index searches: kept while they fit, read or made again when they do not.

    fit                          searched
    old                          searched as they are; one thread makes new ones meanwhile
    missing, damaged, foreign    none, and words alone answer; one thread makes new ones meanwhile

Where they are few, or the settings say so, a search waits for the new ones instead. While somebody else writes to the
index nothing is made: its ingest will do so.
"""

from __future__ import annotations

import math
import os
import threading
import time
from contextlib import closing, suppress

from farfield.config import FarfieldError
from farfield.progress import say
from farfield.retrieval.embedders import Embedder
from farfield.retrieval.flat import Flat
from farfield.retrieval.gpu import require_gpu
from farfield.retrieval.inverted import Inverted
from farfield.retrieval.making import Stop, StoppedError, UnusableError, Vectors, make, never
from farfield.retrieval.settings import RetrievalConfig
from farfield.retrieval.store import Snapshot, Store
from farfield.retrieval.vectors import load, rebuilt, renew, wanted
from farfield.retrieval.writing import LockedError, lock

__all__ = ["Held"]

FEW = 20_000
SECONDS_BETWEEN = 1.0
SECONDS_AFTER_FAILURE = 60.0


class Held:
    """The vectors of one open index, for any number of threads, and for processes forked off this one.

    `notices` holds a line for each time that they had to be rebuilt, or could not be waited for.
    """

    def __init__(self, store: Store, embedder: Embedder, settings: RetrievalConfig) -> None:
        self.folder, self.name, self.embedder, self.settings = store.folder, store.name, embedder, settings
        self.notices: tuple[str, ...] = ()
        self._vectors: Vectors | None = None
        self._gpu = settings.device == "cuda"
        if self._gpu:
            require_gpu()
        self._after_fork()

    def _after_fork(self) -> None:
        """What belongs to one process: locks, and the thread."""
        self._process = os.getpid()
        self._renewing = threading.Lock()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._next = -math.inf
        self._looked = self._vectors is not None

    def current(self, snapshot: Snapshot) -> Vectors | None:
        """Vectors for a snapshot, or older ones, or none: see above."""
        if self._process != os.getpid():
            self._after_fork()
        held = self._vectors
        if held and held.fits(snapshot.state.database, snapshot.state.generation):
            return held
        if self._waits(snapshot.state.chunks):
            with self._renewing:
                self._vectors = self._renewed(snapshot, self._vectors)
                return self._vectors
        return self._meanwhile(snapshot)

    def close(self) -> None:
        """Asks the thread to stop before the next block of vectors; what it has made is lost."""
        self._closed = True

    def _waits(self, chunks: int) -> bool:
        return self.settings.wait == "always" or (self.settings.wait == "small" and chunks <= FEW)

    def _meanwhile(self, snapshot: Snapshot) -> Vectors | None:
        """What there is now, while a thread makes what there should be."""
        with self._starting:
            if not self._looked:
                self._looked = True
                self._vectors = self._first(snapshot)
            held = self._vectors
            fits = held and held.fits(snapshot.state.database, snapshot.state.generation)
            if not fits and time.monotonic() >= self._next and not (self._thread and self._thread.is_alive()):
                self._closed, self._next = False, time.monotonic() + SECONDS_BETWEEN
                self._thread = threading.Thread(target=self._renew_beside, name=f"vectors of {self.name}")
                self._thread.start()
            return held

    def _first(self, snapshot: Snapshot) -> Vectors | None:
        """The vectors on the disk; a line where they are old, or of no use."""
        waits = "until they are made anew; retrieval.wait=always waits for that"
        try:
            stored = load(self.folder, snapshot.state, self.embedder)
        except UnusableError as error:
            self._tell(f"index '{self.name}': the vector file {error}; words alone answer {waits}")
            return None
        if stored.generation < snapshot.state.generation:
            self._tell(
                f"index '{self.name}': the vector file is older than the documents;"
                f" what is newer is found by its words {waits}"
            )
        return self._ready(stored)

    def _renew_beside(self) -> None:
        """The thread: from its own snapshot, until it is done, the index is closed, or the process ends."""
        try:
            with closing(Store(self.folder, self.name)) as store, store.reading() as snapshot, self._renewing:
                self._vectors = self._renewed(snapshot, self._vectors, self._stopped)
        except StoppedError:
            return
        except FarfieldError as error:
            self._tell(f"index '{self.name}': its vectors could not be made anew: {error}")
            self._next = time.monotonic() + SECONDS_AFTER_FAILURE

    def _stopped(self) -> bool:
        return self._closed or not threading.main_thread().is_alive()

    def _renewed(self, snapshot: Snapshot, held: Vectors | None, stop: Stop = never) -> Vectors:
        """The vectors on the disk; where they are of no use, new ones; while somebody else writes, what there is."""
        with suppress(UnusableError):
            stored = load(self.folder, snapshot.state, self.embedder, held)
            if stored.generation >= snapshot.state.generation:
                return self._ready(stored)
            held = stored
        settings = wanted(self.folder)
        try:
            with lock(self.folder, self.name):
                began = time.monotonic()
                made, reason = renew(self.folder, snapshot, self.embedder, settings, held, self._gpu, stop)
        except LockedError:
            return self._ready(held or make(snapshot, self.embedder, settings, self._gpu, stop))
        if reason:
            self._tell(rebuilt(self.name, reason, made, time.monotonic() - began))
        return self._ready(made)

    def _ready(self, vectors: Vectors) -> Vectors:
        """The vectors where they are searched."""
        if self._gpu and isinstance(vectors.store, Flat | Inverted):
            vectors.store.use_gpu()
        return vectors

    def _tell(self, notice: str) -> None:
        if notice not in self.notices:
            self.notices += (notice,)
            say(notice)
