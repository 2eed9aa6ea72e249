"""`farfield speed`: time, memory and state against length, ours beside every peer that is installed, in one run.

layers       what=mixers    one layer alone with its projections, in `cases`; peers in farfield.benchmarks.peers
decoders     what=decoder   whole decoders by architecture
step         what=step      a training step, and the first losses, beside models of the same shape
decoding     what=decoding  a token of a model of 110 million weights beside reading them once

projections  what a layer of that size costs at least: the products of its linear maps alone
turns        works in turn, with a fixed matrix product between them
worker       the process that measures, with a bound on its memory
tables, picture
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from farfield.api import place
from farfield.benchmarks.provenance import provenance
from farfield.benchmarks.speed import decoders, decoding, layers, step
from farfield.benchmarks.speed.picture import picture
from farfield.benchmarks.speed.tables import markdown, text
from farfield.benchmarks.speed.worker import DeathError, Worker
from farfield.progress import Bar
from farfield.settings import DeviceConfig, SpeedSettings

__all__ = ["device_name", "speed"]

PARTS = {"mixers": layers, "decoder": decoders, "step": step, "decoding": decoding}

Rows = list[dict[str, Any]]


class _Job(NamedTuple):
    """What is measured in turn, in the measuring process; and its rows where that process has died."""

    block: Any
    measure: Callable[[Any], Rows]
    unmeasured: Callable[[Any, str], Rows]


def speed(settings: SpeedSettings) -> dict[str, Any]:
    """Measures, writes results/<name>/: speed.jsonl, speed.md and a picture, and returns the rows."""
    jobs = _jobs(settings)
    folder = Path(settings.root) / settings.name
    folder.mkdir(parents=True, exist_ok=True)  # a folder that cannot be made is said before anything is measured
    head = {"record": "head", "settings": settings.mapping(), "device": device_name(settings.device), **provenance()}
    file = folder / "speed.jsonl"
    rows = _run(jobs, settings.limit, head, file)
    tables = folder / "speed.md"
    tables.write_text(markdown(rows), encoding="utf-8")
    written = [str(path) for path in (file, tables, picture(rows, folder / "speed.png"))]
    return {"rows": rows, "written": written, "text": text(rows) + "\n".join(f"wrote {path}" for path in written)}


def device_name(settings: DeviceConfig) -> str:
    """What is measured on: a GPU by its name, or cpu."""
    device = place(settings)
    return torch.cuda.get_device_name() if device == "cuda" else device


def _run(jobs: Sequence[_Job], memory: float, head: dict[str, Any], file: Path) -> Rows:
    """The rows of all jobs, which are in the file as they come: what is stopped has measured something."""
    rows: Rows = []
    with Bar("speed", total=len(jobs), unit="comparisons") as bar, Worker(memory) as worker, file.open("w") as lines:
        lines.write(json.dumps(head) + "\n")
        for job in jobs:
            found = _measured(job, worker)
            lines.writelines(json.dumps({"record": "row", **row}) + "\n" for row in found)
            lines.flush()
            rows += found
            bar.step(note=" ".join(str(value) for value in job.block.head.values()))
    return rows


def _jobs(settings: SpeedSettings) -> list[_Job]:
    """What is to be measured; raises ConfigError before anything is."""
    device = place(settings.device)
    found = []
    for threads in settings.threads or (settings.device.threads,):
        for name in settings.what:
            part: Any = PARTS[name]
            blocks = part.blocks(settings, device, threads)
            found += [_Job(block, part.measure, part.unmeasured) for block in blocks]
    return found


def _measured(job: _Job, worker: Worker) -> Rows:
    try:
        return worker.run(job.measure, job.block)
    except DeathError as death:
        return job.unmeasured(job.block, str(death))
