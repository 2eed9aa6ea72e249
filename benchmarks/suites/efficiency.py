"""The suite `efficiency`.

farfield evaluate suite=efficiency 'suite.lengths=[1024,4096,16384]' device.threads=1
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pydantic
from numpy.typing import NDArray

from farfield.benchmarks.reports.spread import median_half
from farfield.benchmarks.running.results import Cell, Measured
from farfield.benchmarks.suites.suite import Count, Lengths, MeasuredSuite
from farfield.benchmarks.tasks.sample import generator

if TYPE_CHECKING:
    from farfield.benchmarks.subjects.subject import Capability, Subject

__all__ = ["EfficiencySuite"]

TASK = "cost"
LEAST = 5  # timings without which nothing is said of how far their median may be off
UNITS = {
    "prefill": "tokens/s",
    "first_token": "s",
    "decode": "ms/token",
    "peak": "bytes",
    "state": "bytes",
    "kept": "bytes",
    "warm_up": "s",
}


class EfficiencySuite(MeasuredSuite):
    """What reading and writing cost at each length: time, memory, state.

    lengths:  tokens of the prompt
    rows:     prompts side by side
    repeats:  timings of each number, behind one that warms up and is told apart; each has a prompt of its own
    decoded:  tokens that are written behind the prompt: few, so that the time is that of one context

    `cell_seconds` ends the timings, of which there is always one.
    """

    kind: Literal["efficiency"] = "efficiency"
    lengths: Lengths = (1024, 4096, 16384)
    rows: Count = 1
    repeats: Annotated[int, pydantic.Field(ge=LEAST)] = LEAST
    decoded: Count = 16

    @property
    def fingerprint(self) -> str:
        return "ids drawn evenly"

    def cells(self, subject: Subject) -> Sequence[tuple[Cell, frozenset[Capability]]]:
        return [(Cell(TASK, length), frozenset(("generate",))) for length in self.lengths]

    def labels(self) -> Mapping[str, Mapping[str, float]]:
        return {TASK: {}}

    def measure(self, subject: Subject, cell: Cell) -> Measured:
        from farfield.benchmarks.measuring import held

        began = time.perf_counter()
        warm, *taken = self._timings(subject, cell.length)
        found = {"first_token": [one.first for one in taken if one.alone]}
        if "state" in subject.capabilities:
            found = {"prefill": [self.rows * cell.length / one.prefill for one in taken], **found}
        found["decode"] = [1e3 * one.decode for one in taken if one.decode is not None]
        bytes_of = held(lambda: subject.prefill(self._prompt(subject, cell.length, 0)))
        memory = {"peak": bytes_of.peak, "kept": bytes_of.kept, "state": self.rows * subject.state_bytes(cell.length)}
        values = {name: statistics.median(some) for name, some in found.items() if some}
        values |= {name: float(size) for name, size in memory.items() if size} | {"warm_up": warm.first}
        told = next((some for some in found.values() if some), [])
        read = (len(taken) + 2) * self.rows * cell.length  # one to warm up, and one for the memory
        return Measured(
            values=values,
            half={name: median_half(some) for name, some in found.items() if len(some) >= LEAST},
            units={name: UNITS[name] for name in values},
            each=told,
            notes=list(self._notes(values, taken)),
            prefilled=read,
            naive=read,
            capped=len(taken) < self.repeats,
            seconds=round(time.perf_counter() - began, 6),
        )

    def _timings(self, subject: Subject, length: int) -> Iterator[_Taken]:
        """One to warm up, and `repeats` behind it, or fewer where their time is over; one at least."""
        end = math.inf if self.cell_seconds is None else time.perf_counter() + self.cell_seconds
        for number in range(self.repeats + 1):
            if number > 1 and time.perf_counter() >= end:
                return
            yield _timed(subject, self._prompt(subject, length, number), self.decoded)

    def _prompt(self, subject: Subject, length: int, number: int) -> NDArray[np.int64]:
        """(rows, length) ids, others for each number."""
        return generator("noise", self.seed, length, number).integers(
            subject.tokenizer.vocabulary, size=(self.rows, length)
        )

    def _notes(self, values: Mapping[str, float], taken: Sequence[_Taken]) -> Iterator[str]:
        count = len(taken)
        if count < self.repeats:
            yield f"Closed early, its time was over: {count} of {self.repeats} repeats were timed."
        spread = ", and half of the interval of a median between two of the ordered timings" if count >= LEAST else ""
        yield f"Medians of {count}{spread}."
        if uncounted := sum(not one.counted for one in taken):
            yield f"In {uncounted} of {count} repeats nobody counted the tokens that were written: no time of one."
        if more := sum(one.counted and not one.alone for one in taken):
            yield f"In {more} of {count} repeats thoughts came with the first token: its time is left out."
        if ended := sum(one.counted and one.decode is None for one in taken):
            yield f"In {ended} of {count} repeats the model ended its text at once."
        if "peak" not in values:
            yield "The model's tensors are not in this process: no memory is counted."


@dataclass(frozen=True)
class _Taken:
    """Seconds of reading a prompt, until the first token behind it is there, and of each later one.

    counted: whether it is known how many tokens were written
    alone:   whether the first one came alone
    """

    prefill: float
    first: float
    decode: float | None
    counted: bool
    alone: bool


def _timed(subject: Subject, prompt: NDArray[np.int64], decoded: int) -> _Taken:
    from farfield.benchmarks.measuring import timed

    prefill, known = timed(lambda: subject.prefill(prompt))
    chosen, one = timed(lambda: subject.generate(known, 1))
    if "state" in subject.capabilities:
        # One more token makes room behind the prompt. A buffer that grows once in its length does not count a 16th.
        known = subject.prefill(prompt[:, :1], known)
    seconds, written = timed(lambda: subject.generate(known, decoded + 1))
    # The first token is chosen from what is known, and each later one takes a step of the model. An endpoint may write
    # more than was asked for (thoughts), before the first token too: what is timed is what it counts.
    alone = one.steps is not None and one.steps <= 1
    if one.steps is None or written.steps is None:
        return _Taken(prefill, prefill + chosen, None, counted=False, alone=alone)
    steps = written.steps - max(one.steps, 1)
    decode = (seconds - chosen) / steps if steps > 0 else None
    return _Taken(prefill, prefill + chosen, decode, counted=True, alone=alone)
