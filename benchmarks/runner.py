"""Runs a suite on a model, cell by cell.

    outcome = evaluate(NeedleSuite(), subject, Path("results/retnet"))      # writes results/retnet/needle.jsonl

Rows of the grid (one task, one length) are worked off one after the other. The samples of a row go through the model in
batches, and the prompts of one batch at all depths share the prefill of what they have in common. Each finished cell is
written at once; the same call goes on where a stopped one ended.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.prefixes import walk
from farfield.benchmarks.provenance import provenance
from farfield.benchmarks.results import FORMAT, Answers, Cell, ResultFile, identity, record_of
from farfield.benchmarks.settings import Scoring, Suite
from farfield.benchmarks.subjects import Capability, Prefilled, Subject
from farfield.benchmarks.tasks.sample import Sample, Task
from farfield.progress import Bar

__all__ = ["Outcome", "RowCount", "evaluate"]

NEEDED: dict[Scoring, frozenset[Capability]] = {
    "generate": frozenset({"prefill", "generate"}),
    "likelihood": frozenset({"prefill", "score"}),
}
# These settings say how fast, not what: a run can be resumed with others.
SPEED = ("batch", "batch_tokens")
UNLIKELY = -1e9  # the log-probability that is written for zero, which JSON cannot hold


@dataclass(frozen=True)
class RowCount:
    """Tokens prefilled for a row of the grid, and what they would be without shared prefixes."""

    task: str
    length: int
    prefilled: int
    naive: int


@dataclass(frozen=True)
class Outcome:
    """What an evaluation wrote. The counts are those of the whole file, earlier runs included."""

    path: Path
    cells: int
    skipped: int
    rows: tuple[RowCount, ...]

    @property
    def prefilled(self) -> int:
        return sum(row.prefilled for row in self.rows)

    @property
    def naive(self) -> int:
        return sum(row.naive for row in self.rows)


def evaluate(suite: Suite, subject: Subject, folder: Path) -> Outcome:
    """Evaluates what is not yet in `folder/<suite>.jsonl`.

    Raises:
        ConfigError, DataError: the suite does not fit the model or itself; nothing has been evaluated then.
        KeyboardInterrupt: after a line on standard error that says how to go on.
    """
    tasks = suite.tasks(subject.tokenizer)
    for task in tasks:
        for length in suite.lengths:
            task.check(suite.seed, length, suite.samples, suite.split)
    grid = [(task, length) for task in tasks for length in suite.lengths]
    file = ResultFile(folder / f"{suite.kind}.jsonl", _head(suite, subject, tasks))
    if file.aside:
        _say(f"{file.path} was made with {file.why}: it is kept as {file.aside}.")
    total, result = len(grid) * len(suite.places()), file.result
    done = len(result.cells) + len(result.skipped)
    try:
        with Bar(suite.kind, total=total, unit="cells", done=done) as bar:
            for task, length in grid:
                _Row(suite, subject, file, bar, task, length).run()
    except KeyboardInterrupt:
        done = len(result.cells) + len(result.skipped)
        _say(f"stopped: {done} of {total} cells are in {file.path}. The same command goes on from there.")
        raise
    return Outcome(file.path, len(result.cells), len(result.skipped), tuple(_counts(file, grid)))


@dataclass
class _Row:
    """The cells of one task and length."""

    suite: Suite
    subject: Subject
    file: ResultFile
    bar: Bar
    task: Task
    length: int

    def run(self) -> None:
        result = self.file.result
        cells = [Cell(self.task.name, self.length, depth) for depth in self.suite.places()]
        cells = [cell for cell in cells if cell not in result.cells and cell not in result.skipped]
        missing = NEEDED[self.suite.scoring] - self.subject.capabilities
        if missing:
            reason = f"scoring={self.suite.scoring} needs a model that can {' and '.join(sorted(missing))}"
            for cell in cells:
                self.file.add("skip", cell, {"reason": reason})
                self.bar.step(note=reason)
            return
        rows = max(1, min(self.suite.batch, self.suite.batch_tokens // self.length))
        # Cells of a stopped run may be behind others: those behind go first, until all have caught up.
        while cells:
            reached = {cell: self._reached(cell) for cell in cells}
            first = min(reached.values())
            end = min([first + rows, self.suite.samples, *(at for at in reached.values() if at > first)])
            _Batch(self, [cell for cell in cells if reached[cell] == first], first, end - first).run()
            cells = [cell for cell in cells if cell not in result.cells]

    def _reached(self, cell: Cell) -> int:
        """The first index of `cell` that has not been evaluated."""
        part = self.file.result.parts.get(cell)
        return part.count if part else 0

    def take(self, cell: Cell, answers: Answers) -> None:
        """Writes new answers: a part, or the whole cell when these were the last."""
        before = self.file.result.parts.get(cell)
        whole = before.then(answers) if before else answers
        if whole.count < self.suite.samples:
            self.file.add("part", cell, record_of(answers))
            return
        state = {"state_bytes": self.subject.state_bytes(self.length), "suite": self.suite.kind}
        self.file.add(
            "cell", cell, {**record_of(whole), **state, "settings_hash": self.file.result.head["settings_hash"]}
        )
        rate = f"{answers.prefilled / max(answers.seconds, 1e-9):.3g} tokens/s"
        depth = "" if cell.depth is None else f" depth {cell.depth:.2f}"
        self.bar.step(note=f"{self.length} tokens{depth}: {whole.score:.0%}, {rate}")


class _Batch:
    """The samples of the indices `first` to `first + count - 1` in some cells of a row."""

    def __init__(self, row: _Row, cells: Sequence[Cell], first: int, count: int) -> None:
        self.row, self.first, self.count = row, first, count
        suite, task = row.suite, row.task
        self.samples: dict[Cell, list[Sample]] = {
            cell: task.generate(suite.seed, cell.length, count, suite.split, depth=cell.depth, first=first)
            for cell in cells
        }
        self.judged: dict[Cell, dict[int, _Judged]] = {cell: {} for cell in cells}
        self.fresh = dict.fromkeys(cells, 0)
        self.seconds = dict.fromkeys(cells, 0.0)
        self.clock = time.perf_counter()

    def run(self) -> None:
        for members in self._aligned():
            prompts = [np.stack([self.samples[cell][at].prompt for at in places]) for cell, places in members]
            walk(self.row.subject, prompts, partial(self._leaf, members))

    def _aligned(self) -> Iterator[list[tuple[Cell, list[int]]]]:
        """Groups of members that go through the model side by side.

        A member is a cell and the places of some of its samples, one an index: the rows of one batch. The indices of a
        group have prompts of the same length in each of its members.
        """
        each = len(next(iter(self.samples.values()))) // self.count
        groups: dict[tuple[int, ...], list[int]] = {}
        for index in range(self.count):
            mine = slice(index * each, (index + 1) * each)
            signature = tuple(len(sample.prompt) for samples in self.samples.values() for sample in samples[mine])
            groups.setdefault(signature, []).append(index)
        for rows in groups.values():
            yield [(cell, [row * each + asked for row in rows]) for cell in self.samples for asked in range(each)]

    def _leaf(self, members: Sequence[tuple[Cell, list[int]]], index: int, known: Prefilled, fresh: int) -> None:
        """Asks for the answers of a member, and hands those of its cell on when they are the last."""
        cell, places = members[index]
        samples, judged = self.samples[cell], self.judged[cell]
        judge = _generated if self.row.suite.scoring == "generate" else _chosen
        answers = judge(self.row.subject, self.row.task, [samples[at] for at in places], known)
        judged.update(zip(places, answers, strict=True))
        now = time.perf_counter()
        self.seconds[cell] += now - self.clock
        self.fresh[cell] += fresh
        self.clock = now
        if len(judged) == len(samples):
            self.row.take(cell, self._answers(cell))

    def _answers(self, cell: Cell) -> Answers:
        samples = self.samples[cell]
        judged = [self.judged[cell][at] for at in range(len(samples))]
        decode = self.row.subject.tokenizer.decode
        return Answers(
            first=self.first,
            count=self.count,
            scores=[answer.score for answer in judged],
            depths=[list(sample.depths) for sample in samples],
            outputs=[decode(answer.output) for answer in judged],
            answers=[", ".join(sample.text_answers) or decode(sample.answer.tolist()) for sample in samples],
            logprobs=[answer.logprob for answer in judged if answer.logprob is not None],
            length=max(sample.length for sample in samples),
            prefilled=self.fresh[cell],
            naive=sum(len(sample.prompt) for sample in samples),
            seconds=round(self.seconds[cell], 6),
        )


@dataclass(frozen=True)
class _Judged:
    """One sample's score, what the model answered, and how likely it held the gold, in nats."""

    score: float
    output: list[int]
    logprob: float | None = None


