"""HELMET's in-context learning: a class is a number that only the examples tell.

The document is the examples, `text` and `label: number`, of rounds of one text of each class; the question is another
text. `icl_banking77_180` is for 4k tokens, `icl_banking77_5900` for 128k. The examples are the same for all questions,
and which class has which number is drawn for each, as published. No gold is marked: a class has many examples.

HELMET loads the hub's data sets. Here they are files, as jsonl, json or csv (no parquet), that `datasets` writes, as
`load_dataset("CogComp/trec", split="train").to_json("data/trec/train.jsonl")`:

    CogComp/trec                            trec/train, trec/test               text, coarse_label, fine_label
    PolyAI/banking77                        banking77/train, banking77/test     text, label
    clinc_oos, configuration "plus"         clinic150/train, .../validation     text, intent
    xingkunliuxtracta/nlu_evaluation_data   nlu/train                           text, label

Of nlu's one file a tenth are the questions, those that `train_test_split(test_size=0.1, seed=42)` takes. Of more than
500 questions 500 are there, those that `shuffle(seed=42)` puts first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from farfield.benchmarks.tasks import scoring
from farfield.benchmarks.tasks.longdoc.data_set import DataSet, Loader, Question, texts
from farfield.benchmarks.tasks.longdoc.examples import number_of
from farfield.benchmarks.tasks.longdoc.helmet.outputs import said
from farfield.benchmarks.tasks.longdoc.rows import Row
from farfield.benchmarks.tasks.sample import generator
from farfield.config import DataError

__all__ = ["ICL", "balanced"]

LABELS = texts(
    "Each of these texts has a label, which is a number. Find the label of the last text, and write nothing but "
    '"label: number".\n\n',
    "\n\n{text}\nlabel:",
)
SEED = 42  # of the examples and of nlu's questions, as published
HELD_OUT = 0.1
MOST = 500


@dataclass(frozen=True)
class Source:
    """Where the classes of a data set are: files without their ending, the field of the class, how many there are."""

    asked: str
    shown: str
    label: str
    classes: int
    counts: tuple[int, ...]


SOURCES = {
    "trec_coarse": Source("trec/test", "trec/train", "coarse_label", 6, (200, 400, 800, 1600, 3300, 6600)),
    "trec_fine": Source("trec/test", "trec/train", "fine_label", 50, (200, 400, 800, 1600, 3200, 6400)),
    "banking77": Source("banking77/test", "banking77/train", "label", 77, (180, 360, 720, 1450, 2900, 5900)),
    "clinic150": Source("clinic150/validation", "clinic150/train", "intent", 151, (220, 440, 880, 1750, 3525, 7050)),
    "nlu": Source("nlu/train", "nlu/train", "label", 68, (250, 510, 1020, 2040, 4080, 8296)),
}


@dataclass(frozen=True)
class Labelled:
    """Questions whose documents, all unlike for their numbers, are written when they are looked at.

    asked, shown: text and class of each question, and of each example
    """

    asked: Sequence[tuple[str, str]]
    shown: Sequence[tuple[str, str]]
    names: Sequence[str]
    classes: int

    def __len__(self) -> int:
        return len(self.asked)

    def __iter__(self) -> Iterator[Question]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, place: int) -> Question:
        text, label = self.asked[place]
        drawn = generator("facts", number_of(text)).permutation(max(self.classes, len(self.names)))
        numbers = {name: str(number) for name, number in zip(self.names, drawn, strict=False)}
        options = sorted(numbers.values(), key=int)
        return Question(
            "\n\n".join(f"{shown}\nlabel: {numbers[name]}" for shown, name in self.shown),
            {"text": text},
            (numbers[label],),
            options=tuple(f" {number}" for number in options),
            right=(options.index(numbers[label]),),
            query=text,
        )


@dataclass(frozen=True)
class Shots:
    """`count` examples of the file `source.shown`, as the document of each question."""

    source: Source
    count: int

    @property
    def file(self) -> str:
        return f"{self.source.shown}.*"

    @property
    def needed(self) -> bool:
        return True

    def put(self, questions: Sequence[Question], rows: Sequence[Row]) -> Labelled:
        asked = [(question.query, question.answers[0]) for question in questions]
        labels: dict[str, None] = {}
        shown = []
        for row in rows:
            label = row.texts(self.source.label)[0]
            labels[label] = None
            if len(labels) > self.source.classes:
                raise row.error(self.source.label, f"is one of more than {self.source.classes} classes")
            shown.append((row.text("text"), label))
        if self.source.asked == self.source.shown:
            order = np.random.default_rng(SEED).permutation(len(shown))
            size = math.ceil(HELD_OUT * len(shown))
            asked, shown = [shown[place] for place in order[:size]], [shown[place] for place in order[size:]]
        if not shown:
            raise DataError(f"suite.source: {self.file} has no row for an example. Give the whole file.")
        if len(asked) > MOST:
            asked = [asked[place] for place in np.random.default_rng(SEED).permutation(len(asked))[:MOST]]
        places = balanced([label for _, label in shown], self.count, generator("facts", SEED))
        names = sorted({*labels, *(label for _, label in asked)})
        return Labelled(asked, [shown[place] for place in places], names, self.source.classes)


def balanced(labels: Sequence[str], count: int, rng: np.random.Generator) -> list[int]:
    """The places of `count` labels in rounds, each of which has every class once, in random order.

    The rows of a class come again only after all have come.
    """
    classes: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        classes.setdefault(label, []).append(place)
    rounds: list[list[int]] = [[] for _ in range(-(-count // max(1, len(classes))))]
    for places in classes.values():
        drawn: list[int] = []
        while len(drawn) < len(rounds):
            drawn += rng.permutation(places).tolist()
        for taken, place in zip(rounds, drawn, strict=False):
            taken.append(place)
    return [place for taken in rounds for place in rng.permutation(taken).tolist()][:count]


def _loader(source: Source) -> Loader:
    def load(row: Row) -> Iterator[Question]:
        text = row.text("text")
        yield Question("", {"text": text}, row.texts(source.label)[:1], query=text)

    return load


def _named(output: str, question: Question) -> float:
    """Whether the line says the number alone; "label:" may stand before it once more."""
    return scoring.exact_match(said(f"label:{output}", "label:"), question.answers[0])


ICL = tuple(
    DataSet(
        f"icl_{name}_{count}",
        f"{source.asked}.*",
        _loader(source),
        _named,
        "accuracy",
        LABELS,
        20,
        cut="end",
        stop=("\n",),
        labels={"shots": count},
        beside=Shots(source, count),
    )
    for name, source in SOURCES.items()
    for count in source.counts
)
