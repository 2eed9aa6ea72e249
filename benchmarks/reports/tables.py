"""Tables of results as plain texts: the terminal, the page and report.md show the same ones.

depth by length       of a task whose gold has a place, with the controls as rows
task by length        models side by side, with means over tasks, effective length and controls
label by length       for tasks that differ in a number: accuracy against the number of pairs
value by length       of suites that measure
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from statistics import fmean

from farfield.benchmarks.reports.effective import all_lengths, families, mean_notes
from farfield.benchmarks.reports.grid import (
    CONDITIONS,
    Grid,
    Rate,
    differing,
    grids,
    measures,
    percent,
    remarks,
    short,
)
from farfield.benchmarks.reports.measured_tables import measured_table
from farfield.benchmarks.reports.table import Entry, Row, Table
from farfield.benchmarks.running.results import Result
from farfield.benchmarks.tasks.sample import Condition

__all__ = ["tables"]

CHANCE = "chance"
CHOSEN = (
    "Choices by likelihood: the share of right ones among as many of the likeliest; no published score, nor comparable "
    "with one. Chance: what guessing gives."
)
FEWER = "†"  # behind a mean of not all tasks
REASONS = 6  # that are told below a table
WILSON = (
    "Below each number its 95 % interval (Wilson's; Student's of a mean where scores are fractions); "
    "depths of a text and questions about it are one draw."
)


def tables(results: Sequence[Result], threshold: float) -> list[Table]:
    """Of each suite: a grid for each model and task whose gold has a place, and what compares tasks and models.

    `threshold`: what the mean over tasks has to exceed for a length to be called effective.
    """
    made: list[Table] = []
    for suite in dict.fromkeys(str(result.head["suite"]) for result in results):
        mine = [result for result in results if result.head["suite"] == suite]
        paths, other = tuple(str(result.path) for result in mine), differing(mine)
        every = [grid for result in mine for grid in grids(result)]
        made += [_places(grid, result) for result in mine for grid in grids(result) if len(grid.depths) > 1]
        if len(every) > 1 or any(len(grid.depths) == 1 for grid in every):
            made += [_tasks(family, members, threshold, paths) for family, members in families(every).items()]
        series = [one for result in mine for one in measures(result)]
        if series:
            made.append(measured_table(suite, series, paths))
        if other:
            made[-1] = replace(made[-1], notes=(*made[-1].notes, f"Not all were asked the same: {other}."))
    return made


def _places(grid: Grid, result: Result) -> Table:
    """Depth downwards, length to the right."""
    rows = [
        Row((percent(depth),), tuple(_cell(grid, length, depth) for length in grid.lengths)) for depth in grid.depths
    ]
    rows.append(Row(("mean",), tuple(_rate(grid.rate(length)) for length in grid.lengths), begins=True))
    rows += [_control(grid, condition, ()) for condition in grid.conditions]
    rows += _chance([grid], grid.lengths, (CHANCE,))
    overall, (prefilled, naive) = grid.rate(), grid.prefilled()
    notes = [f"{_titled(grid.metric)} in %.", WILSON]
    if grid.scoring == "likelihood":
        notes.append(CHOSEN)
    if grid.trained is not None and max(grid.lengths) > grid.trained:
        notes.append(f"* longer than trained ({short(grid.trained)}).")
    if naive:
        notes.append(f"Prefilled {prefilled:,} tokens instead of {naive:,}.")
    said = _words(overall) if overall else "nothing finished"
    return Table(
        grid.shelf,
        f"{grid.name}, {grid.task}: {said}",
        ("depth, %",),
        tuple(_length(length, [grid]) for length in grid.lengths),
        tuple(rows),
        (*notes, *remarks([grid]), *_reasons([grid])),
        (str(result.path),),
    )


def _chance(members: Sequence[Grid], lengths: Sequence[int], heads: tuple[str, ...]) -> list[Row]:
    """A row of what guessing gives, of grids of one task; none where nothing is chosen from."""
    found = [_guessed(members, length) for length in lengths]
    if all(chance is None for chance in found):
        return []
    return [Row(heads, tuple(Entry() if chance is None else Entry(f"{100 * chance:.1f}") for chance in found))]


def _mean_chance(members: Sequence[Grid], lengths: Sequence[int]) -> list[Row]:
    """A row of what guessing gives in the mean over tasks, marked where that is of fewer of them."""
    tasks = dict.fromkeys(grid.task for grid in members if grid.asked)
    found = [
        [_guessed([grid for grid in members if grid.task == task], length) for task in tasks] for length in lengths
    ]
    if all(chance is None for of_length in found for chance in of_length):
        return []
    return [Row(("", CHANCE), tuple(map(_mean_share, found)))]


def _guessed(members: Sequence[Grid], length: int) -> float | None:
    """What guessing gives, the mean over models; None where nothing is chosen from."""
    found = [chance for grid in members if (chance := grid.chance(length)) is not None]
    return fmean(found) if found else None


def _control(grid: Grid, condition: Condition, heads: tuple[str, ...]) -> Row:
    entries = tuple(
        Entry("skipped") if (condition, length) in grid.lacking else _rate(grid.control(condition, length))
        for length in grid.lengths
    )
    return Row((*heads, CONDITIONS[condition]), entries)


def _tasks(name: str, members: Sequence[Grid], threshold: float, paths: tuple[str, ...]) -> Table:
    """Tasks or labels downwards, the models of each side by side, then means and controls."""
    lengths, models = all_lengths(members), list(dict.fromkeys(grid.name for grid in members))
    rows: list[Row] = []
    for task in dict.fromkeys(grid.task for grid in members):
        mine = [grid for grid in members if grid.task == task]
        for number, grid in enumerate(mine):
            entries = tuple(_row_cell(grid, length) for length in lengths)
            rows.append(Row((_called(grid) if number == 0 else "", grid.name), entries, begins=number == 0))
        rows += _chance(mine, lengths, ("", CHANCE))
    several = len({grid.task for grid in members}) > 1
    notes = [f"{_titled(' / '.join(dict.fromkeys(grid.metric for grid in members)))} in %.", WILSON]
    if several and not members[0].labels:
        rows += _means(members, models, lengths)
        rows += _mean_chance(members, lengths)
        notes += mean_notes(members, models, threshold)
    rows += _control_rows(members, models, lengths, several)
    notes += [CHOSEN] if members[0].scoring == "likelihood" else []
    if any(entry.text.endswith(FEWER) for row in rows for entry in row.entries):
        notes.append(f"{FEWER} mean of fewer tasks: those that have answers here; it counts in no effective length.")
    if any("*" in _length(length, members) for length in lengths):
        notes.append("* longer than trained.")
    notes += remarks(members)
    columns = tuple(_length(length, members) for length in lengths)
    title = name if members[0].labels else f"{name}: tasks by length"
    return Table(members[0].shelf, title, ("task", "model"), columns, tuple(rows), (*notes, *_reasons(members)), paths)


def _means(members: Sequence[Grid], models: Sequence[str], lengths: Sequence[int]) -> Iterator[Row]:
    """The mean over a model's tasks; how many these are is said again where it is not what stands above."""
    above = ""
    for number, model in enumerate(models):
        mine = [grid for grid in members if grid.name == model]
        asked = [grid for grid in mine if grid.asked]
        entries = tuple(_mean([grid.rate(length) for grid in asked]) for length in lengths)
        said = f"mean of {len(asked)}" + (f" of {len(mine)}" if len(asked) < len(mine) else "")
        yield Row(("" if said == above else said, model), entries, begins=number == 0)
        above = said