def _generated(subject: Subject, task: Task, samples: Sequence[Sample], known: Prefilled) -> list[_Judged]:
    """The model writes; the task judges."""
    written = subject.generate(known, max(sample.budget for sample in samples), task.stop)
    outputs = [list(ids[: sample.budget]) for sample, ids in zip(samples, written, strict=True)]
    return [_Judged(score, ids) for score, ids in zip(task.score(samples, outputs), outputs, strict=True)]


def _chosen(subject: Subject, task: Task, samples: Sequence[Sample], known: Prefilled) -> list[_Judged]:
    """The model's most likely candidate is its answer."""
    candidates: NDArray[np.int64] = np.stack([_candidates(sample) for sample in samples])
    logprobs = np.nan_to_num(subject.score(known, candidates), nan=UNLIKELY, neginf=UNLIKELY)
    outputs = [[int(row[best])] for row, best in zip(candidates, logprobs.argmax(axis=1), strict=True)]
    gold = [
        float(row[ids == sample.answer[0]][0]) for sample, ids, row in zip(samples, candidates, logprobs, strict=True)
    ]
    scores = task.score(samples, outputs)
    return [_Judged(*judged) for judged in zip(scores, outputs, gold, strict=True)]


def _candidates(sample: Sample) -> NDArray[np.int64]:
    assert sample.candidates is not None, "a suite that allows scoring=likelihood has candidates"
    return sample.candidates.astype(np.int64)


def _head(suite: Suite, subject: Subject, tasks: Sequence[Task]) -> dict[str, Any]:
    settings = suite.mapping()
    asked = {name: value for name, value in settings.items() if name not in SPEED}
    fingerprints = {task.name: task.fingerprint for task in tasks}
    model = {**subject.describe(), "name": subject.name, "capabilities": sorted(subject.capabilities)}
    return {
        "format": FORMAT,
        "suite": suite.kind,
        "settings": settings,
        "settings_hash": identity([asked, fingerprints]),
        "tasks": fingerprints,
        "model": model,
        "model_hash": identity(model),
        "seed": suite.seed,
        "lengths": list(suite.lengths),
        "depths": list(suite.places()),
        "provenance": provenance(),
    }


def _counts(file: ResultFile, grid: Sequence[tuple[Task, int]]) -> Iterator[RowCount]:
    for task, length in grid:
        row = [
            answers for cell, answers in file.result.cells.items() if (cell.task, cell.length) == (task.name, length)
        ]
        yield RowCount(task.name, length, sum(cell.prefilled for cell in row), sum(cell.naive for cell in row))


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
