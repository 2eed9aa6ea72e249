"""metrics.csv: one line a logged step, appended and never rewritten.

    step,loss,validation_loss,learning_rate,gradient_norm,tokens,tokens_per_second
    10,5.21,,0.00019,1.83,20480,31250.0
    20,4.87,4.91,0.00039,1.12,40960,31177.2

loss and validation_loss are in nats a scored token; the loss is that of the step alone. tokens counts all that were
read since the run began, padding left out. A model whose layers tell more has a column for each number behind these:
balance, the routers' loss, and load.<layer>.<expert>, an expert's share of the choices.

A run that was killed does its last steps again when it goes on, and so may write a step twice, with the same loss:
readers take the last line of a step.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

__all__ = ["COLUMNS", "FILE", "Metrics", "Row", "read_metrics"]

FILE = "metrics.csv"
COLUMNS = ("step", "loss", "validation_loss", "learning_rate", "gradient_norm", "tokens", "tokens_per_second")

Row = dict[str, float]
"""Values by column; a column that was not measured in this step is absent."""


class Metrics:
    """Appends lines to a file, each of them handed to the operating system at once: a killed process loses none."""

    def __init__(self, file: Path, more: Sequence[str] = ()) -> None:
        """`more`: columns behind the usual ones. A file that is there keeps its own."""
        self.file, self.columns = file, (*COLUMNS, *more)
        self.stream: io.TextIOWrapper | None = None

    def __enter__(self) -> Metrics:
        fresh = not self.file.is_file() or self.file.stat().st_size == 0
        torn = not fresh and not _ends_in_newline(self.file)
        self.stream = self.file.open("a", encoding="utf-8", newline="")
        if fresh:
            self._write(list(self.columns))
        if torn:  # the process died within a line; readers pass over what is left of it
            self.stream.write("\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def append(self, row: Row) -> None:
        """One line."""
        self._write([_spelled(column, row.get(column)) for column in self.columns])

    def _write(self, values: list[str]) -> None:
        assert self.stream is not None
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(values)
        self.stream.write(line.getvalue())
        self.stream.flush()


def read_metrics(file: Path) -> list[Row]:
    """The lines of a metrics.csv by step, the last one of each; empty if there is no such file.

    A line that a killed process left unfinished is passed over.
    """
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        header, *lines = list(csv.reader(stream)) or [[]]
    rows: dict[int, Row] = {}
    for line in lines:
        row = _row(header, line)
        if row is not None:
            rows[int(row["step"])] = row
    return [rows[step] for step in sorted(rows)]


def _row(header: list[str], line: list[str]) -> Row | None:
    """The values of a line, None where it is not whole."""
    if len(line) != len(header):
        return None
    try:
        row = {column: float(value) for column, value in zip(header, line, strict=True) if value}
    except ValueError:
        return None
    return row if "step" in row else None


def _spelled(column: str, value: float | None) -> str:
    """A value so that reading it gives the same number again."""
    if value is None:
        return ""
    return str(int(value)) if column in ("step", "tokens") else repr(float(value))


def _ends_in_newline(file: Path) -> bool:
    with file.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
