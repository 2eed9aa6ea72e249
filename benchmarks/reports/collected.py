"""Finds result files: every .jsonl file whose first line is the head of a result, whatever its suite."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from farfield.benchmarks.running.results import Result, read_result
from farfield.config import DataError, nearest

__all__ = ["Collected", "collected"]

HEAD_BYTES = 1 << 20  # no head is longer
NAMED = 5  # lines that a note names


@dataclass(frozen=True)
class Collected:
    """Results that were found, and in a line each what was left out and why."""

    results: list[Result]
    notes: list[str]


def collected(places: Sequence[Path]) -> Collected:
    """The result files that are named, and those at any depth below the folders.

    Files that evaluations have kept aside (needle.1.jsonl) are read where they are named only. A file in a folder that
    cannot be read is left out with a note, unless nothing else is found.

    Raises:
        DataError: a place that is not there, a file that is no result, no result at all.
    """
    results: dict[Path, Result] = {}
    notes: list[str] = []
    for place in places:
        broken = []
        paths = [place] if place.is_file() else _below(place)
        for path in paths:
            try:
                results.setdefault(path.resolve(), read_result(path))
            except DataError as error:
                broken.append(error)
        if len(broken) == len(paths):
            raise broken[-1]
        notes += [f"left out: {error}" for error in broken]
    notes += [_dropped(result) for result in results.values() if result.dropped]
    return Collected(_named_apart(list(results.values())), notes)


def _dropped(result: Result) -> str:
    numbers = ", ".join(map(str, result.dropped[:NAMED])) + (", ..." if len(result.dropped) > NAMED else "")
    return f"{result.path}: left out what is no record, at line {numbers}. The same evaluation makes it again."


def _named_apart(results: list[Result]) -> list[Result]:
    """Results of models that are called alike get the names of the folders in which they differ."""
    called = Counter((result.head["suite"], result.name) for result in results)
    return [
        result if called[result.head["suite"], result.name] == 1 else _renamed(result, results) for result in results
    ]


def _renamed(result: Result, among: Sequence[Result]) -> Result:
    kin = [other for other in among if (other.head["suite"], other.name) == (result.head["suite"], result.name)]
    shared = Path(os.path.commonpath([other.path.resolve().parent for other in kin]))
    apart = result.path.resolve().parent.relative_to(shared)
    name = f"{result.name} ({result.path.name if apart == Path() else apart})"
    return replace(result, head={**result.head, "model": {**result.head["model"], "name": name}})


def _below(place: Path) -> list[Path]:
    if not place.is_dir():
        near = nearest(place.name, [other.name for other in place.parent.glob("*")] if place.parent.is_dir() else [])
        hint = f" Did you mean '{place.parent / near}'?" if near else ""
        raise DataError(f"{place}: no such file or folder.{hint}")
    found = [path for path in sorted(place.rglob("*.jsonl")) if _suite(path) == path.stem]
    if not found:
        raise DataError(f"{place}: no results in it. `farfield evaluate model=runs/<name>` makes some.")
    return found


def _suite(path: Path) -> str | None:
    """The suite whose head is the first line of the file, None if there is none."""
    try:
        with path.open("rb") as file:
            head = json.loads(file.readline(HEAD_BYTES))
        return str(head["suite"]) if head["record"] == "head" else None
    except (OSError, ValueError, LookupError, TypeError):
        return None
