"""A phone book: what is the number of one of many names?

    Anna K. Holmfield: 6125550199          as many entries as the length holds
    Peter A. Westbrook: 9840011223
    ...

    Peter A. Westbrook: 9840011223         two of them as examples
    Maria T. Ashwood: 7770012345

    Anna K. Holmfield:                     the question
     6125550199                            the answer, ten digits of which the first is 6 to 9

In token mode a name is two ids, a digit one, and a break stands for the empty lines. An answer counts if the first
number that is written is the right one; by likelihood it is chosen among eight numbers of the book. Numbers and names
of testing do not come up in training. Jelassi et al., Repeat After Me, https://arxiv.org/abs/2402.01032;
sjelassi/transformers_ssm_copy, pretrained_exps/data_utils.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from farfield.benchmarks.tasks.fitting import first_fitting, least_of
from farfield.benchmarks.tasks.recall.strings import check_ids, draw_held, exact, short_of
from farfield.benchmarks.tasks.sample import (
    SPLITS,
    Ids,
    LackingError,
    Sample,
    Scoring,
    Split,
    Tokenizer,
    TooShortError,
    generator,
)
from farfield.benchmarks.tasks.wording_file import Wording

__all__ = ["PHONE_BOOK", "IdEntries", "PhoneBook", "TextEntries"]

PHONE_BOOK = {"entry": "{name}: {number}\n", "break": "\n", "question": "{name}:", "reply": " {number}\n"}
EXAMPLES, CHOICES = 2, 8
DIGITS, LOWEST, NUMBERS = 10, 6_000_000_000, 4_000_000_000
VERSION = 1

FIRST = """
Ada Agnes Albert Alice Anna Arthur Astrid Basil Bella Boris Carl Cecil Clara Conrad Daphne David Dora Edgar Edith Elias
Emma Ernest Esther Eva Felix Flora Frank Freda George Greta Harold Hazel Helen Henry Hugo Ida Irene Isaac Ivan Jacob
Jane Joan Joseph Julia Karl Laura Leo Lucy Mabel Marco Maria Martin Nadia Nora Oscar Otto Paula Peter Rosa Ruth Samuel
Sonia Victor Wanda
""".split()
STEMS = """
Ash Birch Black Brook Clay Cold Deep East Elm Fair Fern Green Hart High Holm Hol Long Marsh North Oak
Red Rock Stan West
""".split()
ENDS = """
bank berry bourne bridge brook burn bury by croft dale den field ford gate grove ham hurst ley low more
stead stone ton wood
""".split()
INITIALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NAMES = len(FIRST) * len(INITIALS) * len(STEMS) * len(ENDS)


class Entries(Protocol):
    """How a book is written. Names and numbers are known by index."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def names(self) -> int:
        """How many names there are."""
        ...

    @property
    def least(self) -> int:
        """Tokens of a short entry."""
        ...

    @property
    def room(self) -> int:
        """Tokens of the longest reply."""
        ...

    @property
    def gap(self) -> Ids:
        """What stands before the examples, and before the question."""
        ...

    def entry(self, name: int, number: int) -> Ids: ...

    def question(self, name: int) -> Ids: ...

    def reply(self, number: int) -> Ids: ...

    def texts(self, number: int) -> tuple[str, ...]:
        """The answer as text; none where there is no text."""
        ...

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]: ...


@dataclass(frozen=True)
class IdEntries:
    """0 is a break, then ten digits, first names and last names. `ids` counts the vocabulary without the end."""

    ids: int

    @property
    def fingerprint(self) -> str:
        return f"ids {self.ids}"

    @property
    def half(self) -> int:
        return (self.ids - 1 - DIGITS) // 2

    @property
    def names(self) -> int:
        return self.half**2

    @property
    def least(self) -> int:
        return 2 + DIGITS

    @property
    def room(self) -> int:
        return DIGITS

    @property
    def gap(self) -> Ids:
        return np.zeros(1, dtype=np.int32)

    def entry(self, name: int, number: int) -> Ids:
        return np.concatenate([self.question(name), self.reply(number)])

    def question(self, name: int) -> Ids:
        first, last = divmod(name, self.half)
        return np.array([1 + DIGITS + first, 1 + DIGITS + self.half + last], dtype=np.int32)

    def reply(self, number: int) -> Ids:
        return np.array([1 + int(digit) for digit in str(LOWEST + number)], dtype=np.int32)

    def texts(self, number: int) -> tuple[str, ...]:
        return ()

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        return exact(samples, outputs)


@dataclass(frozen=True)
class TextEntries:
    """Lines of text."""

    tokenizer: Tokenizer
    wording: Wording

    @property
    def fingerprint(self) -> str:
        return f"{self.tokenizer.kind} {self.tokenizer.vocabulary} {self.wording.fingerprint}"

    @property
    def names(self) -> int:
        return NAMES

    @property
    def least(self) -> int:
        return 8  # no tokenizer writes a name and ten digits with less

    @property
    def room(self) -> int:
        # A token holds at least a byte: the same for each tokenizer and number.
        return len(self.wording["reply"].format(number=LOWEST).encode())

    @property
    def gap(self) -> Ids:
        return self._encode(self.wording["break"])

    def entry(self, name: int, number: int) -> Ids:
        return self._encode(self.wording["entry"].format(name=_name(name), number=LOWEST + number))

    def question(self, name: int) -> Ids:
        return self._encode(self.wording["question"].format(name=_name(name)))

    def reply(self, number: int) -> Ids:
        return self._encode(self.wording["reply"].format(number=LOWEST + number))

    def texts(self, number: int) -> tuple[str, ...]:
        return (str(LOWEST + number),)

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        written = (re.search(r"\d+", self.tokenizer.decode(list(output))) for output in outputs)
        return [
            float(found is not None and (found[0],) == sample.text_answers)
            for sample, found in zip(samples, written, strict=True)
        ]

    def _encode(self, text: str) -> Ids:
        return np.array(self.tokenizer.encode(text), dtype=np.int32)


