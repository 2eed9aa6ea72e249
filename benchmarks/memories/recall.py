"""Recall beyond the window: does a small model find a value that left its window long ago, with each of the memories?

A model of two layers with a window is trained on pairs in rows of four windows, once for each memory, and once without.
Then it is asked in rows of 1, 4, 16 and 64 windows: `needle` for the one value there is among filler, `recall` for one
of four by its key. Memories of bounded size are asked with room for everything and with room for four windows. Those
around the stack have segments of one window, of which a row of training has four.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from farfield.benchmarks.memories.perplexity import train_model
from farfield.benchmarks.memories.plan import WHOLE, Variant, checked, memory_of, variants
from farfield.benchmarks.running.results import read_result
from farfield.benchmarks.running.runner import evaluate
from farfield.benchmarks.subjects.model_subject import ModelSubject
from farfield.benchmarks.suites.needle import NeedleSuite
from farfield.config import read
from farfield.generation import TextModel
from farfield.memory import StackMemory
from farfield.progress import Bar
from farfield.retrofit import retrofit

__all__ = ["Found", "Task", "compare"]

TIMES = (1, 4, 16, 64)
NEEDLES = {"needle": 1, "recall": 4}


@dataclass(frozen=True)
class Task:
    """What is compared. `window` and `sizes` in tokens; a row of training has `row` windows."""

    memories: tuple[str, ...]
    window: int = 15
    sizes: tuple[int, ...] = (64, 1024)
    steps: int = 1000
    width: int = 64
    depth: int = 2
    row: int = 4
    batch: int = 32
    samples: int = 20
    threads: int | None = 1
    seed: int = 0
    told: tuple[str, ...] = ()

    def words(self, memory: Sequence[str], whole: bool) -> list[str]:
        """`farfield train` of the small model, as the command line takes it; `whole`: without windows of its own."""
        mixer = "architecture.layers.longformer.mixer"
        windows = ["architecture=longformer", f"{mixer}.window={self.window}", f"{mixer}.globals=0"]
        return [
            *(["architecture=attention"] if whole else windows),
            f"architecture.width={self.width}",
            f"architecture.depth={self.depth}",
            *memory,
            "data=needle",
            "data.vocabulary=256",
            f"data.length={self.row * (self.window + 1)}",
            f"training.steps={self.steps}",
            f"training.batch={self.batch}",
            "training.optimizer.learning_rate=3e-3",
            f"training.threads={'null' if self.threads is None else self.threads}",
            f"seed={self.seed}",
        ]


@dataclass(frozen=True)
class Found:
    """What share of the questions a memory of one size answers, by task and by row length in windows."""

    label: str
    memory: str
    size: int | None
    questions: int
    rates: dict[str, dict[int, float | None]]


def compare(task: Task, out: Path) -> Iterator[Found]:
    """Trains with each memory, then asks; runs and results stand in `out`, and neither is made twice."""
    every = {"none": [Variant("none", ())]}
    every |= {name: variants(name, task.sizes, task.window, told=task.told, windows=1) for name in task.memories}
    for wanted in every.values():
        checked([variant for variant in wanted if variant.name != "none"])
    with Bar("recall", total=sum(map(len, every.values())), unit="memories") as bar:
        for name, wanted in every.items():
            model = _trained(wanted[-1], task, out / "runs")
            for variant in wanted:
                memory = None if name == "none" else memory_of(variant)
                with_it = TextModel(retrofit(model.model, memory), model.tokenizer, model.info)
                yield _asked(with_it, variant, task, out / "results")
                bar.step(note=variant.label)


def _trained(variant: Variant, task: Task, out: Path) -> TextModel:
    """The model that is asked: trained with the memory, so that a window learns what it is for.

    Memories around full attention are put on a model that was trained without: they stand for what it would read.
    """
    if variant.name in WHOLE:
        return train_model(task.words(["memory=none"], True), out, "attention")
    words = [f"memory={variant.name}", *(f"memory.{word}" for word in variant.words)]
    if variant.name != "none" and _freezes(variant):  # it learns beside a model that has been trained
        words.append(f"start={json.dumps(str(out / 'none'), ensure_ascii=False)}")
    return train_model(task.words(words, False), out, variant.place)


def _freezes(variant: Variant) -> bool:
    memory = memory_of(variant)
    return isinstance(memory, StackMemory) and memory.freezes


def _asked(model: TextModel, variant: Variant, task: Task, out: Path) -> Found:
    rates: dict[str, dict[int, float | None]] = {}
    place = variant.place if variant.size is None else f"{variant.place}-{variant.size}"
    lengths = [times * (task.window + 1) for times in TIMES]
    for name, needles in NEEDLES.items():
        suite = read(
            NeedleSuite,
            {"lengths": lengths, "depths": 5, "samples": task.samples, "needles": needles, "seed": task.seed},
            "suite",
        )
        folder = out / place / name
        result = read_result(evaluate(suite, ModelSubject(model, place), folder).path)
        rates[name] = {}
        for times, length in zip(TIMES, lengths, strict=True):
            cells = [answers for cell, answers in result.cells.items() if cell.length == length]
            scores = [score for answers in cells for score in answers.scores]
            rates[name][times] = sum(scores) / len(scores) if scores else None
    return Found(variant.label, variant.name, variant.size, 5 * task.samples, rates)
