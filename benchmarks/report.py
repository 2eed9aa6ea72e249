"""Result files -> terminal tables, pictures, one self-contained HTML page, and a machine-readable summary.

results = [read_result(path) for path in sorted(Path("results").glob("*/needle.jsonl"))]
console.print(*tables(results))
for path in write(results, Path("results")): ...        # heat_map.png, curves.png, report.html
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farfield.benchmarks.figures import curves, heat_map
from farfield.benchmarks.grid import Grid, Rate, grids, short, wilson
from farfield.benchmarks.page import page
from farfield.benchmarks.results import Result, read_result

if TYPE_CHECKING:
    from rich.console import Group

__all__ = ["curves", "grids", "heat_map", "page", "read_result", "summary", "tables", "wilson", "write"]


def tables(results: Sequence[Result]) -> list[Group]:
    """A table for each task of each result, depth downwards, length to the right: rates with 95 % intervals."""
    return [_table(grid, result) for result in results for grid in grids(result)]


def write(results: Sequence[Result], folder: Path) -> list[Path]:
    """Writes the pictures and the page into `folder`; their paths. Models stand side by side on one scale."""
    every = [grid for result in results for grid in grids(result)]
    pictures = [heat_map(every, folder / "heat_map.png")]
    if any(len(grid.lengths) > 1 for grid in every):
        pictures.append(curves(every, folder / "curves.png"))
    html = folder / "report.html"
    html.write_text(page(results, pictures), encoding="utf-8")
    return [*pictures, html]


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """The rates of all cells, lengths and results, as plain values."""
    return {"results": [_summary(grid, result) for result in results for grid in grids(result)]}


def _summary(grid: Grid, result: Result) -> dict[str, Any]:
    prefilled, naive = grid.prefilled()
    return {
        "model": grid.name,
        "suite": result.head["suite"],
        "task": grid.task,
        "path": str(result.path),
        **_plain(grid.rate()),
        "finished": len(grid.cells),
        "cells": len(grid.lengths) * len(grid.depths),
        "prefilled": prefilled,
        "naive": naive,
        "trained_length": grid.trained,
        "lengths": [{"length": length, **_plain(grid.rate(length))} for length in grid.lengths],
        "grid": [
            {"length": length, "depth": depth, **_plain(Rate(cell.score, cell.hits, len(cell.scores)))}
            for (length, depth), cell in grid.cells.items()
        ],
        "skipped": [
            {"length": length, "depth": depth, "reason": reason} for (length, depth), reason in grid.skipped.items()
        ],
    }


def _plain(rate: Rate | None) -> dict[str, Any]:
    if rate is None:
        return {"score": None, "hits": 0, "samples": 0, "interval": None}
    return {"score": rate.score, "hits": rate.hits, "samples": rate.n, "interval": list(rate.interval)}


def _table(grid: Grid, result: Result) -> Group:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    overall, (prefilled, naive) = grid.rate(), grid.prefilled()
    table = Table()
    table.add_column("depth, %", justify="right")
    for length in grid.lengths:
        past = grid.trained is not None and length > grid.trained
        table.add_column(short(length) + ("*" if past else ""), justify="right")
    for depth in grid.depths:
        table.add_row(
            "all" if depth is None else f"{100 * depth:.3g}", *(_cell(grid, at, depth) for at in grid.lengths)
        )
    table.add_section()
    table.add_row("mean", *(_lines(grid.rate(length)) for length in grid.lengths))
    notes = ["Recall in %, below it the Wilson 95 % interval."]
    if grid.trained is not None:
        notes.append(f"* longer than trained ({short(grid.trained)}).")
    if naive:
        notes.append(f"Prefilled {prefilled:,} tokens instead of {naive:,}.")
    title = f"{grid.name}, {grid.task}: " + (_words(overall) if overall else "nothing finished")
    return Group(Text(title, style="bold"), table, Text(" ".join(notes)), Text(str(result.path), style="dim"))


def _cell(grid: Grid, length: int, depth: float | None) -> str:
    if (length, depth) in grid.skipped:
        return "skipped"
    cell = grid.cells.get((length, depth))
    return _lines(Rate(cell.score, cell.hits, len(cell.scores)) if cell else None)


def _lines(rate: Rate | None) -> str:
    if rate is None:
        return ""
    low, high = rate.interval
    return f"{100 * rate.score:.0f}\n[dim]{100 * low:.0f}-{100 * high:.0f}[/dim]"


def _words(rate: Rate) -> str:
    low, high = rate.interval
    return f"{rate.score:.1%} ({low:.1%} to {high:.1%}, {rate.hits} of {rate.n})"
