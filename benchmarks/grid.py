"""What tables and pictures are made of: the cells of a result as a grid of depth by length, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from farfield.benchmarks.results import Answers, Cell, Result

__all__ = ["Grid", "Rate", "grids", "short", "wilson"]

Z = 1.959964  # the normal quantile of a 95 % interval


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The Wilson 95 % interval of a share of `hits` among `n`; all of 0 to 1 when nothing was seen."""
    if n == 0:
        return 0.0, 1.0
    share, weight = hits / n, 1 + Z * Z / n
    middle = (share + Z * Z / (2 * n)) / weight
    half = Z / weight * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == n else middle + half)


@dataclass(frozen=True)
class Rate:
    """The mean score of `n` samples, and the 95 % interval of the share of those answered in full."""

    score: float
    hits: int
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.hits, self.n)


@dataclass(frozen=True)
class Grid:
    """One task of one result. `trained` is the length the model was trained at, where it is known."""

    name: str
    task: str
    lengths: tuple[int, ...]
    depths: tuple[float | None, ...]
    cells: Mapping[tuple[int, float | None], Answers]
    skipped: Mapping[tuple[int, float | None], str]
    trained: int | None

    def rate(self, length: int | None = None, depth: float | None = None) -> Rate | None:
        """Of the cells of this length, of this depth, of both, or of all; None if no such cell is finished."""
        found = [
            answers
            for (cell_length, cell_depth), answers in self.cells.items()
            if length in (None, cell_length) and depth in (None, cell_depth)
        ]
        n = sum(len(answers.scores) for answers in found)
        if not n:
            return None
        return Rate(sum(sum(answers.scores) for answers in found) / n, sum(answers.hits for answers in found), n)

    def prefilled(self, length: int | None = None) -> tuple[int, int]:
        """Tokens prefilled for the cells of this length, or of all, and what they would be without shared prefixes."""
        found = [answers for (at, _), answers in self.cells.items() if length in (None, at)]
        return sum(answers.prefilled for answers in found), sum(answers.naive for answers in found)


def grids(result: Result) -> list[Grid]:
    """One grid for each task of `result`; cells that are not finished yet are missing in it."""
    trained = result.head["model"].get("trained_length")
    return [
        Grid(
            name=result.name,
            task=task,
            lengths=tuple(result.head["lengths"]),
            depths=tuple(result.head["depths"]),
            cells={(cell.length, cell.depth): got for cell, got in result.cells.items() if _in_grid(cell, task)},
            skipped={(cell.length, cell.depth): why for cell, why in result.skipped.items() if _in_grid(cell, task)},
            trained=trained if isinstance(trained, int) else None,
        )
        for task in result.head["tasks"]
    ]


def _in_grid(cell: Cell, task: str) -> bool:
    return cell.task == task and cell.condition == "full"


def short(length: int) -> str:
    """1024 -> 1k, 1048576 -> 1M; other numbers in full."""
    for size, letter in ((1 << 20, "M"), (1 << 10, "k")):
        if length >= size and length % size == 0:
            return f"{length // size}{letter}"
    return str(length)
