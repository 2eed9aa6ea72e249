"""The process that measures: apart from the command's, with a bound on its memory, and made anew when it has died.

    with Worker(memory=12) as worker:
        rows = worker.run(function, *arguments)         # raises DeathError if the process ended

A peer that keeps every prefix sum takes nine gigabytes where ours takes half of one: beyond the bound an allocation
fails, and its row says so, before the machine begins to swap. The bound holds on Linux.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import TypeVar

__all__ = ["DeathError", "Worker"]

T = TypeVar("T")

GIBIBYTE = 2**30


class DeathError(Exception):
    """The process ended in the middle of a work."""


def _begin(memory: float) -> None:
    """In the process: bound its memory, and let other libraries be silent about kernels that a CPU has not."""
    import torch

    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if sys.platform == "linux" and not torch.cuda.is_available():
        import resource

        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + int(memory * GIBIBYTE),) * 2)


def _end_with_parent() -> None:
    """A command that is killed leaves no process behind that measures for nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


class Worker:
    """One process at a time. `memory`: GiB that it may take beyond what it begins with."""

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self.pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def run(self, work: Callable[..., T], *arguments: object) -> T:
        """What `work` returns in the process.

        Raises:
            DeathError: the process ended before it returned.
        """
        if self.pool is None:
            context = multiprocessing.get_context("spawn")
            self.pool = ProcessPoolExecutor(1, context, initializer=_begin, initargs=(self.memory,))
        try:
            return self.pool.submit(work, *arguments).result()
        except BrokenProcessPool:
            self._end()
            raise DeathError("the process that measured it ended: out of memory, or a crash") from None

    def _end(self) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
            self.pool = None
