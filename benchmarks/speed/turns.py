"""Works measured in turn: what each takes, with a fixed matrix product between them as the yardstick of the machine.

seconds     the median of repeats, in each of which every work is run once. On one thread of a CPU they are the
            processor's, which a busy machine does not stretch; otherwise they are the clock's
bytes       what PyTorch's allocator holds at the peak of the work above what it held before: on a CPU its own record,
            kernels' buffers included; on a GPU its counter
yardstick   GFLOP/s of a float32 product of two matrices of 1024 x 1024, taken behind every work
"""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch.autograd.profiler import profile

from farfield.settings import SpeedSettings

__all__ = ["FAILURES", "Conditions", "LackingError", "Measured", "Turns", "allocated", "clock", "in_turn"]

Work = Callable[[], object]


class LackingError(Exception):
    """What is measured cannot do this at all; the message is its row's reason."""


FAILURES: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LackingError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What other people's code raises where it cannot do a case."""

SIDE = 1024


@dataclass(frozen=True)
class Conditions:
    """Under which the works of a block are measured, and whether those of other libraries are."""

    repeats: int
    threads: int | None
    dtype: torch.dtype
    device: str
    seed: int
    with_peers: bool

    @staticmethod
    def of(settings: SpeedSettings, device: str, threads: int | None) -> Conditions:
        """As the settings say, with so many threads."""
        return Conditions(settings.repeats, threads, settings.device.dtype, device, settings.seed, settings.peers)

    def begin(self) -> None:
        """Takes so many threads."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)


@dataclass(frozen=True)
class Measured:
    """Of one work: the median, the shortest and the longest of its repeats in seconds, and bytes at its peak."""

    seconds: float
    shortest: float
    longest: float
    peak_bytes: int


@dataclass(frozen=True)
class Turns:
    """By name: what was measured, or in a line why it was not. `yardstick`: median, lowest and highest GFLOP/s."""

    measured: Mapping[str, Measured | str]
    yardstick: tuple[float, float, float] = (0.0, 0.0, 0.0)


def clock(threads: int | None) -> str:
    """What seconds are: `processor` or `wall`."""
    return "processor" if threads == 1 and not torch.cuda.is_available() else "wall"


def in_turn(works: Mapping[str, Work], repeats: int, threads: int | None) -> Turns:
    """Every work once for its bytes, unmeasured in time, and then `repeats` times in turn."""
    found: dict[str, Measured | str] = {}
    peaks: dict[str, int] = {}
    for name, work in works.items():
        try:
            peaks[name] = allocated(work)
        except FAILURES as failure:
            found[name] = said(failure)
    now = time.process_time if clock(threads) == "processor" else time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in peaks}
    yard, speeds = _Yardstick(now), []
    for _ in range(repeats):
        for name in peaks:
            taken[name].append(_timed(works[name], now))
            speeds.append(yard())
    for name, seconds in taken.items():
        found[name] = Measured(statistics.median(seconds), min(seconds), max(seconds), peaks[name])
    told = (statistics.median(speeds), min(speeds), max(speeds)) if speeds else (0.0, 0.0, 0.0)
    return Turns({name: found[name] for name in works}, told)


def said(failure: BaseException) -> str:
    """In a line why a work could not be done."""
    if isinstance(failure, LackingError):
        return str(failure)
    first = next(iter(str(failure).strip().splitlines()), "")
    if "alloc" in first and "memory" in first:
        return "needs more memory than it may take"
    return f"{type(failure).__name__}: {first}"[:160].rstrip(": ")


def _timed(work: Work, now: Callable[[], float]) -> float:
    began = now()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return now() - began


class _Yardstick:
    """GFLOP/s of a fixed matrix product."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.left, self.right, self.out = torch.ones(3, SIDE, SIDE)

    def __call__(self) -> float:
        seconds = _timed(lambda: torch.mm(self.left, self.right, out=self.out), self.now)
        return 2 * SIDE**3 / seconds / 1e9


def allocated(work: Work) -> int:
    """The most bytes that PyTorch's allocator held during the work above what it held before."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with _silent(), profile(use_cpu=True, profile_memory=True) as record:
        work()
    held = most = 0
    for event in record.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Within it nothing reaches standard error: the profiler writes lines of its own there, below Python."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
