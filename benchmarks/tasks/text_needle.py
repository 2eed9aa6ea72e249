"""The text mode of needle in a haystack, for any tokenizer of text.

    Remember every secret number.                                              introduction
    ...ce. The baker walked past the market. The secret number of amber        haystack with needles
    canyon is 4823917. My neighbour paid for the last train in spring.
    What is the secret number of amber canyon? The secret number of amber      question
    canyon is
     4823917.                                                                  answer

Needles stand between sentences, at the border nearest to their depth. The prompt and the room for the answer fill the
length exactly. What is hidden and asked is told by a story (`farfield.benchmarks.tasks.stories`, `.no_literal`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np

from farfield.benchmarks.tasks.fitting import first_fitting, least_of
from farfield.benchmarks.tasks.haystack import Haystack, needle_haystack
from farfield.benchmarks.tasks.layout import Asked, Frame, lay_out, nearest, too_short
from farfield.benchmarks.tasks.sample import SPLITS, Ids, Sample, Scoring, Split, Tokenizer, generator, judged
from farfield.benchmarks.tasks.stories import Keyed, Plot, Story

__all__ = ["TextNeedle"]

VERSION = 4


@dataclass(frozen=True, eq=False)
class _Drawn:
    """All of a sample but its haystack; `rng` draws that, and where the needles stand."""

    rng: np.random.Generator
    plot: Plot
    frame: Frame


class TextNeedle:
    """A needle task of texts, in `haystack`, or where it is None among other needles of the story."""

    metric = "recall"
    scorings: tuple[Scoring, ...] = ("generate", "likelihood")
    stop: tuple[str, ...] = ("\n",)
    labels: Mapping[str, float] = {}

    def __init__(self, tokenizer: Tokenizer, haystack: Haystack | None, story: Story | None = None) -> None:
        self.tokenizer, self.story = tokenizer, story or Keyed()
        self.haystacks = dict.fromkeys(SPLITS, haystack) if haystack else {}
        self.introduction = self._encode(self.story.introduction)

    @property
    def name(self) -> str:
        return f"{self.story.name}_text"

    @property
    def placed(self) -> bool:
        return self.story.placed

    @property
    def fingerprint(self) -> str:
        haystack = self._haystack("test").fingerprint  # by the tokens in it, the tokenizer's too
        return f"{self.name} {VERSION} {self.story.fingerprint} {self.tokenizer.kind} {haystack}"

    def check(self, seed: int, length: int, n: int, split: Split) -> None:
        self._check(length)
        frames = [self._drawn(seed, length, index, split).frame for index in range(n)]
        self._haystack(split).check(length - min(frame.size for frame in frames), length)

    def _check(self, length: int) -> None:
        if length < self.least:
            raise too_short(length, len(self._drawn(0, 0, 0, "test").frame.needles), self.least)

    @cached_property
    def least(self) -> int:
        """Tokens of needles, question and answer, and one of haystack."""
        return 1 + least_of(lambda number: self._drawn(0, 0, number, "test").frame.size)

    def generate(
        self, seed: int, length: int, n: int, split: Split, *, depth: float | None = None, first: int = 0
    ) -> list[Sample]:
        self._check(length)
        asked = (self._ask(seed, length, index, split, depth) for index in range(first, first + n))
        return list(chain.from_iterable(asked))

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        return judged(self.tokenizer, samples, outputs, self.story.score)

    def _ask(self, seed: int, length: int, index: int, split: Split, depth: float | None) -> list[Sample]:
        drawn = first_fitting(
            index,
            lambda number: self._drawn(seed, length, number, split),
            lambda drawn: drawn.frame.size < length,
        )
        rng, plot, frame = drawn.rng, drawn.plot, drawn.frame
        room = length - frame.size
        haystack = self._haystack(split)
        haystack.check(room, length)
        tokens, borders = haystack.take(rng, room, plot.about)
        depths = self.story.depths(rng, float(rng.random()) if depth is None else depth)
        places = [nearest(borders, at * room) for at in depths]
        return lay_out(frame, tokens, places, length=length, seed=seed, version=VERSION)

    def _haystack(self, split: Split) -> Haystack:
        if split not in self.haystacks:
            self.haystacks[split] = needle_haystack(self.story.others(split), self.tokenizer)
        return self.haystacks[split]

    def _drawn(self, seed: int, length: int, number: int, split: Split) -> _Drawn:
        rng = generator("sample", seed, length, number, SPLITS[split])
        plot = self.story.plot(rng, split)
        return _Drawn(rng, plot, self._frame(plot))

    def _frame(self, plot: Plot) -> Frame:
        texts = [self._encode(question.text) for question in plot.questions]
        longest, line = max(map(len, texts)), self._encode("\n")
        # Empty lines bring the questions to one length, so that all follow the same haystack and fill the length.
        asked = [
            Asked(
                question=np.concatenate([np.resize(line, longest - len(text)), text]),
                answer=self._encode(question.reply),
                gold=question.gold,
                text_answers=question.values,
                choices=tuple(self._encode(choice) for choice in question.choices),
                right=question.right,
            )
            for question, text in zip(plot.questions, texts, strict=True)
        ]
        return Frame([self._encode(needle) for needle in plot.needles], asked, plot.budget, self.introduction)

    def _encode(self, text: str) -> Ids:
        return np.array(self.tokenizer.encode(text), dtype=np.int32)
