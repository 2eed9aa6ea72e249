"""Results as CSV, one line a cell and condition, and tables as Markdown."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean as mean

from farfield.benchmarks.reports.grid import Rate, source
from farfield.benchmarks.reports.table import Entry, Table
from farfield.benchmarks.running.results import Answers, Cell, Measured, Result

__all__ = ["COLUMNS", "as_csv", "as_markdown", "plain_cells"]

COLUMNS = (
    *("model", "suite", "task", "metric", "scoring", "condition", "length", "depth", "labels"),
    *("value_name", "unit", "value", "low", "high", "chance", "samples", "hits", "nulls", "silent", "ties", "capped"),
    *("unfilled", "prefilled", "naive", "seconds", "skipped", "commit", "seed", "settings_hash", "path"),
)


def as_csv(results: Sequence[Result]) -> str:
    """A line for each cell, for each value of a cell that was measured, and for each skipped cell.

    Shares run from 0 to 1. Texts that a spreadsheet would take for a formula begin with an apostrophe.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in plain_cells(results):
        writer.writerow({name: _safe(value) for name, value in row.items()})
    return out.getvalue()


def plain_cells(results: Sequence[Result]) -> Iterator[dict[str, object]]:
    """What the lines of the CSV file say, by the names of its columns; what does not apply is left out."""
    for result in results:
        for cell, answers in result.cells.items():
            yield {**_about(result, cell), **_answered(answers)}
        for cell, measured in result.measured.items():
            yield from ({**_about(result, cell), **value} for value in _measured(measured))
        for cell, reason in result.skipped.items():
            yield {**_about(result, cell), "skipped": reason}


def as_markdown(tables: Sequence[Table], results: Sequence[Result]) -> str:
    """The tables, with where their numbers come from."""
    parts = ["# Farfield results"]
    for table in tables:
        parts += [f"## {_escaped(table.title)}", _grid(table), *(_escaped(note) for note in table.notes)]
    parts += ["## Sources", "\n".join(f"- {_escaped(source([result]))}" for result in results)]
    return "\n\n".join(parts) + "\n"


def _about(result: Result, cell: Cell) -> dict[str, object]:
    about, commit = result.head["tasks"].get(cell.task, {}), result.head["provenance"].get("commit")
    return {
        "model": result.name,
        "suite": result.head["suite"],
        "task": cell.task,
        "metric": result.metric(cell.task),
        "scoring": about.get("scoring", ""),
        "condition": cell.condition,
        "length": cell.length,
        **({} if cell.depth is None else {"depth": cell.depth}),
        "labels": " ".join(f"{name}={value:g}" for name, value in about.get("labels", {}).items()),
        "commit": commit or "",
        "seed": result.head["seed"],
        "settings_hash": result.head["settings_hash"],
        "path": str(result.path),
    }


def _answered(answers: Answers) -> Mapping[str, object]:
    rate = Rate.of([answers])
    shown = {} if rate is None else {"value": rate.score, "low": rate.interval[0], "high": rate.interval[1]}
    return {
        "value_name": "score",
        **shown,
        **({"chance": mean(answers.chances)} if answers.chances else {}),
        "samples": len(answers.scores),
        "hits": answers.hits,
        "nulls": answers.nulls,
        "silent": answers.silent,
        "ties": answers.ties,
        "capped": answers.capped,
        "unfilled": answers.unfilled,
        **_work(answers),
    }


def _measured(measured: Measured) -> Iterator[Mapping[str, object]]:
    for name, value in measured.values.items():
        interval = measured.interval(name)
        ends = {} if interval is None else dict(zip(("low", "high"), interval, strict=True))
        yield {"value_name": name, "unit": measured.units.get(name, ""), "value": value, **ends, **_work(measured)}


def _work(cell: Answers | Measured) -> Mapping[str, object]:
    return {"prefilled": cell.prefilled, "naive": cell.naive, "seconds": cell.seconds}


def _safe(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _grid(table: Table) -> str:
    heads = [*table.heads, *table.columns]
    align = [":--"] * len(table.heads) + ["--:"] * len(table.columns)
    lines = [_line(heads), _line(align)]
    lines += [_line([*map(_escaped, row.heads), *map(_entry, row.entries)]) for row in table.rows]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _entry(entry: Entry) -> str:
    return f"{entry.text} ({entry.small})" if entry.small else entry.text


def _escaped(text: str) -> str:
    """`text` as Markdown shows it word for word, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", " ".join(text.split()))
