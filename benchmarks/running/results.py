"""Result files: one JSON object a line, written as the work goes on, so that a stopped run can be resumed.

    {"record": "head", ...}       settings, model, seed, commit, machine, versions
    {"record": "part", ...}       the first samples of a cell that is evaluated in several batches
    {"record": "cell", ...}       a finished cell of questions
    {"record": "measured", ...}   a finished cell of a suite that measures: perplexity, speed, retrieval
    {"record": "skip", ...}       a cell that the model cannot do, with the reason; `failed`: one that a later run tries
                                  again, `refused`: one of them that the model's server does not take now; `short`: one
                                  whose length is too short for the task
    {"record": "resumed", ...}    commit, machine and versions of a later run that went on

Lines that are no records are left out: of a file that was cut off or damaged, or with values of another type.
`farfield.benchmarks.running.result_file` is what writes them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pydantic

from farfield.benchmarks.tasks.ruler.scoring import nulls
from farfield.benchmarks.tasks.sample import Condition
from farfield.config import DataError

__all__ = [
    "FORMAT",
    "Answers",
    "Cell",
    "Curve",
    "Measured",
    "Result",
    "identity",
    "metric_of",
    "read_head",
    "read_result",
    "record_about",
    "record_of",
]

FORMAT = 2
CHOICE = "choice accuracy"
AMOUNTS = frozenset({"tokens/s", "ms/token", "s", "bytes"})  # units of what things cost


@dataclass(frozen=True)
class Cell:
    """One square of the grid. `depth` is the nominal one, None where a task has none or in a control."""

    task: str
    length: int
    depth: float | None = None
    condition: Condition = "full"


@dataclass(frozen=True)
class Answers:
    """What the samples of the indices `first` to `first + count - 1` of one cell gave. Lists have an entry a sample.

    scoring:    how they were judged
    lengths:    of the samples, with the room for their answers, in tokens
    depths:     real depths of the gold
    logprobs:   log-probabilities of the gold in nats, where candidates are compared; else empty
    excerpts:   of samples that were not answered in full, the prompt around the gold and its end; else ""
    ties:       answers that rounding decides: steps of greedy generation and targets within a text at which the two
                likeliest ids were equal but for rounding, and samples whose likeliest choices were
    unfilled:   why a sample fills less than 98 % of its length; "" if all do
    capped:     whether the cell was closed before all of its samples, because its time was over
    prefilled:  tokens that were prefilled for these samples and not for earlier cells already
    naive:      tokens of their prompts
    chances:    scores to be expected of guessing, where candidates are compared; else empty
    silent:     samples for which the model never came to an answer: its thoughts took the room
    """

    first: int
    count: int
    scoring: str
    scores: list[float]
    lengths: list[int]
    depths: list[list[float]]
    outputs: list[str]
    answers: list[str]
    logprobs: list[float]
    excerpts: list[str]
    ties: int
    unfilled: str
    capped: bool
    prefilled: int
    naive: int
    seconds: float
    chances: list[float] = field(default_factory=list)  # files of before have neither this nor what follows
    silent: int = 0

    @property
    def length(self) -> int:
        """Of the longest sample."""
        return max(self.lengths)

    @property
    def hits(self) -> int:
        """Samples that were answered in full."""
        return sum(score == 1 for score in self.scores)

    @property
    def nulls(self) -> int:
        """Answers that were written and say nothing: a sign that something is wrong with a model or its prompts."""
        return nulls(self.outputs) if self.scoring == "generate" else 0

    @property
    def score(self) -> float:
        return sum(self.scores) / len(self.scores)

    def of_index(self, index: int) -> list[float]:
        """The scores of the samples that ask about the text of an index; none of one that was not asked."""
        each = len(self.scores) // self.count
        return self.scores[index * each : (index + 1) * each]

    def then(self, later: Answers) -> Answers:
        """These answers and those of the indices that follow."""
        assert later.first == self.first + self.count
        return Answers(
            first=self.first,
            count=self.count + later.count,
            scoring=self.scoring,
            scores=self.scores + later.scores,
            lengths=self.lengths + later.lengths,
            depths=self.depths + later.depths,
            outputs=self.outputs + later.outputs,
            answers=self.answers + later.answers,
            logprobs=self.logprobs + later.logprobs,
            excerpts=self.excerpts + later.excerpts,
            ties=self.ties + later.ties,
            unfilled=self.unfilled or later.unfilled,
            capped=self.capped or later.capped,
            prefilled=self.prefilled + later.prefilled,
            naive=self.naive + later.naive,
            seconds=self.seconds + later.seconds,
            chances=self.chances + later.chances,
            silent=self.silent + later.silent,
        )


@dataclass(frozen=True)
class Curve:
    """Numbers against numbers, with half of their 95 % intervals where these are known."""

    x: list[float]
    y: list[float]
    half: list[float] = field(default_factory=list)
    x_name: str = ""
    y_name: str = ""


@dataclass(frozen=True)
class Measured:
    """What a cell of a measuring suite gave.

    values:  numbers by name: {"bits_per_byte": 1.93, ...}; the first is shown where there is room for one
    half:    half of the 95 % interval of those of `values` that have one
    units:   of the values that have one: {"prefill": "tokens/s"}
    each:    the first value of each document, question or repeat, for paired comparisons
    curves:  pictures' worth of numbers by name
    notes:   what a reader should know, one sentence each
    capped:  whether it was closed before it had all of its documents, questions or repeats, because its time was over
    """

    values: dict[str, float]
    half: dict[str, float] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    each: list[float] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    prefilled: int = 0
    naive: int = 0
    seconds: float = 0.0
    capped: bool = False

    def interval(self, name: str) -> tuple[float, float] | None:
        """The ends of the 95 % interval of a value; what things cost is never below zero. None where it has none."""
        value, half = self.values[name], self.half.get(name)
        if half is None:
            return None
        low = max(0.0, value - half) if self.units.get(name) in AMOUNTS else value - half
        return low, value + half


@dataclass(frozen=True)
class _Head:
    """What every head of this version has, by type; its other fields are for people."""

    suite: str
    settings: dict[str, Any]
    settings_hash: str
    tasks: dict[str, dict[str, Any]]
    model: dict[str, Any]
    model_hash: str
    seed: int
    lengths: list[int]
    depths: list[float | None]
    provenance: dict[str, Any]


@dataclass
class Result:
    """What a result file holds.

    failed:  those of `skipped` that a later run tries again: they could not be evaluated for now
    refused: those of `failed` that the model's server does not take
    short:   those of `skipped` whose length is below what the task needs
    dropped: numbers of lines that are no records
    """

    path: Path
    head: dict[str, Any]
    cells: dict[Cell, Answers] = field(default_factory=dict)
    parts: dict[Cell, Answers] = field(default_factory=dict)
    measured: dict[Cell, Measured] = field(default_factory=dict)
    skipped: dict[Cell, str] = field(default_factory=dict)
    failed: set[Cell] = field(default_factory=set)
    refused: set[Cell] = field(default_factory=set)
    short: set[Cell] = field(default_factory=set)
    dropped: list[int] = field(default_factory=list)
    resumed: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.head["model"]["name"])

    @property
    def done(self) -> int:
        """Cells that need not be evaluated any more."""
        return len(self.cells) + len(self.measured) + len(self.skipped.keys() - self.failed)

    def metric(self, task: str) -> str:
        """What the scores of a task are called; "" of a task that is not known."""
        about = self.head["tasks"].get(task, {})
        return metric_of(about.get("metric", ""), about.get("scoring", ""))

    def has(self, cell: Cell) -> bool:
        """Whether `cell` need not be evaluated any more."""
        skipped = cell in self.skipped and cell not in self.failed
        return cell in self.cells or cell in self.measured or skipped

    def add(self, record: Mapping[str, Any]) -> None:
        """Takes in any record but the head.

        Raises:
            ValueError, LookupError, TypeError: it is none, or a part that does not go on where the one before ended.
        """
        if record["record"] == "resumed":
            self.resumed.append(dict(record["provenance"]))
            return
        cell = Cell(record["task"], record["grid_length"], record["grid_depth"], record["condition"])
        _require(Cell, asdict(cell))
        match record["record"]:
            case "cell":
                self.cells[cell] = _answers(record)
                self.parts.pop(cell, None)
            case "part":
                self.parts[cell] = self._gone_on(cell, _answers(record))
            case "measured":
                self.measured[cell] = _measured(record)
            case "skip":
                _require(str, record["reason"])
                self.skipped[cell] = record["reason"]
                (self.failed.add if record.get("failed") else self.failed.discard)(cell)
                (self.refused.add if record.get("refused") else self.refused.discard)(cell)
                (self.short.add if record.get("short") else self.short.discard)(cell)
                return
            case other:
                raise KeyError(other)
        self.skipped.pop(cell, None)
        self.failed.discard(cell)
        self.refused.discard(cell)
        self.short.discard(cell)

    def _gone_on(self, cell: Cell, part: Answers) -> Answers:
        """The samples of a cell so far, with a part."""
        if not part.first:
            return part
        if self.parts[cell].count != part.first:
            raise ValueError(f"samples from {part.first} on, where {self.parts[cell].count} are known")
        return self.parts[cell].then(part)


def read_result(path: Path) -> Result:
    """The result file at `path`, finished or not.

    Raises:
        DataError: it does not exist, or is no result file of this version.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}. Run farfield evaluate first.") from None
    if not content:
        raise DataError(f"{path}: empty. Run farfield evaluate again.")
    # What follows the last line's end was cut off.
    first, *lines = content.split(b"\n")
    cut = lines.pop() if lines else b""
    result = Result(path, read_head(path, first))
    if result.head["format"] != FORMAT:
        raise DataError(f"{path}: format {result.head['format']} given, this version reads {FORMAT}. Evaluate again.")
    for number, line in enumerate(lines, start=2):
        try:
            result.add(json.loads(line))
        except (ValueError, LookupError, TypeError):
            result.dropped.append(number)
    if cut:
        result.dropped.append(len(lines) + 2)
    return result


