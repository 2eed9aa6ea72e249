"""`farfield speed`: tokens per second, state and peak memory against length, of every architecture in one run.

The measures of a length are taken in turn, one architecture after the other, several times round, and the median is
told: a machine that slows down slows all of them. Ratios are to the first architecture of the list.

    train      a loss and its gradients over one text of that length
    prefill    reading a prompt of that length
    decode     writing one token after so many others
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from farfield.api import build
from farfield.benchmarks.measuring import timed
from farfield.benchmarks.provenance import provenance
from farfield.config import ConfigError
from farfield.generation import TextModel
from farfield.progress import Bar
from farfield.settings import SpeedSettings

__all__ = ["speed"]

DECODED = 16  # tokens written in one measurement of decoding
PIECE = 2048  # tokens that are prefilled in one call


def speed(settings: SpeedSettings) -> dict[str, Any]:
    """Measures, writes results/<name>/speed.jsonl and a picture, and returns the rows."""
    device = _device(settings)
    folder = Path(settings.root) / settings.name
    folder.mkdir(parents=True, exist_ok=True)  # a folder that cannot be made is said before anything is measured
    sizes = [f"width={settings.width}", f"depth={settings.depth}"]
    models = {
        name: build(name, sizes, seed=settings.seed).to(device, settings.device.dtype)
        for name in settings.architectures
    }
    rows = []
    total = len(settings.measures) * len(settings.lengths) * len(models) * settings.repeats
    with Bar("speed", total=total, unit="measurements") as bar:
        for measure in settings.measures:
            for length in settings.lengths:
                rows += _compared(models, measure, length, settings, bar)
    head = {"record": "head", "settings": settings.mapping(), **provenance()}
    lines = [head, *({"record": "row", **row} for row in rows)]
    file = folder / "speed.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    picture = _picture(rows, settings, folder / "speed.png")
    written = [str(file), str(picture)]
    return {"rows": rows, "written": written, "text": _text(rows, settings) + "\n".join(f"wrote {p}" for p in written)}


def _device(settings: SpeedSettings) -> torch.device:
    if settings.device.threads is not None:
        torch.set_num_threads(settings.device.threads)
    if settings.device.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("device.accelerator: gpu given, but PyTorch sees none. Take cpu or auto.")
    return torch.device("cuda" if settings.device.accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def _compared(
    models: dict[str, TextModel], measure: str, length: int, settings: SpeedSettings, bar: Bar
) -> list[dict[str, Any]]:
    """One row for each architecture, measured in turn."""
    works = {name: _work(measure, model, length, settings) for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for work in works.values():  # once unmeasured: the first call allocates and chooses kernels
        work()
    for _ in range(settings.repeats):
        for name, work in works.items():
            seconds[name].append(timed(work)[0])
            bar.step(note=f"{measure} {length} {name}")
    first = statistics.median(seconds[settings.architectures[0]])
    tokens = settings.batch * (DECODED if measure == "decode" else length)
    found = []
    for name, model in models.items():
        median = statistics.median(seconds[name])
        found.append(
            {
                "measure": measure,
                "length": length,
                "architecture": name,
                "seconds": median,
                "tokens_per_second": tokens / median,
                "ratio": first / median,
                "state_bytes": model.config.state_bytes(length),
                "parameters": model.config.parameters(),
                "peak_bytes": _peak(works[name]),
            }
        )
    return found


def _work(measure: str, model: TextModel, length: int, settings: SpeedSettings) -> Callable[[], object]:
    """What is timed, as a call without arguments."""
    generator = torch.Generator().manual_seed(settings.seed)
    shape = (settings.batch, length + 1)
    tokens = torch.randint(0, model.config.vocabulary, shape, generator=generator).to(model.device)
    if measure == "train":
        return lambda: _train(model, tokens)
    if measure == "prefill":
        return lambda: _prefill(model, tokens[:, :-1])
    state = _prefill(model, tokens[:, :-1])
    return lambda: _decode(model, tokens[:, -1:], state)


def _train(model: TextModel, tokens: torch.Tensor) -> None:
    model.zero_grad(set_to_none=True)
    model.loss(tokens[:, :-1], tokens[:, 1:]).total.backward()


@torch.no_grad()
def _prefill(model: TextModel, tokens: torch.Tensor) -> Any:
    state = model.start(tokens.shape[0])
    for begin in range(0, tokens.shape[1], PIECE):
        _, state = model.hidden(tokens[:, begin : begin + PIECE], state)
    return state


@torch.no_grad()
def _decode(model: TextModel, token: torch.Tensor, state: Any) -> None:
    for _ in range(DECODED):
        logits, state = model(token, state)
        token = logits[:, -1:].argmax(-1)


def _peak(work: Callable[[], object]) -> int | None:
    """Bytes allocated at the peak of the work; None on a CPU, where PyTorch keeps no count."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated()


def _text(rows: Sequence[dict[str, Any]], settings: SpeedSettings) -> str:
    """A table for each measure: thousand tokens a second, and how many times the first architecture's."""
    console = Console(width=120, highlight=False)
    with console.capture() as capture:
        for measure in settings.measures:
            table = Table(title=f"{measure}: tokens/s (times {settings.architectures[0]})", title_justify="left")
            table.add_column("architecture")
            for length in settings.lengths:
                table.add_column(f"{length:,}", justify="right")
            for name in settings.architectures:
                chosen = [row for row in rows if row["measure"] == measure and row["architecture"] == name]
                table.add_row(name, *(f"{row['tokens_per_second']:,.0f} ({row['ratio']:.2f})" for row in chosen))
            console.print(table)
    return capture.get()


def _picture(rows: Sequence[dict[str, Any]], settings: SpeedSettings, path: Path) -> Path:
    """Tokens a second against length, and state bytes against length."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * (len(settings.measures) + 1), 3.6), layout="constrained")
    axes = figure.subplots(1, len(settings.measures) + 1, squeeze=False)[0]
    for name in settings.architectures:
        mine = [row for row in rows if row["architecture"] == name]
        for axis, measure in zip(axes, settings.measures, strict=False):
            chosen = [row for row in mine if row["measure"] == measure]
            axis.plot([r["length"] for r in chosen], [r["tokens_per_second"] for r in chosen], "o-", label=name)
            axis.set(title=measure, ylabel="tokens/s")
        chosen = [row for row in mine if row["measure"] == settings.measures[0]]
        axes[-1].plot([r["length"] for r in chosen], [r["state_bytes"] for r in chosen], "o-", label=name)
    axes[-1].set(title="state of one row", ylabel="bytes")
    for axis in axes:
        axis.set(xlabel="tokens", xscale="log", yscale="log")
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=120)
    return path