def _control_rows(
    members: Sequence[Grid], models: Sequence[str], lengths: Sequence[int], several: bool
) -> Iterator[Row]:
    """A row for each control and model: the mean over the tasks that were asked in full or in this way."""
    for condition in CONDITIONS:
        begins = True
        for model in models:
            mine = [grid for grid in members if grid.name == model and (grid.asked or condition in grid.conditions)]
            if not any(condition in grid.conditions for grid in mine):
                continue
            rates = [[grid.control(condition, length) for grid in mine] for length in lengths]
            alone = [next((rate for rate in found if rate is not None), None) for found in rates]
            entries = tuple(map(_mean, rates) if several else map(_rate, alone))
            title = CONDITIONS[condition] + (", mean" if several else "")
            yield Row((title if begins else "", model), entries, begins)
            begins = False


def _titled(metric: str) -> str:
    return metric[:1].upper() + metric[1:]


def _called(grid: Grid) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in grid.labels.items()) or grid.task


def _length(length: int, members: Iterable[Grid]) -> str:
    past = any(grid.trained is not None and length > grid.trained for grid in members)
    return short(length) + ("*" if past else "")


def _cell(grid: Grid, length: int, depth: float | None) -> Entry:
    if (length, depth) in grid.skipped:
        return Entry("skipped")
    return _rate(Rate.of([grid.cells[length, depth]]) if (length, depth) in grid.cells else None)


