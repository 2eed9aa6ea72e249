"""HELMET's RAG: questions among passages of Wikipedia (KILT), `kilt_nq_20` for 4k tokens to `kilt_nq_1000` for 128k.

Two questions with three passages each stand before, of the files `...-train-multikilt_1000_k3_...`. PopQA has one
split, so that its own examples are of other questions; of it only questions count about what was looked up less than
a thousand times a month on Wikipedia (the logarithm of `s_pop` is below 3).
"""

from __future__ import annotations

from collections.abc import Iterator

from farfield.benchmarks.tasks import scoring
from farfield.benchmarks.tasks.longdoc.data_set import DataSet, Loader, Question, over, texts
from farfield.benchmarks.tasks.longdoc.examples import Example, Examples
from farfield.benchmarks.tasks.longdoc.rows import Row

__all__ = ["RAG"]

PASSAGES = texts(
    "Read these passages, and answer the question that follows in a few words.\n\n{examples}",
    "\n\nQuestion: {question}\nAnswer:",
    "Answer in a few words.\n\nQuestion: {question}\nAnswer:",
) | {"example": "{documents}\n\nQuestion: {question}\nAnswer: {answer}\n\n"}
COUNTS = (20, 50, 105, 220, 440, 1000)
POPULAR = 1000  # 10 to the power of 3
FILES = {  # of the questions, and of the examples
    "nq": ("nq-dev-multikilt_1000_k{k}_dep6", "nq-train-multikilt_1000_k3_dep6"),
    "triviaqa": ("triviaqa-dev-multikilt_1000_k{k}_dep6", "triviaqa-train-multikilt_1000_k3_dep6"),
    "hotpotqa": ("hotpotqa-dev-multikilt_1000_k{k}_dep3", "hotpotqa-train-multikilt_1000_k3_dep3"),
    "popqa": ("popqa_test_1000_k{k}_dep6", "popqa_test_1000_k3_dep6"),
}


def _passages(row: Row) -> Iterator[Question]:
    question, answers = row.text("question"), row.texts("answers")
    found = [row.inner("ctxs", number, one) for number, one in enumerate(row.entries("ctxs"))]
    written = [f"Passage ({one.text('title')}): {one.text('text')}" for one in found]
    gold = tuple(text for text, one in zip(written, found, strict=True) if one.values.get("has_answer") is True)
    topic = str(row.values.get("id", question))  # of one question there are several rows: the gold at each depth
    yield Question("\n\n".join(written), {"question": question}, answers, gold, query=question, topic=topic)


def _rare(row: Row) -> Iterator[Question]:
    if row.number("s_pop") < POPULAR:
        yield from _passages(row)


def _examples(name: str) -> Examples:
    load = _loader(name)

    def shown(row: Row) -> Iterator[Example]:
        for one in load(row):
            yield Example(one.topic, {"documents": one.document, "answer": one.answers[0], **one.fields})

    return Examples(f"kilt/{FILES[name][1]}.jsonl", shown)


def _loader(name: str) -> Loader:
    return _rare if name == "popqa" else _passages


def _set(name: str, k: int) -> DataSet:
    return DataSet(
        f"kilt_{name}_{k}",
        f"kilt/{FILES[name][0].format(k=k)}.jsonl",
        _loader(name),
        over(scoring.substring_match),
        "substring",
        PASSAGES,
        20,
        cut="end",
        stop=("\n",),
        labels={"passages": k},
        beside=_examples(name),
    )


RAG = tuple(_set(name, k) for name in FILES for k in COUNTS)
