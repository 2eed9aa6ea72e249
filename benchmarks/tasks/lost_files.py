"""The published files of Lost in the Middle: one JSON object a line, packed by gzip where the name says so.

    kv-retrieval-<n>_keys.jsonl.gz          ordered_kv_records [[key, value], ...], key, value
    nq-open-oracle.jsonl                    question, answers [text, ...], ctxs [{title, text}] with the gold passage
    nq-open-<n>_total_documents_*.jsonl.gz  the same, with passages that do not answer in ctxs, where isgold is false

Fields beside these are not looked at.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Annotated, TypeVar

import pydantic

from farfield.config import DataError

__all__ = ["Passage", "Records", "Searched", "read_records", "read_searched"]


class _Line(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, strict=True, extra="ignore")


L = TypeVar("L", bound=_Line)


class Records(_Line):
    """Pairs, and one of them that is asked for."""

    ordered_kv_records: Annotated[tuple[tuple[str, str], ...], pydantic.Field(min_length=2)]
    key: str
    value: str


class Passage(_Line):
    """A passage of a page."""

    title: str
    text: str
    isgold: bool = True


class Searched(_Line):
    """A question, and the passages that were found for it."""

    question: str
    answers: Annotated[tuple[str, ...], pydantic.Field(min_length=1)]
    ctxs: Annotated[tuple[Passage, ...], pydantic.Field(min_length=1)]

    @property
    def gold(self) -> Passage:
        """The passage that answers."""
        return next(passage for passage in self.ctxs if passage.isgold)


def read_records(path: str) -> list[Records]:
    """The lines of a file of pairs.

    Raises:
        DataError: the file cannot be read, or a line has another schema, with the line and the field.
    """
    lines = _read(path, Records)
    for number, line in enumerate(lines, start=1):
        if [line.key, line.value] not in [list(pair) for pair in line.ordered_kv_records]:
            raise DataError(f"{path}: line {number}: key and value are not among ordered_kv_records.")
    return lines


def read_searched(path: str) -> list[Searched]:
    """The lines of a file of questions. Raises DataError as `read_records` does."""
    lines = _read(path, Searched)
    for number, line in enumerate(lines, start=1):
        if not any(passage.isgold for passage in line.ctxs):
            raise DataError(f"{path}: line {number}: ctxs has no passage of which isgold is true.")
    return lines


def _read(path: str, kind: type[L]) -> list[L]:
    lines = []
    for number, text in enumerate(_lines(path), start=1):
        try:
            lines.append(kind.model_validate_json(text))
        except pydantic.ValidationError as error:
            raise DataError(_mistake(f"{path}: line {number}", error)) from None
    if not lines:
        raise DataError(f"{path}: no line. A line is a JSON object with {', '.join(kind.model_fields)}.")
    return lines


def _mistake(where: str, error: pydantic.ValidationError) -> str:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"{where}: no JSON: {first['ctx']['error']}."
    field = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"{where}: no field '{field}'."
    return f"{where}: field '{field}': {first['msg']}."


def _lines(path: str) -> Iterator[str]:
    """The lines of the file that are not empty."""
    opener = gzip.open if path.endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            yield from (line for line in map(str.strip, file) if line)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}.") from None
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}.") from None
