"""ZeroSCROLLS: 10 data sets whose rows hold whole prompts; only the validation rows have answers.

https://github.com/tau-nlp/zero_scrolls. What is too long loses its end, and a line says so, each data set's own. A row
tells where in its `input` the instruction ends, where the document stands and where the question begins. 1,024 tokens
are written at most. Its metric of summaries is a geometric mean of three ROUGE scores: there of their means over all
questions, here of each question's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from farfield.benchmarks.tasks import scoring
from farfield.benchmarks.tasks.longdoc.data_set import Benchmark, DataSet, Question, Rule, over
from farfield.benchmarks.tasks.longdoc.rows import Row
from farfield.benchmarks.tasks.rouge import geometric_mean

__all__ = ["ZERO_SCROLLS"]

# The words are the row's own.
AS_IS = {"introduction": "{instruction}", "question": "{question}", "closed": "{question}"}
BUDGET = 1024


def _asked(row: Row) -> Iterator[Question]:
    text, answers = row.text("input"), row.texts("output")
    start, end = (row.number(f"document_{side}_index") for side in ("start", "end"))
    query = row.number("query_start_index")
    # Summaries have no question: -1, or the place where the document ends.
    question = query if end <= query else end
    if not 0 <= start < end <= question <= len(text):
        raise row.error("document_end_index", f"is {end}, which does not fit the other places and the text's length")
    yield Question(
        text[start:end],
        {"instruction": text[:start], "question": text[end:question] + text[question:]},
        answers,
        query=text[question:].strip(),
        mark=row.text("truncation_seperator"),
        key=row.text("id"),
    )


def _letter(output: str, answer: str) -> float:
    """Whether the first letter of A to D that stands alone is the answer's (quality)."""
    given, wanted = (re.search(r"\b([A-D])\b", text) for text in (output, answer))
    return float(given is not None and wanted is not None and given[1] == wanted[1])


def _set(name: str, rule: Rule, metric: str) -> DataSet:
    return DataSet(name, f"{name}/validation.jsonl", _asked, rule, metric, AS_IS, BUDGET, cut="end")


def _summary(name: str) -> DataSet:
    return replace(_set(name, over(geometric_mean), "ROUGE"), compare=False)


ZERO_SCROLLS = Benchmark(
    "zero_scrolls",
    (
        *(_summary(name) for name in ("gov_report", "summ_screen_fd", "qmsum", "squality")),
        *(_set(name, over(scoring.token_f1), "F1") for name in ("qasper", "narrative_qa", "musique")),
        _set("quality", over(_letter), "accuracy"),
        _set("space_digest", over(scoring.exponential_similarity), "similarity"),
        _set("book_sum_sort", over(scoring.concordance), "concordance"),
    ),
    "tau/zero_scrolls",
    ("*.zip",),
)
