"""LooGLE: documents of more than 24k tokens, with questions whose evidence is near or far apart, clozes and summaries.

https://github.com/bigai-nlco/LooGLE. What is too long loses its middle. The paper also has GPT-4 judge answers; the
metric here is the recall of ROUGE-L, one of its automatic ones, and for clozes the share of masks filled exactly.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from farfield.benchmarks.tasks.longdoc.data_set import Benchmark, DataSet, Question, over, texts
from farfield.benchmarks.tasks.longdoc.rows import Row
from farfield.benchmarks.tasks.rouge import summary_l
from farfield.benchmarks.tasks.scoring import filled_masks

__all__ = ["LOOGLE"]

ASKED = texts("Read this text. A question about it follows.\n\n", "\n\nQuestion: {Q}\nAnswer:")
CLOZE = texts(
    "Read this text. A passage about it follows, in which names are masked.\n\n",
    "\n\nPassage: {Q}\n\nWrite which name each mask stands for, as {{'<mask-0>': 'Ann', '<mask-1>': 'Oslo'}}\nNames:",
)
SUMMARY = texts("Read this paper, and then sum it up.\n\n", "\n\nSum up the paper.\nSummary:")


def _pairs(row: Row) -> list[Row]:
    """`qa_pairs`: a list of objects, or the text of one in Python's grammar, as it was published."""
    value = row.value("qa_pairs")
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise row.error("qa_pairs", "is a text that is no list of objects") from None
    if not isinstance(value, list) or not value:
        raise row.error("qa_pairs", "is no list of questions and answers")
    return [row.inner("qa_pairs", number, one) for number, one in enumerate(value)]


def _asked(row: Row) -> Iterator[Question]:
    document = row.text("input")
    for pair in _pairs(row):
        asked = pair.text("Q")
        evidence = pair.texts("S") if "S" in pair.values else ()
        yield Question(document, {"Q": asked}, (pair.text("A"),), evidence, query=asked)


def _masked(row: Row) -> Iterator[Question]:
    document = row.text("input")
    for pair in _pairs(row):
        names = pair.value("A")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise pair.error("A", "is no object of masks and names")
        asked = pair.text("Q")
        yield Question(document, {"Q": asked}, (str(names),), query=asked, reference=names)


def _summed(row: Row) -> Iterator[Question]:
    yield Question(row.text("input"), {}, (row.text("output"),))


def _recall(output: str, answer: str) -> float:
    return summary_l(output, answer).recall


def _filled(output: str, question: Question) -> float:
    names: Any = question.reference
    assert isinstance(names, Mapping)
    return filled_masks(output, names)


RECALL = "ROUGE-L recall (automatic)"
LOOGLE = Benchmark(
    "loogle",
    (
        DataSet("shortdep_qa", "shortdep_qa.jsonl", _asked, over(_recall), RECALL, ASKED, 300),
        DataSet("longdep_qa", "longdep_qa.jsonl", _asked, over(_recall), RECALL, ASKED, 500),
        DataSet("shortdep_cloze", "shortdep_cloze.jsonl", _masked, _filled, "accuracy", CLOZE, 50),
        DataSet(
            "longdep_summarization",
            "longdep_summarization.jsonl",
            _summed,
            over(_recall),
            RECALL,
            SUMMARY,
            500,
            compare=False,
        ),
    ),
    "bigainlco/LooGLE",
)
