"""Commands side by side: each a process of its own with one thread, with bars that follow what they write.

Two processes of one thread each do more on two cores than one process of two: the models are small.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from farfield.config import FarfieldError

__all__ = ["Job", "JobError", "run_all"]

QUIET_SECONDS = 10.0


class JobError(FarfieldError):
    """A command of the demo failed."""


@dataclass(frozen=True)
class Job:
    """A `farfield` command: its words, how many steps it has, and how far it is."""

    title: str
    words: tuple[str, ...]
    total: int
    done: Callable[[], tuple[int, str]]

    @property
    def line(self) -> str:
        """The command as a person types it."""
        return "farfield " + shlex.join(self.words)


def run_all(lanes: Sequence[Sequence[Job]], logs: Path) -> dict[str, dict[str, Any]]:
    """The results of all jobs by title; lanes run side by side, the jobs of a lane one after the other.

    Raises:
        JobError: a command failed; the others are stopped.
    """
    logs.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    running: list[subprocess.Popen[str]] = []

    def work(lane: Sequence[Job]) -> None:
        for job in lane:
            results[job.title] = _run(job, logs, running)

    console = Console(stderr=True)
    for lane in lanes:
        for job in lane:
            console.print(f"$ {job.line}", style="dim", highlight=False, soft_wrap=True)
    try:
        with ThreadPoolExecutor(len(lanes)) as pool:
            futures = [pool.submit(work, lane) for lane in lanes]
            try:
                _follow([job for lane in lanes for job in lane], futures, results, console)
            except BaseException:
                _stop(running)
                raise
            for future in futures:
                future.result()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("`make demo` goes on from the last checkpoints.") from None
    return results


def _run(job: Job, logs: Path, running: list[subprocess.Popen[str]]) -> dict[str, Any]:
    """One command, its standard error in a log file and its result from standard output."""
    log = logs / f"{job.title.replace(' ', '-')}.log"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w", encoding="utf-8") as errors:
        words = [sys.executable, "-m", "farfield", *job.words, "--json"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        running.append(process)
        output, _ = process.communicate()
    if process.returncode:
        said = log.read_text(encoding="utf-8").strip().splitlines()
        raise JobError(f"{job.line}: failed: {said[-1] if said else 'without a word'} (see {log})")
    result: dict[str, Any] = json.loads(output)
    return result


def _stop(running: Sequence[subprocess.Popen[str]]) -> None:
    for process in running:
        if process.poll() is None:
            process.terminate()


def _follow(jobs: Sequence[Job], futures: Sequence[Any], results: dict[str, Any], console: Console) -> None:
    """Bars until every lane has ended or one has failed; a line each ten seconds where there is no terminal."""
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    spoke = time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bars = {job.title: progress.add_task(job.title, total=job.total, note="", start=False) for job in jobs}
        while not all(future.done() for future in futures):
            if any(future.done() and future.exception() for future in futures):
                raise next(future.exception() for future in futures if future.done() and future.exception())
            states = {job.title: (job.total, "") if job.title in results else job.done() for job in jobs}
            for job in jobs:
                done, note = states[job.title]
                if done:
                    progress.start_task(bars[job.title])
                progress.update(bars[job.title], completed=done, note=note)
            if not console.is_terminal and time.monotonic() - spoke > QUIET_SECONDS:
                spoke = time.monotonic()
                moving = [(job, *states[job.title]) for job in jobs if 0 < states[job.title][0] < job.total]
                print(
                    "; ".join(f"{j.title} {done}/{j.total} {note}".strip() for j, done, note in moving), file=sys.stderr
                )
            time.sleep(0.5)
        for job in jobs:
            progress.update(bars[job.title], completed=job.total, note="")
