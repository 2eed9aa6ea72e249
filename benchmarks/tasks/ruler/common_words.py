"""Common words: a numbered list in which ten words stand more often than all others.

    Here is a numbered list of words. Some words stand in it more often than others. ...    introduction
    1. candleharbour 2. oldmeadow 3. candleharbour 4. ...                                   list
    Question: which 10 words stand most often in the list above?                            question
     Answer: the 10 words that stand most often in the list are:                            beginning of the answer

An example of the same form, with its answer, stands before it. Ten words come 30 times and as many others as there is
room for 3 times (in the example 10 and 3 times). On lengths below 4096, and where a tokenizer needs so many tokens that
this would not fit, they come 6 times and once (in the example 3 times and once), as published. Where that does not fit
either, which is below about 1,200 tokens, they come 3 times and once in both. What is less than another word is filled
with empty lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from farfield.benchmarks.tasks.ruler.assembly import Parts, Pieces, joined
from farfield.benchmarks.tasks.ruler.task import Place
from farfield.benchmarks.tasks.ruler.words import WordList
from farfield.benchmarks.tasks.sample import Ids, LackingError, Split
from farfield.benchmarks.tasks.wording_file import Wording

__all__ = ["COMMON", "CWE", "LONG", "SHORT", "SHORTEST", "CommonWords", "Counts"]

BUDGET = 120
COMMON = 10  # words that are asked for
WRONG = 20  # wrong choices
LONGER = 4096  # from this length on a list is LONG
SPARE = 1.1  # words differ in tokens, and so do samples
CWE = {
    "introduction": "Here is a numbered list of words. Some words stand in it more often than others. Remember those "
    "that stand in it most often.",
    "question": "Question: which {count} words stand most often in the list above?",
    "answer": " Answer: the {count} words that stand most often in the list are:",
}


@dataclass(frozen=True)
class Counts:
    """How often a common word and another word stand in the list, and in the example, which has `others` others."""

    often: int
    seldom: int
    example_often: int
    example_seldom: int
    others: int


LONG, SHORT, SHORTEST = Counts(30, 3, 10, 3, 30), Counts(6, 1, 3, 1, 10), Counts(3, 1, 3, 1, 10)


@dataclass(frozen=True, eq=False)
class Frame:
    """All of a sample but the other words of its list: the example, and the words that are asked for."""

    counts: Counts
    example: Ids
    common: list[str]
    words: list[str]
    answer: Ids

    @property
    def budget(self) -> int:
        return max(BUDGET, len(self.answer))


@dataclass(frozen=True, eq=False)
class CommonWords:
    """Numbers and words are encoded apart: an entry is the ids of ` 12.` and those of ` word`."""

    pieces: Pieces
    wording: Wording
    words: WordList
    chosen: dict[tuple[int, int, Split], Counts] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        return f"{self.pieces.tokenizer.kind} {self.wording.fingerprint} {self.words.fingerprint}"

    def least(self, place: Place) -> int:
        counts = self._counts(place)
        least = self._least(place, counts)
        if place.index == 0 and place.length >= least:
            self._check(self._frame(place, counts), place.length)
        return least

    def parts(self, place: Place) -> Parts:
        rng = place.rng(1)
        frame = self._frame(place, self._counts(place))
        others, left = self._others(frame, place.length)
        listed = frame.common * frame.counts.often + frame.words[:others] * frame.counts.seldom
        listed = [listed[at] for at in rng.permutation(len(listed))]
        entries = self._numbered(listed)
        ends = np.cumsum([len(entry) for entry in entries])
        spans = []
        for word in frame.common:
            end = int(ends[2 * listed.index(word) + 1])
            spans.append((end - len(self.pieces(f" {word}")), end))
        blank = self.pieces.blank(left if others < len(frame.words) else 0)
        return Parts(
            before=joined([frame.example, blank, self._introduction]),
            body=joined(entries),
            question=self._question,
            gold=spans,
            depths=[start / int(ends[-1]) for start, _ in spans],
            alone=joined(self._numbered(frame.common)),
            answer=frame.answer,
            budget=frame.budget,
            choices=[self.pieces(f" {word}") for word in (*frame.common, *frame.words[:WRONG])],
            right=COMMON,
            texts=tuple(frame.common),
            unfilled="" if others < len(frame.words) else f"{self.words.source} has no more words",
        )

    @property
    def _introduction(self) -> Ids:
        return self.pieces(self.wording["introduction"] + "\n")

    @property
    def _question(self) -> Ids:
        texts = (self.wording[name].format(count=COMMON) for name in ("question", "answer"))
        return self.pieces("\n" + "".join(texts))

    def _counts(self, place: Place) -> Counts:
        """The highest counts that the length holds with SPARE, so that they are the same for all of its samples."""
        key = (place.seed, place.length, place.split)
        if key not in self.chosen:
            first = replace(place, index=0)
            known = (LONG, SHORT) if place.length >= LONGER else (SHORT,)
            fitting = (one for one in known if SPARE * self._least(first, one) <= place.length)
            self.chosen[key] = next(fitting, SHORTEST)
        return self.chosen[key]

    def _least(self, place: Place, counts: Counts) -> int:
        """Tokens of the sample with one other word."""
        frame = self._frame(place, counts, 1)
        return self._size(frame) + sum(map(len, self._entries(frame, 1)))

    def _frame(self, place: Place, counts: Counts, others: int | None = None) -> Frame:
        """The frame of a sample, with as many other words as any length of its kind can hold, or with `others`."""
        rng = place.rng()
        if others is None:  # a word and its number have three tokens or more
            others = place.length // (3 * counts.seldom) + WRONG
        drawn = self.words.draw(rng, 2 * COMMON + counts.others + others, place.split)
        shown, drawn = drawn[: COMMON + counts.others], drawn[COMMON + counts.others :]
        common, words = drawn[:COMMON], drawn[COMMON:]
        listed = shown[:COMMON] * counts.example_often + shown[COMMON:] * counts.example_seldom
        listed = [listed[at] for at in rng.permutation(len(listed))]
        example = [self._introduction, *self._numbered(listed), self._question, self._answer(shown[:COMMON])]
        return Frame(counts, joined([*example, self.pieces("\n")]), common, words, self._answer(common))

    def _size(self, frame: Frame) -> int:
        """Tokens without the list."""
        return len(frame.example) + len(self._introduction) + len(self._question) + frame.budget

    def _entries(self, frame: Frame, others: int) -> list[Ids]:
        listed = frame.common * frame.counts.often + frame.words[:others] * frame.counts.seldom
        return self._numbered(listed)

    def _others(self, frame: Frame, length: int) -> tuple[int, int]:
        """How many other words fit, and the tokens that are left; all that there are if they leave room for more."""
        seldom, entries = frame.counts.seldom, frame.counts.often * COMMON
        left = length - self._size(frame) - sum(map(len, self._entries(frame, 0)))
        for count, word in enumerate(frame.words):
            numbers = range(entries + count * seldom + 1, entries + (count + 1) * seldom + 1)
            size = seldom * len(self.pieces(f" {word}")) + sum(len(self.pieces(f" {at}.")) for at in numbers)
            if size > left:
                return count, left
            left -= size
        return len(frame.words), left

    def _check(self, frame: Frame, length: int) -> None:
        """Raises LackingError if there are not enough words."""
        if self._others(frame, length)[0] == len(frame.words):
            raise LackingError(
                f"cwe: a length of {length} tokens needs more different words than {self.words.source} has for a "
                f"split, {len(frame.words)} beside the common ones. Give more words or shorter lengths."
            )

    def _numbered(self, listed: Sequence[str]) -> list[Ids]:
        """A number and a word, a number and a word, ..."""
        return [self.pieces(text) for at, word in enumerate(listed, 1) for text in (f" {at}.", f" {word}")]

    def _answer(self, common: Sequence[str]) -> Ids:
        return joined(self._numbered(common))
