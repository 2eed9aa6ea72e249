"""python -m farfield.benchmarks.longlora BOOKS: a small model trained on short rows, then made to read longer ones.

    plain             as it was trained, on rows of `--trained` tokens
    interpolated      with positions divided by 4, without training
    longlora          then trained on rows 4 times as long: LoRA, embeddings and norms, in shifted groups
    lora alone        the same, embeddings and norms left as they were
    full attention    as longlora, without groups
    trained on        LoRA, embeddings and norms on as many tokens in rows as short as before: what training on does

All read the same held-out books with full attention, in windows from their first token on. Perplexity is e to the mean
of nats a token over the same positions of all windows. A finished run in `--out` is taken as it is, and another goes
on; `--draw FILE` draws figures that were measured before.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from farfield.api import load
from farfield.benchmarks.memories.pictures import finish, line, new_figure
from farfield.benchmarks.provenance import provenance
from farfield.compose import compose
from farfield.config import DataError, FarfieldError, TrainingError, read
from farfield.data.text import TextData
from farfield.model import LanguageModel
from farfield.settings import TrainSettings
from farfield.training import train
from farfield.training.beginning import completed
from farfield.training.metrics import FILE, read_metrics

__all__ = ["WAYS", "Read", "Task", "held_out", "main", "measure"]

FACTOR = 4
BASE = "base"
BUCKETS = (0, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1)
"""Where buckets of positions begin and end, as shares of the long rows."""

LONG = ("context=interpolation", f"context.factor={FACTOR}")
WAYS: dict[str, tuple[str, ...] | None] = {
    "plain": None,
    "interpolated": None,
    "longlora": (*LONG, "adapter=longlora"),
    "lora alone": (*LONG, "adapter=longlora", "adapter.whole=[]"),
    "full attention": (*LONG, "adapter=longlora", "adapter.shifted=null"),
    "trained on": ("adapter=longlora", "adapter.shifted=null"),
}
"""What a way is trained with; None: nothing."""


@dataclass(frozen=True)
class Task:
    """Of what size, on what, for how long."""

    books: str
    trained: int = 512
    steps: int = 1000
    more: int = 200
    width: int = 96
    depth: int = 3
    head_width: int = 24
    vocabulary: int = 1024
    batch: int = 4
    rate: float = 4e-3
    adapter_rate: float = 2e-3
    windows: int = 24
    seed: int = 0
    threads: int = 1

    @property
    def length(self) -> int:
        """Tokens of the long rows."""
        return FACTOR * self.trained

    @property
    def edges(self) -> list[int]:
        return [round(share * self.length) for share in BUCKETS]

    def data(self, cache: Path, length: int) -> dict[str, Any]:
        """The books, a tenth of them held out, in rows of so many tokens."""
        tokenizer = {"kind": "bpe", "vocabulary": self.vocabulary}
        given = {"kind": "text", "path": self.books, "cache": str(cache), "validation": 0.1}
        return {**given, "tokenizer": tokenizer, "length": length}

    def begin(self) -> list[str]:
        """How the model is trained that all others start from."""
        mixer = f"architecture.layers.attention.mixer={{conv: 0, head_width: {self.head_width}}}"
        size = [f"architecture.width={self.width}", f"architecture.depth={self.depth}"]
        return ["architecture=attention", mixer, *size, *self._training(self.steps, self.batch, self.rate)]

    def go_on(self, start: Path, words: Sequence[str], length: int) -> list[str]:
        """How a way is trained: on as many tokens a step, whatever its rows."""
        batch = max(1, self.batch * self.trained // length)
        training = self._training(self.more, batch, self.adapter_rate)
        return [f"start={json.dumps(str(start))}", *words, *training, "training.optimizer.weight_decay=0"]

    def _training(self, steps: int, batch: int, rate: float) -> list[str]:
        given: dict[str, object] = {"steps": steps, "batch": batch, "optimizer.learning_rate": rate}
        given |= {
            "threads": self.threads,
            "validation.every": steps,
            "validation.batches": 4,
            "checkpoint.every": 100,
            "accelerator": "cpu",
        }
        return [f"seed={self.seed}", *(f"training.{name}={value}" for name, value in given.items())]


@dataclass(frozen=True)
class Read:
    """What a way made of the held-out books: nats a token by bucket, and half of their 95 % intervals over windows.

    `trained` and `weights` count weights, `seconds` are those of training.
    """

    way: str
    nats: list[float]
    half: list[float]
    trained: int
    weights: int
    tokens: int
    seconds: float

    @property
    def perplexities(self) -> list[float]:
        return [math.exp(one) for one in self.nats]


def measure(task: Task, out: Path) -> Iterator[Read]:
    """Trains what has to be trained, and reads the held-out books in each way.

    Raises:
        FarfieldError: books that cannot be used, or a run in `out` of other settings.
    """
    cache = out / "data"
    begun = _trained(task.begin(), task.data(cache, task.trained), out, BASE)
    tokens = held_out(task, cache)
    for way, words in WAYS.items():
        told: Mapping[str, Any] = begun
        if words is None:
            stretched = None if way == "plain" else "interpolation"
            model = load(out / BASE, layers="farfield", context=stretched)
        else:
            length = task.length if LONG[0] in words else task.trained
            name = way.replace(" ", "-")
            told = _trained(task.go_on(out / BASE, words, length), task.data(cache, length), out, name)
            model = load(out / name / "last.safetensors", layers="farfield")
        nats, half = _by_bucket(costs(model.model, tokens), task.edges)
        learnt = 0 if words is None else told["trained"]
        spent = 0.0 if way == "interpolated" else told["seconds"]
        yield Read(way, nats, half, learnt, told["parameters"], 0 if way == "interpolated" else told["tokens"], spent)


def _trained(words: Sequence[str], data: Mapping[str, Any], out: Path, name: str) -> dict[str, Any]:
    """What `farfield train` says of the run with these words; a finished one is taken as it is.

    Raises:
        TrainingError: what stands there was trained with other settings.
    """
    resume = (out / name / "checkpoints").is_dir()
    root = json.dumps(str(out), ensure_ascii=False)
    mapping = compose(
        "train", ["data=text", "data.path=''", *words, f"root={root}", f"name={name}", f"resume={resume}"]
    )
    try:
        told = train(read(TrainSettings, completed({**mapping, "data": data})))
    except TrainingError as error:
        if resume:
            raise TrainingError(f"{error} Comparisons of other settings go into another --out.") from None
        raise
    rows = read_metrics(out / name / FILE)
    return {**told, "seconds": told["tokens"] / max(told["tokens_per_second"], 1e-9), "steps": rows[-1]["step"]}


def held_out(task: Task, cache: Path) -> Tensor:
    """Windows (B, T + 1) of the held-out books, as far apart as there are.

    Raises:
        DataError: there are too few.
    """
    found: list[Tensor] = []
    settings = read(TextData, task.data(cache, task.length))
    source = settings.open(task.seed, 1)
    steps = source.validation_batches
    for place in range(task.windows):
        batch = source.validation(place * steps // task.windows)
        row, positions = torch.from_numpy(batch.tokens), torch.from_numpy(batch.positions)
        targets = torch.from_numpy(batch.targets)
        if torch.equal(positions[0], torch.arange(task.length)):
            found.append(torch.cat((row, targets[:, -1:]), 1))
    if not found or steps < task.windows:
        raise DataError(f"{task.books}: too little is held out for {task.windows} windows of {task.length:,} tokens.")
    return torch.cat(found)


@torch.no_grad()
def costs(model: LanguageModel, tokens: Tensor) -> Tensor:
    """Nats (B, T) of each token of the windows (B, T + 1) behind the ones before it."""
    found = []
    for row in tokens:
        hidden, _ = model.hidden(row[None, :-1])
        logits = model.head(hidden[0]).float()
        found.append(nn.functional.cross_entropy(logits, row[1:], reduction="none"))
    return torch.stack(found)


def _by_bucket(nats: Tensor, edges: Sequence[int]) -> tuple[list[float], list[float]]:
    """The mean of each bucket, and half of its 95 % interval over windows."""
    means = torch.stack([nats[:, low:high].double().mean(1) for low, high in pairwise(edges)], 1)
    half = 1.96 * means.std(0) / len(means) ** 0.5
    return means.mean(0).tolist(), half.tolist()


def table(reads: Sequence[Read], edges: Sequence[int]) -> Table:
    """Perplexity by bucket of positions."""
    shown = Table("way", title="Perplexity of held-out tokens by their position in the window")
    for low, high in pairwise(edges):
        shown.add_column(f"{low}-{high}", justify="right")
    for name in ("weights trained", "seconds"):
        shown.add_column(name, justify="right")
    for one in reads:
        weights = "" if one.way == "interpolated" else f"{one.trained or one.weights:,}"
        shown.add_row(one.way, *(f"{value:,.1f}" for value in one.perplexities), weights, f"{one.seconds:,.0f}")
    return shown


def draw(reads: Sequence[Read], edges: Sequence[int], trained: int, path: Path) -> None:
    """A curve for each way over positions, and where the first training ended."""
    figure = new_figure(8.6, 4.6)
    panel = figure.subplots()
    places = [(low + high) / 2 for low, high in pairwise(edges)]
    for number, one in enumerate(reads):
        panel.plot(places, one.perplexities, **line(number, one.way))
    panel.axvline(trained, color="black", linewidth=0.8, linestyle=":", label="trained length")
    panel.set(yscale="log", xlabel="position in the window, tokens", ylabel="perplexity, a token of held-out books")
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter("{x:g}")
    finish(figure, [panel], path)


def main(words: Sequence[str] | None = None) -> int:
    """0, or 2 after one line on what cannot be used."""
    given = _parser().parse_args(words)
    console = Console(width=160, highlight=False)
    try:
        reads, edges, trained = _drawn(given.draw) if given.draw else _measured(given)
    except FarfieldError as error:
        sys.stderr.write(f"farfield: {error}\n")
        return 2
    console.print(table(reads, edges))
    if given.picture:
        draw(reads, edges, trained, given.picture)
        console.print(f"wrote {given.picture}")
    return 0


def _measured(given: argparse.Namespace) -> tuple[list[Read], list[int], int]:
    numbers = {name: getattr(given, name) for name in NUMBERS if getattr(given, name) is not None}
    task, reads = Task(str(given.books), **numbers), []
    path = given.json or given.out / "longlora.json"
    for one in measure(task, given.out):
        reads.append(one)  # written as they come: a stopped comparison has told what it has measured
        told = {**asdict(task), "books": given.books.name, "edges": task.edges}
        rows = [{**asdict(read), "perplexity": read.perplexities} for read in reads]
        path.write_text(json.dumps({**provenance(), "task": told, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    return reads, task.edges, task.trained


def _drawn(path: Path) -> tuple[list[Read], list[int], int]:
    """What was measured before.

    Raises:
        DataError: the file holds no figures of this comparison.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        rows = [{key: value for key, value in row.items() if key != "perplexity"} for row in told["rows"]]
        return [Read(**row) for row in rows], told["task"]["edges"], told["task"]["trained"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not figures of this comparison: {error}") from None


NUMBERS = {
    "trained": "tokens of a row of the first training; the long ones are 4 times as long",
    "steps": "of the first training",
    "more": "steps on long rows",
    "width": "of the model",
    "depth": "layers of the model",
    "windows": "of held-out books that are read",
    "seed": "of weights and order",
    "threads": "of the CPU",
}


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} given, a whole number is needed")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m farfield.benchmarks.longlora",
        description="A small model is made to read four times its trained length, by LongLoRA and by less.",
    )
    parser.add_argument("books", type=Path, help="a folder of texts, a tenth of which is held out")
    parser.add_argument("--out", type=Path, default=Path("results/longlora"), help="runs, tokens and figures")
    parser.add_argument("--json", type=Path, help="where the figures go; default: in --out")
    parser.add_argument("--picture", type=Path, help="where to draw them")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="figures that were measured before")
    for name, text in NUMBERS.items():
        parser.add_argument(f"--{name}", type=_whole, metavar="N", help=text)
    return parser


if __name__ == "__main__":
    sys.exit(main())
