"""Two results of the same suite side by side, on the samples that both were asked, by paired tests.

What is drawn apart is one unit: the text of one index. Its depths, and the questions about it, are no independent
draws, so their scores are averaged. Results of suites that measure are compared by document, question or repeat.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from farfield.benchmarks.reports.collected import collected
from farfield.benchmarks.reports.grid import differing, short
from farfield.benchmarks.reports.measured_tables import decimals, figure
from farfield.benchmarks.reports.paired import Paired, holm, paired
from farfield.benchmarks.reports.table import Entry, Row, Table
from farfield.benchmarks.running.results import Cell, Result
from farfield.config import DataError

__all__ = ["Comparison", "compared", "pairs", "plain", "table"]

ALL = "all tasks"
HEAD = 12  # characters of a column's head, so that a table fits into 80


@dataclass(frozen=True)
class Comparison:
    """One suite's two results. `corrected`: probabilities after Holm's correction over the tasks, by name."""

    suite: str
    first: str
    second: str
    share: bool
    tasks: Mapping[str, Paired]
    corrected: Mapping[str, float]
    notes: tuple[str, ...]


def pairs(places: Sequence[Path]) -> list[tuple[Result, Result]]:
    """The results at two places, by suite.

    Raises:
        DataError: they have no suite in common, several results of one, or were not asked the same.
    """
    first, second = ({result.head["suite"]: result for result in _single(place)} for place in places)
    both = [suite for suite in first if suite in second]
    if not both:
        raise DataError(
            f"compare: {places[0]} has results of {', '.join(first)}, {places[1]} of {', '.join(second)}. "
            "Only results of the same suite can be compared."
        )
    for suite in both:
        difference = differing([first[suite], second[suite]])
        if difference:
            raise DataError(
                f"compare: {first[suite].path} and {second[suite].path} were not asked the same: {difference}. "
                "Evaluate both with the same settings."
            )
    return [(first[suite], second[suite]) for suite in both]


def compared(first: Result, second: Result) -> Comparison:
    """The two, on what both have.

    Raises:
        DataError: they have nothing in common yet.
    """
    answered = {task: _units(first, second, task) for task in first.head["tasks"]}
    tasks = {task: paired(*units, limit=1) for task, units in answered.items() if units[0]}
    measured = {name: paired(*units) for name, units in _measured(first, second)}
    if not tasks and not measured:
        raise DataError(f"compare: {first.path} and {second.path} have no finished cell in common.")
    corrected = holm([one.p for one in (tasks | measured).values()])
    by_name = dict(zip(tasks | measured, corrected, strict=True))
    if len(tasks) > 1:
        before, after = ([score for units in answered.values() for score in units[side]] for side in (0, 1))
        tasks[ALL] = paired(before, after, limit=1)
    names = [first.name, second.name]
    if names[0] == names[1]:
        apart = first.path.parent != second.path.parent
        names = [str(result.path.parent if apart else result.path) for result in (first, second)]
    left = set(first.cells) ^ set(second.cells) | set(first.measured) ^ set(second.measured)
    count = "1 cell" if len(left) == 1 else f"{len(left)} cells"
    notes = (f"Left out: {count} that only one of the two has.",) if left else ()
    suite = str(first.head["suite"])
    return Comparison(suite, names[0], names[1], bool(tasks), tasks | measured, by_name, notes)


def table(comparison: Comparison) -> Table:
    """The means of both, the difference, and the probabilities."""
    rows = tuple(_row(name, one, comparison) for name, one in comparison.tasks.items())
    unit = ", %" if comparison.share else ""
    tests = " and ".join(dict.fromkeys(one.test for one in comparison.tasks.values()))
    notes = (
        f"Tests: {tests}. Depths of a text and questions about it are averaged to one unit.",
        "p: two-sided; Holm: corrected for the number of lines.",
        *comparison.notes,
    )
    names = (comparison.first, comparison.second)
    legend: tuple[str, ...] = ()
    if max(map(len, names)) > HEAD:
        legend = tuple(f"{letter}: {name}" for letter, name in zip("AB", names, strict=True))
        names = ("A", "B")
    columns = (*names, "difference", "95 % interval", "p", "Holm", "units")
    title = f"{comparison.suite}: {names[1]} against {names[0]}{unit}"
    return Table(comparison.suite, title, ("task",), columns, rows, (*legend, *notes))


def plain(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain values."""
    tasks = {
        name: {
            **{
                key: value if not isinstance(value, float) or math.isfinite(value) else None
                for key, value in told.items()
            },
            "difference": one.difference,
            "holm": comparison.corrected.get(name),
        }
        for name, one in comparison.tasks.items()
        for told in [asdict(one)]
    }
    about = {"suite": comparison.suite, "first": comparison.first, "second": comparison.second}
    return {**about, "tasks": tasks, "notes": list(comparison.notes)}


def _single(place: Path) -> list[Result]:
    results = collected([place]).results
    suites = [result.head["suite"] for result in results]
    for result in results:
        if suites.count(result.head["suite"]) > 1:
            raise DataError(
                f"compare: {place} holds several results of {result.head['suite']}. Name one file or folder."
            )
    return results


def _units(first: Result, second: Result, task: str) -> tuple[list[float], list[float]]:
    """The mean score of each index that both have, of all depths that both have."""
    shared = [cell for cell in first.cells if cell in second.cells and cell.task == task and cell.condition == "full"]
    units: tuple[list[float], list[float]] = [], []
    for length in dict.fromkeys(cell.length for cell in shared):
        cells = [cell for cell in shared if cell.length == length]
        count = min(result.cells[cell].count for cell in cells for result in (first, second))
        for side, result in zip(units, (first, second), strict=True):
            side += [_mean(result, cells, index) for index in range(count)]
    return units


def _mean(result: Result, cells: Sequence[Cell], index: int) -> float:
    scores = [score for cell in cells for score in result.cells[cell].of_index(index)]
    return sum(scores) / len(scores)


def _measured(first: Result, second: Result) -> Iterator[tuple[str, tuple[list[float], list[float]]]]:
    """By task and length: the same documents at two lengths are no independent draws."""
    for cell, one in first.measured.items():
        other = second.measured.get(cell)
        if cell.condition == "full" and other and one.each and len(one.each) == len(other.each):
            name = f"{cell.task}, {next(iter(one.values)).replace('_', ' ')} at {short(cell.length)}"
            yield name, (one.each, other.each)


def _row(name: str, one: Paired, comparison: Comparison) -> Row:
    scale = 100.0 if comparison.share else 1.0
    places = 1 if comparison.share else decimals(max(abs(one.first), abs(one.second)))
    first, second, low, high = (figure(scale * value, places) for value in (one.first, one.second, one.low, one.high))
    holm = comparison.corrected.get(name)
    texts = (
        *(first, second, f"{scale * one.difference:+,.{places}f}", f"{low} to {high}"),
        *(probability(one.p), "" if holm is None else probability(holm), str(one.n)),
    )
    return Row((name,), tuple(map(Entry, texts)), begins=name == ALL)


def probability(p: float) -> str:
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"
