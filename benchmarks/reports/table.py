"""A table as plain texts."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Entry", "Row", "Table"]


@dataclass(frozen=True)
class Entry:
    """A number, and its interval in small."""

    text: str = ""
    small: str = ""


@dataclass(frozen=True)
class Row:
    """One line; `begins` a new part of the table."""

    heads: tuple[str, ...]
    entries: tuple[Entry, ...]
    begins: bool = False


@dataclass(frozen=True)
class Table:
    """`heads` are the names of the columns before the numbers, `columns` of those with numbers."""

    suite: str
    title: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = field(default=())
