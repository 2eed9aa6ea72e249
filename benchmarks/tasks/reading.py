"""Reading: passages of invented facts, with questions that only the passage answers.

    Velamo gate --code--> 4719          The Velamo gate opens with the code 4719.   (in a passage, among others)
                                        Which code opens the Velamo gate?           -> 4719

A passage holds facts and the prose that stands around facts in a handbook. Several facts share a relation and several
share an entity, so that neither alone tells the answer. Names and values are made by arithmetic; each text belongs to
one split (`split_of`), so that what a reader is tested on, in whatever role, never occurs in what it has learnt from.
The third split, `documents`, is for the sample documents that come with Farfield: no generated passage holds their
names and values.

Everything is a function of (seed, index, split).
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from farfield.benchmarks.tasks.reading_forms import (
    ADJECTIVES,
    COLOURS,
    FILLERS,
    HEADINGS,
    LEADS,
    NOUNS,
    PEOPLE,
    RELATIONS,
    TAILS,
    TITLES,
    Relation,
)
from farfield.config import Config

__all__ = ["Example", "Fact", "Question", "Shape", "Split", "exact", "example", "prompt", "split_of"]

Split = Literal["train", "test", "documents"]
T = TypeVar("T")

SHARES = 8  # one share in eight is for tests, one for the sample documents
SYLLABLES = tuple(
    consonant + "aeiou"[(place + step) % 5] for place, consonant in enumerate("bdfghjklmnprstvz") for step in (0, 1, 3)
)  # three vowels for each consonant: pairs within a syllable are then more frequent than pairs across two

LETTERS = "ABCDEFGHKLMNPRST"
SMALL = ("two", "three", "four", "five", "six", "seven", "eight", "nine")
ADORNED = 0.15  # chance that a statement has something before it, and that it has something behind it
FIRST = 0.5  # chance that a chunk is the first of its section
GLUE = (" ", " ", " ", "\n\n")  # between two sentences

# The templates that retrieval uses where nothing else is set.
PASSAGE = "[{number}] {label}\n{text}\n\n"
PROMPT = "{passages}Question: {question}\nAnswer:"


def split_of(text: str) -> Split:
    """The split that a name or a value belongs to. It depends on nothing but its text."""
    share = zlib.crc32(text.lower().encode()) % SHARES
    return "test" if share == 0 else "documents" if share == 1 else "train"


def prompt(passages: str, question: str) -> str:
    """What a reader is given, in training and in a query; it goes on with a space, the answer and the end token."""
    return PROMPT.format(passages=passages, question=question)


def exact(answer: str, generated: str) -> bool:
    """Whether the first line of `generated` is `answer`, but for case, spaces and a full stop at the end."""
    return _plain(generated.strip().split("\n")[0]) == _plain(answer)


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().rstrip(".").lower()


class Shape(Config):
    """How passages look. Pairs are (least, most), both included."""

    facts: tuple[int, int] = (2, 6)
    fillers: tuple[int, int] = (0, 6)
    chunks: tuple[int, int] = (1, 3)
    questions: int = 4
    same: float = 0.4
    """Chance that a fact takes the relation of an earlier one, and that it takes the entity of an earlier one."""


PLAIN = Shape()


@dataclass(frozen=True)
class Question:
    """A question and the text that answers it."""

    question: str
    answer: str


@dataclass(frozen=True)
class Example:
    """Passages, as the prompt holds them, and questions on them: on each fact in turn, then again in other words."""

    passages: str
    questions: tuple[Question, ...]

    @property
    def question(self) -> str:
        """The first question."""
        return self.questions[0].question

    @property
    def answer(self) -> str:
        """The answer to the first question."""
        return self.questions[0].answer

    @property
    def prompt(self) -> str:
        """The passage and the first question."""
        return prompt(self.passages, self.question)


@dataclass(frozen=True)
class Fact:
    """What a passage says: `relation` ties `entity` ("Velamo gate") to `value` ("4719")."""

    relation: Relation
    entity: str
    value: str


class Draw:
    """Names, values and wordings of one split, drawn from one random generator."""

    def __init__(self, seed: int, index: int, split: Split) -> None:
        self.split = split
        self.random = random.Random(f"{seed} {index} {split}").random

    def below(self, count: int) -> int:
        return int(self.random() * count)

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.below(len(choices))]

    def between(self, ends: tuple[int, int]) -> int:
        return ends[0] + self.below(ends[1] - ends[0] + 1)

    def shuffled(self, items: Iterable[T]) -> list[T]:
        order = list(items)
        for last in range(len(order) - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order

    def own(self, make: Callable[[], str]) -> str:
        """The first text of `make` that belongs to this split."""
        while True:
            text = make()
            if split_of(text) == self.split:
                return text

    def name(self) -> str:
        """An invented name of two or three syllables: Velamo."""
        return self.own(lambda: "".join(self.pick(SYLLABLES) for _ in range(2 + self.below(2))).capitalize())

    def value(self, kind: str) -> str:
        """A value of this kind: 4719, Tavu Reko, 12 days."""
        match kind:
            case "person":
                return f"{self.name()} {self.name()}"
            case "place":
                return self.name()
            case "word":
                return self.name().lower()
            case "colour":  # half of them invented: a list alone would be learnt by heart instead of read
                return self.name().lower() if self.random() < 0.5 else self.own(lambda: self.pick(COLOURS))
            case "code":
                return self.own(lambda: str(1000 + self.below(9000)))
            case "room":
                return self.own(lambda: f"{self.pick(LETTERS)}{10 + self.below(90)}")
            case "time":
                return self.own(lambda: f"{self.below(24):02}:{5 * self.below(12):02}")
            case "number":
                return self.own(lambda: str(2 + self.below(98)))
            case unit:
                return self.own(lambda: f"{2 + self.below(98)} {unit}")

    def filler(self, form: str) -> str:
        """`form` with its slots filled."""
        return form.format(
            a=self.pick(ADJECTIVES),
            n=self.pick(NOUNS),
            m=self.pick(NOUNS),
            p=self.pick(PEOPLE),
            q=self.pick(PEOPLE),
            d=self.pick(SMALL),
            e=f"{self.name()} {self.pick(NOUNS)}" if "{e}" in form else "",
            x=f"{self.name()} {self.name()}" if "{x}" in form else "",
        )

    def facts(self, count: int, same: float) -> list[Fact]:
        """Facts of which no two agree in both relation and entity."""
        facts: list[Fact] = []
        names: list[str] = []
        while len(facts) < count:
            shared = facts and self.random() < same
            relation = self.pick(facts).relation if shared else self.pick(RELATIONS)
            name = self.pick(names) if names and self.random() < same else self.name()
            entity = f"{name} {self.pick(relation.nouns)}"
            if all(fact.relation is not relation or fact.entity.split()[0] != name for fact in facts):
                facts.append(Fact(relation, entity, self.value(relation.value)))
                names.append(name)
        return facts

    def statement(self, fact: Fact) -> str:
        """A sentence that says `fact`."""
        form = self.pick(fact.relation.statements)
        if self.random() < ADORNED:
            form = form[:-1] + self.pick(TAILS) + "."
        if self.random() < ADORNED:
            form = self.pick(LEADS) + form[0].lower() + form[1:]
        return form.format(e=fact.entity, v=fact.value)

    def question(self, fact: Fact) -> Question:
        """A question for the value of `fact`."""
        return Question(self.pick(fact.relation.questions).format(e=fact.entity), fact.value)


def example(seed: int, index: int, split: Split = "train", shape: Shape = PLAIN) -> Example:
    """The example with this number. Equal arguments give equal examples, on every machine."""
    draw = Draw(seed, index, split)
    facts = draw.facts(draw.between(shape.facts), shape.same)
    fillers = (draw.filler(draw.pick(FILLERS)) for _ in range(draw.between(shape.fillers)))
    sentences = draw.shuffled([*(draw.statement(fact) for fact in facts), *fillers])
    order = draw.shuffled(facts)
    asked = [order[place % len(order)] for place in range(shape.questions)]
    return Example(_passages(draw, sentences, shape), tuple(draw.question(fact) for fact in asked))


def _passages(draw: Draw, sentences: list[str], shape: Shape) -> str:
    """The sentences in chunks, as retrieval brings them."""
    count = min(draw.between(shape.chunks), len(sentences))
    ends = sorted(draw.shuffled(range(1, len(sentences)))[: count - 1])
    pieces = [sentences[first:end] for first, end in zip([0, *ends], [*ends, len(sentences)], strict=True)]
    return "".join(_passage(draw, number, piece) for number, piece in enumerate(pieces, start=1))


def _passage(draw: Draw, number: int, sentences: list[str]) -> str:
    """A chunk below its headings; the first chunk of a section begins with its own."""
    heading = draw.filler(draw.pick(HEADINGS))
    title = draw.filler(draw.pick(TITLES))
    text = sentences[0] + "".join(draw.pick(GLUE) + sentence for sentence in sentences[1:])
    if draw.random() < FIRST:
        text = f"## {heading}\n\n{text}"
    return PASSAGE.format(number=number, label=f"{title} > {heading}", text=text)
