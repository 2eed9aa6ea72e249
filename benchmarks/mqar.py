"""MQAR: what two layers of each architecture recall, against the number of pairs and against the bytes of their state.

    python -m farfield.benchmarks.mqar --out results/mqar     # trains, asks, writes; the same words go on
    python -m farfield.benchmarks.mqar --out results/mqar --models attention retnet --seeds 0 1 --rates 3e-3 1e-2
    python -m farfield.benchmarks.mqar --show results/mqar/mqar.json --picture mqar.png

All models have the same width, two layers and a short convolution, and the same number of weights but for a few in a
hundred: the feed-forward is as wide as the mixer leaves room for. States are made larger and smaller within a mixer:
the window, or the width of keys. They are trained on `data=mqar` with 192 ids and `disjoint=seeds`, with each learning
rate; the one with the lowest validation loss counts, and is asked rows of the test split that validation did not draw.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from farfield.architectures.architecture import ArchitectureConfig
from farfield.benchmarks.memories.perplexity import train_model
from farfield.benchmarks.memories.pictures import finish, line, new_figure
from farfield.benchmarks.provenance import provenance
from farfield.benchmarks.running.results import Cell, read_result
from farfield.benchmarks.running.runner import evaluate
from farfield.benchmarks.subjects.model_subject import ModelSubject
from farfield.benchmarks.suites.recall import RecallSuite
from farfield.config import Config, ConfigError, DataError, FarfieldError, read, unknown
from farfield.model import ModelConfig
from farfield.progress import Bar
from farfield.training import metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FAMILIES", "Point", "Row", "Task", "compare", "main"]

VOCABULARY = 193  # 192 ids and the end: a small one, so that a thousand steps are enough
WEIGHTS = 80_000  # of each model, embedding included
# The length at which each number of pairs is asked, and how often it comes up in training.
GRID = {2: 64, 4: 64, 8: 64, 16: 64, 24: 128, 32: 128}
MIXTURE = ((4, 64, 1), (8, 64, 1), (16, 64, 1), (32, 128, 0.5))
WATCHED = (8, 32)  # pairs of the panels over state bytes
TICKS = (8, 16, 32, 64, 128)  # KiB there

ATTENTION = {"kind": "attention", "heads": 2, "position": "rope", "conv": 4}


def _window(size: int) -> list[dict[str, Any]]:
    return [{"kind": "longformer", "heads": 2, "window": size, "globals": 0, "conv": 4}]


def _retnet(size: int) -> list[dict[str, Any]]:
    return [{"kind": "retnet", "head_width": size, "value_ratio": 1, "conv": 4}]


def _mamba2(size: int) -> list[dict[str, Any]]:
    return [{"kind": "mamba2", "expand": 2, "head_width": 32, "state": size, "conv": 4}]


def _gated_deltanet(size: int) -> list[dict[str, Any]]:
    return [{"kind": "gated_deltanet", "head_width": size, "value_ratio": 1, "conv": 4}]


# The layers of each family by its size, from bottom to top, and its sizes, the middle one first: tokens of a window,
# width of a key.
FAMILIES: dict[str, tuple[Callable[[int], list[dict[str, Any]]], tuple[int, ...]]] = {
    "attention": (lambda size: [ATTENTION], (0,)),
    "window": (_window, (16, 8, 32)),
    "retnet": (_retnet, (16, 8, 32)),
    "mamba2": (_mamba2, (16, 8, 32)),
    "gated_deltanet": (_gated_deltanet, (16, 8, 32)),
    "mamba2 + attention": (lambda size: [*_mamba2(size), ATTENTION], (16,)),
    "gated_deltanet + window": (lambda size: [*_gated_deltanet(16), *_window(size)], (16, 8)),
}


@dataclass(frozen=True)
class Point:
    """A family at one size of its state."""

    family: str
    size: int

    @property
    def name(self) -> str:
        return self.family.replace(" + ", "-") + (f"-{self.size}" if self.size else "")

    def architecture(self, width: int) -> dict[str, Any]:
        """The settings of the architecture whose weights are nearest to those of all others."""
        mixers = FAMILIES[self.family][0](self.size)
        least, next_to_least = (_model(_architecture(mixers, width, inner)).parameters() for inner in (8, 16))
        steps = max(0, round((WEIGHTS - least) / (next_to_least - least)))  # each is as large as the first
        return _architecture(mixers, width, 8 + 8 * steps)


def _architecture(mixers: Sequence[dict[str, Any]], width: int, inner: int) -> dict[str, Any]:
    feedforward = {"kind": "swiglu", "ratio": inner / width}
    layers = {f"layer{place}": {"mixer": mixer, "feedforward": feedforward} for place, mixer in enumerate(mixers)}
    return {"width": width, "depth": 2, "tied": True, "pattern": list(layers), "layers": layers}


class _One(Config):
    architecture: ArchitectureConfig


def _model(mapping: dict[str, Any]) -> ModelConfig:
    return ModelConfig(architecture=read(_One, {"architecture": mapping}).architecture, vocabulary=VOCABULARY)


@dataclass(frozen=True)
class Task:
    """What is compared, and how it is trained."""

    models: tuple[str, ...] = tuple(FAMILIES)
    steps: int = 1500
    batch: int = 32
    width: int = 64
    rates: tuple[float, ...] = (4e-3, 8e-3)
    seeds: tuple[int, ...] = (0,)
    samples: int = 100

    def words(self, rate: float, seed: int) -> list[str]:
        """`farfield train`, as the command line takes it, but for the architecture."""
        mixture = ",".join(
            f"{{task: mqar_{pairs}, length: {length}, weight: {weight}}}" for pairs, length, weight in MIXTURE
        )
        return [
            "data=mqar",
            "data.suite.disjoint=seeds",
            f"data.tokenizer.vocabulary={VOCABULARY}",
            f"data.mixture=[{mixture}]",
            f"training.steps={self.steps}",
            f"training.batch={self.batch}",
            f"training.optimizer.learning_rate={rate}",
            "training.schedule.floor=0.0",
            "training.threads=1",
            f"training.validation.every={self.steps}",
            f"seed={seed}",
        ]

    def points(self) -> list[Point]:
        """All models; of each family the first size first, so that what a stopped comparison has is of all families."""
        sizes = [(place, family, size) for family in self.models for place, size in enumerate(FAMILIES[family][1])]
        return [Point(family, size) for _, family, size in sorted(sizes, key=lambda one: one[0])]


@dataclass(frozen=True)
class Row:
    """One trained model: its validation loss in nats, and its accuracy by pairs and by the bytes of its state."""

    family: str
    size: int
    rate: float
    seed: int
    parameters: int
    loss: float
    accuracy: dict[int, float]
    state_bytes: dict[int, int]


def compare(task: Task, out: Path) -> Iterator[Row]:
    """Trains and asks each model; what stands in `out` already is taken as it is."""
    jobs = [(seed, point, rate) for seed in task.seeds for rate in task.rates for point in task.points()]
    with Bar("mqar", total=len(jobs), unit="models") as bar:
        for seed, point, rate in jobs:
            yield _row(task, point, rate, seed, out)
            bar.step(note=f"{point.name} {rate:g}")


def _row(task: Task, point: Point, rate: float, seed: int, out: Path) -> Row:
    name = f"{point.name}-rate{rate:g}-seed{seed}"
    model = train_model(task.words(rate, seed), out / "runs", name, {"architecture": point.architecture(task.width)})
    suite = RecallSuite(
        tasks=("mqar",),
        lengths=tuple(sorted(set(GRID.values()))),
        pairs=tuple(GRID),
        disjoint="seeds",
        samples=task.samples,
        batch=task.samples,
        controls=(),
        seed=1,
    )
    outcome = evaluate(suite, ModelSubject(model, name), out / "results" / name)
    cells = read_result(outcome.path).cells
    return Row(
        point.family,
        point.size,
        rate,
        seed,
        model.config.parameters(),
        _validation(out / "runs" / name),
        {pairs: cells[Cell(f"mqar_{pairs}", length)].score for pairs, length in GRID.items()},
        {pairs: model.config.state_bytes(length) for pairs, length in GRID.items()},
    )


def _validation(run: Path) -> float:
    """The last validation loss of a run."""
    rows = metrics.read_metrics(run / metrics.FILE)
    return float([row["validation_loss"] for row in rows if "validation_loss" in row][-1])


def best(rows: Sequence[Row]) -> dict[Point, list[Row]]:
    """The rows of each point at the learning rate whose validation loss is the lowest on average, one a seed."""
    found: dict[Point, list[Row]] = {}
    for point in dict.fromkeys(Point(row.family, row.size) for row in rows):
        mine = [row for row in rows if (row.family, row.size) == (point.family, point.size)]
        rates = {rate: [row for row in mine if row.rate == rate] for rate in {row.rate for row in mine}}
        found[point] = min(rates.values(), key=lambda some: statistics.fmean(row.loss for row in some))
    return found


def table(rows: Sequence[Row]) -> Table:
    """Accuracy by pairs, a row for each model at its best learning rate, averaged over seeds."""
    found = Table("model", title="MQAR: share of the values that are right, by pairs")
    for head in ("size", "weights", "state, KiB", "rate", "seeds", "loss", *map(str, GRID)):
        found.add_column(head, justify="right")
    for point, some in best(rows).items():
        told = [some[0].parameters, f"{some[0].state_bytes[WATCHED[-1]] / 1024:.1f}", f"{some[0].rate:g}", len(some)]
        told.append(f"{statistics.fmean(row.loss for row in some):.2f}")
        accuracy = [f"{100 * statistics.fmean(row.accuracy[pairs] for row in some):.0f}" for pairs in GRID]
        found.add_row(point.family, str(point.size or ""), *map(str, told), *accuracy)
    return found


def draw(rows: Sequence[Row], path: Path) -> Path:
    """Accuracy against pairs, of each family's middle size, and against state bytes, of all sizes."""
    figure = new_figure(13.5, 4.2)
    panels = figure.subplots(1, 1 + len(WATCHED))
    points = best(rows)
    for place, family in enumerate(dict.fromkeys(point.family for point in points)):
        mine = [some for point, some in points.items() if point.family == family]
        _draw_pairs(panels[0], mine[0], line(place, family))
        for panel, pairs in zip(panels[1:], WATCHED, strict=True):
            sizes = sorted((some[0].state_bytes[pairs] / 1024, _mean(some, pairs)) for some in mine)
            panel.plot(*zip(*sizes, strict=True), **line(place, family))
    panels[0].set(xscale="log", xlabel="pairs", ylabel="accuracy", title="middle sizes", ylim=(-0.03, 1.03))
    panels[0].set_xticks(list(GRID), [str(pairs) for pairs in GRID])
    panels[0].minorticks_off()
    for panel, pairs in zip(panels[1:], WATCHED, strict=True):
        panel.set_xscale("log", base=2)
        title = f"{pairs} pairs in {GRID[pairs]} tokens"
        panel.set(xlabel="state, KiB", ylabel="accuracy", title=title, ylim=(-0.03, 1.03))
        panel.set_xticks(TICKS, [str(tick) for tick in TICKS])
    finish(figure, list(panels), path)
    return path


