"""Result files -> tables, pictures, one self-contained HTML page, CSV, Markdown, and a machine-readable summary.

results = collected([Path("results")]).results
made = tables(results, threshold=0.856)
console.print(*map(drawn, made))
for path in write(results, made, Path("results")): ...   # report.html, report.csv, report.md, PNG pictures
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from farfield.benchmarks.reports.effective import doubt, families, means, thresholds
from farfield.benchmarks.reports.exports import as_csv, as_markdown
from farfield.benchmarks.reports.figures import pictures
from farfield.benchmarks.reports.grid import Grid, Rate, Series, grids, measures, remarks
from farfield.benchmarks.reports.page import page
from farfield.benchmarks.reports.table import Table
from farfield.benchmarks.running.results import Measured, Result
from farfield.benchmarks.tasks.ruler.effective import effective_length, weighted_mean

__all__ = ["summary", "write"]


def write(results: Sequence[Result], tables: Sequence[Table], folder: Path) -> list[Path]:
    """Writes the pictures, the page and the exports into `folder`; their paths. Models stand side by side."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.html": page(results, tables),
        "report.csv": as_csv(results),
        "report.md": as_markdown(tables, results),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [*pictures(results, folder), *(folder / name for name in texts)]


def summary(results: Sequence[Result], threshold: float) -> dict[str, Any]:
    """The rates of all cells, lengths and results, and all that was measured, as plain values."""
    found = {
        "results": [_summary(grid, result) for result in results for grid in grids(result)],
        "measured": [_series(series, result) for result in results for series in measures(result)],
        "effective": _effective(results, threshold),
    }
    return {name: value for name, value in found.items() if value or name == "results"}


def _summary(grid: Grid, result: Result) -> dict[str, Any]:
    prefilled, naive = grid.prefilled()
    return {
        "model": grid.name,
        "suite": grid.suite,
        "task": grid.task,
        "metric": grid.metric,
        "scoring": grid.scoring,
        "path": str(result.path),
        **_plain(grid.rate()),
        "finished": len(grid.cells),
        "cells": len(grid.lengths) * len(grid.depths),
        "prefilled": prefilled,
        "naive": naive,
        "trained_length": grid.trained,
        "labels": dict(grid.labels),
        "lengths": [
            {"length": length, **_plain(grid.rate(length)), "chance": grid.chance(length)} for length in grid.lengths
        ],
        "grid": [
            {"length": length, "depth": depth, **_plain(Rate.of([cell]))}
            for (length, depth), cell in grid.cells.items()
        ],
        "controls": [
            {"condition": condition, "length": length, **_plain(Rate.of([cell]))}
            for (condition, length), cell in grid.controls.items()
        ],
        "skipped": [
            *({"length": at, "depth": depth, "reason": why} for (at, depth), why in grid.skipped.items()),
            *({"length": at, "condition": how, "reason": why} for (how, at), why in grid.lacking.items()),
        ],
        "remarks": remarks([grid]),
    }


def _plain(rate: Rate | None) -> dict[str, Any]:
    if rate is None:
        return {"score": None, "hits": 0, "samples": 0, "interval": None}
    return {"score": rate.score, "hits": rate.hits, "samples": rate.n, "interval": list(rate.interval)}


def _series(series: Series, result: Result) -> dict[str, Any]:
    return {
        "model": series.name,
        "suite": series.suite,
        "task": series.task,
        "path": str(result.path),
        "units": series.values,
        "cells": [
            {"condition": condition, "length": length, **_measured(got)}
            for (condition, length), got in series.cells.items()
        ],
        "skipped": [{"condition": how, "length": at, "reason": why} for (how, at), why in series.skipped.items()],
    }


def _measured(got: Measured) -> dict[str, Any]:
    curves = {name: {"x": curve.x, "y": curve.y, "half": curve.half} for name, curve in got.curves.items()}
    return {"values": dict(got.values), "half": dict(got.half), "curves": curves, "notes": list(got.notes)}


def _effective(results: Sequence[Result], threshold: float) -> list[dict[str, Any]]:
    """Of suites of several tasks, where these do not differ in a number only."""
    found = []
    for name, members in families([grid for result in results for grid in grids(result)]).items():
        for model in dict.fromkeys(grid.name for grid in members):
            mine = [grid for grid in members if grid.name == model and grid.asked]
            by_length = means(mine)
            if len(mine) > 1 and by_length and not mine[0].labels:
                above = thresholds(mine, by_length, threshold)
                lengths = {kind: effective_length(by_length, threshold=least) for kind, least in above.items()}
                told = [{"length": at, "mean": mean} for at, mean in by_length.items()]
                weighted = {way: weighted_mean(by_length, rising=way == "rising") for way in ("rising", "falling")}
                not_asked = [grid.task for grid in members if grid.name == model and not grid.asked]
                about = {"suite": name, "model": model, "tasks": len(mine), "not_asked": not_asked}
                about["doubt"] = doubt(mine, by_length)
                found.append({**about, "means": told, "weighted": weighted, "thresholds": above, "lengths": lengths})
    return found
