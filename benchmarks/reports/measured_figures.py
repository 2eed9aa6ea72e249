"""Pictures of what was measured: values against length, curves of single cells, and bars where there is one length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from farfield.benchmarks.reports.canvas import COLOURS, Canvas, against_length, line, share_scale, tidy
from farfield.benchmarks.reports.grid import CONDITIONS, Series, short
from farfield.benchmarks.running.results import Curve
from farfield.benchmarks.tasks.sample import Condition

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["measured_pictures"]

PANELS = 12  # of all values, else of the first one of each task
Ends = tuple[float, float] | None  # of an interval, where there is one
WIDE = 20.0  # an axis of values that are so many times as large as the least is logarithmic


def measured_pictures(suite: str, series: Sequence[Series], folder: Path, said: str) -> list[Path]:
    """Writes the pictures of one suite; their paths."""
    series = [one for one in series if one.cells]
    if not series:
        return []
    made = []
    if len({length for one in series for _, length in one.cells}) > 1:
        made.append(_against_length(suite, series, folder / f"{suite}_by_length.png", said))
    else:
        made.append(_bars(suite, series, folder / f"{suite}_bars.png", said))
    names = dict.fromkeys(name for one in series for got in one.cells.values() for name in got.curves)
    made += [_curves(suite, name, series, folder / f"{suite}_{_file(name)}.png", said) for name in names]
    return made


def _against_length(suite: str, series: Sequence[Series], path: Path, said: str) -> Path:
    """A panel for each task and value, a line for each model and condition."""
    shown = [(task, name) for task in _tasks(series) for name in _values(series, task)]
    if len(shown) > PANELS:
        shown = [(task, _values(series, task)[0]) for task in _tasks(series)]
    canvas = Canvas(len(shown), 2.7, 1.9, f"{suite}: against length", said)
    names = _names(series)
    for panel, (task, name) in zip(canvas.panels, shown, strict=False):
        mine = [one for one in series if one.task == task]
        for one in mine:
            for condition in one.conditions:
                found = [(at, got) for (how, at), got in sorted(one.cells.items()) if how == condition]
                points = [(at, got.values[name], got.interval(name)) for at, got in found if name in got.values]
                _points(panel, one, condition, names, points)
        against_length(panel, [at for one in mine for _, at in one.cells])
        unit = next((one.values[name] for one in mine if one.values.get(name)), "")
        panel.set(xlabel="length, tokens", ylabel=unit)
        tidy(panel, f"{task}: {name.replace('_', ' ')}" if len(_tasks(series)) > 1 else name.replace("_", " "))
        _readable(panel)
    for name in dict.fromkeys(name for _, name in shown):
        share_scale([panel for panel, (_, called) in zip(canvas.panels, shown, strict=False) if called == name])
    canvas.legend()
    return canvas.save(path)


def _curves(suite: str, name: str, series: Sequence[Series], path: Path, said: str) -> Path:
    """A panel a task, a line for each model and condition: the curve of its longest length."""
    having = [one for one in series if any(name in got.curves for got in one.cells.values())]
    canvas = Canvas(len(_tasks(having)), 3.2, 2.3, f"{suite}: {name.replace('_', ' ')}", said, columns=3)
    names = _names(having)
    for panel, task in zip(canvas.panels, _tasks(having), strict=False):
        lengths: set[int] = set()
        places: list[float] = []
        for one in (one for one in having if one.task == task):
            for condition in one.conditions:
                length, curve = _longest(one, condition, name)
                if curve is None:
                    continue
                lengths.add(length)
                places += curve.x
                halves = curve.half or [0.0] * len(curve.x)
                ends = [(y - half, y + half) for y, half in zip(curve.y, halves, strict=True)]
                _points(panel, one, condition, names, list(zip(curve.x, curve.y, ends, strict=True)))
                panel.set(xlabel=curve.x_name, ylabel=curve.y_name)
        if places and min(places) > 0:
            panel.set_xscale("log", base=2)
            panel.xaxis.set_major_formatter(lambda value, _: short(round(value)))
        tidy(panel, f"{task}, read at {' and '.join(map(short, sorted(lengths)))}")
    share_scale(canvas.panels[: len(_tasks(having))])
    canvas.legend()
    return canvas.save(path)


def _bars(suite: str, series: Sequence[Series], path: Path, said: str) -> Path:
    """A panel for each value, a group of bars for each task, a bar for each model.

    Tasks that are called `collection.method` are grouped by collection, a bar for each method.
    """
    bars = [(*_placed(one, condition, series), got) for one in series for (condition, _), got in one.cells.items()]
    groups = list(dict.fromkeys(group for group, *_ in bars))
    lines = list(dict.fromkeys(label for _, label, _ in bars))
    names = list(dict.fromkeys(name for *_, got in bars for name in got.values))
    wide = max(2.4, 0.3 + 0.2 * len(groups) * (len(lines) + 1))
    canvas = Canvas(len(names), wide, 2.0, suite, said, columns=max(1, int(12 / wide)))
    width = 0.8 / len(lines)
    for panel, name in zip(canvas.panels, names, strict=False):
        for group, label, got in bars:
            if name in got.values:
                number = lines.index(label)
                at = groups.index(group) + (number - (len(lines) - 1) / 2) * width
                _bar(panel, at, 0.9 * width, number, label, got.values[name], got.interval(name))
        turned: dict[str, Any] = {"rotation": 20, "ha": "right"} if sum(map(len, groups)) > 24 else {}
        panel.set_xticks(range(len(groups)), labels=groups, **turned)
        tidy(panel, name.replace("_", " "))
        panel.grid(False, axis="x")
        panel.margins(y=0.12)
    canvas.legend()
    return canvas.save(path)


def _bar(panel: Axes, at: float, width: float, number: int, label: str, value: float, ends: Ends) -> None:
    colour, (low, high) = COLOURS[number % len(COLOURS)], ends or (value, value)
    off = None if ends is None else [[value - low], [high - value]]
    panel.bar(at, value, width, yerr=off, error_kw={"linewidth": 0.8}, color=colour, label=label)
    top = (at, high)
    panel.annotate(f"{value:.3g}", top, (0, 2), textcoords="offset points", ha="center", fontsize=6)


def _placed(one: Series, condition: Condition, series: Sequence[Series]) -> tuple[str, str]:
    """The group and the label of a bar."""
    group, _, method = one.task.rpartition(".")
    if not group:
        return one.task, _label(one, condition)
    return group, method if len(_names(series)) == 1 else f"{_label(one, condition)}, {method}"


def _points(
    panel: Axes,
    one: Series,
    condition: Condition,
    names: Sequence[str],
    points: Sequence[tuple[float, float, Ends]],
) -> None:
    """A line in the model's colour, dashed by its condition."""
    if points:
        ends = [interval or (y, y) for _, y, interval in points]
        number = names.index(one.name)
        line(panel, number, _label(one, condition), [(x, y) for x, y, _ in points], ends, condition)