def _draw_pairs(panel: Axes, some: Sequence[Row], look: dict[str, Any]) -> None:
    """The mean over seeds, and a band from the worst to the best."""
    pairs = list(GRID)
    panel.plot(pairs, [_mean(some, count) for count in pairs], **look)
    if len(some) > 1:
        low, high = ([pick(row.accuracy[count] for row in some) for count in pairs] for pick in (min, max))
        panel.fill_between(pairs, low, high, color=look["color"], alpha=0.15, linewidth=0)


def _mean(some: Sequence[Row], pairs: int) -> float:
    return statistics.fmean(row.accuracy[pairs] for row in some)


def main(words: Sequence[str] | None = None) -> int:
    """0, or 2 after one line on what cannot be used."""
    given = _parser().parse_args(words)
    try:
        rows, path = _shown(given.show) if given.show else _compared(given)
        picture = draw(rows, given.picture or path.with_suffix(".png"))
    except FarfieldError as error:
        sys.stderr.write(f"farfield: {error}\n")
        return 2
    console = Console(width=140, highlight=False)
    console.print(table(rows))
    console.print(f"wrote {picture}, of {path}")
    return 0


def _compared(given: argparse.Namespace) -> tuple[list[Row], Path]:
    """What is measured, and the file that it stands in."""
    task, path, rows = _task(given), given.json or given.out / "mqar.json", []
    for row in compare(task, given.out):
        rows.append(row)  # written as they come: a stopped comparison has told what it has measured
        _write(path, task, rows)
    return rows, path


