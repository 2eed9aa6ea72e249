from __future__ import annotations

import pytest

from farfield import progress
from farfield.progress import Bar


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("total", "done", "seconds", "line"),
    [
        (100, 10, 20.0, "x: 10/100 kB, 0.5 kB/s, 3:00 left, two"),
        (100_000, 10, 20.0, "x: 10/100000 kB, 0.5 kB/s, 55:33:00 left, two"),
        (100, 100, 20.0, "x: 100/100 kB, 5 kB/s, two"),
        (None, 10, 20.0, "x: 10 kB, 0.5 kB/s, two"),
    ],
)
def test_rate_and_time_left_are_told(
    total: int | None,
    done: int,
    seconds: float,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    with Bar("x", total=total, unit="kB") as bar:
        clock.now = seconds
        bar.step(done, note="two")
        assert capsys.readouterr().err == f"{line}\n"


def test_what_is_read_within_a_step_is_told_until_the_step_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    with Bar("x", total=2, unit="cells") as bar:
        bar.count(60_000, "tokens")
        assert capsys.readouterr().err == ""
        clock.now = 20.0
        bar.count(60_000, "tokens")
        assert capsys.readouterr().err == "x: 0/2 cells, 0 cells/s, 120,000 tokens of the next\n"
        bar.step(note="one")
        clock.now = 40.0
        bar.count(5, "tokens")
        assert capsys.readouterr().err == "x: 1/2 cells, 0.025 cells/s, 0:40 left, one, 5 tokens of the next\n"
