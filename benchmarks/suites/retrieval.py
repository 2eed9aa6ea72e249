"""The suite `retrieval`: its subject is the retrieval engine, not a model.

farfield evaluate suite=retrieval model=null 'suite.collections=[beir/scifact]' 'suite.methods=[lexical,hybrid]'
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeVar

import pydantic

from farfield.benchmarks.reports.spread import mean_half
from farfield.benchmarks.running.results import Cell, Measured
from farfield.benchmarks.subjects.retrieval_subject import RetrievalSubject
from farfield.benchmarks.suites.suite import Count, Lengths, MeasuredSuite, Several
from farfield.config import ConfigError

if TYPE_CHECKING:
    from farfield.benchmarks.retrieval_quality.collection import Collection
    from farfield.benchmarks.subjects.subject import Capability, Subject

__all__ = ["RetrievalSuite"]

T = TypeVar("T")

Engine = Literal["lexical", "hashed", "hybrid", "model", "model_hybrid", "model_late"]
# What the engines are called by `farfield.benchmarks.retrieval_quality`.
METHODS: Mapping[Engine, str] = {
    "lexical": "lexical",
    "hashed": "hashed",
    "hybrid": "hashed + lexical",
    "model": "model",
    "model_hybrid": "model + lexical",
    "model_late": "model + lexical, late",
}
TOP = 10
# Passages of each list before they are joined: at least as many as the published figures of docs/log.md have, and more
# than documents are looked at, for a document may have several.
LIST, PASSAGES = 150, 3
BLOCK = 1 << 20  # bytes


class RetrievalSuite(MeasuredSuite):
    """How well documents are found: nDCG@10, recall, MRR and MAP on collections in BEIR's layout.

    lengths:      documents of a ranking that are looked at: MAP and the last recall are at this depth
    collections:  folders with corpus.jsonl, queries.jsonl and qrels/<split>.tsv
    methods:      `lexical` (BM25), `hashed` (TF-IDF vectors), `hybrid` (both), `model` (vectors of `model`),
                  `model_hybrid` (and BM25), `model_late` (its first 20 ordered by late interaction)
    model:        a folder of sentence-transformers
    questions:    at most so many of a collection, evenly spread; null: all
    chunk:        characters of a passage; a document stands where the first of its passages does
    indexes:      where the collections' indexes go; an index is made once
    """

    needs_model: ClassVar[bool] = False
    kind: Literal["retrieval"] = "retrieval"
    lengths: Lengths = (100,)
    collections: Several[Annotated[str, pydantic.Field(min_length=1)]] = ()
    methods: Several[Engine] = pydantic.Field(("lexical", "hashed", "hybrid"), min_length=1)
    model: Annotated[str, pydantic.Field(min_length=1)] | None = None
    split: Annotated[str, pydantic.Field(pattern=r"^\w[\w.-]*$")] = "test"
    questions: Count | None = None
    chunk: Count = 1000
    indexes: Annotated[str, pydantic.Field(min_length=1)] = "indexes/collections"

    @pydantic.model_validator(mode="after")
    def _fit(self) -> RetrievalSuite:
        asked = [name for name in self.methods if name.startswith("model")]
        if asked and self.model is None:
            raise ValueError(f"methods: '{asked[0]}' embeds by a model, and none is named. Add suite.model=<folder>.")
        names = [Path(folder).name for folder in self.collections]
        if len(set(names)) < len(names):
            raise ValueError(f"collections: {', '.join(names)}: names must differ, results are told apart by them.")
        return self

    def subject(self) -> Subject:
        return RetrievalSubject()

    @cached_property
    def _read(self) -> dict[str, Collection]:
        """The collections, called as their indexes are: by name, content and embedder, so that none is another's."""
        from farfield.benchmarks.retrieval_quality.collection import beir

        if not self.collections:
            raise ConfigError(
                "suite.collections: none given. Name folders in BEIR's layout: 'suite.collections=[beir/scifact]'."
            )
        if self.model is not None and not Path(self.model).is_dir():
            raise ConfigError(
                f"suite.model: there is no folder '{self.model}'. Give a folder of sentence-transformers."
            )
        found = {}
        for folder in map(Path, self.collections):
            collection = beir(folder, self.split).sample(self.questions)
            content = _hash([collection.documents, *_weights(self.model)])
            found[folder.name] = replace(collection, name=f"{folder.name}-{content}")
        return found

    @cached_property
    def fingerprint(self) -> str:
        files = [Path(folder) / name for folder in self.collections for name in ("corpus.jsonl", "queries.jsonl")]
        files += [Path(folder) / "qrels" / f"{self.split}.tsv" for folder in self.collections]
        return _hash([*files, *_weights(self.model)])

    def cells(self, subject: Subject) -> Sequence[tuple[Cell, frozenset[Capability]]]:
        return [(Cell(name, length), frozenset()) for name in self.labels() for length in self.lengths]

    def labels(self) -> Mapping[str, Mapping[str, float]]:
        return {f"{name}.{method}": {} for name in self._read for method in self.methods}

    def measure(self, subject: Subject, cell: Cell) -> Measured:
        from farfield.benchmarks.retrieval_quality.methods import METHODS as SETTINGS
        from farfield.benchmarks.retrieval_quality.methods import filled, rankings

        began = time.perf_counter()
        name, _, method = cell.task.rpartition(".")
        collection, called = self._read[name], next(METHODS[one] for one in self.methods if one == method)
        model = Path(self.model) if self.model else None
        folder = filled(collection, SETTINGS[called].embedder, model, Path(self.indexes), self.chunk)
        asked = len(collection.questions)
        found = list(self._timely(rankings(collection, called, folder, candidates=max(LIST, PASSAGES * cell.length))))
        rows = [_judged(ranking, question.relevant, cell.length) for question, ranking in found]
        values = {name: [row[name] for row in rows] for name in rows[0]}
        short = sum(len(ranking) < cell.length for _, ranking in found)
        doubts = [f"{short} of {len(rows)} rankings have fewer than {cell.length} documents."] if short else []
        half = {name: mean_half(some) for name, some in values.items()}
        return Measured(
            values={name: sum(some) / len(some) for name, some in values.items()},
            half={name: value for name, value in half.items() if value is not None},
            each=next(iter(values.values())),
            notes=[*_closed(len(rows), asked), f"{len(rows)} questions.", *collection.doubts, *doubts],
            seconds=round(time.perf_counter() - began, 6),
            capped=len(rows) < asked,
        )

    def _timely(self, found: Iterator[T]) -> Iterator[T]:
        """What is found until the time of a cell is over: one at least. An index is made whatever it takes."""
        end = math.inf if self.cell_seconds is None else time.perf_counter() + self.cell_seconds
        for one in found:
            yield one
            if time.perf_counter() >= end:
                return


def _closed(judged: int, asked: int) -> Iterator[str]:
    """That a cell's time was over before all questions were asked."""
    if judged < asked:
        yield f"Closed early, its time was over: {judged} of {asked} questions were asked."


def _judged(ranking: Sequence[str], relevant: Mapping[str, int], depth: int) -> dict[str, float]:
    """The values of one question, the first one nDCG."""
    from farfield.benchmarks.tasks.ranking_metrics import average_precision, ndcg, recall, reciprocal_rank

    top = min(TOP, depth)
    return {
        f"ndcg@{top}": ndcg(ranking, relevant, top),
        **{f"recall@{k}": recall(ranking, relevant, k) for k in (top, depth)},
        f"mrr@{top}": reciprocal_rank(ranking, relevant, top),
        f"map@{depth}": average_precision(ranking, relevant, depth),
    }


def _weights(model: str | None) -> list[Path]:
    """The files of the embedder."""
    return sorted(file for file in Path(model).rglob("*") if file.is_file()) if model else []


def _hash(files: Sequence[Path]) -> str:
    """Changes with the content of any of the files."""
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()