def _row_cell(grid: Grid, length: int) -> Entry:
    found = _rate(grid.rate(length))
    return Entry("skipped") if not found.text and any(at == length for at, _ in grid.skipped) else found


def _rate(rate: Rate | None) -> Entry:
    if rate is None:
        return Entry()
    low, high = rate.interval
    return Entry(f"{100 * rate.score:.0f}", f"{100 * low:.0f}-{100 * high:.0f}")


def _mean(rates: Sequence[Rate | None]) -> Entry:
    """Of tasks, each with the same weight."""
    return _mean_share([None if rate is None else rate.score for rate in rates])


def _mean_share(shares: Sequence[float | None]) -> Entry:
    found = [share for share in shares if share is not None]
    if not found:
        return Entry()
    return Entry(f"{100 * fmean(found):.1f}" + ("" if len(found) == len(shares) else FEWER))


def _words(rate: Rate) -> str:
    low, high = rate.interval
    return f"{rate.score:.1%} ({low:.1%} to {high:.1%}, {rate.hits} of {rate.n})"


def _reasons(members: Iterable[Grid]) -> list[str]:
    """Why cells are skipped; once where it is the same but for the task's name, with the other tasks behind it.

    Reasons that only controls have say which. Tasks that are asked at the longer lengths are in one line.
    """
    reasons: dict[str, dict[str, str]] = {}
    beside: dict[str, dict[str, None]] = {}
    begins: dict[str, None] = {}
    for grid in members:
        enough = [length for length in grid.lengths if length > max(grid.short, default=length)]
        begins |= {f"{grid.task} from {short(enough[0])}": None} if enough else {}
        told = (
            grid.short if enough else grid.short - {max(grid.short, default=0)}
        )  # of a task at none, the least it needs
        places = [("", why) for (length, _), why in grid.skipped.items() if length not in told]
        controls = [(CONDITIONS[at], why) for (at, length), why in grid.lacking.items() if length not in told]
        for condition, why in places + controls:
            nameless = re.sub(rf"(?<!\w){re.escape(grid.task)}(?!\w)", "\0", why)
            reasons.setdefault(nameless, {}).setdefault(grid.task if nameless != why else "", why)
            beside.setdefault(nameless, {}).setdefault(condition)
    said = [f"Skipped, too short: {', '.join(begins)}."] if begins else []
    for nameless, tasks in list(reasons.items())[:REASONS]:
        (_, first), *others = tasks.items()
        likewise = f" ({', '.join(task for task, _ in others)} likewise)" if others else ""
        which = "" if "" in beside[nameless] else f" {', '.join(beside[nameless])}"
        said.append(f"Skipped{which}: {first.rstrip('.')}{likewise}.")
    return said + [f"Skipped for {len(reasons) - REASONS} more reasons: see report.csv."] * (len(reasons) > REASONS)
