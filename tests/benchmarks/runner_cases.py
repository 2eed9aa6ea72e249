"""What the tests of the runner share: a small suite, what a file holds, a stop at a call."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from oracle import Lookup, Numbers

from farfield.benchmarks.running.results import Cell, read_result
from farfield.benchmarks.suites.needle import NeedleSuite
from farfield.config import read

IDS = Numbers(128)


def suite(**changes: Any) -> NeedleSuite:
    return read(NeedleSuite, {"lengths": [32, 64], "depths": 5, "samples": 4, "controls": [], **changes})


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answers(path: Path) -> dict[Cell, tuple[list[float], list[str]]]:
    """What was answered, without what depends on how it was run."""
    return {cell: (got.scores, got.outputs) for cell, got in read_result(path).cells.items()}


def stop_at(call: int) -> Callable[[Lookup], None]:
    """A stop by Ctrl-C at this prefill."""

    def before(subject: Lookup) -> None:
        if subject.calls == call:
            raise KeyboardInterrupt

    return before