def _shown(path: Path) -> tuple[list[Row], Path]:
    """What was measured before."""
    try:
        found = [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]
    except OSError as error:
        raise DataError(f"--show: {path}: {error.strerror}.") from None
    except (ValueError, LookupError, TypeError):
        raise DataError(f"--show: {path}: has no rows of this comparison.") from None
    return [
        replace(
            row,
            accuracy={int(pairs): share for pairs, share in row.accuracy.items()},
            state_bytes={int(pairs): size for pairs, size in row.state_bytes.items()},
        )
        for row in found
    ], path


def _write(path: Path, task: Task, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {**provenance(), "task": asdict(task), "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _task(given: argparse.Namespace) -> Task:
    for family in given.models:
        if family not in FAMILIES:
            raise ConfigError("--models: " + unknown("unknown model", family, FAMILIES))
    for name in ("steps", "batch", "samples"):
        if getattr(given, name) < 1:
            raise ConfigError(f"--{name}: {getattr(given, name)} given. At least 1.")
    if min(given.rates) <= 0:
        raise ConfigError(f"--rates: {min(given.rates):g} given. Above 0.")
    if min(given.seeds) < 0:
        raise ConfigError(f"--seeds: {min(given.seeds)} given. At least 0.")
    return Task(
        models=tuple(given.models),
        steps=given.steps,
        batch=given.batch,
        rates=tuple(given.rates),
        seeds=tuple(given.seeds),
        samples=given.samples,
    )


def _parser() -> argparse.ArgumentParser:
    normal = Task()
    parser = argparse.ArgumentParser(
        prog="python -m farfield.benchmarks.mqar",
        description="What two layers of each architecture recall, by the number of pairs and the bytes of their state.",
    )
    parser.add_argument("--models", nargs="+", default=normal.models, metavar="NAME", help="default: all there are")
    parser.add_argument("--rates", type=float, nargs="+", default=normal.rates, metavar="R", help="learning rates")
    parser.add_argument("--seeds", type=int, nargs="+", default=normal.seeds, metavar="N", help="of weights and data")
    parser.add_argument("--steps", type=int, default=normal.steps, metavar="N", help="of training")
    parser.add_argument("--batch", type=int, default=normal.batch, metavar="N", help="rows of a step of training")
    parser.add_argument("--samples", type=int, default=normal.samples, metavar="N", help="rows that are asked")
    parser.add_argument("--show", type=Path, metavar="FILE", help="draw what was measured before, and train nothing")
    parser.add_argument("--out", type=Path, default=Path("results/mqar"), help="runs, figures and picture")
    parser.add_argument("--json", type=Path, help="where the figures go; default: in --out")
    parser.add_argument("--picture", type=Path, help="where the picture goes; default: beside the figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
