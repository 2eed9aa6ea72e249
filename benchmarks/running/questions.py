"""The cells of a suite that asks, as jobs: each is what one task asks at one length in one condition.

    questions = Questions(suite, subject)
    for job in questions.jobs(result):      # what a result file does not have yet
        questions.run(job, records)         # writes parts, cells and skips as they come

A job is plain data, so that another process can do it with a subject of its own. The samples of a job go through the
model in batches (`farfield.benchmarks.running.asking`): prompts at all depths share the prefill of what they
have in common, and so do samples that ask about one text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from farfield.benchmarks.running.asking import Asking, Batch, needed
from farfield.benchmarks.running.chat import turn_of
from farfield.benchmarks.running.patience import Patient
from farfield.benchmarks.running.prefixes import alike
from farfield.benchmarks.running.results import Answers, Cell, Result, metric_of, record_of
from farfield.benchmarks.subjects.subject import Capability, Lacking, Refused, Subject, TemporaryError
from farfield.benchmarks.suites.suite import AskedSuite
from farfield.benchmarks.tasks.sample import Condition, Finite, LackingError, Sample, Scoring, Task, TooShortError
from farfield.config import ConfigError

__all__ = ["Job", "Questions", "Records", "lacking", "skipping"]

TOKENS = 1 << 25  # tokens of samples that are made at once
WORDS: dict[Capability, str] = {
    "state": "keeps a state",
    "generate": "writes",
    "score": "tells how likely a continuation is",
    "read": "tells what is likely at every position",
    "memory": "has an external memory",
}


class Records(Protocol):
    """Where answers go."""

    @property
    def result(self) -> Result:
        """What is known so far."""
        ...

    def add(self, kind: str, cell: Cell, content: Mapping[str, Any]) -> None:
        """Takes a record in."""
        ...

    def read(self, tokens: int) -> None:
        """So many tokens have been read of cells that are not done yet."""
        ...


@dataclass(frozen=True)
class Job:
    """Cells of one task, length and condition, at all depths, and the samples of them that are known already."""

    task: str
    length: int
    condition: Condition
    cells: tuple[Cell, ...]
    parts: Mapping[Cell, Answers] = field(default_factory=dict)


class Questions:
    """The cells of a suite that asks, for one subject."""

    def __init__(self, suite: AskedSuite, subject: Subject, patience: int = 0) -> None:
        """The tasks are made; what cannot be asked is known by then.

        Raises:
            ConfigError, DataError: the suite does not fit the model or itself.
        """
        self.suite, self.subject = suite, Patient(subject, patience)
        self.tasks = {task.name: task for task in suite.tasks(subject.tokenizer)}
        self.unfit = self._unfit()
        self.rows = [(task, length) for task in self.tasks.values() for length in suite.lengths]
        self.cells = [cell for task, length in self.rows for cell in self._cells(task, length)]

    def _unfit(self) -> dict[tuple[str, int], dict[str, Any]]:
        """Why the samples of a task and length cannot be made or judged: the fields of the records of their cells."""
        suite = self.suite
        found: dict[tuple[str, int], ConfigError] = {}
        for task in self.tasks.values():
            if suite.scoring is not None and suite.scoring not in task.scorings:
                given = f"scoring: {suite.scoring} given, and {task.name} is judged by {' or '.join(task.scorings)}"
                found |= {(task.name, length): ConfigError(f"{given}.") for length in suite.lengths}
                continue
            for length in suite.lengths:
                try:
                    task.check(suite.seed, length, samples_of(suite, task, length), suite.split)
                except LackingError as error:
                    found[task.name, length] = error
        if len(found) == len(self.tasks) * len(suite.lengths):
            raise next(iter(found.values()))
        return {
            place: {"reason": str(error), **({"short": True} if isinstance(error, TooShortError) else {})}
            for place, error in found.items()
        }

    def _cells(self, task: Task, length: int) -> list[Cell]:
        grid = [Cell(task.name, length, depth) for depth in (self.suite.places() if task.placed else (None,))]
        return grid + [Cell(task.name, length, None, condition) for condition in self.suite.conditions]

    def described(self) -> dict[str, dict[str, Any]]:
        """The tasks, as a result file's head has them."""
        return {
            task.name: {
                "fingerprint": task.fingerprint,
                "metric": metric_of(task.metric, scoring_of(self.suite, task)),
                "labels": dict(task.labels),
                "placed": task.placed,
                "scoring": scoring_of(self.suite, task),
            }
            for task in self.tasks.values()
        }

    def jobs(self, result: Result) -> list[Job]:
        """What `result` does not have yet."""
        found = []
        for task, length in self.rows:
            left = [cell for cell in self._cells(task, length) if not result.has(cell)]
            for condition in dict.fromkeys(cell.condition for cell in left):
                cells = tuple(cell for cell in left if cell.condition == condition)
                parts = {cell: result.parts[cell] for cell in cells if cell in result.parts}
                found.append(Job(task.name, length, condition, cells, parts))
        return found

    def run(self, job: Job, records: Records) -> None:
        """Evaluates the cells of a job."""
        task = self.tasks[job.task]
        subject = self.subject.taking(turn_of(task))
        missing = needed(scoring_of(self.suite, task), job.condition) - subject.capabilities
        told = self.unfit.get((job.task, job.length)) or ({"reason": lacking(missing)} if missing else None)
        if told:
            for cell in job.cells:
                records.add("skip", cell, told)
            return
        _Running(self.suite, subject, records, task, job).run()


