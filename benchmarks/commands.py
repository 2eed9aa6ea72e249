"""`farfield evaluate` and `farfield report`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from farfield.benchmarks import training_curves
from farfield.benchmarks.reports import report
from farfield.benchmarks.reports.collected import collected
from farfield.benchmarks.reports.compare import compared, pairs, plain, table
from farfield.benchmarks.reports.table import Table
from farfield.benchmarks.reports.tables import tables
from farfield.benchmarks.reports.terminal import drawn
from farfield.benchmarks.running.results import Result, read_result
from farfield.benchmarks.running.runner import Outcome
from farfield.benchmarks.running.runner import evaluate as run
from farfield.benchmarks.subjects.endpoint_subject import USAGE, EndpointSubject, add_usage
from farfield.benchmarks.subjects.opening import open_subject, sharing
from farfield.settings import EvaluateSettings, ReportSettings

__all__ = ["evaluate", "evaluate_together", "report_command"]

THRESHOLD = ReportSettings().threshold
COUNTS = ("skipped", "failed", "refused", "ties", "silent", "prefilled", "naive")  # of an outcome


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
    told = _reported(collected([folder]).results, folder, shown=[read_result(outcome.path)], wrote=[outcome.path])
    told["counts"] = {name: getattr(outcome, name) for name in COUNTS}
    told["text"] = "\n".join([told["text"], *_said(outcome)])
    told |= _left(outcome)
    if isinstance(subject, EndpointSubject):
        used = subject.usage()
        told["usage"] = used
        told["text"] += "\nasked the endpoint: " + ", ".join(f"{key.replace('_', ' ')} {used[key]:,}" for key in used)
    return told


def evaluate_together(jobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One report of what the jobs of a sweep have written, in the folder that all of theirs are in."""
    written = [Path(path) for job in jobs for path in job.get("written", []) if path.endswith(".jsonl")]
    errors = [f"failed: {job['job']}: {job['error']}" for job in jobs if "error" in job]
    files = list(dict.fromkeys(path for path in written if path.name != USAGE))
    if not files:
        return {"text": "\n".join(errors)}
    folder = Path(os.path.commonpath([file.parent for file in files]))
    found = _reported(collected(files).results, folder, wrote=files)
    return {**found, "text": "\n".join([found["text"], *errors])}


def _said(outcome: Outcome) -> Iterator[str]:
    """What a reader of the table should know beside it."""
    if outcome.naive:
        yield f"prefilled {outcome.prefilled:,} tokens; without shared beginnings {outcome.naive:,}"
    if outcome.ties:
        yield f"ties: {outcome.ties:,} answers or steps were decided by rounding; device.precision=fp64 tells more"
    if outcome.silent:
        yield f"answers without text: {outcome.silent:,}; a model that thinks first needs endpoint.extra_tokens=..."
    if outcome.refused:
        yield f"cells that were refused: {outcome.refused}; the same command asks for them once again"


def _left(outcome: Outcome) -> dict[str, str]:
    """That cells failed for now, or all were refused: then nothing was evaluated, and no table says so."""
    if outcome.failed:
        return {"unfinished": f"cells that failed for now: {outcome.failed}; the same command tries them again."}
    if outcome.refused and not outcome.cells:
        return {"unfinished": f"all cells were refused ({outcome.refused}): nothing was evaluated."}
    return {}


def report_command(settings: ReportSettings) -> dict[str, Any]:
    """Turns result files into tables, pictures and a page, and runs into a table and a picture of their losses."""
    if settings.compare:
        return _compared(settings)
    places = [Path(place) for place in settings.results]
    runs = [training_curves.read_run(run) for place in places for run in training_curves.find_runs(place)]
    others = [place for place in places if not training_curves.find_runs(place)]
    first = places[0]
    folder = Path(settings.out) if settings.out else (first if first.is_dir() else first.parent)
    found: dict[str, Any] = {}
    if others:
        there = collected(others)
        found = _reported(there.results, folder, settings.threshold, notes=there.notes)
    return {**found, **_trained(runs, folder, found)} if runs else found


def _compared(settings: ReportSettings) -> dict[str, Any]:
    """The paired tests of two results, or of two folders of them; a report on both where `out` is given."""
    assert settings.compare is not None
    both = pairs([Path(place) for place in settings.compare])
    comparisons = [compared(*pair) for pair in both]
    made = [table(comparison) for comparison in comparisons]
    told = {"compared": [plain(comparison) for comparison in comparisons]}
    if settings.out:
        results = [result for pair in both for result in pair]
        found = _reported(results, Path(settings.out), settings.threshold, first=made)
        return {**found, **told}
    return {**told, "written": [], "text": _printed(made).rstrip("\n")}


def _trained(runs: Sequence[training_curves.Run], folder: Path, found: dict[str, Any]) -> dict[str, Any]:
    """What the report says of runs, beside what it has `found` of results."""
    picture = str(training_curves.draw(runs, folder / "training.png"))
    console = Console(width=120, highlight=False)
    with console.capture() as capture:
        console.print(training_curves.table(runs))
    text = f"{found.get('text', '')}\n{capture.get()}wrote {picture}".lstrip("\n")
    written = [*found.get("written", []), picture]
    return {"runs": training_curves.summary(runs), "written": written, "text": text}


def _reported(
    results: Sequence[Result],
    folder: Path,
    threshold: float = THRESHOLD,
    *,
    notes: Sequence[str] = (),
    first: Sequence[Table] = (),
    shown: Sequence[Result] | None = None,
    wrote: Sequence[Path] = (),
) -> dict[str, Any]:
    """Writes the report on `results`, and tells of those that are `shown`, or all.

    `first` are tables that stand before those of the results; `wrote` are files that were written before.
    """
    made = [*first, *tables(results, threshold)]
    written = report.write(results, made, folder)
    if shown is not None:
        results, made = shown, tables(shown, threshold)
    paths = [str(path) for path in (*wrote, *written)]
    text = _printed(made) + "\n".join([*notes, *(f"wrote {path}" for path in paths)])
    told = {"notes": list(notes)} if notes else {}
    return {**report.summary(results, threshold), **told, "written": paths, "text": text}


def _printed(made: Sequence[Table]) -> str:
    console = Console(width=120, highlight=False)
    with console.capture() as capture:
        console.print(*map(drawn, made))
    return capture.get()
