"""A text cut into chunks with exact spans: `text[chunk.start:chunk.end] == chunk.text`.

The chunks of a text cover every character of it. Each ends at the best border within reach:

    start ............ low ............ aim ............ limit
                        |  a border here: between paragraphs, else sentences, else lines, else words; nearest to `aim`

`limit` is `size` away from the start, `aim` is where the rest would fall into even parts. White space belongs to the
chunk that it follows. A chunk begins up to `overlap` before the end of the chunk in front, at a border too.

Markdown headings open sections. No chunk reaches over two sections, and no chunk ends between a heading and the
paragraph that follows it; where headings alone would fill more than half of a chunk, they do not count against `size`.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from farfield.retrieval.settings import ChunkConfig

__all__ = ["VERSION", "Chunk", "Heading", "cut", "headings"]

VERSION = 1
"""Changes whenever the same text and settings would be cut in another way: stored documents are then cut anew."""

PARAGRAPH = re.compile(r"\n\s*\n")
SENTENCE = re.compile(
    r"(?<!\bDr)(?<!\bMr)(?<!\bMs)(?<!\bMrs)(?<!\bProf)(?<!\bFig)(?<!\bEq)(?<!\bvs)(?<!\b[A-Z])"
    r"(?<![.!?…])[.!?…]+[\"'”’»)\]]*\s+(?=[^\sa-z])"
    r"|[。！？]+[”’」』）]*\s*"
    r"|\n(?=[ \t]*(?:[-*+•]|\d+[.)])[ \t])"
)
LINE = re.compile(r"\n")
SPACE = re.compile(r"\s+")
ROW = re.compile(r"[^\n]*\n|[^\n]+")
ATX = re.compile(r" {0,3}(#{1,6})(?=[ \t]|$)")
UNDERLINE = re.compile(r" {0,3}(={2,}|-{2,})\s*")
FENCE = re.compile(r" {0,3}(`{3,}(?!.*`)|~{3,})")


@dataclass(frozen=True)
class Chunk:
    """A piece of a text and the headings above it (`Handbook > Leave`, empty where there are none).

    `page` is the page on which it begins, from 1, in a text that has pages.
    """

    start: int
    end: int
    heading: str
    text: str
    page: int | None = None


@dataclass(frozen=True)
class Heading:
    """A Markdown heading: where its lines stand, its level (1 to 6) and its words."""

    start: int
    end: int
    level: int
    title: str


@dataclass(frozen=True)
class Section:
    """A part of a text under one heading. Its first paragraph begins at `body`."""

    start: int
    body: int
    end: int
    heading: str


def cut(text: str, settings: ChunkConfig, markdown: bool = False) -> list[Chunk]:
    """The chunks of `text` in order; none for an empty text."""
    if not text:
        return []
    sections = _sections(text) if markdown else [Section(0, 0, len(text), "")]
    ruler = Characters(len(text)) if settings.unit == "characters" else Words(text)
    borders = _borders(text)
    return [
        Chunk(start, end, section.heading, text[start:end])
        for section in sections
        for start, end in _spans(text, section, settings, ruler, borders)
    ]


class Characters:
    """Distances counted in characters."""

    def __init__(self, length: int) -> None:
        self.length = length

    def count(self, start: int, end: int) -> int:
        """Units from `start` to `end`."""
        return end - start

    def forward(self, start: int, count: int) -> int:
        """Where `count` units from `start` end."""
        return min(start + count, self.length)

    def back(self, end: int, count: int) -> int:
        """Where the last `count` units before `end` begin."""
        return max(end - count, 0)


class Words:
    """Distances counted in words: runs without white space."""

    def __init__(self, text: str) -> None:
        self.length = len(text)
        self.starts = [match.start() for match in re.finditer(r"\S+", text)]

    def count(self, start: int, end: int) -> int:
        """Words that begin from `start` up to `end`."""
        return bisect_left(self.starts, end) - bisect_left(self.starts, start)

    def forward(self, start: int, count: int) -> int:
        """Where the word after `count` words from `start` begins."""
        after = bisect_left(self.starts, start) + count
        return self.starts[after] if after < len(self.starts) else self.length

    def back(self, end: int, count: int) -> int:
        """Where the last `count` words before `end` begin."""
        first = max(bisect_left(self.starts, end) - count, 0)
        return min(self.starts[first], end) if first < len(self.starts) else end


def _borders(text: str) -> list[list[int]]:
    """Where paragraphs, sentences and lines begin: one sorted list each, the strongest border first."""
    return [[match.end() for match in pattern.finditer(text)] for pattern in (PARAGRAPH, SENTENCE, LINE)]


def _spans(
    text: str, section: Section, settings: ChunkConfig, ruler: Characters | Words, borders: Sequence[Sequence[int]]
) -> Iterator[tuple[int, int]]:
    """The spans (start, end) of a section's chunks."""
    start, size, overlap = section.start, settings.size, settings.overlap
    while True:
        rest = ruler.count(start, section.end)
        if rest <= size:
            yield start, section.end
            return
        parts = -(-(rest - overlap) // (size - overlap))
        part = -(-(rest + (parts - 1) * overlap) // parts)
        low, aim, limit = (ruler.forward(start, n) for n in (max(part // 2, overlap), part, size))
        if start < section.body:
            low = max(low, section.body)
            if 2 * ruler.count(start, section.body) > size:
                limit = ruler.forward(section.body, size)
        end = _border(text, borders, low, min(aim, limit), min(limit, section.end))
        if end is None:
            end = min(limit, section.end)
        yield start, end
        if end == section.end:
            return
        start = _next_start(text, borders, max(ruler.back(end, overlap), start + 1, section.body), end)


def _border(text: str, borders: Sequence[Sequence[int]], low: int, aim: int, limit: int) -> int | None:
    """The strongest border in (low, limit], the nearest to `aim` among equals; None if there is none."""
    for level in borders:
        within = level[bisect_right(level, low) : bisect_right(level, limit)]
        if within:
            return min(within, key=lambda place: abs(place - aim))
    words = [match.end() for match in SPACE.finditer(text, low, limit) if match.end() > low]
    return min(words, key=lambda place: abs(place - aim), default=None)


def _next_start(text: str, borders: Sequence[Sequence[int]], earliest: int, end: int) -> int:
    """Where the chunk after one that ends at `end` begins: at the first sentence, line or word from `earliest` on."""
    for level in borders:
        after = bisect_left(level, earliest)
        if after < len(level) and level[after] < end:
            return level[after]
    if earliest >= end or text[earliest - 1].isspace():
        return min(earliest, end)
    word = SPACE.search(text, earliest, end)
    return word.end() if word else min(earliest, end)


def _sections(text: str) -> list[Section]:
    """The text split at its headings. Headings with nothing between them open one section together."""
    starts: list[tuple[int, int, str]] = []
    above: list[Heading] = []
    for heading in headings(text):
        above = [*(one for one in above if one.level < heading.level), heading]
        path = " > ".join(one.title for one in above if one.title)
        if starts and not text[starts[-1][1] : heading.start].strip():
            starts[-1] = (starts[-1][0], heading.end, path)
        else:
            starts.append((heading.start, heading.end, path))
    if not starts or text[: starts[0][0]].strip("\ufeff \t\r\n"):
        starts.insert(0, (0, 0, ""))
    else:
        starts[0] = (0, *starts[0][1:])
    ends = [start for start, _, _ in starts[1:]] + [len(text)]
    return [
        Section(start, _skip_space(text, body) if body else 0, end, path)
        for (start, body, path), end in zip(starts, ends, strict=True)
    ]


def _skip_space(text: str, place: int) -> int:
    space = SPACE.match(text, place)
    return space.end() if space else place


def headings(text: str) -> Iterator[Heading]:
    """The Markdown headings of a text, `# so` and underlined; those inside fenced code are none."""
    fence = before = previous = ""
    start = 0
    for row in ROW.finditer(text):
        line = row[0].strip("\ufeff\r\n")
        mark, atx = FENCE.match(line), ATX.match(line)
        if fence:
            closes = mark and mark[1].startswith(fence) and not line.strip(" \t`~")
            fence, line = "" if closes else fence, ""
        elif mark:
            fence, line = mark[1], ""
        elif atx:
            yield Heading(row.start(), row.end(), len(atx[1]), _title(line[atx.end() :]))
            line = ""
        elif UNDERLINE.fullmatch(line) and previous.strip() and not before.strip():
            yield Heading(start, row.end(), 1 if "=" in line else 2, previous.strip())
            line = ""
        start, before, previous = row.start(), previous, line


def _title(line: str) -> str:
    """The words of a `#` heading, without the signs that may close it."""
    bare = line.strip()
    words = bare.rstrip("#")
    return words.rstrip() if words[-1:] in ("", " ", "\t") else bare
