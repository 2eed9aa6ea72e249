"""Markdown files: the text as it is, with its headings and, where it begins with YAML front matter, what that says."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import yaml  # type: ignore[import-untyped]  # PyYAML has no types

from farfield.retrieval.documents.decoding import decode
from farfield.retrieval.documents.document import Document
from farfield.retrieval.filters import SCALARS, Scalar
from farfield.retrieval.headings import markdown_headings

__all__ = ["front_matter", "read_markdown"]

FRONT = re.compile(r"\ufeff?---[ \t]*\r?\n(.*?)^(?:---|\.\.\.)[ \t]*\r?$", re.DOTALL | re.MULTILINE)
LONGEST = 20_000
MOST_BRACKETS = 200
"""Of front matter that is looked at: characters, and what may nest, in which PyYAML is quadratic."""


def read_markdown(path: Path, data: bytes, encoding: str) -> Document:
    """The document in a Markdown file. Its title is the front matter's, else its first heading, else its name."""
    text, name = decode(data, encoding)
    headings = tuple(markdown_headings(text))
    metadata = front_matter(text)
    title = str(metadata.pop("title", "")) or next((one.title for one in headings if one.title), path.stem)
    if name != "utf-8":
        metadata["encoding"] = name
    return Document("", title, text, "markdown", metadata, headings)


def front_matter(text: str) -> dict[str, Scalar | list[Scalar]]:
    """The plain values of a text's front matter, and lists of them; `lang` is called `language`."""
    found = FRONT.match(text, 0, LONGEST)
    if found is None or found[1].count("[") + found[1].count("{") > MOST_BRACKETS:
        return {}
    try:
        entries = yaml.safe_load(found[1])
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    if not isinstance(entries, dict):
        return {}
    plain = {str(name): _plain(value) for name, value in entries.items()}
    if "lang" in plain:
        plain.setdefault("language", plain.pop("lang"))
    return {name: value for name, value in plain.items() if value is not None}


def _plain(value: object) -> Scalar | list[Scalar] | None:
    """A value as metadata holds it: dates as ISO 8601; None for what it cannot hold."""
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, list):
        return [one for one in map(_plain, value) if isinstance(one, SCALARS)]
    return value if isinstance(value, SCALARS) else None
