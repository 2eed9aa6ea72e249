"""`farfield evaluate` and `farfield report`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from farfield.benchmarks import report, training_curves
from farfield.benchmarks.endpoint_subject import USAGE, EndpointSubject, add_usage
from farfield.benchmarks.opening import open_subject, sharing
from farfield.benchmarks.results import Result, read_result
from farfield.benchmarks.runner import Outcome
from farfield.benchmarks.runner import evaluate as run
from farfield.config import DataError, nearest
from farfield.settings import EvaluateSettings, ReportSettings

__all__ = ["evaluate", "evaluate_together", "report_command"]


def evaluate(settings: EvaluateSettings) -> dict[str, Any]:
    """Runs a suite on a model, writes results and report, and returns paths and rates."""
    folder = Path(settings.folder)
    subject, opened = open_subject(settings), partial(open_subject, sharing(settings))
    how = {"retries": settings.retries, "processes": settings.processes}
    try:
        outcome = run(settings.suite, subject, folder, opened=opened, **how)
    finally:
        if isinstance(subject, EndpointSubject):
            add_usage(folder / USAGE, subject.usage())
    told = _reported([read_result(outcome.path)], folder)
    told["counts"] = {name: getattr(outcome, name) for name in ("skipped", "failed", "ties", "prefilled", "naive")}
    told["text"] = "\n".join([told["text"], *_said(outcome)])
    if isinstance(subject, EndpointSubject):
        used = subject.usage()
        told["usage"] = used
        told["text"] += "\nasked the endpoint: " + ", ".join(f"{key.replace('_', ' ')} {used[key]:,}" for key in used)
    return told


def evaluate_together(jobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One report of what the jobs of a sweep have written, in the folder that all of theirs are in."""
    written = [Path(path) for job in jobs for path in job.get("written", []) if path.endswith(".jsonl")]
    errors = [f"failed: {job['error']}" for job in jobs if "error" in job]
    files = list(dict.fromkeys(path for path in written if path.name != USAGE))
    if not files:
        return {"text": "\n".join(errors)}
    folder = Path(os.path.commonpath([file.parent for file in files]))
    found = _reported([read_result(file) for file in files], folder)
    return {**found, "text": "\n".join([found["text"], *errors])}


def _said(outcome: Outcome) -> Iterator[str]:
    """What a reader of the table should know beside it."""
    if outcome.naive:
        yield f"prefilled {outcome.prefilled:,} tokens; without shared beginnings {outcome.naive:,}"
    if outcome.ties:
        yield f"ties: {outcome.ties:,} steps were decided by rounding; device.precision=fp64 tells more"
    if outcome.failed:
        yield f"failed for now: {outcome.failed} cells; the same command tries them again"


def report_command(settings: ReportSettings) -> dict[str, Any]:
    """Turns result files into tables, pictures and a page, and runs into a table and a picture of their losses."""
    places = [Path(place) for place in settings.results]
    runs = [training_curves.read_run(run) for place in places for run in training_curves.find_runs(place)]
    files = [file for place in places if not training_curves.find_runs(place) for file in _files(place)]
    first = places[0]
    folder = Path(settings.out) if settings.out else (first if first.is_dir() else first.parent)
    folder.mkdir(parents=True, exist_ok=True)
    found = _reported([read_result(file) for file in dict.fromkeys(files)], folder) if files else {}
    return {**found, **_trained(runs, folder, found)} if runs else found


def _trained(runs: Sequence[training_curves.Run], folder: Path, found: dict[str, Any]) -> dict[str, Any]:
    """What the report says of runs, beside what it has `found` of results."""
    picture = str(training_curves.draw(runs, folder / "training.png"))
    console = Console(width=120, highlight=False)
    with console.capture() as capture:
        console.print(training_curves.table(runs))
    text = f"{found.get('text', '')}\n{capture.get()}wrote {picture}".lstrip("\n")
    written = [*found.get("written", []), picture]
    return {"runs": training_curves.summary(runs), "written": written, "text": text}


def _reported(results: Sequence[Result], folder: Path) -> dict[str, Any]:
    written = report.write(results, folder)
    console = Console(width=120, highlight=False)
    with console.capture() as capture:
        console.print(*report.tables(results))
    paths = [str(result.path) for result in results] + [str(path) for path in written]
    text = capture.get() + "\n".join(f"wrote {path}" for path in paths)
    return {**report.summary(results), "written": paths, "text": text}


def _files(place: Path) -> list[Path]:
    """The suites' result files at or below `place`.

    Raises:
        DataError: there is none.
    """
    if place.is_file():
        return [place]
    if not place.is_dir():
        near = nearest(place.name, [other.name for other in place.parent.glob("*")] if place.parent.is_dir() else [])
        hint = f" Did you mean '{place.parent / near}'?" if near else ""
        raise DataError(f"{place}: no such file or folder.{hint}")
    found = sorted(file for file in place.rglob("needle.jsonl"))
    if not found:
        raise DataError(f"{place}: no results in it. `farfield evaluate model=runs/<name>` makes some.")
    return found
