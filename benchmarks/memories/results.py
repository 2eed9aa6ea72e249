"""Rows of comparisons as files: written as they come, read again, and those of several processes joined."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from farfield.benchmarks.memories.cost import Cost
from farfield.benchmarks.memories.perplexity import Read
from farfield.benchmarks.memories.recall import Found
from farfield.benchmarks.memories.search import Searched
from farfield.benchmarks.provenance import provenance
from farfield.config import DataError

__all__ = ["joined", "kind_of", "write_joined", "write_rows"]

ROWS = {"perplexity": Read, "recall": Found, "cost": Cost, "search": Searched}
Row = Read | Found | Cost | Searched


def write_rows(path: Path, task: Any, rows: Sequence[Any]) -> None:
    """What was measured so far, with the task and where it was measured."""
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in vars(task).items()}
    _write(path, {**provenance(), "task": plain, "rows": [asdict(row) for row in rows]})


def write_joined(path: Path, files: Sequence[Path], rows: Sequence[Row]) -> None:
    """Joined rows, with the tasks and machines of the files that they are from."""
    parts = [{key: value for key, value in _content(file).items() if key != "rows"} for file in files]
    _write(path, {"parts": parts, "rows": [asdict(row) for row in rows]})


def joined(files: Sequence[Path]) -> list[Row]:
    """The rows of files of one comparison; what more than one of them has, such as controls, once.

    Raises:
        DataError: a file cannot be read, is of another comparison, or has another figure for the same.
    """
    found: dict[tuple[Any, ...], Row] = {}
    kinds: dict[str, Path] = {}
    for file in files:
        for row in _rows(file):
            kinds.setdefault(kind_of([row]), file)
            if len(kinds) > 1:
                told = ", ".join(f"{path} has {kind}" for kind, path in kinds.items())
                raise DataError(f"files of one comparison can be joined; {told}.")
            known = found.setdefault(_named(row), row)
            if known != row:
                name = " ".join(str(word) for word in _named(row) if word is not None)
                raise DataError(f"{file}: has another figure for {name} than a file before it. Join one of them.")
    if not found:
        raise DataError(f"{', '.join(map(str, files))}: no rows yet.")
    return sorted(found.values(), key=lambda row: isinstance(row, Read) and row.trained)


def kind_of(rows: Sequence[Row]) -> str:
    """Which comparison they are of."""
    return next(name for name, kind in ROWS.items() if isinstance(rows[0], kind))


def _named(row: Row) -> tuple[Any, ...]:
    """What no two rows of a comparison share."""
    if isinstance(row, Searched):
        return row.layout, row.size, row.queries
    return (row.memory, row.size) if isinstance(row, Cost) else (row.label,)


def _rows(file: Path) -> list[Row]:
    rows = _content(file).get("rows")
    if not isinstance(rows, list):
        raise DataError(f"{file}: has no rows.")
    return [_row(file, mapping) for mapping in rows]


def _row(file: Path, mapping: Any) -> Row:
    try:
        return _parsed(mapping)
    except (AttributeError, StopIteration, TypeError, ValueError):
        raise DataError(f"{file}: has rows of no comparison of memories.") from None


def _parsed(mapping: dict[str, Any]) -> Row:
    kind = next(kind for kind in ROWS.values() if {field.name for field in fields(kind)} == set(mapping))
    values = dict(mapping)
    if kind is Read:
        values["edges"], values["bits"] = tuple(values["edges"]), tuple(map(tuple, values["bits"]))
    if kind is Found:
        values["rates"] = {
            name: {int(times): rate for times, rate in rates.items()} for name, rates in values["rates"].items()
        }
    row: Row = kind(**values)
    return row


def _content(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{file}: has no rows.")
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error}") from None
