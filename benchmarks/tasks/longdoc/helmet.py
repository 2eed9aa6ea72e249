"""HELMET, as far as its own files hold it: pairs of JSON (recall), and questions among passages of Wikipedia (RAG).

https://github.com/princeton-nlp/HELMET. Its files have a size each, and are chosen by it there: `json_kv_50` for 4k
tokens to `json_kv_1800` for 128k. What is too long loses its end. Its other categories are not here: in-context
learning and summaries are loaded from other data sets of the hub, and citing is judged by models. No examples stand
before questions about passages (two do there); pairs have two.
"""

from __future__ import annotations

from collections.abc import Iterator

from farfield.benchmarks.tasks import scoring
from farfield.benchmarks.tasks.longdoc.data_set import Benchmark, DataSet, Question, over, texts
from farfield.benchmarks.tasks.longdoc.rows import Row

__all__ = ["HELMET"]

PAIRS = texts("", "\n\nWrite the value of the given key in the JSON object above.\n\n{demos}Key: {question}\nValue:")
PASSAGES = texts(
    "Read these passages. A question follows.\n\n", "\n\nAnswer in a few words.\n\nQuestion: {question}\nAnswer:"
)
SHOTS = 2
KEYS = (50, 105, 220, 440, 900, 1800)
COUNTS = (20, 50, 105, 220, 440, 1000)
FILES = {
    "nq": "kilt/nq-dev-multikilt_1000_k{k}_dep6.jsonl",
    "triviaqa": "kilt/triviaqa-dev-multikilt_1000_k{k}_dep6.jsonl",
    "hotpotqa": "kilt/hotpotqa-dev-multikilt_1000_k{k}_dep6.jsonl",
    "popqa": "kilt/popqa_test_1000_k{k}_dep6.jsonl",
}


def _pair(row: Row) -> Iterator[Question]:
    key, answer = row.text("question"), row.texts("answer")
    shown = row.entries("demos")[:SHOTS]
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in shown):
        raise row.error("demos", "is no list of pairs of a key and a value")
    demos = "".join(f"Key: {one}\nValue: {other}\n\n" for one, other in shown)
    line = f'"{key}": "{answer[0]}"'
    yield Question(row.text("context"), {"question": key, "demos": demos}, answer, (line,), query=key)


def _passages(row: Row) -> Iterator[Question]:
    question, answers = row.text("question"), row.texts("answers")
    found = [row.inner("ctxs", number, one) for number, one in enumerate(row.entries("ctxs"))]
    written = [f"Passage ({one.text('title')}): {one.text('text')}" for one in found]
    gold = tuple(text for text, one in zip(written, found, strict=True) if one.values.get("has_answer") is True)
    yield Question("\n\n".join(written), {"question": question}, answers, gold, query=question)


RULE, METRIC = over(scoring.substring_match), "substring"

HELMET = Benchmark(
    "helmet",
    (
        *(
            DataSet(
                f"json_kv_{k}",
                f"json_kv/test_k{k}_dep6.jsonl",
                _pair,
                RULE,
                METRIC,
                PAIRS,
                100,
                cut="end",
                labels={"pairs": k},
            )
            for k in KEYS
        ),
        *(
            DataSet(
                f"kilt_{name}_{k}",
                file.format(k=k),
                _passages,
                RULE,
                METRIC,
                PASSAGES,
                20,
                cut="end",
                stop=("\n",),
                labels={"passages": k},
            )
            for name, file in FILES.items()
            for k in COUNTS
        ),
    ),
)
