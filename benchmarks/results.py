"""Result files: one JSON object a line, written as the work goes on, so that a stopped run can be resumed.

    {"record": "head", ...}       settings, model, seed, commit, machine, versions
    {"record": "part", ...}       the first samples of a cell that is evaluated in several batches
    {"record": "cell", ...}       a finished cell of questions
    {"record": "measured", ...}   a finished cell of a suite that measures: perplexity, speed, retrieval
    {"record": "skip", ...}       a cell that the model cannot do, with the reason
    {"record": "resumed", ...}    commit, machine and versions of a later run that went on

A last line without its end was cut off while it was written: it is discarded. A file of other settings, another model
or another version is never written to: it is kept aside under a numbered name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from farfield.benchmarks.tasks.sample import Condition
from farfield.config import DataError

__all__ = ["FORMAT", "Answers", "Cell", "Curve", "Measured", "Result", "ResultFile", "identity", "read_result"]

FORMAT = 2
IDENTITY = {"format": "another version", "settings_hash": "other settings", "model_hash": "another model"}


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
    ties:       steps of greedy generation at which the two likeliest ids were equal but for rounding
    unfilled:   why a sample fills less than 98 % of its length; "" if all do
    capped:     whether the cell was closed before all of its samples, because its time was over
    prefilled:  tokens that were prefilled for these samples and not for earlier cells already
    naive:      tokens of their prompts
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

    @property
    def length(self) -> int:
        """Of the longest sample."""
        return max(self.lengths)

    @property
    def hits(self) -> int:
        """Samples that were answered in full."""
        return sum(score == 1 for score in self.scores)

    @property
    def score(self) -> float:
        return sum(self.scores) / len(self.scores)

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


@dataclass
class Result:
    """What a result file holds."""

    path: Path
    head: dict[str, Any]
    cells: dict[Cell, Answers] = field(default_factory=dict)
    parts: dict[Cell, Answers] = field(default_factory=dict)
    measured: dict[Cell, Measured] = field(default_factory=dict)
    skipped: dict[Cell, str] = field(default_factory=dict)
    resumed: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.head["model"]["name"])

    @property
    def done(self) -> int:
        """Cells that need not be evaluated any more."""
        return len(self.cells) + len(self.measured) + len(self.skipped)

    def has(self, cell: Cell) -> bool:
        """Whether `cell` need not be evaluated any more."""
        return cell in self.cells or cell in self.measured or cell in self.skipped

    def add(self, record: Mapping[str, Any]) -> None:
        """Takes in any record but the head."""
        if record["record"] == "resumed":
            self.resumed.append(dict(record["provenance"]))
            return
        cell = Cell(record["task"], record["grid_length"], record["grid_depth"], record["condition"])
        match record["record"]:
            case "cell":
                self.cells[cell] = _answers(record)
                self.parts.pop(cell, None)
            case "part":
                part = _answers(record)
                self.parts[cell] = self.parts[cell].then(part) if part.first else part
            case "measured":
                self.measured[cell] = _measured(record)
            case "skip":
                self.skipped[cell] = record["reason"]
            case other:
                raise KeyError(other)


class ResultFile:
    """A result file that is being written.

    result: what it holds
    aside:  where an older file of other settings, another model or another version was put, and `why`
    """

    aside: Path | None

    def __init__(self, path: Path, head: Mapping[str, Any]) -> None:
        """Opens `path`: goes on with it if it has this head's identity, else starts it anew."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.aside, old = path, None, _mend(path)
        self.why = _difference(old, head) if old else ""
        if self.why:
            self.aside, old = _keep_aside(path), None
        self.result = read_result(path) if old else Result(path, dict(head))
        self._append({"record": "resumed", "provenance": head["provenance"]} if old else {"record": "head", **head})

    def add(self, kind: str, cell: Cell, content: Mapping[str, Any]) -> None:
        """Writes a record about `cell` and takes it into `result`."""
        place = {
            "task": cell.task,
            "grid_length": cell.length,
            "grid_depth": cell.depth,
            "condition": cell.condition,
        }
        record = {"record": kind, **place, **content}
        self._append(record)
        self.result.add(record)

    def _append(self, record: Mapping[str, Any]) -> None:
        """One line, by one write, on the disk when this returns."""
        with self.path.open("ab") as file:
            file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def read_result(path: Path) -> Result:
    """The result file at `path`, finished or not.

    Raises:
        DataError: it does not exist, or is no result file of this version.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}. Run farfield evaluate first.") from None
    # What follows the last line's end was cut off.
    lines = content.split(b"\n")[:-1]
    if not lines:
        raise DataError(f"{path}: empty. Run farfield evaluate again.")
    result = Result(path, _head(path, lines[0]))
    if result.head["format"] != FORMAT:
        raise DataError(f"{path}: format {result.head['format']} given, this version reads {FORMAT}. Evaluate again.")
    for number, line in enumerate(lines[1:], start=2):
        try:
            result.add(json.loads(line))
        except (ValueError, LookupError, TypeError):
            raise _broken(path, number) from None
    return result


def identity(value: object) -> str:
    """A short hash of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _answers(record: Mapping[str, Any]) -> Answers:
    return Answers(**{name: record[name] for name in Answers.__dataclass_fields__})


def _measured(record: Mapping[str, Any]) -> Measured:
    fields = {name: record[name] for name in Measured.__dataclass_fields__}
    return Measured(**{**fields, "curves": {name: Curve(**curve) for name, curve in record["curves"].items()}})


def _mend(path: Path) -> dict[str, Any] | None:
    """Cuts off the last line of the file at `path` if it is half written; its head, None if it has none."""
    if not path.exists():
        return None
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return _head(path, whole.split(b"\n")[0]) if whole else None


def _head(path: Path, line: bytes) -> dict[str, Any]:
    try:
        head: dict[str, Any] = json.loads(line)
        head["format"], head["model"]["name"], head["depths"]
    except (ValueError, LookupError, TypeError):
        raise _broken(path, 1) from None
    return head


def _broken(path: Path, number: int) -> DataError:
    return DataError(f"{path}: line {number} is no result record. Move the file away and evaluate again.")


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Why results of the two heads do not go together; empty if they do."""
    return " and ".join(words for key, words in IDENTITY.items() if old.get(key) != new[key])


def _keep_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    return path.rename(aside)


def record_of(answers: Answers) -> dict[str, Any]:
    """The fields of a part or cell record."""
    return {**asdict(answers), "samples": len(answers.scores), "hits": answers.hits, "score": answers.score}
