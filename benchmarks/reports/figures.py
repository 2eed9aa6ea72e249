"""Pictures of what was answered, as PNG files, models side by side on one scale: heat maps, and scores against length,
depth and whatever number tells tasks apart.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from farfield.benchmarks.reports.canvas import DASHES, MARKS, Canvas, against_length, line, tidy
from farfield.benchmarks.reports.effective import families, means
from farfield.benchmarks.reports.grid import CONDITIONS, Grid, Rate, grids, measures, percent, short, source
from farfield.benchmarks.reports.measured_figures import measured_pictures
from farfield.benchmarks.running.results import Result
from farfield.benchmarks.tasks.sample import Condition

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

__all__ = ["by_depth", "by_label", "by_length", "heat_map", "pictures"]

# Even to the eye from dark to light, and told apart by readers who do not see red and green.
SCALE = "cividis"
LIGHT = 0.5  # above this value numbers are printed dark


@dataclass(frozen=True)
class Map:
    """One panel of a heat map; `values` and `skipped` are by row and column, `edge` is where training ended."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Mapping[tuple[int, int], float]
    skipped: frozenset[tuple[int, int]]
    down: str = ""
    across: str = "length, tokens"
    edge: int | None = None


def pictures(results: Sequence[Result], folder: Path) -> list[Path]:
    """Writes the pictures of each suite, as many as its shape has; their paths."""
    made = []
    for suite in dict.fromkeys(str(result.head["suite"]) for result in results):
        mine = [result for result in results if result.head["suite"] == suite]
        every, said = [grid for result in mine for grid in grids(result)], source(mine)
        for shelf in dict.fromkeys(grid.shelf for grid in every):
            made += _pictures([grid for grid in every if grid.shelf == shelf], folder, said)
        made += measured_pictures(suite, [one for result in mine for one in measures(result)], folder, said)
    return made


def _pictures(every: Sequence[Grid], folder: Path, said: str) -> list[Path]:
    """Of grids on one scale; none without a point in it."""
    answered = [grid for grid in every if grid.cells]
    if not any(grid.cells or grid.controls for grid in every):
        return []
    stem = every[0].shelf.replace(" ", "_")
    made = [heat_map(every, folder / f"{stem}_heat_map.png", said)]
    if any(len(grid.lengths) > 1 for grid in every):
        made.append(by_length(every, folder / f"{stem}_by_length.png", said))
    if any(len(grid.depths) > 1 for grid in answered):
        made.append(by_depth(answered, folder / f"{stem}_by_depth.png", said))
    for name, members in families(answered).items():
        if len({tuple(grid.labels.values()) for grid in members if grid.labels}) > 1:
            called = "_".join(re.findall(r"\w+", name))
            made.append(by_label(members, folder / f"{called}.png", name, said))
    return made


def heat_map(every: Sequence[Grid], path: Path, said: str = "") -> Path:
    """Depth by length for tasks whose gold has a place, else task by length, on one scale from 0 to 100 %.

    Where there is one length, tasks stand against what was read.

    Cells that the model cannot do are hatched, cells not evaluated yet are white. A dashed line stands behind the last
    length that the model was trained at. Returns `path`.
    """
    maps = _maps(every)
    wide = max(0.42 * len(one.columns) + 0.085 * max(map(len, one.rows)) + 0.75 for one in maps)
    high = max(0.22 * len(one.rows) + 0.75 for one in maps)
    models = len({grid.name for grid in every})
    columns = models if 1 < models <= 4 else 4
    metric = " / ".join(dict.fromkeys(grid.metric for grid in every))
    canvas = Canvas(len(maps), max(wide, 2.2), high, f"{every[0].shelf}: {metric}, %", said, columns)
    images = [_panel(panel, one) for panel, one in zip(canvas.panels, maps, strict=False)]
    bar = canvas.figure.colorbar(images[-1], ax=canvas.panels, shrink=0.8, pad=0.01, aspect=30)
    bar.set_ticks([0.0, 0.25, 0.5, 0.75, 1.0], labels=["0", "25", "50", "75", "100"], fontsize=7.5)
    bar.outline.set_visible(False)
    return canvas.save(path)