def metric_of(metric: str, scoring: str) -> str:
    """What a score is called: the published rule judges what was written, and a choice by likelihood is none of it."""
    return CHOICE if scoring == "likelihood" else metric


def identity(value: object) -> str:
    """A short hash of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def record_about(kind: str, cell: Cell, content: Mapping[str, Any]) -> dict[str, Any]:
    """A record as its line has it."""
    place = {"task": cell.task, "grid_length": cell.length, "grid_depth": cell.depth, "condition": cell.condition}
    return {"record": kind, **place, **content}


def _answers(record: Mapping[str, Any]) -> Answers:
    # Files of before lack fields that have defaults.
    fields = {name: record[name] for name in Answers.__dataclass_fields__ if name in record}
    _require(Answers, fields)
    answers = Answers(**fields)
    each = (answers.scores, answers.lengths, answers.depths, answers.outputs, answers.answers, answers.excerpts)
    if answers.count < 1 or not answers.scores or {len(one) for one in each} != {len(answers.scores)}:
        raise ValueError("no samples, or lists of several lengths")
    return answers


def _measured(record: Mapping[str, Any]) -> Measured:
    fields = {name: record[name] for name in Measured.__dataclass_fields__ if name in record}
    _require(Measured, fields)
    curves = {name: Curve(**curve) for name, curve in record["curves"].items()}
    if any(len(curve.x) != len(curve.y) or len(curve.half) not in (0, len(curve.y)) for curve in curves.values()):
        raise ValueError("a curve of lists of several lengths")
    return Measured(**{**fields, "curves": curves})


def _require(kind: type, value: object) -> None:
    """Raises a ValueError if `value`, of plain values, has not the types of `kind`, or holds numbers that are none."""
    # Strict reading of Python values would refuse a mapping for a class, so that it goes through JSON: but not as what
    # is kept, which may hold half of a pair.
    text = json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    _adapter(kind).validate_json(text, strict=True)


@cache
def _adapter(kind: type) -> pydantic.TypeAdapter[object]:
    return pydantic.TypeAdapter(kind)


def read_head(path: Path, line: bytes) -> dict[str, Any]:
    """The head of a result file, of any version, from its first line.

    Raises:
        DataError: it is none.
    """
    try:
        head: dict[str, Any] = json.loads(line)
        head["format"], head["model"]["name"], head["depths"]
        if head["format"] == FORMAT:
            _require(_Head, head)
    except (ValueError, LookupError, TypeError):
        raise _broken(path, 1) from None
    return head


def _broken(path: Path, number: int) -> DataError:
    return DataError(f"{path}: line {number} is no result record. Move the file away and evaluate again.")


def record_of(answers: Answers) -> dict[str, Any]:
    """The fields of a part or cell record."""
    return {**asdict(answers), "samples": len(answers.scores), "hits": answers.hits, "score": answers.score}
