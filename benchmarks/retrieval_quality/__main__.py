"""python -m farfield.benchmarks.retrieval_quality --collections FOLDER ... --squad FILE --model FOLDER

Ingests collections in BEIR's layout and a file of SQuAD's questions, with hashed TF-IDF and with a model of
sentence-transformers, and measures each way to find passages. The figures are written as they come.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from farfield.benchmarks.provenance import provenance
from farfield.benchmarks.retrieval_quality.collection import Collection, beir, squad
from farfield.benchmarks.retrieval_quality.methods import METHODS, Latency, Quality, filled, measured, timed
from farfield.benchmarks.retrieval_quality.refusing import Refusal, refused
from farfield.config import FarfieldError
from farfield.progress import Bar

__all__ = ["main"]

WHOLE = 1_000_000
SHARES = (0.99, 0.97, 0.95, 0.9)
REFUSING = ("lexical", "hashed + lexical", "model + lexical")
FUSED = {"hashed": "hashed + lexical", "model": "model + lexical"}

Row = Quality | Latency | Refusal


def main(words: Sequence[str] | None = None) -> int:
    """0, or 2 after one line on what cannot be used."""
    given = _parser().parse_args(words)
    rows: list[Row] = []
    try:
        for row in _rows(given):
            rows.append(row)
            _write(given, rows)
    except FarfieldError as error:
        sys.stderr.write(f"farfield: {error}\n")
        return 2
    console = Console(width=140, highlight=False)
    for table in _tables(rows):
        console.print(table)
    console.print(f"wrote {given.json}")
    return 0


def _rows(given: argparse.Namespace) -> Iterator[Row]:
    collections = [beir(folder) for folder in given.collections]
    if given.squad is not None:
        collections.append(squad(given.squad, given.out / "documents" / "whole.jsonl"))
    collections = [collection.sample(given.questions) for collection in collections]
    names = [name for name in given.methods if given.model or METHODS[name].embedder != "model"]
    with Bar("retrieval quality", total=len(collections) * len(names), unit="measures") as bar:
        for collection in collections:
            folders = {kind: _folder(given, collection, kind) for kind in {METHODS[name].embedder for name in names}}
            for name in names:
                folder = folders[METHODS[name].embedder]
                yield measured(collection, name, folder)
                if not given.rankings:
                    yield timed(collection, name, folder)
                bar.step(note=f"{collection.name}, {name}")
            for kind, folder in folders.items():
                for weight in given.weights:
                    yield measured(collection, FUSED[kind], folder, weight)
    if given.squad is not None and not given.rankings:
        halved = squad(given.squad, given.out / "documents" / "halved.jsonl", skip=1)
        for name in (name for name in REFUSING if name in names):
            yield from refused(halved, name, _folder(given, halved, METHODS[name].embedder), SHARES)


def _folder(given: argparse.Namespace, collection: Collection, embedder: str) -> Path:
    return filled(collection, embedder, given.model, given.out / "indexes", given.size)


def _write(given: argparse.Namespace, rows: Sequence[Row]) -> None:
    """What was measured so far, with where and with what."""
    told = {name: _plain(value) for name, value in vars(given).items()}
    named = [{"measure": type(row).__name__.lower(), **asdict(row)} for row in rows]
    given.json.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**provenance(), "task": told, "rows": named}, indent=1)
    given.json.write_text(text + "\n", encoding="utf-8")


def _plain(value: object) -> object:
    """A path by its last part: where it lay is nobody's business."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.name if isinstance(value, Path) else value


def _tables(rows: Sequence[Row]) -> Iterator[Table]:
    yield _quality([row for row in rows if isinstance(row, Quality)])
    latency = Table("collection", "method", "chunks", title="A query, milliseconds; the mean of each stage")
    for column in ("p50", "p95", "batched", "stages"):
        latency.add_column(column, justify="right" if column != "stages" else "left")
    for row in rows:
        if isinstance(row, Latency):
            stages = ", ".join(f"{name} {1e3 * seconds:.1f}" for name, seconds in row.stages.items())
            shown = [f"{1e3 * value:.1f}" for value in (row.p50, row.p95, row.batched)]
            latency.add_row(row.collection, row.method, f"{row.chunks:,}", *shown, stages)
    yield latency
    refusal = Table("method", title="Telling questions without an answer; threshold of one half, judged on the other")
    for column in ("kept", "least", "area", "answered", "precision", "recall"):
        refusal.add_column(column, justify="right")
    for row in rows:
        if isinstance(row, Refusal):
            values = (row.kept, row.least, row.area, row.answered, row.precision, row.recall)
            refusal.add_row(row.method, *(f"{value:.3f}" for value in values))
    yield refusal


def _quality(rows: Sequence[Quality]) -> Table:
    table = Table("collection", "method", "weight", title="Quality of rankings")
    for column in ("questions", "nDCG@10", "Recall@100", "MRR@10", "hit@1", "hit@5"):
        table.add_column(column, justify="right")
    for row in rows:
        weight = "default" if row.dense_weight is None else f"{row.dense_weight:g}"
        values = (row.ndcg_10, row.recall_100, row.mrr_10, row.hit_1, row.hit_5)
        table.add_row(row.collection, row.method, weight, str(row.questions), *(f"{value:.4f}" for value in values))
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m farfield.benchmarks.retrieval_quality", description=__doc__.splitlines()[2]
    )
    parser.add_argument("--collections", type=Path, nargs="*", default=[], help="folders in BEIR's layout")
    parser.add_argument("--squad", type=Path, help="a file of SQuAD's questions, whose paragraphs are the documents")
    parser.add_argument("--model", type=Path, help="a folder of sentence-transformers; none: what needs no model")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="NAME")
    parser.add_argument("--questions", type=int, metavar="N", help="of each collection, evenly spread; default: all")
    parser.add_argument("--rankings", action="store_true", help="neither what a query takes nor what has no answer")
    parser.add_argument("--weights", type=float, nargs="*", default=[], help="of the dense list, to be compared")
    parser.add_argument("--size", type=int, default=WHOLE, help="characters of a chunk; default: whole documents")
    parser.add_argument("--out", type=Path, default=Path("results/retrieval_quality"), help="where indexes go")
    parser.add_argument("--json", type=Path, default=Path("results/retrieval_quality.json"), help="figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