def _name(index: int) -> str:
    first, initial, stem, end = np.unravel_index(index, (len(FIRST), len(INITIALS), len(STEMS), len(ENDS)))
    return f"{FIRST[first]} {INITIALS[initial]}. {STEMS[stem]}{ENDS[end]}"


@dataclass(frozen=True, eq=False)
class PhoneBook:
    """One question a book."""

    entries: Entries
    stop: tuple[str, ...] = ()

    name: str = "phone_book"
    metric: str = "accuracy"
    placed: bool = False
    scorings: tuple[Scoring, ...] = ("generate", "likelihood")

    @property
    def labels(self) -> Mapping[str, float]:
        return {}

    @property
    def fingerprint(self) -> str:
        return f"{self.name} {VERSION} {self.entries.fingerprint}"

    def check(self, seed: int, length: int, n: int, split: Split) -> None:
        if isinstance(self.entries, IdEntries):
            check_ids(self.name, self.entries.ids, 1 + DIGITS + 2 * EXAMPLES)
        self._count(length)
        if length < self.least:
            raise TooShortError(
                f"recall: a length of {length} tokens is too short for a {self.name} of three entries: "
                f"{self.least} is the least. Give longer lengths."
            )

    @cached_property
    def least(self) -> int:
        """Tokens of three entries, the question and the answer."""
        return least_of(lambda number: -self._frame(generator("sample", 0, 0, number, SPLITS["test"]), 0, "test").room)

    def _count(self, length: int) -> int:
        """Entries that a book has at most, and no fewer than are told.

        Raises:
            LackingError: there are fewer names.
        """
        count = length // self.entries.least + EXAMPLES + 1
        if count > self.entries.names // 4:
            raise LackingError(
                f"recall: a {self.name} of {length} tokens has up to {count} entries, and there are "
                f"{self.entries.names // 4} names. Give shorter lengths or take a model with a larger vocabulary."
            )
        return count

    def generate(
        self, seed: int, length: int, n: int, split: Split, *, depth: float | None = None, first: int = 0
    ) -> list[Sample]:
        self.check(seed, length, 0, split)
        return [self._draw(seed, length, index, split) for index in range(first, first + n)]

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        return self.entries.score(samples, outputs)

    def _frame(self, rng: np.random.Generator, length: int, split: Split) -> _Frame:
        """Names and numbers, and all of a prompt but the entries that nobody asks for, whether they fit or not."""
        count = self._count(length)
        names = draw_held(rng, self.entries.names, count, split).tolist()
        numbers = draw_held(rng, NUMBERS, count, split).tolist()
        told = [self.entries.entry(name, number) for name, number in zip(names[:3], numbers[:3], strict=True)]
        gap = self.entries.gap
        question = np.concatenate([gap, *told[1:], gap, self.entries.question(names[0])])
        room = length - sum(map(len, told)) - len(question) - self.entries.room
        return _Frame(rng, names, numbers, told, question, room)

    def _draw(self, seed: int, length: int, index: int, split: Split) -> Sample:
        frame = first_fitting(
            index,
            lambda number: self._frame(generator("sample", seed, length, number, SPLITS[split]), length, split),
            lambda frame: frame.room >= 0,
        )
        lines, left = list(frame.told), frame.room
        for name, number in zip(frame.names[3:], frame.numbers[3:], strict=True):
            line = self.entries.entry(name, number)
            if len(line) > left:
                break
            lines.append(line)
            left -= len(line)
        order = frame.rng.permutation(len(lines))
        starts = np.concatenate([[0], np.cumsum([len(lines[at]) for at in order])])
        place = int(np.flatnonzero(order == 0)[0])
        book = np.concatenate([lines[at] for at in order])
        others = frame.numbers[1 : min(CHOICES, len(lines))]
        return Sample(
            prompt=np.concatenate([book, frame.question]),
            answer=self.entries.reply(frame.numbers[0]),
            length=length - left,
            budget=self.entries.room,
            seed=seed,
            version=VERSION,
            text_answers=self.entries.texts(frame.numbers[0]),
            depths=(float(starts[place] / len(book)),),
            gold=((int(starts[place]), int(starts[place + 1])),),
            question=len(book),
            choices=tuple(self.entries.reply(number) for number in [frame.numbers[0], *others]),
            right=(0,),
            prompts={"no_context": frame.question, "gold_only": np.concatenate([frame.told[0], frame.question])},
            unfilled=short_of(length - left, length, "another entry does not fit"),
        )


@dataclass(frozen=True, eq=False)
class _Frame:
    """`told` are the entries that are asked for and shown as examples, the first names and numbers.

    rng:   draws the order of the book
    room:  tokens for other entries
    """

    rng: np.random.Generator
    names: list[int]
    numbers: list[int]
    told: list[Ids]
    question: Ids
    room: int
