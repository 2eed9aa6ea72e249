"""Pieces of work done by other processes, in order.

Each worker is a fresh interpreter, never a fork: torch, FAISS and SQLite do not survive one. It is connected by a
socket of its own that nobody else holds: when this process ends, however it ends, the workers read its end and go; when
a worker is killed, this process reads that, and says which piece of work it had.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import TracebackType

from farfield.config import FarfieldError, IndexingError
from farfield.retrieval.preparing import Done, Files, Preparation, Preparer, Task

__all__ = ["Pool", "cores", "work"]

START = "from farfield.retrieval.workers import work; work()"
PATIENCE = 5.0
"""Seconds that a worker has to go by itself."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Slot:
    """A piece of work on its way: with a worker until it is done."""

    task: Task
    done: list[Done] | None


class Pool:
    """`count` processes that do pieces of work; with one, it is this process. Use it as a context."""

    def __init__(self, count: int, preparation: Preparation) -> None:
        self._preparer = Preparer(preparation)
        self._count = count if os.name == "posix" and count > 1 else 0
        self._preparation = preparation
        self._workers: dict[Connection, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection, process in self._workers.items():
            connection.close()
            if kind:
                process.terminate()
        for process in self._workers.values():
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def map(self, tasks: Iterable[Task | Done]) -> Iterator[Done]:
        """What each of `tasks` comes to, in their order; what is done already is handed through.

        Raises:
            IndexingError: a worker was killed, or stumbled.
        """
        if not self._count:
            for task in tasks:
                yield from [task] if isinstance(task, Done) else self._preparer(task)
            return
        yield from self._map(iter(tasks))

    def _map(self, tasks: Iterator[Task | Done]) -> Iterator[Done]:
        """Each worker has one piece of work, and one result of each waits at most."""
        queue: deque[_Slot] = deque()
        busy: dict[Connection, _Slot] = {}
        idle: list[Connection] = []
        more = True
        while more or queue:
            while more and len(queue) < 2 * self._count and (idle or len(self._workers) < self._count):
                task = next(tasks, None)
                if task is None:
                    more = False
                elif isinstance(task, Done):
                    queue.append(_Slot(Files(()), [task]))
                else:
                    connection = idle.pop() if idle else self._start()
                    busy[connection] = _Slot(task, None)
                    queue.append(busy[connection])
                    self._send(connection, task)
            while queue and queue[0].done is not None:
                yield from queue.popleft().done or []
            for ready in wait(list(busy)) if busy else ():
                assert isinstance(ready, Connection)
                slot = busy.pop(ready)
                slot.done = self._receive(ready, slot.task)
                idle.append(ready)

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", START, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        connection = Connection(ours.detach())
        self._workers[connection] = process
        self._send(connection, self._preparation)
        return connection

    def _send(self, connection: Connection, what: Task | Preparation) -> None:
        """Hands something to a worker; that it is gone is noticed when its answer is read."""
        with suppress(OSError):
            connection.send(what)

    def _receive(self, connection: Connection, task: Task) -> list[Done]:
        try:
            answer = connection.recv()
        except (EOFError, OSError):  # at the end of a message, or within one
            raise IndexingError(f"a worker {self._end(connection)} while it read {_named(task)}. {ADVICE}") from None
        if isinstance(answer, FarfieldError):
            raise answer
        if isinstance(answer, str):
            raise IndexingError(f"a worker stumbled over {_named(task)} ({answer}). {ADVICE}")
        assert isinstance(answer, list)
        return answer

    def _end(self, connection: Connection) -> str:
        try:
            code = self._workers[connection].wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return "went silent"
        return f"was killed (signal {-code})" if code < 0 else f"ended (status {code})"


ADVICE = "What was reported is stored; the next ingest goes on from there. One process at a time: workers=1."


def _named(task: Task) -> str:
    """A piece of work, for a message."""
    if not isinstance(task, Files):
        return task.path
    more = f" or one of {len(task.paths) - 1} files after it" if len(task.paths) > 1 else ""
    return f"{task.paths[0]}{more}"


def work() -> None:
    """The life of a worker: told what to do and how, until nobody tells it any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    with suppress(EOFError, OSError):
        preparer = Preparer(connection.recv())
        while True:
            connection.send(_answer(preparer, connection.recv()))


def _answer(preparer: Preparer, task: Task) -> list[Done] | FarfieldError | str:
    """What a piece of work comes to, or what went wrong: this process has nobody to tell it but the other."""
    try:
        return preparer(task)
    except FarfieldError as error:
        return error
    except Exception as error:  # noqa: BLE001  # told in one line by the process that asked
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
