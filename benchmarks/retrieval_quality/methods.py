"""The ways to find passages that are compared, and one measure of each on a collection."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from farfield.api import ingest, open_index
from farfield.benchmarks.retrieval_quality.collection import Collection, Question
from farfield.benchmarks.tasks.ranking_metrics import hit, ndcg, recall, reciprocal_rank
from farfield.retrieval import (
    Answer,
    ChunkConfig,
    EmbedderConfig,
    HashedConfig,
    Index,
    IngestConfig,
    RetrievalConfig,
    SentenceTransformersConfig,
)

__all__ = ["METHODS", "Latency", "Method", "Quality", "filled", "measured", "opened", "rankings", "timed"]

AT = 64
"""Questions that are asked at once."""


@dataclass(frozen=True)
class Method:
    """Which index is searched, and how: settings of `retrieval`."""

    embedder: str
    settings: Mapping[str, object]


METHODS: Mapping[str, Method] = {
    "lexical": Method("hashed", {"search": "lexical"}),
    "hashed": Method("hashed", {"search": "dense"}),
    "hashed + lexical": Method("hashed", {}),
    "model": Method("model", {"search": "dense"}),
    "model + lexical": Method("model", {}),
    "model + lexical, late": Method("model", {"rerank": {"kind": "late", "depth": 20}}),
    "model + lexical, late, mmr 0.7": Method("model", {"rerank": {"kind": "late", "depth": 20}, "mmr": 0.7}),
    "model + lexical, mmr 0.7": Method("model", {"mmr": 0.7}),
}


@dataclass(frozen=True)
class Quality:
    """How good a method's rankings of a collection's documents are; means over the questions."""

    collection: str
    method: str
    dense_weight: float | None
    questions: int
    ndcg_10: float
    recall_100: float
    mrr_10: float
    hit_1: float
    hit_5: float


@dataclass(frozen=True)
class Latency:
    """Seconds of a query: one by one (median, 95th of a hundred, the mean of each stage), and of many at once."""

    collection: str
    method: str
    chunks: int
    p50: float
    p95: float
    batched: float
    stages: Mapping[str, float]


def filled(collection: Collection, embedder: str, model: Path | None, root: Path, size: int) -> Path:
    """The index of a collection's documents in chunks of at most `size` characters, made where it is not there."""
    config: EmbedderConfig = HashedConfig()
    if embedder == "model":
        config = SentenceTransformersConfig(model=str(model))
    name = f"{collection.documents.stem}-{collection.name}-{embedder}-{size}"
    chunk = ChunkConfig(size=size, overlap=min(100, size // 10))
    ingest(IngestConfig(path=str(collection.documents), index=name, root=str(root), chunk=chunk, embedder=config))
    return root / name


def opened(folder: Path, method: Method, **settings: object) -> Index:
    """The index in `folder` with a method's settings; whatever comes first counts as found."""
    return open_index(folder, settings=RetrievalConfig.model_validate({"least": 0.0, **method.settings, **settings}))


def rankings(
    collection: Collection, name: str, folder: Path, candidates: int = 150, dense_weight: float | None = None
) -> Iterator[tuple[Question, list[str]]]:
    """Each question, and the documents that a method finds for it, the best first.

    A document stands where the first of its passages does, of at most `candidates` passages a list.
    """
    questions = collection.questions
    with opened(folder, METHODS[name], dense_weight=dense_weight, k=10, candidates=candidates) as index:
        for first in range(0, len(questions), AT):
            asked = questions[first : first + AT]
            answers = index.answers([question.text for question in asked], explain=True)
            yield from ((question, _ranking(answer)) for answer, question in zip(answers, asked, strict=True))


def _ranking(answer: Answer) -> list[str]:
    # Hits are few; behind them stands what later stages left as it was.
    told = {stage.name: stage.candidates for stage in answer.stages}
    ranked = [one for stage in ("diverse", "rerank", "fuse") for one in told.get(stage, ())]
    return list(dict.fromkeys(one.source.partition(".jsonl#")[2] for one in ranked))


def measured(collection: Collection, name: str, folder: Path, dense_weight: float | None = None) -> Quality:
    """The quality of a method."""
    found = rankings(collection, name, folder, dense_weight=dense_weight)
    rows = [_row(ranking, question.relevant) for question, ranking in found]
    means = [float(mean) for mean in np.mean(rows, axis=0)]
    return Quality(collection.name, name, dense_weight, len(rows), *means)


def _row(ranking: Sequence[str], relevant: Mapping[str, int]) -> list[float]:
    return [
        ndcg(ranking, relevant, 10),
        recall(ranking, relevant, 100),
        reciprocal_rank(ranking, relevant, 10),
        hit(ranking, relevant, 1),
        hit(ranking, relevant, 5),
    ]


def timed(collection: Collection, name: str, folder: Path, count: int = 100) -> Latency:
    """What a query takes, with eight passages as by default."""
    questions = [question.text for question in collection.questions[:count]]
    with opened(folder, METHODS[name]) as index:
        index.answer(questions[-1])  # what is loaded at first is not counted
        took, stages = _one_by_one(index, questions)
        began = time.perf_counter()
        index.answers(questions)
        batched = (time.perf_counter() - began) / len(questions)
        chunks = index.stats().chunks
    p50, p95 = np.percentile(took, [50, 95]).tolist()
    return Latency(collection.name, name, chunks, p50, p95, batched, stages)


def _one_by_one(index: Index, questions: Sequence[str]) -> tuple[list[float], dict[str, float]]:
    """The seconds of each question, and the mean of each stage."""
    took: list[float] = []
    stages: dict[str, float] = {}
    for question in questions:
        began = time.perf_counter()
        answer = index.answer(question)
        took.append(time.perf_counter() - began)
        for stage, seconds in answer.seconds.items():
            stages[stage] = stages.get(stage, 0.0) + seconds / len(questions)
    return took, stages