def by_length(every: Sequence[Grid], path: Path, said: str = "") -> Path:
    """Mean score of all depths against length: a panel a task, a line a model with its 95 % interval, controls in grey.

    Returns `path`.
    """
    tasks = list(dict.fromkeys(grid.task for grid in every if grid.cells or grid.controls))
    averaged = len(tasks) > 1 and not any(grid.labels for grid in every)
    panels = len(tasks) + averaged
    canvas = Canvas(
        panels,
        2.5 if len(tasks) > 1 else 5.0,
        1.75 if len(tasks) > 1 else 2.8,
        f"{every[0].shelf}: score against length, %",
        said,
    )
    names = list(dict.fromkeys(grid.name for grid in every))
    if averaged:
        asked = {grid.task for grid in every if grid.asked}
        for number, name in enumerate(names):
            mean = means([grid for grid in every if grid.name == name])
            line(canvas.panels[0], number, name, [(length, 100 * share) for length, share in mean.items()])
        against_length(canvas.panels[0], [length for grid in every for length in grid.lengths])
        _score_axis(canvas.panels[0], f"mean of {len(asked)} tasks", "length, tokens")
    for panel, task in zip(canvas.panels[averaged:], tasks, strict=False):
        mine = [grid for grid in every if grid.task == task]
        for grid in mine:
            _rates(panel, names.index(grid.name), grid.name, [(at, grid.rate(at)) for at in grid.lengths])
        for grid in mine:
            _controls(panel, grid)
        against_length(panel, [length for grid in mine for length in grid.lengths])
        for trained in {grid.trained for grid in mine if grid.trained}:
            panel.axvline(trained, color="0.35", linestyle=(0, (4, 3)), linewidth=0.8, label="trained at")
        _score_axis(panel, task, "length, tokens")
    canvas.legend()
    return canvas.save(path)


def by_depth(every: Sequence[Grid], path: Path, said: str = "") -> Path:
    """Mean score of all lengths against depth: a panel a task, a line a model. Returns `path`."""
    placed = [grid for grid in every if len(grid.depths) > 1]
    names = list(dict.fromkeys(grid.name for grid in placed))

    def draw(panel: Axes, mine: Sequence[Grid]) -> None:
        for grid in mine:
            places = [depth for depth in grid.depths if depth is not None]
            points = [(100 * depth, grid.rate(depth=depth)) for depth in places]
            _rates(panel, names.index(grid.name), grid.name, points)

    tasks = {task: [grid for grid in placed if grid.task == task] for task in dict.fromkeys(g.task for g in placed)}
    return _panels(f"{every[0].shelf}: score against depth, %", tasks, draw, "depth of the gold, %", path, said)


def by_label(members: Sequence[Grid], path: Path, title: str, said: str = "") -> Path:
    """Score against the number that tells tasks apart: a panel a length, a line a model. Returns `path`."""
    label = next(iter(members[0].labels))
    names = list(dict.fromkeys(grid.name for grid in members))
    lengths = sorted({length for grid in members for length, _ in grid.cells})
    of_length = {short(length): length for length in lengths}
    ticks = sorted({grid.labels[label] for grid in members})
    canvas = Canvas(max(1, len(lengths)), 2.5, 2.0, f"{title}, %", said)
    for panel, (called, length) in zip(canvas.panels, of_length.items(), strict=False):
        for number, name in enumerate(names):
            points = [(grid.labels[label], grid.rate(length)) for grid in members if grid.name == name]
            _rates(panel, number, name, points)
        if min(ticks, default=0) > 0:
            panel.set_xscale("log", base=2)
            panel.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks], minor=False)
            panel.minorticks_off()
        _score_axis(panel, f"{called} tokens", label)
    canvas.legend()
    return canvas.save(path)


def _panels(
    title: str,
    tasks: Mapping[str, Sequence[Grid]],
    draw: Callable[[Axes, Sequence[Grid]], None],
    across: str,
    path: Path,
    said: str,
) -> Path:
    canvas = Canvas(len(tasks), 2.5 if len(tasks) > 1 else 5.0, 1.9 if len(tasks) > 1 else 2.8, title, said)
    for panel, (task, mine) in zip(canvas.panels, tasks.items(), strict=False):
        draw(panel, mine)
        _score_axis(panel, task, across)
    canvas.legend()
    return canvas.save(path)


def _controls(panel: Axes, grid: Grid) -> None:
    """Behind the lines of the models, and of one colour, for they say how to read these."""
    for condition in grid.conditions:
        points = [(at, grid.control(condition, at)) for at in grid.lengths]
        x = [at for at, rate in points if rate is not None]
        y = [100 * rate.score for _, rate in points if rate is not None]
        style: dict[str, Any] = {"linestyle": DASHES[condition], "marker": MARKS[condition], "markersize": 4.5}
        panel.plot(x, y, label=CONDITIONS[condition], color="0.6", linewidth=1.0, zorder=1, **style)


def _rates(panel: Axes, number: int, label: str, points: Sequence[tuple[float, Rate | None]]) -> None:
    found = [(x, rate) for x, rate in points if rate is not None]
    if found:
        ends = [(100 * rate.interval[0], 100 * rate.interval[1]) for _, rate in found]
        line(panel, number, label, [(x, 100 * rate.score) for x, rate in found], ends)


