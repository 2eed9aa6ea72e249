"""Pictures of results as PNG files: heat maps of depth by length, and recall against length."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from farfield.benchmarks.grid import Grid, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

__all__ = ["curves", "heat_map"]

COLUMNS = 4  # panels side by side
# Even to the eye from dark to light, and told apart by readers who do not see red and green.
COLOURS = "cividis"
LIGHT = 0.55  # above this value numbers are printed dark
DOTS_PER_INCH = 150
MARKERS = "osDv^P*X"


def heat_map(grids: Sequence[Grid], path: Path) -> Path:
    """One panel a grid, depth downwards and length to the right, all on one scale from 0 to 100 %. Returns `path`.

    Cells that the model cannot do are hatched, cells not evaluated yet are white. A dashed line stands behind the last
    length that the model was trained at.
    """
    columns = min(COLUMNS, len(grids))
    rows = math.ceil(len(grids) / columns)
    wide = max(len(grid.lengths) for grid in grids) * 0.55 + 1.3
    high = max(len(grid.depths) for grid in grids) * 0.34 + 1.5
    figure = _figure(max(columns * wide + 1.0, 4.5), rows * high + 0.3)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, grid in zip(panels, grids, strict=False):
        image = _panel(panel, grid)
    for panel in panels[len(grids) :]:
        panel.set_visible(False)
    bar = figure.colorbar(image, ax=list(panels), shrink=0.8, pad=0.02)
    bar.set_label("recall, %")
    bar.set_ticks([0.0, 0.25, 0.5, 0.75, 1.0], labels=["0", "25", "50", "75", "100"])
    return _save(figure, path)


def curves(grids: Sequence[Grid], path: Path) -> Path:
    """Mean score of all depths against length, a line a grid with its Wilson 95 % interval. Returns `path`."""
    figure = _figure(6.4, 4.0)
    panel = figure.subplots()
    for number, grid in enumerate(grids):
        points = [(length, rate) for length in grid.lengths if (rate := grid.rate(length)) is not None]
        if not points:
            continue
        lengths = [length for length, _ in points]
        low, high = np.array([rate.interval for _, rate in points]).reshape(-1, 2).T * 100
        colour, scores = f"C{number}", [100 * rate.score for _, rate in points]
        panel.plot(lengths, scores, label=_title(grid, grids), color=colour, marker=MARKERS[number % len(MARKERS)])
        panel.fill_between(lengths, low, high, color=colour, alpha=0.15, linewidth=0)
        if grid.trained:
            panel.axvline(grid.trained, color=colour, linestyle="--", linewidth=1)
    ticks = sorted({length for grid in grids for length in grid.lengths})
    panel.set_xscale("log", base=2)
    panel.set_xticks(ticks, labels=[short(tick) for tick in ticks], minor=False)
    panel.minorticks_off()
    panel.set(xlabel="length, tokens (dashed: trained at)", ylabel="recall, %", ylim=(-3, 103))
    panel.grid(alpha=0.3)
    if panel.lines:
        panel.legend(fontsize=8)
    return _save(figure, path)


def _panel(panel: Axes, grid: Grid) -> AxesImage:
    values = np.full((len(grid.depths), len(grid.lengths)), np.nan)
    for row, depth in enumerate(grid.depths):
        for column, length in enumerate(grid.lengths):
            if (length, depth) in grid.cells:
                values[row, column] = value = grid.cells[length, depth].score
                shade = "black" if value > LIGHT else "white"
                panel.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=shade, fontsize=8)
            elif (length, depth) in grid.skipped:
                panel.fill_between(
                    [column - 0.5, column + 0.5], row - 0.5, row + 0.5, hatch="///", facecolor="1.0", edgecolor="0.8"
                )
    image = panel.imshow(np.ma.masked_invalid(values), cmap=COLOURS, vmin=0, vmax=1, aspect="auto")
    panel.set_xticks(range(len(grid.lengths)), labels=[short(length) for length in grid.lengths], fontsize=8)
    panel.set_yticks(range(len(grid.depths)), labels=[_percent(depth) for depth in grid.depths], fontsize=8)
    panel.set(xlabel="length, tokens", ylabel="depth of the needle, %")
    overall = grid.rate()
    panel.set_title(grid.name + (f": {overall.score:.0%}" if overall else ": nothing finished"), fontsize=10)
    if grid.trained:
        panel.axvline(bisect_right(grid.lengths, grid.trained) - 0.5, color="tab:red", linestyle="--", clip_on=False)
        panel.set_xlabel(f"length, tokens (dashed: trained at {short(grid.trained)})")
    return image


def _title(grid: Grid, among: Sequence[Grid]) -> str:
    """The model's name, and the task's where there are several."""
    return grid.name if len({other.task for other in among}) == 1 else f"{grid.name}, {grid.task}"


def _percent(depth: float | None) -> str:
    return "all" if depth is None else f"{100 * depth:.3g}"


def _figure(wide: float, high: float) -> Figure:
    # The object interface: no window, no state that outlives the figure.
    from matplotlib.figure import Figure

    return Figure(figsize=(wide, high), layout="constrained")


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=DOTS_PER_INCH)
    return path
