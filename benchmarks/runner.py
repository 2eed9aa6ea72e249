"""Runs a suite on a model, cell by cell.

    outcome = evaluate(NeedleSuite(), subject, Path("results/retnet"))      # writes results/retnet/needle.jsonl

Rows of the grid (one task, one length) are worked off one after the other: the cells of all depths, then the controls.
The samples of a row go through the model in batches (`farfield.benchmarks.asking`), and the prompts of one batch at all
depths share the prefill of what they have in common. Each finished cell is written at once; the same call goes on where
a stopped one ended.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from farfield.benchmarks.asking import Batch, Lacking, needed
from farfield.benchmarks.provenance import provenance
from farfield.benchmarks.results import FORMAT, Answers, Cell, ResultFile, identity, record_of
from farfield.benchmarks.subjects import Capability, Subject
from farfield.benchmarks.suites.suite import AskedSuite, MeasuredSuite
from farfield.benchmarks.tasks.sample import LackingError, Scoring, Task
from farfield.progress import Bar

__all__ = ["Outcome", "RowCount", "evaluate"]

# These settings say how fast, not what: a run can be resumed with others.
SPEED = ("batch", "batch_tokens", "cell_seconds")

WORDS: dict[Capability, str] = {
    "state": "keeps a state",
    "generate": "writes",
    "score": "tells how likely a continuation is",
    "read": "tells what is likely at every position",
    "memory": "has an external memory",
}


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


def evaluate(suite: AskedSuite | MeasuredSuite, subject: Subject, folder: Path) -> Outcome:
    """Evaluates what is not yet in `folder/<suite>.jsonl`.

    Raises:
        ConfigError, DataError: the suite does not fit the model or itself; nothing has been evaluated then.
        KeyboardInterrupt: after a line on standard error that says how to go on.
    """
    work = _Questions(suite, subject) if isinstance(suite, AskedSuite) else _Measures(suite, subject)
    file = ResultFile(folder / f"{suite.name}.jsonl", work.head())
    if file.aside:
        _say(f"{file.path} was made with {file.why}: it is kept as {file.aside}.")
    result = file.result
    try:
        with Bar(suite.name, total=len(work.cells), unit="cells", done=result.done) as bar:
            work.run(file, bar)
    except KeyboardInterrupt:
        some = f"{result.done} of {len(work.cells)} cells"
        _say(f"stopped: {some} are in {file.path}. The same command goes on from there.")
        raise
    done = len(result.cells) + len(result.measured)
    return Outcome(file.path, done, len(result.skipped), tuple(_counts(file)))


class _Questions:
    """The cells of a suite that asks."""

    def __init__(self, suite: AskedSuite, subject: Subject) -> None:
        self.suite, self.subject, self.tasks = suite, subject, suite.tasks(subject.tokenizer)
        self.short: dict[tuple[str, int], LackingError] = {}
        for task in self.tasks:
            for length in suite.lengths:
                try:
                    task.check(suite.seed, length, suite.samples, suite.split)
                except LackingError as error:
                    self.short[task.name, length] = error
        if len(self.short) == len(self.tasks) * len(suite.lengths):
            raise next(iter(self.short.values()))
        self.rows = [(task, length, self._cells(task, length)) for task in self.tasks for length in suite.lengths]
        self.cells = [cell for *_, cells in self.rows for cell in cells]

    def _cells(self, task: Task, length: int) -> list[Cell]:
        grid = [Cell(task.name, length, depth) for depth in (self.suite.places() if task.placed else (None,))]
        return grid + [Cell(task.name, length, None, condition) for condition in self.suite.conditions]

    def head(self) -> dict[str, Any]:
        scorings = {task.name: scoring_of(self.suite, task) for task in self.tasks}
        tasks = {
            task.name: {
                "fingerprint": task.fingerprint,
                "metric": task.metric,
                "labels": dict(task.labels),
                "placed": task.placed,
                "scoring": scorings[task.name],
            }
            for task in self.tasks
        }
        return _head(self.suite, self.subject, tasks) | {"depths": list(self.suite.places())}

    def run(self, file: ResultFile, bar: Bar) -> None:
        for task, length, cells in self.rows:
            left = [cell for cell in cells if not file.result.has(cell)]
            if (task.name, length) in self.short:
                _skip(file, bar, left, str(self.short[task.name, length]))
                continue
            row = _Row(self.suite, self.subject, file, bar, task)
            for condition in dict.fromkeys(cell.condition for cell in left):
                row.run([cell for cell in left if cell.condition == condition])


class _Measures:
    """The cells of a suite that measures."""

    def __init__(self, suite: MeasuredSuite, subject: Subject) -> None:
        self.suite, self.subject = suite, subject
        self.needs = dict(suite.cells(subject))
        self.cells = list(self.needs)

    def head(self) -> dict[str, Any]:
        tasks = {
            name: {"fingerprint": self.suite.fingerprint, "metric": "", "labels": dict(labels), "placed": False}
            for name, labels in self.suite.labels().items()
        }
        return _head(self.suite, self.subject, tasks) | {"depths": [None]}

    def run(self, file: ResultFile, bar: Bar) -> None:
        for cell in self.cells:
            if file.result.has(cell):
                continue
            missing = self.needs[cell] - self.subject.capabilities
            if missing:
                _skip(file, bar, [cell], _lacking(missing))
                continue
            try:
                measured = self.suite.measure(self.subject, cell)
            except Lacking as reason:
                _skip(file, bar, [cell], str(reason))
                continue
            file.add("measured", cell, asdict(measured))
            name, value = next(iter(measured.values.items()))
            bar.step(note=f"{cell.task} {cell.length} tokens: {name} {value:.4g}")


@dataclass
class _Row:
    """The cells of one task and length."""

    suite: AskedSuite
    subject: Subject
    file: ResultFile
    bar: Bar
    task: Task

    def run(self, cells: list[Cell]) -> None:
        """Cells of one condition, at all depths together."""
        length, condition = cells[0].length, cells[0].condition
        scoring = scoring_of(self.suite, self.task)
        missing = needed(scoring, condition) - self.subject.capabilities
        if missing:
            _skip(self.file, self.bar, cells, _lacking(missing))
            return
        rows = max(1, min(self.suite.batch, self.suite.batch_tokens // length))
        # Cells of a stopped run may be behind others: those behind go first, until all have caught up.
        while cells:
            reached = {cell: self._reached(cell) for cell in cells}
            first = min(reached.values())
            end = min([first + rows, self.suite.samples, *(at for at in reached.values() if at > first)])
            due = [cell for cell in cells if reached[cell] == first]
            try:
                Batch(self.suite, self.subject, self.task, scoring, due, first, end - first).run(self.take)
            except Lacking as reason:
                _skip(self.file, self.bar, due, str(reason))
            cells = [cell for cell in cells if not self.file.result.has(cell)]

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
        state = {"state_bytes": self.subject.state_bytes(cell.length), "suite": self.suite.name}
        self.file.add(
            "cell", cell, {**record_of(whole), **state, "settings_hash": self.file.result.head["settings_hash"]}
        )
        rate = f"{answers.prefilled / max(answers.seconds, 1e-9):.3g} tokens/s"
        depth = "" if cell.depth is None else f" depth {cell.depth:.2f}"
        condition = "" if cell.condition == "full" else f" {cell.condition}"
        self.bar.step(note=f"{self.task.name} {cell.length} tokens{depth}{condition}: {whole.score:.0%}, {rate}")


def scoring_of(suite: AskedSuite, task: Task) -> Scoring:
    """How a task of a suite is judged: as asked for, or in its usual way."""
    return suite.scoring if suite.scoring in task.scorings and suite.scoring is not None else task.scorings[0]


def _skip(file: ResultFile, bar: Bar, cells: Sequence[Cell], reason: str) -> None:
    for cell in cells:
        file.add("skip", cell, {"reason": reason})
        bar.step(note=reason)


def _lacking(missing: frozenset[Capability]) -> str:
    return "needs a model that " + " and ".join(WORDS[capability] for capability in sorted(missing))


def _head(suite: AskedSuite | MeasuredSuite, subject: Subject, tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    settings = suite.mapping()
    asked = {name: value for name, value in settings.items() if name not in SPEED}
    fingerprints = {name: task["fingerprint"] for name, task in tasks.items()}
    model = {**subject.describe(), "name": subject.name, "capabilities": sorted(subject.capabilities)}
    return {
        "format": FORMAT,
        "suite": suite.name,
        "settings": settings,
        "settings_hash": identity([asked, fingerprints]),
        "tasks": tasks,
        "model": model,
        "model_hash": identity(model),
        "seed": suite.seed,
        "lengths": list(suite.lengths),
        "provenance": provenance(),
    }


def _counts(file: ResultFile) -> Iterator[RowCount]:
    cells = file.result.cells
    for task, length in dict.fromkeys((cell.task, cell.length) for cell in cells):
        row = [answers for cell, answers in cells.items() if (cell.task, cell.length) == (task, length)]
        yield RowCount(task, length, sum(cell.prefilled for cell in row), sum(cell.naive for cell in row))


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
