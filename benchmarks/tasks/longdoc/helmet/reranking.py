"""HELMET's re-ranking: passages of MS MARCO to be ordered by how well they answer a query.

`msmarco_rerank_psg_14` is for 4k tokens, `msmarco_rerank_psg_1000` for 128k. Two queries with ten passages and their
ranking stand before. A ranking is written as `7 > 3 > 12`; its score is NDCG@10 with the graded labels of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from farfield.benchmarks.tasks.longdoc.data_set import DataSet, Question, texts
from farfield.benchmarks.tasks.longdoc.examples import Example, Examples
from farfield.benchmarks.tasks.longdoc.rows import Row
from farfield.benchmarks.tasks.ranking_metrics import ndcg

__all__ = ["RERANKING", "ranked"]

RANKING = texts(
    "Each of these passages has an ID. Order all of them by how well they answer the query, the best first, and write "
    "their IDs in this form:\nRanking: ID2 > ID3 > ID1\n\n{examples}",
    "\n\nQuery: {query}\nRanking:",
) | {"example": "{documents}\n\nQuery: {query}\nRanking: {ranking}\n\n"}
COUNTS = (14, 50, 130, 285, 600, 1000)
CHAIN = re.compile(r"\d+(?:\s*>\s*\d+)*")
DEPTH = 10


def ranked(output: str) -> list[str]:
    """The ids of the longest chain `id > id > ...`, each where it stands first; none where there is no number.

    Brackets, colons and the letters "id" do not count, as published, so that `[ID: 7] > ID3` is a chain.
    """
    clean = re.sub(r"[\[\]:]", "", output).lower().replace("id", "")
    longest = max(CHAIN.findall(clean), key=len, default="")
    return list(dict.fromkeys(re.findall(r"\d+", longest)))


def _query(row: Row) -> Iterator[Question]:
    query = row.text("query")
    found = [row.inner("ctxs", number, one) for number, one in enumerate(row.entries("ctxs"))]
    grades = {one.text("id"): one.number("label") for one in found}
    best = " > ".join(sorted(grades, key=lambda key: -grades[key]))
    document = "\n\n".join(_passage(one) for one in found)
    yield Question(document, {"query": query}, (best,), query=query, topic=row.text("qid"), reference=grades)


def _passage(row: Row) -> str:
    title = f" ({row.text('title')})" if "title" in row.values else ""
    return f"[ID: {row.text('id')}] Passage{title}: {row.text('text')}"


def _shown(row: Row) -> Iterator[Example]:
    for one in _query(row):
        yield Example(one.topic, {"documents": one.document, "ranking": one.answers[0], **one.fields})


def _gain(output: str, question: Question) -> float:
    grades = question.reference
    assert isinstance(grades, dict)
    return ndcg(ranked(output), grades, DEPTH)


RERANKING = tuple(
    DataSet(
        f"msmarco_rerank_psg_{k}",
        f"msmarco/test_reranking_data_k{k}_dep3.jsonl",
        _query,
        _gain,
        f"NDCG@{DEPTH}",
        RANKING,
        200,
        cut="end",
        stop=("\n",),
        compare=False,
        labels={"passages": k},
        beside=Examples("msmarco/test_reranking_data_k10_dep3.jsonl", _shown),
    )
    for k in COUNTS
)
