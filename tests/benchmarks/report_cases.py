"""What the tests of reports share: a threshold, small results, and tables as plain texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oracle import Lookup, Numbers
from rich.console import Console

from farfield.benchmarks.reports.table import Table
from farfield.benchmarks.reports.tables import tables
from farfield.benchmarks.reports.terminal import drawn
from farfield.benchmarks.running.results import Result, read_result
from farfield.benchmarks.running.runner import evaluate
from farfield.benchmarks.suites.needle import NeedleSuite
from farfield.config import read

IDS = Numbers(128)


THRESHOLD = 0.856


def entries(table: Table) -> dict[tuple[str, ...], list[str]]:
    """The texts of a table by the heads of their rows; heads that are left out are those of the row above."""
    found, above = {}, ("",)
    for row in table.rows:
        above = (row.heads[0] or above[0], *row.heads[1:])
        found[above] = [entry.text for entry in row.entries]
    return found


def result(folder: Path, window: int = 1 << 40, name: str = "lookup", **changes: Any) -> Result:
    suite = read(NeedleSuite, {"lengths": [32, 64, 128], "depths": 5, "samples": 4, "controls": [], **changes})
    subject = Lookup(IDS, window, name=name, extra={"trained_length": 32})
    return read_result(evaluate(suite, subject, folder / name).path)


def printed(results: list[Result]) -> str:
    console = Console(width=110, record=True, file=open("/dev/null", "w"), force_terminal=False)  # noqa: SIM115, PTH123
    with console.file:
        console.print(*map(drawn, tables(results, THRESHOLD)))
        return console.export_text()