class _Running:
    """A job that is being done."""

    def __init__(self, suite: AskedSuite, subject: Subject, records: Records, task: Task, job: Job) -> None:
        self.suite, self.subject, self.records, self.task, self.job = suite, subject, records, task, job
        self.samples = samples_of(suite, task, job.length)
        self.abreast = max(1, min(suite.batch, suite.batch_tokens // job.length))
        scoring = scoring_of(suite, task)
        self.how = Asking(task, scoring, job.condition, suite.seed, self.abreast, records.read)
        self.stock: list[Sample] = []  # of the indices from `stocked` on
        self.stocked = self.in_stock = 0

    def run(self) -> None:
        """Batch by batch, until every cell is done or given up."""
        left = [cell for cell in self.job.cells if not self._closed(cell)]
        # Cells of a stopped run may be behind others: those behind go first, until all have caught up.
        while left:
            reached = {cell: self._reached(cell) for cell in left}
            first = min(reached.values())
            end = min([self.samples, *(at for at in reached.values() if at > first)])
            due = [cell for cell in left if reached[cell] == first]
            try:
                samples, count = self._made(due, first, end - first)
                Batch(self.how, self.subject, samples, first, count).run(self._take)
            except (Lacking, TemporaryError) as reason:
                self._skip(due, skipping(reason))
                left = [cell for cell in left if cell not in due]
            left = [cell for cell in left if not self.records.result.has(cell)]

    def _skip(self, cells: Sequence[Cell], content: Mapping[str, Any]) -> None:
        for cell in cells:
            if not self.records.result.has(cell):
                self.records.add("skip", cell, content)

    def _reached(self, cell: Cell) -> int:
        """The first index of `cell` that has not been evaluated."""
        part = self.records.result.parts.get(cell)
        return part.count if part else 0

    def _made(self, cells: Sequence[Cell], first: int, most: int) -> tuple[dict[Cell, list[Sample]], int]:
        """The samples of the next batch, of at most `most` indices, and how many indices they are of.

        As many as are read side by side, and as many more as go on asking about the text of the one before; never
        more than there is time for.
        """
        most = min(most, self._timely(cells))
        count = min(self.abreast, most)
        if len(cells) > 1:
            return {cell: self._generated(cell, first, count) for cell in cells}, count
        if first < self.stocked or first + count > self.stocked + self.in_stock:
            self.stocked, self.in_stock = first, min(most, max(count, self._held()))
            self.stock = self._generated(cells[0], first, self.in_stock)
        each = len(self.stock) // self.in_stock
        samples = self.stock[(first - self.stocked) * each :]
        limit = min(len(samples) // each, max(count, self.suite.batch), most)
        while count < limit and alike(samples[count * each - 1].prompt, samples[count * each].prompt):
            count += 1
        return {cells[0]: samples[: count * each]}, count

    def _timely(self, cells: Sequence[Cell]) -> int:
        """The indices that there is time for in each of `cells`, judged by those that are done: one where none is."""
        if self.suite.cell_seconds is None:
            return self.samples
        parts = [self.records.result.parts.get(cell) for cell in cells]
        left = [part.count * (self.suite.cell_seconds / max(part.seconds, 1e-6) - 1) if part else 1 for part in parts]
        return max(1, math.floor(min(self.samples, *left)))

    def _held(self) -> int:
        """Samples that are made at once, and kept until they are asked."""
        return min(self.suite.batch, TOKENS // self.job.length)

    def _generated(self, cell: Cell, first: int, count: int) -> list[Sample]:
        suite = self.suite
        return self.task.generate(suite.seed, cell.length, count, suite.split, depth=cell.depth, first=first)

    def _take(self, cell: Cell, answers: Answers) -> None:
        """Writes new answers: a part, or the whole cell when these were the last or its time is over."""
        before = self.records.result.parts.get(cell)
        whole = before.then(answers) if before else answers
        if whole.count == self.samples:
            self._close(cell, whole, capped=False)
        elif self._over(whole):
            self._close(cell, whole, capped=True)
        else:
            self.records.add("part", cell, record_of(answers))

    def _closed(self, cell: Cell) -> bool:
        """Closes a cell of which an earlier run has left as much as its time allows now."""
        part = self.records.result.parts.get(cell)
        if part is None or not self._over(part):
            return False
        self._close(cell, part, capped=True)
        return True

    def _over(self, answers: Answers) -> bool:
        return self.suite.cell_seconds is not None and answers.seconds >= self.suite.cell_seconds

    def _close(self, cell: Cell, answers: Answers, capped: bool) -> None:
        state = {"state_bytes": self.subject.state_bytes(cell.length), "suite": self.suite.name}
        told = {"settings_hash": self.records.result.head["settings_hash"]}
        self.records.add("cell", cell, {**record_of(answers), "capped": capped, **state, **told})


def scoring_of(suite: AskedSuite, task: Task) -> Scoring:
    """How a task of a suite is judged: as asked for, or in its usual way."""
    return task.scorings[0] if suite.scoring is None else suite.scoring


def samples_of(suite: AskedSuite, task: Task, length: int) -> int:
    """The indices of each cell of a task and length: as many as are asked for, or all that there are.

    Raises:
        LackingError: there are none.
    """
    return min(suite.samples, task.available(length, suite.split)) if isinstance(task, Finite) else suite.samples


def skipping(reason: Lacking | TemporaryError) -> dict[str, Any]:
    """The fields of the record of a skipped cell: `failed` where the next run tries it again."""
    again = isinstance(reason, Refused | TemporaryError)
    told = {"failed": True} if again else {}
    return {"reason": str(reason), **told, **({"refused": True} if isinstance(reason, Refused) else {})}


def lacking(missing: frozenset[Capability]) -> str:
    """What a model would need to be able to do."""
    return "needs a model that " + " and ".join(WORDS[capability] for capability in sorted(missing))
