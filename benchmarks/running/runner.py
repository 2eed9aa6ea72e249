"""Runs a suite on a model, cell by cell.

    outcome = evaluate(NeedleSuite(), subject, Path("results/retnet"))      # writes results/retnet/needle.jsonl

A suite that asks is worked off job by job (`farfield.benchmarks.running.questions`), by this process or by several
(`farfield.benchmarks.running.workers`); one that measures is measured cell by cell, here alone, so that nothing
disturbs it.
Each finished cell is written at once; the same call goes on where a stopped one ended.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from farfield.benchmarks.provenance import provenance
from farfield.benchmarks.running.chat import chat_notes
from farfield.benchmarks.running.patience import Patient
from farfield.benchmarks.running.questions import Questions, lacking, skipping
from farfield.benchmarks.running.result_file import ResultFile
from farfield.benchmarks.running.results import FORMAT, Cell, Result, identity
from farfield.benchmarks.running.workers import Work, spread
from farfield.benchmarks.subjects.subject import Lacking, Subject, TemporaryError
from farfield.benchmarks.suites.suite import AskedSuite, MeasuredSuite
from farfield.progress import Bar, say

__all__ = ["Outcome", "RowCount", "evaluate"]

# These settings say how fast, not what: a run can be resumed with others.
SPEED = ("batch", "batch_tokens", "cell_seconds")
REASON = 60  # characters of why a cell is skipped that stand behind the bar


@dataclass(frozen=True)
class RowCount:
    """Tokens prefilled for a row of the grid, and what they would be without shared prefixes."""

    task: str
    length: int
    prefilled: int
    naive: int


@dataclass(frozen=True)
class Outcome:
    """What an evaluation wrote. The counts are those of the whole file, earlier runs included.

    failed:  those of the skipped cells that failed for now; the same call would try them again
    refused: those that the model's server does not take; the same call would try these too
    ties:    steps of greedy generation, targets and choices that rounding decides
    silent:  samples for which the model never came to an answer
    """

    path: Path
    cells: int
    skipped: int
    failed: int
    refused: int
    ties: int
    silent: int
    rows: tuple[RowCount, ...]

    @property
    def prefilled(self) -> int:
        return sum(row.prefilled for row in self.rows)

    @property
    def naive(self) -> int:
        return sum(row.naive for row in self.rows)


def evaluate(
    suite: AskedSuite | MeasuredSuite,
    subject: Subject,
    folder: Path,
    *,
    retries: int = 0,
    processes: int = 1,
    opened: Callable[[], Subject] | None = None,
) -> Outcome:
    """Evaluates what is not yet in `folder/<suite>.jsonl`.

    Args:
        suite: what is asked. subject: who is asked. folder: where answers go.
        retries: how often a subject that cannot answer for now is asked again, after 1, 2, 4, ... seconds.
        processes: how many work off a suite that asks, each with a subject that `opened`, which can be pickled, gives.

    Raises:
        ConfigError, DataError: the suite does not fit the model or itself; nothing has been evaluated then.
        KeyboardInterrupt: after a line on standard error that says how to go on.
    """
    assert processes == 1 or opened is not None, "other processes open the subject themselves"
    work: _Questions | _Measures = (
        _Measures(suite, subject, retries)
        if isinstance(suite, MeasuredSuite)
        else (_Questions(suite, subject, retries))
    )
    with ResultFile(folder / f"{suite.name}.jsonl", work.head()) as file:
        _tell(file)
        result = file.result
        _reopen(result, suite)
        try:
            with Bar(suite.name, total=len(work.cells), unit="cells", done=result.done) as bar:
                sink = _Sink(file, bar)
                if isinstance(work, _Questions) and processes > 1 and opened is not None:
                    jobs = work.questions.jobs(result)
                    spread(Work(work.questions.suite, opened, retries, result.head), jobs, processes, sink)
                else:
                    work.run(sink)
        except KeyboardInterrupt:
            some = f"{result.done} of {len(work.cells)} cells"
            say(f"stopped: {some} are in {file.path}. The same command goes on from there.")
            raise
    return _outcome(result)


def _tell(file: ResultFile) -> None:
    """What became of an older file."""
    if file.aside:
        say(f"{file.path} was made with {file.why}: it is kept as {file.aside}.")
    if file.result.dropped:
        lines = ", ".join(map(str, file.result.dropped))
        many = len(file.result.dropped) > 1
        what = f"lines {lines} were no result records and are" if many else f"line {lines} was no result record and is"
        say(f"{file.path}: {what} left out. What they told is evaluated again.")


def _reopen(result: Result, suite: AskedSuite | MeasuredSuite) -> None:
    """Cells that were closed early go on, or begin again, where they may take longer now."""
    more = math.inf if suite.cell_seconds is None else suite.cell_seconds
    for cell, answers in list(result.cells.items()):
        if answers.capped and answers.seconds < more:
            result.parts[cell] = replace(result.cells.pop(cell), capped=False)
    for cell, measured in list(result.measured.items()):
        if measured.capped and measured.seconds < more:
            del result.measured[cell]  # it has no parts: it is measured again


def _outcome(result: Result) -> Outcome:
    done = len(result.cells) + len(result.measured)
    ties = sum(answers.ties for answers in result.cells.values())
    silent = sum(answers.silent for answers in result.cells.values())
    failed, refused = len(result.failed - result.refused), len(result.refused)
    return Outcome(result.path, done, len(result.skipped), failed, refused, ties, silent, tuple(_counts(result)))


@dataclass
class _Sink:
    """The file and the bar: where every record goes. `skipped` counts the cells of each reason."""

    file: ResultFile
    bar: Bar
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def result(self) -> Result:
        return self.file.result

    def add(self, kind: str, cell: Cell, content: Mapping[str, Any]) -> None:
        """Writes a record, and tells of it."""
        self.file.add(kind, cell, content)
        if kind == "skip":
            self.skipped[str(content["reason"])] += 1
            self.bar.step(note=_skips(self.skipped, str(content["reason"])))
        elif kind != "part":
            self.bar.step(note=_note(kind, cell, content))

    def read(self, tokens: int) -> None:
        """Tells how much has been read since the last cell."""
        self.bar.count(tokens, "tokens")


class _Questions:
    """The cells of a suite that asks."""

    def __init__(self, suite: AskedSuite, subject: Subject, patience: int) -> None:
        self.questions = Questions(suite, subject, patience)
        self.cells = self.questions.cells

    def head(self) -> dict[str, Any]:
        suite = self.questions.suite
        head = _head(suite, self.questions.subject, self.questions.described())
        subject, tasks = self.questions.subject.subject, self.questions.tasks.values()
        notes = [*suite.told(subject.tokenizer), *chat_notes(subject, list(tasks))]
        return head | {"depths": list(suite.places()), "notes": notes}

    def run(self, sink: _Sink) -> None:
        for job in self.questions.jobs(sink.result):
            self.questions.run(job, sink)


class _Measures:
    """The cells of a suite that measures."""

    def __init__(self, suite: MeasuredSuite, subject: Subject, patience: int) -> None:
        self.suite, self.subject = suite, Patient(subject, patience)
        self.needs = dict(suite.cells(subject))
        self.cells = list(self.needs)

    def head(self) -> dict[str, Any]:
        tasks = {
            name: {"fingerprint": self.suite.fingerprint, "metric": "", "labels": dict(labels), "placed": False}
            for name, labels in self.suite.labels().items()
        }
        return _head(self.suite, self.subject, tasks) | {"depths": [None]}

    def run(self, sink: _Sink) -> None:
        for cell in self.cells:
            if sink.result.has(cell):
                continue
            missing = self.needs[cell] - self.subject.capabilities
            if missing:
                sink.add("skip", cell, {"reason": lacking(missing)})
                continue
            try:
                sink.add("measured", cell, asdict(self.suite.measure(self.subject, cell)))
            except (Lacking, TemporaryError) as reason:
                sink.add("skip", cell, skipping(reason))


def _skips(skipped: Counter[str], last: str) -> str:
    """How many cells are skipped and for how many reasons, with the beginning of the last one."""
    reasons = f", {len(skipped)} reasons" if len(skipped) > 1 else ""
    return f"{sum(skipped.values())} skipped{reasons}: {textwrap.shorten(last, REASON, placeholder=' ...')}"


def _note(kind: str, cell: Cell, content: Mapping[str, Any]) -> str:
    """What a record says, in a few words."""
    depth = "" if cell.depth is None else f" depth {cell.depth:.2f}"
    condition = "" if cell.condition == "full" else f" {cell.condition}"
    where = f"{cell.task} {cell.length} tokens{depth}{condition}"
    if kind == "measured":
        name, value = next(iter(content["values"].items()))
        return f"{where}: {name} {value:.4g}"
    return f"{where}: {content['score']:.0%}, {content['prefilled'] / max(content['seconds'], 1e-9):.3g} tokens/s"


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


def _counts(result: Result) -> Iterator[RowCount]:
    cells = result.cells
    for task, length in dict.fromkeys((cell.task, cell.length) for cell in cells):
        row = [answers for cell, answers in cells.items() if (cell.task, cell.length) == (task, length)]
        yield RowCount(task, length, sum(cell.prefilled for cell in row), sum(cell.naive for cell in row))
