"""How fast the exact search is, beside the product and the top-k that it needs.

Queries behind a full bank are answered by `farfield.memory.search.best`, with the layout that a memory makes for them
in each call, and by one plain product of them with the whole bank and `topk` of the scores. Both in turns, in one
process; the least of the repeats counts. Three layouts:

    alone       one row, around full attention: all of the bank is read
    window      one row, around a window, whose keys are left out
    ragged      four rows of unlike lengths, whose banks end at unlike positions
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from farfield.architectures.block_keys import labels
from farfield.architectures.ops.written import Near, Written
from farfield.architectures.rows import Rows
from farfield.config import ConfigError
from farfield.memory.search import best
from farfield.progress import Bar

__all__ = ["Searched", "Task", "compare"]

SEGMENT = 64
LEAST = 0.05  # seconds of calls in a repeat
WINDOW = 63
LAYOUTS = ("alone", "window", "ragged")


@dataclass(frozen=True)
class Task:
    """What is measured: banks of `sizes` tokens, calls of so many `queries` a head, the `top` of them found."""

    sizes: tuple[int, ...] = (2048, 8192, 32768)
    queries: tuple[int, ...] = (1, 16, 128, 1024)
    heads: int = 4
    width: int = 64
    top: int = 32
    repeats: int = 7


@dataclass(frozen=True)
class Searched:
    """Seconds of a call of some `queries` in a bank of `size` tokens: the search, and the product and top-k alone."""

    layout: str
    size: int
    queries: int
    seconds: float
    plain: float

    @property
    def ratio(self) -> float:
        """How many times as long as the product and top-k the search takes."""
        return self.seconds / self.plain


@torch.no_grad()
def compare(task: Task) -> Iterator[Searched]:
    """Every layout and size with every number of queries.

    Raises:
        ConfigError: a bank that is smaller than what is to be found in it.
    """
    small = min(task.sizes)
    if small < task.top:
        raise ConfigError(
            f"--sizes: {small} tokens given, and the best {task.top} are to be found. At least {task.top}."
        )
    with Bar("search", total=len(LAYOUTS) * len(task.sizes) * len(task.queries), unit="measures") as bar:
        for layout in LAYOUTS:
            for size in task.sizes:
                for count in task.queries:
                    yield _searched(layout, size, count, task)
                    bar.step(note=f"{count:,} in {size:,}, {layout}")


def _searched(layout: str, size: int, count: int, task: Task) -> Searched:
    drawn = torch.Generator().manual_seed(0)
    batch = 4 if layout == "ragged" else 1
    queries = torch.randn(batch, task.heads, count, task.width, generator=drawn)
    past = size + SEGMENT  # a bank holds the open segment too
    own = count if count > 1 else 0
    keys = torch.randn(batch, task.heads, past + own, task.width, generator=drawn)
    begin = 4 * past // SEGMENT * SEGMENT
    starts = begin + 5 * torch.arange(batch)[:, None]
    rows = Rows.at(starts + torch.arange(count))
    document = labels(rows)  # labels are made once for all layers
    position = starts + torch.arange(-past, own)
    owner, bank = torch.zeros_like(position), keys[:, :, -size:]  # as many keys as a query of the memory may read
    told, near = (rows.positions, document, position, owner, SEGMENT, size, 1, 0), _near(layout)
    bounds = range(past - size - SEGMENT, past - size - SEGMENT + count), range(past, past + count)

    def ours() -> Tensor:
        if layout == "ragged":
            where = Written(*told, None, 0, *bounds)
        else:
            where = Written(*told, begin, begin - past, near=near)
        return best(queries, keys, task.top, where, 1.0)[0]

    def plain() -> Tensor:
        return (queries @ bank.transpose(-1, -2)).topk(task.top, dim=-1).indices

    seconds, others = _least((ours, plain), task.repeats)
    return Searched(layout, size, count, seconds, others)


def _near(layout: str) -> Near | None:
    """What a window of `WINDOW` tokens holds."""

    def sees(query: Tensor, key: Tensor) -> Tensor:
        distance = query[:, None, :, None] - key[:, None, None, :]
        return (distance >= 0) & (distance <= WINDOW)

    return Near(sees, 0, WINDOW, True) if layout == "window" else None


def _least(calls: tuple[Callable[[], Tensor], ...], repeats: int) -> list[float]:
    """Seconds of each call, in turns, the least of the repeats."""
    counts, found = [], [float("inf")] * len(calls)
    for call in calls:
        call()
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < LEAST:
            call()
            count += 1
        counts.append(count)
    for _ in range(repeats):
        for place, (call, count) in enumerate(zip(calls, counts, strict=True)):
            began = time.perf_counter()
            for _ in range(count):
                call()
            found[place] = min(found[place], (time.perf_counter() - began) / count)
    return found
