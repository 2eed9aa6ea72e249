"""What a published data set is: questions about documents, and how they are put, cut and judged.

file of a row each  ->  Row  ->  `load`  ->  Question  ->  (`texts`, `budget`, `cut`)  ->  a prompt
a second file       ->  Row  ->  `beside`  ->──┤
                                               └─────  `rule`(what was written, Question)  ->  0 to 1
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from farfield.benchmarks.tasks import scoring
from farfield.benchmarks.tasks.longdoc.rows import Row
from farfield.benchmarks.tasks.sample import Turn

__all__ = [
    "Benchmark",
    "Beside",
    "Cut",
    "DataSet",
    "Loader",
    "Question",
    "Questions",
    "Rule",
    "merged",
    "over",
    "texts",
]

# What is left out of a document that is too long: its middle, its end, or its beginning.
Cut = Literal["middle", "end", "start"]


@dataclass(frozen=True)
class Question:
    """One question about one document.

    fields:    what the texts of its prompt are filled with
    answers:   gold answers, each as good as the other
    evidence:  parts of the document that the data set marks as those with the answer
    options:   continuations to choose from by likelihood, where they are fixed; `right` are the gold ones
    query:     what retrieval looks for
    mark:      what stands in the place of what is cut away
    key:       questions of one data set with the same key that is not empty are one, with the answers of all
    topic:     what examples before it must not be about, and by which they are drawn; "": its document
    examples:  of each example before it, what the text `example` is filled with
    reference: whatever else the rule needs
    """

    document: str
    fields: Mapping[str, str]
    answers: tuple[str, ...]
    evidence: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    right: tuple[int, ...] = ()
    query: str = ""
    mark: str = ""
    key: str = ""
    topic: str = ""
    examples: tuple[Mapping[str, str], ...] = ()
    reference: object = None


Loader = Callable[[Row], Iterator[Question]]
Rule = Callable[[str, Question], float]


class Questions(Protocol):
    """A list of questions, or what makes each when it is looked at, where all at once would fill the memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> Question: ...

    def __iter__(self) -> Iterator[Question]: ...


class Beside(Protocol):
    """What a second file adds to the questions of a data set: examples before them, or their documents."""

    @property
    def file(self) -> str: ...

    @property
    def needed(self) -> bool:
        """Whether there are no questions without it; else they stand without what it adds, and a note says so."""
        ...

    def put(self, questions: Sequence[Question], rows: Sequence[Row]) -> Questions:
        """The questions with what the rows of the file add.

        Raises:
            DataError: the rows have another schema.
        """
        ...


@dataclass(frozen=True)
class DataSet:
    """A data set of a benchmark.

    file:    its file's name, or the end of its path
    rule:    the score of what was written; `metric` is its name, "automatic" where the paper has judges
    texts:   `introduction` before the document, `question` after it, `closed` in both their places without a document,
             `example` for each of the examples, which stand where a text says {examples}
    budget:  tokens to be written
    compare: whether a base model can choose the answer among those to other questions
    labels:  numbers that tell it from its kin
    beside:  what a second file adds to its questions
    differs: where its rule is not the published one, "" if it is
    turn:    where its prompts stand in a chat
    apart:   whether it is asked only where it is named: it asks what another does, and judges it in another way
    """

    name: str
    file: str
    load: Loader
    rule: Rule
    metric: str
    texts: Mapping[str, str]
    budget: int
    cut: Cut = "middle"
    stop: tuple[str, ...] = ()
    compare: bool = True
    chinese: bool = False
    labels: Mapping[str, float] = field(default_factory=dict)
    beside: Beside | None = None
    differs: str = ""
    turn: Turn = "begun"
    apart: bool = False


@dataclass(frozen=True)
class Benchmark:
    """Data sets that were published together; `hub` is where, with the patterns of the files that are needed."""

    name: str
    data_sets: tuple[DataSet, ...]
    hub: str = ""
    patterns: tuple[str, ...] = ("*.jsonl", "*.json", "*.zip")


def texts(introduction: str, question: str, closed: str = "") -> dict[str, str]:
    """The texts of a prompt; without a document the question alone stands, or `closed`."""
    return {"introduction": introduction, "question": question, "closed": closed or question.lstrip("\n")}


def over(rule: Callable[[str, str], float], first_line: bool = False) -> Rule:
    """`rule` over all gold answers, of the first line of what was written or of all of it."""

    def judge(output: str, question: Question) -> float:
        return scoring.best(rule, scoring.first_line(output) if first_line else output, question.answers)

    return judge


def merged(questions: list[Question]) -> list[Question]:
    """Questions with one key made one, with the answers of all."""
    found: dict[str, Question] = {}
    for number, question in enumerate(questions):
        key = question.key or f"\0{number}"
        first = found.get(key)
        found[key] = replace(first, answers=first.answers + question.answers) if first else question
    return list(found.values())
