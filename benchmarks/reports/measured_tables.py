"""Tables of what was measured: values by length, or a column for each value where there is one length."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from farfield.benchmarks.reports.grid import CONDITIONS, Series, short
from farfield.benchmarks.reports.table import Entry, Row, Table
from farfield.benchmarks.running.results import Measured
from farfield.benchmarks.tasks.sample import Condition

__all__ = ["decimals", "figure", "measured_table"]


def measured_table(suite: str, series: Sequence[Series], paths: tuple[str, ...]) -> Table:
    """A row for each task, value, model and condition; values are columns where there is one length only."""
    lengths = sorted({length for one in series for length in one.lengths})
    names = {name: unit for one in series for name, unit in one.values.items()}
    called = {name: _plain(name) + (f", {unit}" if unit else "") for name, unit in names.items()}
    if len(lengths) == 1:
        columns, rows = tuple(called.values()), _by_value(series, lengths[0], tuple(called))
    else:
        columns, rows = tuple(map(short, lengths)), _by_length(series, lengths, called)
    cells = [(one, at, got) for one in series for (_, at), got in one.cells.items()]
    spread = ["± half of the 95 % interval."] if any(got.half for *_, got in cells) else []
    said = (*spread, *_told(cells), *_skips(series))
    return Table(suite, f"{suite}: what was measured", ("measured", "model"), columns, tuple(rows), said, paths)


def _told(cells: Sequence[tuple[Series, int, Measured]]) -> Iterator[str]:
    """The notes of cells, each once, with the places it is of where these are not all."""
    for note in dict.fromkeys(note for *_, got in cells for note in got.notes):
        with_it = [(one, at) for one, at, got in cells if note in got.notes]
        places = dict.fromkeys(f"{one.name}, {one.task} at {short(at)}" for one, at in with_it)
        yield note if len(with_it) == len(cells) else f"{note} ({'; '.join(places)})"


def _skips(series: Sequence[Series]) -> Iterator[str]:
    """Why cells are skipped, each reason once, and what: the controls if it is these alone, else tasks if not all."""
    tasks = dict.fromkeys(one.task for one in series)
    for reason in dict.fromkeys(why for one in series for why in one.skipped.values()):
        places = [(one.task, how) for one in series for (how, _), why in one.skipped.items() if why == reason]
        conditions = [CONDITIONS[how] for how in CONDITIONS if how in {at for _, at in places}]
        named = [task for task in tasks if task in {at for at, _ in places}]
        what = conditions if CONDITIONS["full"] not in conditions else named if len(named) < len(tasks) else []
        yield f"Skipped{' ' if what else ''}{', '.join(what)}: {reason.rstrip('.')}."


def _by_length(series: Sequence[Series], lengths: Sequence[int], called: Mapping[str, str]) -> Iterator[Row]:
    for task in dict.fromkeys(one.task for one in series):
        mine = [one for one in series if one.task == task]
        for name in dict.fromkeys(name for one in mine for name in one.values):
            heads = iter([f"{task}: {called[name]}"])
            for one in mine:
                for condition in one.conditions:
                    entries = tuple(_value(one, condition, length, name) for length in lengths)
                    head = next(heads, "")
                    yield Row((head, _who(one, condition)), entries, begins=bool(head))


def _by_value(series: Sequence[Series], length: int, names: Sequence[str]) -> Iterator[Row]:
    for task in dict.fromkeys(one.task for one in series):
        heads = iter([task])
        for one in series:
            for condition in one.conditions if one.task == task else ():
                entries = tuple(_value(one, condition, length, name) for name in names)
                head = next(heads, "")
                yield Row((head, _who(one, condition)), entries, begins=bool(head))


def _who(one: Series, condition: Condition) -> str:
    return one.name if condition == "full" else f"{one.name}, {CONDITIONS[condition]}"


def _value(one: Series, condition: Condition, length: int, name: str) -> Entry:
    if (condition, length) in one.skipped:
        return Entry("skipped")
    got: Measured | None = one.cells.get((condition, length))
    if got is None or name not in got.values:
        return Entry()
    value, half = got.values[name], got.half.get(name)
    return Entry(figure(value), "" if half is None else f"±{figure(half, decimals(value))}")


def decimals(value: float) -> int:
    """So many that four digits are shown; none of whole thousands."""
    return max(0, 3 - math.floor(math.log10(abs(value)))) if value and math.isfinite(value) else 0


def figure(value: float, places: int | None = None) -> str:
    """A number with four digits, or with so many decimal places."""
    return f"{value:,.{decimals(value) if places is None else places}f}"


def _plain(name: str) -> str:
    return name.replace("_", " ")
