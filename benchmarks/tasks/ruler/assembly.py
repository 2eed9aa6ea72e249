"""How prompts are put together: pieces are encoded one by one, and a prompt is their ids in a row.

    before      introduction, and an example where the task has one
    body        the text, exactly as long as there is room for
    question    with the beginning of the answer at its end

Pieces are never joined before they are encoded, so sizes add up whatever the tokenizer does, and a text is filled by
arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.tasks.layout import weave
from farfield.benchmarks.tasks.sample import Ids, Tokenizer

__all__ = ["Hidden", "Parts", "Pieces", "fitted", "hide", "joined", "reworded"]

OTHERS = 12  # wrong choices beside the right ones

Span = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Parts:
    """What a recipe makes of one sample.

    gold, depths:  where the gold stands in `body`
    alone:         the gold without the text around it
    texts:         gold texts, in text mode
    wanted:        gold ids, in token mode
    answer:        what the model should go on with
    right:         how many of the first `choices` are gold
    unfilled:      why `body` is shorter than the room there is
    """

    before: Ids
    body: Ids
    question: Ids
    gold: Sequence[Span]
    depths: Sequence[float]
    alone: Ids
    answer: Ids
    budget: int
    choices: Sequence[Ids]
    right: int
    texts: tuple[str, ...] = ()
    wanted: tuple[tuple[int, ...], ...] = ()
    unfilled: str = ""


@dataclass(frozen=True, eq=False)
class Pieces:
    """A tokenizer that encodes each piece once."""

    tokenizer: Tokenizer
    known: dict[str, Ids] = field(default_factory=dict)

    def __call__(self, text: str) -> Ids:
        """The ids of a piece that comes again: a line of noise, a number, a document."""
        if text not in self.known:
            self.known[text] = self.once(text)
        return self.known[text]

    def once(self, text: str) -> Ids:
        """The ids of a piece that does not come again."""
        return np.array(self.tokenizer.encode(text), dtype=np.int32)

    def blank(self, size: int) -> Ids:
        """`size` ids that say nothing: empty lines, or dots where the tokenizer drops line ends."""
        line = self("\n")
        return np.resize(line if len(line) else self("."), size)


@dataclass(frozen=True, eq=False)
class Hidden:
    """A text with its needles, their places in it, and the share of the haystack before each."""

    body: Ids
    spans: list[Span]
    depths: list[float]


def joined(pieces: Sequence[Ids]) -> Ids:
    """All ids in a row."""
    return np.concatenate([np.zeros(0, np.int32), *pieces])


def fitted(pieces: Sequence[Ids], room: int) -> tuple[Ids, NDArray[np.int64]]:
    """The last `room` ids of `pieces`, which have as many or more, and the borders of the pieces that are whole.

    ...ce one.| Piece two.| Piece three.|
              ^           ^             ^
    """
    tokens = joined(pieces)
    cut = len(tokens) - room
    borders = np.cumsum([0, *map(len, pieces)]) - cut
    return tokens[cut:], borders[borders >= 0]


def hide(rng: np.random.Generator, haystack: Ids, borders: NDArray[np.int64], needles: Sequence[Ids]) -> Hidden:
    """`haystack` with the needles, in their order, at borders that are drawn from all."""
    places = np.sort(rng.choice(borders, len(needles), replace=len(borders) < len(needles)))
    starts = places + np.cumsum([0, *map(len, needles[:-1])])
    spans = [(int(start), int(start) + len(needle)) for start, needle in zip(starts, needles, strict=True)]
    return Hidden(weave(haystack, places.tolist(), needles), spans, (places / max(len(haystack), 1)).tolist())


def reworded(tokenizer: Tokenizer, text: str) -> str:
    """`text` as it comes out of the tokenizer: some lose case or put spaces around signs."""
    return tokenizer.decode(tokenizer.encode(text)).strip()
