"""In float64 what a model answers depends on the question alone."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest

import farfield
from farfield.benchmarks.running.questions import Questions
from farfield.benchmarks.running.results import Cell, Result, read_result, record_about
from farfield.benchmarks.running.runner import evaluate
from farfield.benchmarks.subjects.model_subject import ModelSubject
from farfield.benchmarks.suites.needle import NeedleSuite

ARCHITECTURES = ("attention", "retnet", "mamba2", "gated_deltanet", "longformer+knn")
SUITE = {"lengths": (240,), "depths": 2, "samples": 2, "controls": ()}


@cache
def opened(name: str) -> ModelSubject:
    architecture, _, memory = name.partition("+")
    window = ["layers.longformer.mixer.window=32"] if architecture == "longformer" else []
    made = farfield.build(architecture, ["width=32", "depth=2", "tied=false", *window], memory=memory or None, seed=2)
    return ModelSubject(made.double(), name)


def outputs(path: Path) -> dict[Cell, list[str]]:
    return {cell: got.outputs for cell, got in read_result(path).cells.items()}


class Kept:
    """Records of one job, in memory."""

    def __init__(self) -> None:
        self.result = Result(Path(), {"settings_hash": ""})

    def add(self, kind: str, cell: Cell, content: dict[str, object]) -> None:
        self.result.add(record_about(kind, cell, content))

    def read(self, tokens: int) -> None:
        pass


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_answers_do_not_depend_on_batches_order_and_processes(name: str, tmp_path: Path) -> None:
    subject = opened(name)
    whole = outputs(evaluate(NeedleSuite(**SUITE), subject, tmp_path / "whole").path)
    assert len({output for found in whole.values() for output in found}) > 1
    small = NeedleSuite(**SUITE, batch=1)
    assert outputs(evaluate(small, subject, tmp_path / "small").path) == whole
    # Job by job from the last to the first, as other processes would: nothing is left over from one to the next.
    questions, found = Questions(small, subject), {}
    for job in questions.jobs(Result(Path(), {}))[::-1]:
        kept = Kept()
        questions.run(job, kept)
        found |= {cell: got.outputs for cell, got in kept.result.cells.items()}
    assert found == whole
    # Each question alone, in one piece.
    (task,) = small.tasks(subject.tokenizer)
    for cell in [cell for cell in whole if cell.length == 240 and cell.condition == "full"]:
        for index, sample in enumerate(task.generate(0, 240, 2, "test", depth=cell.depth)):
            known = subject.prefill(sample.prompt[None].astype(np.int64))
            (written,) = subject.generate(known, sample.budget, task.stop).ids
            assert subject.tokenizer.decode(written[: sample.budget]) == whole[cell][index]


@pytest.mark.slow
def test_answers_do_not_depend_on_how_many_processes_give_them(tmp_path: Path) -> None:
    name = "retnet"
    suite = NeedleSuite(lengths=(240, 250), depths=1, samples=2, controls=())
    one = evaluate(suite, opened(name), tmp_path / "one")
    two = evaluate(suite, opened(name), tmp_path / "two", processes=2, opened=partial(opened, name))
    assert outputs(two.path) == outputs(one.path)
