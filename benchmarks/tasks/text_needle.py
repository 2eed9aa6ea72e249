"""The text mode of needle in a haystack, for any tokenizer of text.

    Remember every secret number.                                              introduction
    ...ce. The baker walked past the market. The secret number of amber        haystack with needles
    canyon is 4823917. My neighbour paid for the last train in spring.
    What is the secret number of amber canyon? The secret number of amber      question
    canyon is
     4823917.                                                                  answer

Needles stand between sentences, at the border nearest to their depth. The prompt and the room for the answer fill the
length exactly. Needles of one cell are placed as in token mode.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.tasks.haystack import Haystack
from farfield.benchmarks.tasks.needle import needle_depths, too_short, weave
from farfield.benchmarks.tasks.sample import SPLITS, Ids, Sample, Scoring, Split, Tokenizer, generator
from farfield.benchmarks.tasks.wording import INTRODUCTION, draw_keys, draw_values, needle, question, reply

__all__ = ["TextNeedle"]

VERSION = 2


@dataclass(frozen=True, eq=False)
class Frame:
    """All of a prompt but its haystack."""

    needles: list[Ids]
    questions: list[Ids]  # all of one length
    answers: list[Ids]
    values: list[str]
    budget: int

    def size(self, introduction: Ids) -> int:
        """Tokens, with those of the answer."""
        return len(introduction) + sum(map(len, self.needles)) + len(self.questions[0]) + self.budget


class TextNeedle:
    """The needle task of texts. Each index gives `queries` samples that ask about one haystack."""

    name = "needle_text"
    metric = "recall"
    placed = True
    scorings: tuple[Scoring, ...] = ("generate",)
    stop: tuple[str, ...] = ("\n",)
    labels: Mapping[str, float] = {}

    def __init__(self, tokenizer: Tokenizer, haystack: Haystack, needles: int = 1, queries: int = 1) -> None:
        self.tokenizer, self.haystack, self.needles, self.queries = tokenizer, haystack, needles, queries
        self.introduction = self._encode(INTRODUCTION)

    @property
    def fingerprint(self) -> str:
        return f"{self.name} {VERSION} {self.needles} {self.queries} {self.tokenizer.kind} {self.haystack.fingerprint}"

    def check(self, seed: int, length: int, n: int, split: Split) -> None:
        sizes = [
            self._frame(generator("sample", seed, length, index, SPLITS[split]), split).size(self.introduction)
            for index in range(n)
        ]
        if length <= max(sizes):
            raise too_short(length, self.needles, max(sizes) + 1)
        self.haystack.check(length - min(sizes), length)

    def generate(
        self, seed: int, length: int, n: int, split: Split, *, depth: float | None = None, first: int = 0
    ) -> list[Sample]:
        asked = (self._ask(seed, length, index, split, depth) for index in range(first, first + n))
        return list(chain.from_iterable(asked))

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        return [
            float(np.mean([exact(self.tokenizer.decode(list(output)), gold) for gold in sample.text_answers]))
            for sample, output in zip(samples, outputs, strict=True)
        ]

    def _ask(self, seed: int, length: int, index: int, split: Split, depth: float | None) -> list[Sample]:
        rng = generator("sample", seed, length, index, SPLITS[split])
        frame = self._frame(rng, split)
        room = length - frame.size(self.introduction)
        if room < 1:
            raise too_short(length, self.needles, length - room + 1)
        self.haystack.check(room, length)
        haystack, borders = self.haystack.take(rng, room)
        depths = needle_depths(float(rng.random()) if depth is None else depth, self.needles)
        places = [_nearest(borders, at * room) for at in depths]
        body = np.concatenate([self.introduction, weave(haystack, places, frame.needles)])
        before = len(self.introduction) + np.cumsum([0, *map(len, frame.needles)])
        starts = [int(shift) + place for shift, place in zip(before, places, strict=False)]
        return [
            Sample(
                prompt=np.concatenate([body, frame.questions[asked]]),
                answer=frame.answers[asked],
                length=length,
                budget=frame.budget,
                seed=seed,
                version=VERSION,
                text_answers=(frame.values[asked],),
                depths=(places[asked] / room,),
                gold=((starts[asked], starts[asked] + len(frame.needles[asked])),),
                question=len(body),
                prompts={
                    "no_context": np.concatenate([self.introduction, frame.questions[asked]]),
                    "gold_only": np.concatenate([self.introduction, frame.needles[asked], frame.questions[asked]]),
                },
            )
            for asked in range(self.queries)
        ]

    def _frame(self, rng: np.random.Generator, split: Split) -> Frame:
        keys, values = draw_keys(rng, self.needles, split), draw_values(rng, self.needles, split)
        questions = [self._encode(question(key)) for key in keys[: self.queries]]
        longest, line = max(map(len, questions)), self._encode("\n")
        return Frame(
            needles=[self._encode(needle(key, value)) for key, value in zip(keys, values, strict=True)],
            # Empty lines bring the questions to one length, so that all follow the same haystack and fill the length.
            questions=[np.concatenate([np.resize(line, longest - len(asked)), asked]) for asked in questions],
            answers=[self._encode(reply(value)) for value in values[: self.queries]],
            values=values[: self.queries],
            # A token holds at least a byte: the same budget for each tokenizer and value.
            budget=len(reply(values[0]).encode()),
        )

    def _encode(self, text: str) -> Ids:
        return np.array(self.tokenizer.encode(text), dtype=np.int32)


def exact(text: str, gold: str) -> bool:
    """Whether the first number that `text` writes is `gold`: naming several is no answer, nor is 12345678 1234567."""
    number = re.search(r"\w*\d\w*", text)
    return number is not None and number[0] == gold


def _nearest(borders: NDArray[np.int64], place: float) -> int:
    """The border nearest to `place`, the earlier of two."""
    return int(borders[np.abs(borders - place).argmin()])
