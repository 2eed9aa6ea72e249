"""What a file holds, as far as it can be used."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from types import ModuleType

from farfield.config import DataError
from farfield.retrieval.filters import Metadata
from farfield.retrieval.headings import Heading

__all__ = ["LINES", "PARSED", "PLAIN", "Document", "Skipped", "UnreadableError", "check_parsers", "parser", "too_large"]

MEGA = 1_000_000
PLAIN = (".txt", ".md", ".markdown")
LINES = (".jsonl",)
PARSED = {".html": "selectolax.lexbor", ".htm": "selectolax.lexbor", ".pdf": "pypdf"}
"""Endings of files that need a parser, and the module that holds it."""


@dataclass(frozen=True)
class Document:
    """One text to be stored.

    Attributes:
        key: tells the documents of one file apart; empty where the file is the document.
        headings: the headings in the text, in order.
        pages: where each page begins in the text; empty where there are no pages.
    """

    key: str
    title: str
    text: str
    kind: str
    metadata: Metadata = field(default_factory=dict)
    headings: tuple[Heading, ...] = ()
    pages: tuple[int, ...] = ()


@dataclass(frozen=True)
class Skipped:
    """A file, or a line of one, that could not be used."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class UnreadableError(Exception):
    """A file cannot be used. The text says why."""


def parser(name: str) -> ModuleType:
    """A module of a parser.

    Raises:
        DataError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        kinds = ", ".join(ending for ending, module in PARSED.items() if module == name) or "texts of unknown encoding"
        raise DataError(
            f"path: {kinds} cannot be read without {name.partition('.')[0]} ({error})."
            " Install it with: pip install 'farfield[documents]'"
        ) from error


def check_parsers(endings: set[str]) -> None:
    """Raises a DataError if files of these endings need a parser that is not installed."""
    for ending in sorted(endings & set(PARSED)):
        parser(PARSED[ending])


def too_large(size: int, largest: int) -> str:
    """Why something of `size` bytes is left out."""
    return f"larger ({size / MEGA:,.1f} MB) than largest={largest} allows ({largest / MEGA:,.1f} MB)"
