"""Headings of a text: where they stand, and the Markdown headings among its lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Heading", "markdown_headings"]

ROW = re.compile(r"[^\n]*\n|[^\n]+")
ATX = re.compile(r" {0,3}(#{1,6})(?=[ \t]|$)")
UNDERLINE = re.compile(r" {0,3}(={2,}|-{2,})\s*")
FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


@dataclass(frozen=True)
class Heading:
    """A heading: where its lines stand (nowhere, `start == end`, if it is not part of the text), level and words."""

    start: int
    end: int
    level: int
    title: str


def markdown_headings(text: str) -> Iterator[Heading]:
    """The Markdown headings of a text, `# so` and underlined; those inside fenced code are none."""
    fence = before = previous = ""
    start = 0
    for row in ROW.finditer(text):
        line = row[0].strip("\ufeff\r\n")
        mark, atx = _fence(line), ATX.match(line)
        if fence:
            closes = mark.startswith(fence) and not line.strip(" \t`~")
            fence, line = "" if closes else fence, ""
        elif mark:
            fence, line = mark, ""
        elif atx:
            yield Heading(row.start(), row.end(), len(atx[1]), _title(line[atx.end() :]))
            line = ""
        elif UNDERLINE.fullmatch(line) and previous.strip() and not before.strip():
            yield Heading(start, row.end(), 1 if "=" in line else 2, previous.strip())
            line = ""
        start, before, previous = row.start(), previous, line


def _fence(line: str) -> str:
    """The signs that open or close fenced code; empty for any other line. Behind backticks there are no others."""
    mark = FENCE.match(line)
    if mark is None or (mark[1][0] == "`" and "`" in line[mark.end() :]):
        return ""
    return mark[1]


def _title(line: str) -> str:
    """The words of a `#` heading, without the signs that may close it."""
    bare = line.strip()
    words = bare.rstrip("#")
    return words.rstrip() if words[-1:] in ("", " ", "\t") else bare
