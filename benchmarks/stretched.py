"""python -m farfield.benchmarks.stretched MODEL TEXTS: what tokens far beyond the trained length cost, by context.

    plain          the model as it was trained, its state kept
    windowed       each token sees as many before it as were trained, and no more
    begun anew     windows of the trained length, moved by half of it, each read from its start: no state is kept
    sinks  interpolation  ntk  yarn  dual_chunk  self_extend       as contexts of these names

Every way but `begun anew` reads each document once, from its first token on, in pieces: the protocols `streaming` and
`sliding` of the suite `perplexity`. What is stretched by a factor is stretched to the length that is read. Perplexity
is e to the mean of nats a token over the same positions of all documents, a mean of documents of one length.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from farfield.api import load
from farfield.architectures import KeyedSettings
from farfield.architectures.architecture import ArchitectureConfig
from farfield.benchmarks.memories.pictures import finish, line, new_figure
from farfield.benchmarks.provenance import provenance
from farfield.benchmarks.reports.grid import short
from farfield.benchmarks.running.results import Cell
from farfield.benchmarks.subjects.model_subject import ModelSubject
from farfield.benchmarks.suites.perplexity import PerplexitySuite
from farfield.benchmarks.tasks.long_text import edges, middles
from farfield.config import Config, DataError, FarfieldError, ModelError, read
from farfield.context import trained_length
from farfield.generation import TextModel
from farfield.progress import Bar
from farfield.retrofit import retrofit

__all__ = ["WAYS", "Read", "main", "measure"]

SCALED = ("interpolation", "ntk", "yarn", "self_extend")
HEADING = 64  # tokens that a picture leaves out: they are titles, which cost what they cost in any way
WAYS = ("plain", "windowed", "begun anew", "sinks", *SCALED[:3], "dual_chunk", "self_extend")


class _Layers(Config):
    architecture: ArchitectureConfig


@dataclass(frozen=True)
class Read:
    """What a way of reading made of the documents: nats a token and half of their 95 % intervals, by position."""

    way: str
    nats: list[float]
    half: list[float]
    seconds: float

    @property
    def perplexities(self) -> list[float]:
        return [math.exp(one) for one in self.nats]


@dataclass(frozen=True)
class Task:
    """What is read: `documents` texts of more than `length` tokens each, from their beginning, in pieces."""

    model: Path
    texts: Path
    documents: int
    length: int
    piece: int = 2048

    def suite(self, protocol: str, trained: int) -> PerplexitySuite:
        """By whose machinery."""
        given = {
            "texts": str(self.texts),
            "protocols": [protocol],
            "lengths": [trained],
            "stride": max(1, trained // 2),
            "near": [],
            "documents": self.documents,
            "tokens": self.length,
            "reach": self.length,
            "piece": self.piece,
            "controls": [],
        }
        return read(PerplexitySuite, given, "stretched")


def measure(task: Task, ways: Sequence[str] = WAYS) -> Iterator[Read]:
    """The documents read in each of the ways.

    Raises:
        ModelError: no model of ours, or one that does not say what it was trained on. DataError: texts too short.
    """
    plain = load(task.model, layers="farfield")
    trained = trained_length(plain.info)
    if trained is None or trained >= task.length:
        raise ModelError(
            f"{task.model}: trained on rows of {trained} tokens; texts are read beyond that. See --length."
        )
    suites = {protocol: task.suite(protocol, trained) for protocol in ("streaming", "sliding")}
    for way in ways:
        subject = ModelSubject(_opened(task, plain, way, trained), way)
        cell = Cell("sliding" if way == "begun anew" else "streaming", trained)
        measured = suites[cell.task].measure(subject, cell)
        curve = measured.curves.get("nats_by_position")
        if curve is None:
            raise DataError(f"{task.texts}: no text of {task.length:,} tokens. Take a shorter --length.")
        yield Read(way, curve.y, curve.half, measured.seconds)


def _opened(task: Task, plain: TextModel, way: str, trained: int) -> TextModel:
    """The model, as it reads in one of the ways."""
    if way in ("plain", "begun anew"):
        return plain
    if way == "windowed":
        return TextModel(_windowed(plain, trained - 1), plain.tokenizer, plain.info)
    factor = [f"context.factor={task.length / trained:g}"] if way in SCALED else []
    return load(task.model, layers="farfield", context=way, overrides=factor)


def _windowed(model: TextModel, window: int) -> Any:
    """The same weights in layers whose tokens see `window` others before them."""
    mapping = model.config.architecture.mapping()
    for name, layer in model.config.decoder.layers.items():
        if isinstance(layer.mixer, KeyedSettings):
            kept = {key: value for key, value in layer.mixer.mapping().items() if key not in ("kind", "extension")}
            mapping["layers"][name]["mixer"] = {"kind": "longformer", "window": window, "globals": 0, **kept}
    return retrofit(model.model, None, architecture=read(_Layers, {"architecture": mapping}).architecture)


def table(reads: Sequence[Read], length: int) -> Table:
    """Perplexity by bucket of positions."""
    shown = Table("way", title="Perplexity of tokens by their position in the document")
    for low, high in pairwise(edges(length)):
        shown.add_column(f"{short(low)} to {short(high)}", justify="right")
    shown.add_column("seconds", justify="right")
    for one in reads:
        shown.add_row(one.way, *(f"{value:,.1f}" for value in one.perplexities), f"{one.seconds:,.0f}")
    return shown


def draw(reads: Sequence[Read], length: int, trained: int, path: Path) -> None:
    """A curve for each way over positions, both on logarithmic scales, and where training ended."""
    figure = new_figure(8.6, 4.6)
    panel = figure.subplots()
    drawn = slice(next(n for n, low in enumerate(edges(length)) if low >= HEADING), None)
    places = middles(length)[drawn]
    for number, one in enumerate(reads):
        panel.plot(places, one.perplexities[drawn], **line(number, one.way))
    panel.axvline(trained, color="black", linewidth=0.8, linestyle=":", label="trained length")
    panel.set(xscale="log", yscale="log", xlabel="position in the document, tokens", ylabel="perplexity, a token")
    finish(figure, [panel], path)


def main(words: Sequence[str] | None = None) -> int:
    """0, or 2 after one line on what cannot be used."""
    given = _parser().parse_args(words)
    task = Task(given.model, given.texts, given.documents, given.length)
    reads: list[Read] = []
    try:
        with Bar("stretched", total=len(given.ways), unit="ways") as bar:
            for one in measure(task, given.ways):
                reads.append(one)
                bar.step(note=one.way)
        trained = trained_length(load(task.model, layers="farfield").info)
    except FarfieldError as error:
        sys.stderr.write(f"farfield: {error}\n")
        return 2
    assert trained is not None, "measured"
    console = Console(width=160, highlight=False)
    console.print(table(reads, task.length))
    if given.json:
        _write(given.json, task, trained, reads)
    if given.picture:
        draw(reads, task.length, trained, given.picture)
    console.print(*(f"wrote {path}" for path in (given.json, given.picture) if path), sep="\n")
    return 0


def _write(path: Path, task: Task, trained: int, reads: Sequence[Read]) -> None:
    rows: list[Mapping[str, Any]] = [
        {"way": one.way, "nats": one.nats, "half": one.half, "perplexity": one.perplexities, "seconds": one.seconds}
        for one in reads
    ]
    told = {"model": task.model.name, "trained": trained, "texts": task.texts.name, "documents": task.documents}
    told |= {"length": task.length, "edges": edges(task.length), "rows": rows}
    path.write_text(json.dumps({**provenance(), **told}, indent=2) + "\n", encoding="utf-8")


def _count(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} given, a whole number of at least {least} is needed")
        return int(text)

    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m farfield.benchmarks.stretched",
        description="Perplexity by position far beyond the trained length, by how the model is made to read there.",
    )
    parser.add_argument("model", type=Path, help="a run, or a folder of Hugging Face of a family of ours")
    parser.add_argument("texts", type=Path, help="a file, or a folder of them")
    parser.add_argument("--documents", type=_count(1), default=8, help="texts that are read, in the order of names")
    parser.add_argument("--length", type=_count(64), default=8192, help="tokens of each, from its beginning")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS, metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--json", type=Path, help="where to write the figures, with commit and versions")
    parser.add_argument("--picture", type=Path, help="where to draw them")
    return parser


if __name__ == "__main__":
    sys.exit(main())
