"""Several processes that work off one suite, each with a model of its own; this one alone writes.

    this process        job ──>  worker: opens a subject, makes the tasks, does one job after another
    writes records  <── records

Jobs are handed out one by one, the longest first. A worker that dies is said, and its job is done once more, from the
last part that it had sent; a job that two have died of is skipped as failed. Workers leave Ctrl-C to this process.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from farfield.benchmarks.running.questions import Job, Questions, Records
from farfield.benchmarks.running.results import Cell, Result, record_about
from farfield.benchmarks.subjects.subject import Subject
from farfield.benchmarks.suites.suite import AskedSuite
from farfield.config import FarfieldError
from farfield.progress import say

__all__ = ["Work", "spread"]

READ = 1 << 20  # tokens that a worker reads before it tells of them
LIVES = 2  # workers that may die of a job before it is skipped


@dataclass(frozen=True)
class Work:
    """What every worker is told at its start."""

    suite: AskedSuite
    opened: Callable[[], Subject]
    patience: int
    head: Mapping[str, Any]


@dataclass
class _Sent:
    """Records that go to the process that writes; `result` holds those of one job."""

    connection: Connection
    result: Result
    tokens: int = 0

    def add(self, kind: str, cell: Cell, content: Mapping[str, Any]) -> None:
        self.result.add(record_about(kind, cell, content))
        self.connection.send(("record", (kind, cell, content)))

    def read(self, tokens: int) -> None:
        self.tokens += tokens
        if self.tokens >= READ:
            self.connection.send(("read", self.tokens))
            self.tokens = 0


def _serve(connection: Connection, work: Work) -> None:
    """A worker's life: jobs until there are none."""
    try:
        questions = Questions(work.suite, work.opened(), work.patience)
        connection.send(("ready", None))
        while (job := connection.recv()) is not None:
            result = Result(Path(), dict(work.head), parts=dict(job.parts))
            questions.run(job, _Sent(connection, result))
            connection.send(("done", None))
    except FarfieldError as error:
        connection.send(("error", error))
    except EOFError:  # the process that writes has ended
        pass


@contextmanager
def _left_alone() -> Iterator[None]:
    """Processes that are started within the block leave Ctrl-C to this one, which hears of it behind the block."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass
class _Worker:
    """A worker as the process that writes sees it, and the job it is at."""

    process: SpawnProcess
    connection: Connection
    job: Job | None = None

    @staticmethod
    def start(work: Work) -> _Worker:
        context = multiprocessing.get_context("spawn")
        mine, others = context.Pipe()
        process = context.Process(target=_serve, args=(others, work), daemon=True)
        with _left_alone():
            process.start()
        others.close()
        return _Worker(process, mine)

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


@dataclass
class _Spread:
    """The jobs that are left, and who is at which."""

    work: Work
    left: list[Job]
    records: Records
    workers: list[_Worker] = field(default_factory=list)
    deaths: dict[tuple[str, int, str], int] = field(default_factory=dict)

    def run(self, processes: int) -> None:
        try:
            self.workers = [_Worker.start(self.work) for _ in range(min(processes, len(self.left)))]
            while self.workers:
                ready = wait([worker.connection for worker in self.workers])
                for worker in [worker for worker in self.workers if worker.connection in ready]:
                    self._hear(worker)
        finally:
            for worker in self.workers:
                worker.stop()

    def _hear(self, worker: _Worker) -> None:
        """Takes one message of a worker in.

        Raises:
            FarfieldError: what the worker could not do, as it would be said here.
        """
        try:
            kind, content = worker.connection.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        if kind == "record":
            self.records.add(*content)
        elif kind == "read":
            self.records.read(content)
        elif kind == "error":
            raise content
        else:
            self._employ(worker)

    def _employ(self, worker: _Worker) -> None:
        """Hands the next job to a worker, or lets it go."""
        worker.job = self.left.pop(0) if self.left else None
        if worker.job is not None:
            worker.connection.send(worker.job)
            return
        self.workers.remove(worker)
        worker.connection.send(None)
        worker.process.join()
        worker.connection.close()

    def _bury(self, worker: _Worker) -> None:
        """A worker has died: another takes its place if there is work for it."""
        self.workers.remove(worker)
        worker.stop()
        job, code = worker.job, worker.process.exitcode
        if job is None:
            raise FarfieldError(f"an evaluating process ended with status {code} before it had begun. Try processes=1.")
        place = (job.task, job.length, job.condition)
        self.deaths[place] = self.deaths.get(place, 0) + 1
        left = self._rest(job)
        again = left is not None and self.deaths[place] < LIVES
        what = f"an evaluating process ended with status {code} at {job.task}, {job.length} tokens, {job.condition}"
        say(f"{what}: " + ("its work is done once more." if again else "its cells are skipped for now."))
        if left is not None and again:
            self.left.insert(0, left)
        elif left is not None:
            for cell in left.cells:
                self.records.add("skip", cell, {"reason": f"{what}.", "failed": True})
        if len(self.workers) < len(self.left):
            self.workers.append(_Worker.start(self.work))

    def _rest(self, job: Job) -> Job | None:
        """What is still to do of a job."""
        result = self.records.result
        cells = tuple(cell for cell in job.cells if not result.has(cell))
        parts = {cell: result.parts[cell] for cell in cells if cell in result.parts}
        return replace(job, cells=cells, parts=parts) if cells else None


def spread(work: Work, jobs: Sequence[Job], processes: int, records: Records) -> None:
    """Does the jobs in `processes` other processes, and hands every record to `records`.

    Raises:
        FarfieldError: a worker could not open its subject, or has met what it could not go on from.
    """
    longest = sorted(jobs, key=lambda job: -job.length * len(job.cells))
    _Spread(work, longest, records).run(processes)
