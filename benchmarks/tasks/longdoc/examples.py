"""Examples that stand before a question: a few rows of a file, drawn for each topic.

    Examples("kilt/nq-train-multikilt_1000_k3_dep6.jsonl", _shown)

Questions of one topic have the same examples, so that those about one document share their beginning; none of a
question's examples is of its own topic, and no two are of one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from farfield.benchmarks.tasks.longdoc.data_set import Question
from farfield.benchmarks.tasks.longdoc.rows import Row
from farfield.benchmarks.tasks.sample import generator

__all__ = ["Example", "Examples", "number_of"]


class Example(NamedTuple):
    """What the text `example` is filled with, and what it is about."""

    topic: str
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Examples:
    """`count` examples of the rows of `file`."""

    file: str
    load: Callable[[Row], Iterator[Example]]
    count: int = 2

    @property
    def needed(self) -> bool:
        return False

    def put(self, questions: Sequence[Question], rows: Sequence[Row]) -> list[Question]:
        """The questions with their examples."""
        pool = [example for row in rows for example in self.load(row)]
        topics = dict.fromkeys(question.topic or question.document for question in questions)
        drawn = {topic: self._drawn(pool, topic) for topic in topics}
        return [replace(question, examples=drawn[question.topic or question.document]) for question in questions]

    def _drawn(self, pool: Sequence[Example], topic: str) -> tuple[Mapping[str, str], ...]:
        found: dict[str, Mapping[str, str]] = {}
        for place in generator("facts", number_of(topic)).permutation(len(pool)):
            example = pool[place]
            if len(found) < self.count and example.topic != topic:
                found.setdefault(example.topic, example.fields)
        return tuple(found.values())


def number_of(text: str) -> int:
    """A number that is the same for the same text, on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8], "big")
