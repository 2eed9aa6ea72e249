"""What the page's script draws, as plain values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from farfield.benchmarks.reports.effective import families, means
from farfield.benchmarks.reports.grid import CONDITIONS, Rate, grids, shelf, source
from farfield.benchmarks.reports.table import Table
from farfield.benchmarks.running.excerpt import CLOSE, OPEN
from farfield.benchmarks.running.results import Answers, Cell, Measured, Result

__all__ = ["content"]

DIGITS = 5  # of scores and depths: what is shown has fewer


def content(results: Sequence[Result], tables: Sequence[Table]) -> dict[str, Any]:
    """Cells with all their samples, what was measured, the tables, and the settings and versions of each result.

    Keys are short where there is one for each cell: r result, t task, l length, d depth, c condition.
    """
    numbered = list(enumerate(results))
    return {
        "conditions": CONDITIONS,
        "marks": [OPEN, CLOSE],
        "source": source(results),
        "results": [_result(result) for result in results],
        "cells": [
            {**_place(number, cell), **_answers(answers)}
            for number, result in numbered
            for cell, answers in result.cells.items()
        ],
        "rates": [rate for number, result in numbered for rate in _rates(number, result)],
        "means": [mean for number, result in numbered for mean in _means(number, result)],
        "depths": [rate for number, result in numbered for rate in _depths(number, result)],
        "skipped": [
            {**_place(number, cell), "reason": reason}
            for number, result in numbered
            for cell, reason in result.skipped.items()
        ],
        "measured": [
            {**_place(number, cell), **_measured(measured)}
            for number, result in numbered
            for cell, measured in result.measured.items()
        ],
        "tables": [asdict(table) for table in tables],
    }


def _result(result: Result) -> dict[str, Any]:
    head = result.head
    facts = {
        "file": str(result.path),
        **{f"model.{name}": value for name, value in head["model"].items()},
        **{f"suite.{name}": value for name, value in head["settings"].items()},
        "settings_hash": head["settings_hash"],
        **head["provenance"],
        **{f"resumed {number}": later for number, later in enumerate(result.resumed, start=1)},
    }
    trained = head["model"].get("trained_length")
    return {
        "name": result.name,
        "suite": shelf(result),
        "source": source([result]),
        "tasks": {
            name: {"metric": result.metric(name), "labels": about["labels"], "placed": about["placed"]}
            for name, about in head["tasks"].items()
        },
        "trained": trained if isinstance(trained, int) else None,
        "facts": [[name, value if isinstance(value, str) else json.dumps(value)] for name, value in facts.items()],
    }


def _place(number: int, cell: Cell) -> dict[str, Any]:
    return {"r": number, "t": cell.task, "l": cell.length, "d": cell.depth, "c": cell.condition}


def _rates(number: int, result: Result) -> Iterator[dict[str, Any]]:
    """The means of all depths, by length and condition."""
    for grid in grids(result):
        for condition in ("full", *grid.conditions):
            for length in grid.lengths:
                rate = grid.control(condition, length)
                if rate:
                    yield {**_place(number, Cell(grid.task, length, None, condition)), **_rate(rate)}


def _means(number: int, result: Result) -> Iterator[dict[str, Any]]:
    """The means over tasks, by length, where there are several that do not differ in a number only."""
    for members in families(grids(result)).values():
        if sum(grid.asked for grid in members) > 1 and not members[0].labels:
            for length, mean in means(members).items():
                yield {**_place(number, Cell("", length)), "mean": _rounded(100 * mean)}


def _depths(number: int, result: Result) -> Iterator[dict[str, Any]]:
    """The means of all lengths, by depth."""
    for grid in grids(result):
        for depth in grid.depths if len(grid.depths) > 1 else ():
            rate = grid.rate(depth=depth)
            if rate:
                yield {**_place(number, Cell(grid.task, 0, depth)), **_rate(rate)}


def _rate(rate: Rate | None) -> dict[str, Any]:
    """A share with its interval."""
    if rate is None:
        return {"score": None, "low": 0.0, "high": 1.0}
    return {"score": _rounded(rate.score), "low": _rounded(rate.interval[0]), "high": _rounded(rate.interval[1])}


def _answers(answers: Answers) -> dict[str, Any]:
    notes = [f"{answers.ties} ties within rounding"] if answers.ties else []
    notes += ["closed early, its time was over"] if answers.capped else []
    notes += [answers.unfilled] if answers.unfilled else []
    return {
        **_rate(Rate.of([answers])),
        "notes": notes,
        "scoring": answers.scoring,
        "scores": [_rounded(score) for score in answers.scores],
        "outputs": answers.outputs,
        "answers": answers.answers,
        "excerpts": answers.excerpts,
        "lengths": answers.lengths,
        "depths": [[_rounded(depth) for depth in depths] for depths in answers.depths],
        "logprobs": [_rounded(logprob) for logprob in answers.logprobs],
    }


def _measured(measured: Measured) -> Mapping[str, Any]:
    return {
        "values": [
            [name, value, measured.interval(name), measured.units.get(name, "")]
            for name, value in measured.values.items()
        ],
        "curves": {name: asdict(curve) for name, curve in measured.curves.items()},
        "notes": measured.notes,
    }


def _rounded(value: float) -> float:
    return round(value, DIGITS)