def _score_axis(panel: Axes, title: str, across: str) -> None:
    panel.set(xlabel=across, ylim=(-4, 104))
    panel.set_yticks([0, 25, 50, 75, 100])
    tidy(panel, title)


def _maps(every: Sequence[Grid]) -> list[Map]:
    """A panel for each task whose gold has a place and each model, and one a model for the other tasks."""
    placed = [grid for grid in every if len(grid.depths) > 1]
    tasks = list(dict.fromkeys(grid.task for grid in placed))
    several = len(tasks) > 1
    made = [_depths(grid, several) for task in tasks for grid in placed if grid.task == task]
    flat = [grid for grid in every if len(grid.depths) == 1]
    for name in dict.fromkeys(grid.name for grid in flat):
        made.append(_tasks([grid for grid in flat if grid.name == name]))
    return made


def _depths(grid: Grid, several: bool) -> Map:
    columns, rows = range(len(grid.lengths)), range(len(grid.depths))
    places = {(row, column): (grid.lengths[column], grid.depths[row]) for row in rows for column in columns}
    overall = grid.rate()
    said = f"{overall.score:.0%}" if overall else "nothing finished"
    return Map(
        title=f"{grid.name}, {grid.task}: {said}" if several else f"{grid.name}: {said}",
        rows=tuple(percent(depth) for depth in grid.depths),
        columns=tuple(map(short, grid.lengths)),
        values={at: grid.cells[place].score for at, place in places.items() if place in grid.cells},
        skipped=frozenset(at for at, place in places.items() if place in grid.skipped),
        down="depth, %",
        **_edge(grid.trained, grid.lengths),
    )


def _tasks(mine: Sequence[Grid]) -> Map:
    """Task by length, or by what was read where there is one length."""
    lengths = tuple(sorted({length for grid in mine for length in grid.lengths}))
    conditions = [name for name in CONDITIONS if name == "full" or any(name in grid.conditions for grid in mine)]
    single = len(lengths) == 1 and len(conditions) > 1
    columns = [(name, lengths[0]) for name in conditions] if single else [("full", length) for length in lengths]
    places = {(row, column): (grid, *at) for row, grid in enumerate(mine) for column, at in enumerate(columns)}
    rates = {at: grid.control(condition, length) for at, (grid, condition, length) in places.items()}
    full = [rate.score for (_, column), rate in rates.items() if rate is not None and columns[column][0] == "full"]
    overall = f"{sum(full) / len(full):.0%}" if full else "nothing finished"
    return Map(
        title=f"{mine[0].name}: {overall}",
        rows=tuple(grid.task for grid in mine),
        columns=tuple(CONDITIONS[name].replace(" ", "\n") if single else short(length) for name, length in columns),
        values={at: rate.score for at, rate in rates.items() if rate is not None},
        skipped=frozenset(at for at, place in places.items() if rates[at] is None and _lacks(*place)),
        **({"across": f"{short(lengths[0])} tokens"} if single else _edge(mine[0].trained, lengths)),
    )


def _lacks(grid: Grid, condition: Condition, length: int) -> bool:
    if condition == "full":
        return any(at == length for at, _ in grid.skipped)
    return (condition, length) in grid.lacking


def _edge(trained: int | None, lengths: Sequence[int]) -> dict[str, Any]:
    """Where the line goes behind which a model was not trained, and what it is called; nothing without one."""
    if trained is None or trained >= lengths[-1]:
        return {}
    return {"edge": bisect_right(lengths, trained), "across": f"length, tokens (dashed: trained at {short(trained)})"}


def _panel(panel: Axes, one: Map) -> AxesImage:
    values = np.full((len(one.rows), len(one.columns)), np.nan)
    for (row, column), value in one.values.items():
        values[row, column] = value
        shade = "black" if value > LIGHT else "white"
        panel.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=shade, fontsize=7)
    for row, column in one.skipped:
        ends = [column - 0.5, column + 0.5]
        panel.fill_between(ends, row - 0.5, row + 0.5, hatch="////", facecolor="1.0", edgecolor="0.8", linewidth=0)
    image = panel.imshow(np.ma.masked_invalid(values), cmap=SCALE, vmin=0, vmax=1, aspect="auto")
    panel.set_xticks(range(len(one.columns)), labels=one.columns)
    panel.set_yticks(range(len(one.rows)), labels=one.rows)
    panel.set(xlabel=one.across, ylabel=one.down)
    tidy(panel, one.title)
    panel.grid(False)
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)
    if one.edge is not None:
        panel.axvline(one.edge - 0.5, color="tab:red", linestyle="--", clip_on=False)
    return image