def _readable(panel: Axes) -> None:
    """Makes the axis of values logarithmic where they are far apart, and shortens large numbers."""
    from matplotlib.ticker import EngFormatter

    values = [float(y) for drawn in panel.lines for y in np.asarray(drawn.get_ydata(), dtype=np.float64)]
    if values and min(values) > 0 and max(values) > WIDE * min(values):
        panel.set_yscale("log")
    if values and max(values) >= 10_000:
        panel.yaxis.set_major_formatter(EngFormatter(sep=""))


def _longest(one: Series, condition: Condition, name: str) -> tuple[int, Curve | None]:
    """The curve of the longest length that has one."""
    lengths = [at for (how, at), got in one.cells.items() if how == condition and name in got.curves]
    return (max(lengths), one.cells[condition, max(lengths)].curves[name]) if lengths else (0, None)


def _tasks(series: Sequence[Series]) -> list[str]:
    return list(dict.fromkeys(one.task for one in series))


def _values(series: Sequence[Series], task: str) -> list[str]:
    return list(dict.fromkeys(name for one in series if one.task == task for name in one.values))


def _names(series: Sequence[Series]) -> list[str]:
    return list(dict.fromkeys(one.name for one in series))


def _label(one: Series, condition: Condition) -> str:
    return one.name if condition == "full" else f"{one.name}, {CONDITIONS[condition]}"


def _file(name: str) -> str:
    """A part of a file's name."""
    return "".join(sign if sign.isalnum() else "_" for sign in name)
