"""HotpotQA in its distractor setting: ten paragraphs, two of which answer the question together.

https://hotpotqa.github.io, `hotpot_dev_distractor_v1.json`; or a file of one question a line, with whole paragraphs and
`gold_titles`. Too long is what has more than its ten paragraphs fill: it loses its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from farfield.benchmarks.tasks import scoring
from farfield.benchmarks.tasks.longdoc.data_set import Benchmark, DataSet, Question, over, texts
from farfield.benchmarks.tasks.longdoc.rows import Row

__all__ = ["HOTPOTQA"]

PROMPT = texts(
    "Read these passages. A question about two of them follows, to be answered in a few words.\n\n",
    "\n\nAnswer in a few words, and write nothing else.\nQuestion: {question}\nAnswer:",
)


def _asked(row: Row) -> Iterator[Question]:
    question = row.text("question")
    passages = [_passage(row, number, entry) for number, entry in enumerate(row.entries("context"))]
    written = [f"{title}\n{text}" for title, text in passages]
    gold = _gold(row)
    evidence = tuple(text for text, (title, _) in zip(written, passages, strict=True) if title in gold)
    yield Question("\n\n".join(written), {"question": question}, row.texts("answer"), evidence, query=question)


def _passage(row: Row, number: int, entry: object) -> tuple[str, str]:
    """A title, and a paragraph or its sentences."""
    if not isinstance(entry, list) or len(entry) != 2:
        raise row.error(f"context[{number}]", "is no pair of a title and a paragraph")
    title, text = entry
    return str(title), "".join(map(str, text)) if isinstance(text, list) else str(text)


def _gold(row: Row) -> tuple[str, ...]:
    if "gold_titles" in row.values:
        return row.texts("gold_titles")
    facts = row.entries("supporting_facts")
    if not all(isinstance(fact, list) and fact for fact in facts):
        raise row.error("supporting_facts", "is no list of pairs of a title and a sentence's number")
    return tuple(str(fact[0]) for fact in facts)


OFFICIAL = DataSet(
    "distractor",
    "hotpot_dev_distractor_v1.json",
    _asked,
    over(scoring.token_f1),
    "F1",
    PROMPT,
    32,
    cut="end",
)
HOTPOTQA = Benchmark("hotpotqa", (OFFICIAL, replace(OFFICIAL, name="lines", file="questions.jsonl")))
