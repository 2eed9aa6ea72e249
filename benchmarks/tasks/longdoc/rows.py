"""Rows of published files, with every mistake in one line: which file, which line, which field.

    for row in rows(find(folder, "hotpotqa.jsonl")):
        row.text("input"), row.texts("answers")

A file is JSON lines, or one JSON list, alone or under "data" or "demos", or comma-separated values under a line of
their names; it lies in a folder at any depth, or in a zip archive there. A name that ends in `.*` is of any of these.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from farfield.config import DataError, nearest

__all__ = ["Place", "Row", "find", "require", "rows"]

SUFFIXES = (".jsonl", ".json", ".csv")
LISTS = ("data", "demos")
KINDS: dict[type, str] = {
    str: "a text",
    bool: "a truth value",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


@dataclass(frozen=True)
class Place:
    """A file, or the member of an archive."""

    path: Path
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    def read(self) -> str:
        """Its text.

        Raises:
            DataError: it cannot be read, or is not UTF-8.
        """
        try:
            if not self.member:
                return self.path.read_text(encoding="utf-8")
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(self.member).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{self}: not UTF-8 text: {error.reason} at byte {error.start}.") from None
        except zipfile.BadZipFile as error:
            raise DataError(f"{self.path}: a damaged archive: {error}.") from None
        except OSError as error:
            raise DataError(f"{self}: cannot be read: {error.strerror or error}.") from None


@dataclass(frozen=True)
class Row:
    """One row. What is asked for and is not there, or of another type, is a DataError."""

    where: str
    values: Mapping[str, Any]

    def error(self, field: str, problem: str) -> DataError:
        return DataError(f"{self.where}: '{field}' {problem}.")

    def value(self, field: str) -> Any:
        if field not in self.values:
            near = nearest(field, self.values)
            hint = f" Did you mean '{near}'?" if near else ""
            raise DataError(
                f"{self.where}: '{field}' is missing.{hint} Its fields: {', '.join(self.values) or 'none'}."
            )
        return self.values[field]

    def text(self, field: str) -> str:
        value = self.value(field)
        if not isinstance(value, str):
            raise self.error(field, f"is {kind(value)}, a text is needed")
        return value

    def texts(self, field: str) -> tuple[str, ...]:
        """A list of one text or more; a text alone, or a number, is a list of itself."""
        value = self.value(field)
        values = value if isinstance(value, list) else [value]
        if not values:
            raise self.error(field, "is empty, a text or more is needed")
        if not all(isinstance(one, str | int | float) for one in values):
            raise self.error(field, f"is {kind(value)}, a list of texts is needed")
        return tuple(map(str, values))

    def number(self, field: str) -> int:
        value = self.value(field)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(field, f"is {kind(value)}, a whole number is needed")
        return value

    def entries(self, field: str) -> list[Any]:
        value = self.value(field)
        if not isinstance(value, list):
            raise self.error(field, f"is {kind(value)}, a list is needed")
        return value

    def nested(self, field: str) -> Row:
        """An object in this row, as a row."""
        value = self.value(field)
        if not isinstance(value, dict):
            raise self.error(field, f"is {kind(value)}, an object is needed")
        return Row(f"{self.where}: {field}", value)

    def inner(self, field: str, number: int, value: object) -> Row:
        """Entry `number` of a list of objects in this row, as a row."""
        if not isinstance(value, dict):
            raise self.error(f"{field}[{number}]", f"is {kind(value)}, an object is needed")
        return Row(f"{self.where}: {field}[{number}]", value)


def find(folder: Path, name: str) -> Place | None:
    """The file below `folder` whose path ends in `name`, the least deep of several, or in an archive there."""
    if name.endswith(".*"):
        return next(filter(None, (find(folder, name[:-2] + suffix) for suffix in SUFFIXES)), None)
    if folder.is_file():
        return Place(folder) if _ends(folder.as_posix(), name) else None
    wanted = PurePosixPath(name).name
    files = [path for path in folder.rglob(wanted) if path.is_file() and _ends(path.as_posix(), name)]
    if files:
        return Place(min(files, key=lambda path: (len(path.parts), path)))
    for archive in sorted(folder.rglob("*.zip")):
        try:
            with zipfile.ZipFile(archive) as opened:
                member = next((entry for entry in sorted(opened.namelist()) if _ends(entry, name)), None)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{archive}: a damaged archive: {error}.") from None
        if member is not None:
            return Place(archive, member)
    return None


def require(folder: Path, name: str) -> Place:
    """What `find` finds.

    Raises:
        DataError: nothing.
    """
    place = find(folder, name)
    if place is None:
        wanted = f"{name[:-2]}{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}" if name.endswith(".*") else name
        raise DataError(f"suite.source: {folder} has no {wanted}, neither as a file nor in a zip archive.")
    return place


def rows(place: Place) -> Iterator[Row]:
    """The rows of a file of JSON lines, of a JSON list, or of comma-separated values.

    Raises:
        DataError: a line is no JSON object, or has more or fewer values than there are names.
    """
    text = place.read()
    if str(place).endswith((".json", ".csv")):
        yield from (_listed if str(place).endswith(".json") else _separated)(place, text)
        return
    for number, line in enumerate(io.StringIO(text), start=1):
        if not line.strip():
            continue
        where = f"{place}: line {number}"
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: no JSON: {error}.") from None
        if not isinstance(value, dict):
            raise DataError(f"{where}: {kind(value)}, an object is needed.")
        yield Row(where, value)


def kind(value: object) -> str:
    """What a value is, in words."""
    return KINDS.get(type(value), type(value).__name__)


def _listed(place: Place, text: str) -> Iterator[Row]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError(f"{place}: no JSON: {error}.") from None
    under = next((name for name in LISTS if name in value), LISTS[0]) if isinstance(value, dict) else ""
    entries = value.get(under) if isinstance(value, dict) else value
    if not isinstance(entries, list):
        names = " or ".join(f"'{name}'" for name in LISTS)
        raise DataError(f"{place}: {kind(value)}, a list of objects is needed, alone or under {names}.")
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            raise DataError(f"{place}: row {number}: {kind(entry)}, an object is needed.")
        yield Row(f"{place}: row {number}", entry)


def _separated(place: Place, text: str) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for values in reader:
            where = f"{place}: line {reader.line_num}"
            if None in values or None in values.values():
                raise DataError(f"{where}: not as many values as the first line has names.")
            yield Row(where, values)
    except csv.Error as error:
        raise DataError(f"{place}: line {reader.reader.line_num}: {error}.") from None


def _ends(path: str, name: str) -> bool:
    return path == name or path.endswith(f"/{name}")
