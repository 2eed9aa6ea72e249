"""HELMET's recall: pairs of JSON, and three of RULER's tasks from files.

`json_kv_50` is for 4k tokens, `json_kv_1800` for 128k. RULER's are for as many tokens of Llama 2 as their names say;
the suite `ruler` draws all thirteen tasks at any length of the model's own tokens, without a file.
"""

from __future__ import annotations

from collections.abc import Iterator

from farfield.benchmarks.tasks import scoring
from farfield.benchmarks.tasks.longdoc.data_set import DataSet, Question, over, texts
from farfield.benchmarks.tasks.longdoc.rows import Row

__all__ = ["RECALL"]

PAIRS = texts("", "\n\nWrite the value of the given key in the JSON object above.\n\n{demos}Key: {question}\nValue:")
NEEDLE = texts(
    "A special magic {kind} is hidden in this text. Remember it, for I will ask for it.\n",
    "\nWhich special magic {kind} does the text give for {query}?\nThe special magic {kind} for {query} is",
)
NEEDLES = texts(
    "Some special magic {kind} are hidden in this text. Remember them, for I will ask for them.\n",
    "\nWhich special magic {kind} does the text give for {query}?\nAll special magic {kind} for {query} are",
)
SHOTS = 2
KEYS = (50, 105, 220, 440, 900, 1800)
SIZES = (4096, 8192, 16384, 32768, 65536, 131072)
RULER = {
    "niah_mk_2": ("niah_multikey_2", 50, NEEDLE),
    "niah_mk_3": ("niah_multikey_3", 100, NEEDLE),
    "niah_mv": ("niah_multivalue", 50, NEEDLES),
}


def _pair(row: Row) -> Iterator[Question]:
    key, answer = row.text("question"), row.texts("answer")
    shown = row.entries("demos")[:SHOTS]
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in shown):
        raise row.error("demos", "is no list of pairs of a key and a value")
    demos = "".join(f"Key: {one}\nValue: {other}\n\n" for one, other in shown)
    line = f'"{key}": "{answer[0]}"'
    yield Question(row.text("context"), {"question": key, "demos": demos}, answer, (line,), query=key)


def _needle(row: Row) -> Iterator[Question]:
    """`answer`, or `outputs` as RULER calls it, are all values that must be found."""
    values = row.texts("answer" if "answer" in row.values else "outputs")
    fields = {"kind": row.text("type_needle_v"), "query": row.text("query")}
    yield Question(row.text("context"), fields, (", ".join(values),), query=fields["query"], reference=values)


def _found(output: str, question: Question) -> float:
    values = question.reference
    assert isinstance(values, tuple)
    return sum(scoring.substring(output, value) for value in values) / len(values)


def _pairs(count: int) -> DataSet:
    file, rule = f"json_kv/test_k{count}_dep6.jsonl", over(scoring.substring_match)
    labels = {"pairs": count}
    return DataSet(f"json_kv_{count}", file, _pair, rule, "substring", PAIRS, 100, cut="end", labels=labels)


def _needles(name: str, size: int) -> DataSet:
    folder, budget, prompt = RULER[name]
    file, labels = f"ruler/{folder}/validation_{size}.jsonl", {"tokens": size}
    return DataSet(f"ruler_{name}_{size}", file, _needle, _found, "recall", prompt, budget, cut="end", labels=labels)


RECALL = (*map(_pairs, KEYS), *(_needles(name, size) for name in RULER for size in SIZES))
