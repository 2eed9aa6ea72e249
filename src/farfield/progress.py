"""One look for all long work: a bar with rate and time left on a terminal, an occasional line where there is none."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["Bar", "say"]

QUIET_SECONDS = 15.0


def say(line: str) -> None:
    """`line` on standard error: results go to standard output, and must stay readable by machines."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


class Bar:
    """Progress of one piece of work of `total` steps, on standard error.

        with Bar("ingest", total=len(files), unit="files") as bar:
            for file in files:
                ...
                bar.step(note=file.name)

    A terminal gets a live bar; anything else gets a line each 15 seconds and one at the end.
    """

    def __init__(self, title: str, total: int | None, unit: str = "steps", done: int = 0) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self.first, self.note, self.within = done, "", 0
        self.console = Console(stderr=True)
        self.began = self.spoke = time.monotonic()
        self.live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.live.add_task(title, total=total, completed=done, rate="", note="")

    def __enter__(self) -> Bar:
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()
        if not self.console.is_terminal:
            self._say("stopped" if kind else "done")

    def step(self, count: int = 1, note: str = "") -> None:
        """`count` more steps are done; `note` stands behind the bar."""
        self.done += count
        self.note, self.within = note, 0
        self.live.update(self.task, completed=self.done, rate=self._rate(), note=note)
        if not self.console.is_terminal and time.monotonic() - self.spoke > QUIET_SECONDS:
            self._say("")

    def count(self, count: int, unit: str) -> None:
        """`count` more `unit` of the step that is not done yet; they stand behind the bar."""
        self.within += count
        note = f"{self.note}; {self.within:,} {unit} of the next" if self.note else f"{self.within:,} {unit}"
        self.live.update(self.task, note=note)
        if not self.console.is_terminal and time.monotonic() - self.spoke > QUIET_SECONDS:
            self._say(f"{self.within:,} {unit} of the next")

    def _rate(self) -> str:
        rate = (self.done - self.first) / max(time.monotonic() - self.began, 1e-9)
        return f"{rate:.3g} {self.unit}/s"

    def _left(self) -> str:
        """The time left at the rate so far; empty where nobody knows it."""
        done, spent = self.done - self.first, time.monotonic() - self.began
        if self.total is None or done <= 0 or self.done >= self.total:
            return ""
        seconds = round(spent * (self.total - self.done) / done)
        minutes, hours = seconds // 60 % 60, seconds // 3600
        return f"{hours}:{minutes:02}:{seconds % 60:02} left" if hours else f"{minutes}:{seconds % 60:02} left"

    def _say(self, end: str) -> None:
        self.spoke = time.monotonic()
        of = f"/{self.total}" if self.total is not None else ""
        parts = [f"{self.title}: {self.done}{of} {self.unit}", self._rate(), self._left(), self.note, end]
        say(", ".join(part for part in parts if part))
