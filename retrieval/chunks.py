"""A text cut into chunks with exact spans: `text[chunk.start:chunk.end] == chunk.text`.

The chunks of a text cover every character of it. Each ends at the best border within reach:

    start ............ low ............ aim ............ limit
                        |  a border here: between paragraphs, else sentences, else lines, else words; nearest to `aim`

`limit` is `size` away from the start, `aim` is where the rest would fall into even parts. White space belongs to the
chunk that it follows. A chunk begins up to `overlap` before the end of the chunk in front, at a border too.

Headings open sections. No chunk reaches over two sections, and no chunk ends between a heading and the paragraph that
follows it; where headings alone would fill more than half of a chunk, they do not count against `size`. So a section
that is not longer than `size` is one chunk: with a large size, and `headings` down to the level that is wanted, the
chunks are the sections.

`size` and `overlap` are counted in characters, words, sentences or tokens, by what of them begins in a span. The tokens
of a text are cut where they stand in it; a chunk that is tokenized alone may have a few more at its ends.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from farfield.config import ConfigError
from farfield.retrieval.headings import Heading
from farfield.retrieval.settings import ChunkConfig

__all__ = ["VERSION", "Chunk", "Offsets", "cut"]

VERSION = 2
"""Changes whenever the same text and settings would be cut in another way: stored documents are then cut anew."""

PARAGRAPH = re.compile(r"\n\s*\n")
SENTENCE = re.compile(
    r"[.!?…。！？\n](?:"
    r"(?<=[.!?…])(?<!\bDr.)(?<!\bMr.)(?<!\bMs.)(?<!\bMrs.)(?<!\bProf.)(?<!\bFig.)(?<!\bEq.)(?<!\bvs.)(?<!\b[A-Z].)"
    r"(?<![.!?…].)[.!?…]*[\"'”’»)\]]*\s+(?=[^\sa-z])"
    r"|(?<=[。！？])[。！？]*[”’」』）]*\s*"
    r"|(?<=\n)(?=[ \t]*(?:[-*+•]|\d+[.)])[ \t])"
    r")"
)
"""Its first sign stands first, before all conditions: so that the text is searched for these signs alone."""

LINE = re.compile(r"\n")
SPACE = re.compile(r"\s+")
WORD = re.compile(r"\S+")
LONGEST_TITLE = 200
LONGEST = {"words": 1_000, "sentences": 5_000}
"""Characters: what goes on longer counts as several, so that no chunk is as long as a text without a border."""


class Offsets(Protocol):
    """Where each token of a text begins: what counts where chunks are measured in tokens."""

    @property
    def name(self) -> str:
        """Changes whenever a text would be cut in other tokens."""

    def __call__(self, text: str) -> Iterable[int]: ...


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
class Section:
    """A part of a text under one heading. Its first paragraph begins at `body`."""

    start: int
    body: int
    end: int
    heading: str


def cut(
    text: str,
    settings: ChunkConfig,
    headings: Iterable[Heading] = (),
    pages: Sequence[int] = (),
    offsets: Offsets | None = None,
) -> list[Chunk]:
    """The chunks of `text` in order; none for an empty text.

    Args:
        text: what is cut.
        settings: how.
        headings: those in the text, in order.
        pages: where its pages begin.
        offsets: where its tokens begin, if it is cut by tokens.

    Raises:
        ConfigError: it should be cut by tokens, and nobody says what they are.
    """
    if not text:
        return []
    borders = _borders(text)
    ruler = _ruler(text, settings, borders, offsets)
    return [
        Chunk(start, end, section.heading, text[start:end], bisect_right(pages, start) if pages else None)
        for section in _sections(text, [one for one in headings if one.level <= settings.headings])
        for start, end in _spans(text, section, settings, ruler, borders)
    ]


class Ruler(Protocol):
    """Measures distances in a text."""

    def count(self, start: int, end: int) -> int:
        """Units that begin from `start` up to `end`."""

    def forward(self, start: int, count: int) -> int:
        """Where the unit after `count` units from `start` begins; behind `start` if there are any."""

    def back(self, end: int, count: int) -> int:
        """From where on at most `count` units begin before `end`."""


class Characters:
    """Distances counted in characters."""

    def __init__(self, length: int) -> None:
        self.length = length

    def count(self, start: int, end: int) -> int:
        """Characters from `start` to `end`."""
        return end - start

    def forward(self, start: int, count: int) -> int:
        """Where `count` characters from `start` end."""
        return min(start + count, self.length)

    def back(self, end: int, count: int) -> int:
        """Where the last `count` characters before `end` begin."""
        return max(end - count, 0)


class Places:
    """Distances counted in what begins at `starts`, ascending; several may begin at one place, as parts of a sign."""

    def __init__(self, starts: Sequence[int], length: int) -> None:
        self.starts, self.length = starts, length

    def count(self, start: int, end: int) -> int:
        """Units that begin from `start` up to `end`."""
        return bisect_left(self.starts, end) - bisect_left(self.starts, start)

    def forward(self, start: int, count: int) -> int:
        """Where the unit after `count` units from `start` begins; behind `start` if there are any."""
        after = bisect_left(self.starts, start) + count
        if count:
            after = max(after, bisect_right(self.starts, start))
        return self.starts[after] if after < len(self.starts) else self.length

    def back(self, end: int, count: int) -> int:
        """From where on at most `count` units begin before `end`."""
        first = max(bisect_left(self.starts, end) - count, 0)
        if first and first < len(self.starts) and self.starts[first - 1] == self.starts[first]:
            first = bisect_right(self.starts, self.starts[first])
        return min(self.starts[first], end) if first < len(self.starts) else end


def _ruler(text: str, settings: ChunkConfig, borders: Sequence[Sequence[int]], offsets: Offsets | None) -> Ruler:
    """What measures chunks of `text`."""
    unit, length = settings.unit, len(text)
    if unit == "characters":
        return Characters(length)
    if unit == "words":
        return Places(_bounded((match.start() for match in WORD.finditer(text)), length, LONGEST[unit]), length)
    if unit == "sentences":
        paragraphs, sentences, _ = borders
        return Places(_bounded([0, *paragraphs, *sentences], length, LONGEST[unit]), length)
    if offsets is None:
        raise ConfigError("chunk.unit=tokens: nobody says where tokens begin. Use farfield.ingest, or hand in offsets.")
    return Places(array("q", sorted(offsets(text))), length)


def _bounded(starts: Iterable[int], length: int, most: int) -> Sequence[int]:
    """Sorted `starts`, with more of them wherever the next is further away than `most`."""
    places = np.unique(np.fromiter(starts, np.int64))
    gaps = np.diff(places, append=length)
    more = [np.arange(places[i] + most, places[i] + gaps[i], most) for i in np.flatnonzero(gaps > most)]
    return array("q", np.sort(np.concatenate([places, *more])).astype("q").tobytes())


def _borders(text: str) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """Where paragraphs, sentences and lines begin: one sorted sequence each, the strongest border first."""
    paragraphs, sentences, lines = (
        array("q", (match.end() for match in pattern.finditer(text))) for pattern in (PARAGRAPH, SENTENCE, LINE)
    )
    return paragraphs, sentences, lines


def _spans(
    text: str, section: Section, settings: ChunkConfig, ruler: Ruler, borders: Sequence[Sequence[int]]
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


def _sections(text: str, headings: Iterable[Heading]) -> list[Section]:
    """The text split at its headings. Headings with nothing between them open one section together."""
    starts: list[tuple[int, int, str]] = []
    above: list[Heading] = []
    for heading in headings:
        above = [*(one for one in above if one.level < heading.level), heading]
        path = " > ".join(one.title[:LONGEST_TITLE] for one in above if one.title)
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
