"""python -m farfield.benchmarks.linear_cost: is what is said to be linear in length linear, in time and in memory?

    growth = (cost of N tokens / cost of n tokens) / (N / n), the worst over all pairs of lengths n < N

1 is linear, N / n is quadratic; fixed costs of a short text bring it below 1. A claim holds where the growth of time
and that of memory are at most 1.2, over forward and backward of one document of 2,048, 8,192 and 32,768 tokens. Every
kind that claims it runs with its default settings at a width of 256, on one thread of the CPU in a process of its own.

memory  the most bytes that the storages of all tensors made by the two passes hold at once. Exact, and the same on
        every machine; what a kernel takes and gives back within itself is not in it
time    the median of repeats of the processor's time, the lengths taken in turn, since a machine that slows down is to
        slow all of them; nothing is counted meanwhile. Narrower layers show the cache: at a width of 64 all of 2,048
        tokens fit into it and 32,768 do not, which is a matter of size and not of length

The allocator keeps what is freed, as that of a GPU does. By default glibc gives large tensors back to the system and
takes them anew, page by page, at five times the cost of a copy: again a matter of size.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import itertools
import json
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from farfield.architectures import Rows, build_mixer, mixer_kinds
from farfield.architectures.encoders import build_encoder, encoder_kinds
from farfield.benchmarks.measuring import Peak
from farfield.benchmarks.provenance import provenance
from farfield.progress import Bar

__all__ = ["Cost", "Subject", "growth", "main", "measure", "subjects"]

WIDTH, SEED = 256, 0
ALLOWED = 1.2
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


@dataclass(frozen=True)
class Subject:
    """A kind of layer, by the settings it is built from; `claims` says whether its form is said to be linear."""

    name: str
    family: str
    settings: Mapping[str, Any]
    claims: bool


@dataclass(frozen=True)
class Cost:
    """Of the two passes over a document of `length` tokens: seconds, and bytes at the peak."""

    length: int
    seconds: float
    peak_bytes: int


Layer = Callable[[Tensor], Tensor]
"""The mixed sequence (1, T, D) of x (1, T, D), one document."""


@dataclass(frozen=True)
class Family:
    """Kinds that are run alike: their settings classes, which tell their `form`, and the layer that settings make."""

    kinds: Callable[[], Mapping[str, Any]]
    build: Callable[[Mapping[str, Any]], tuple[nn.Module, Layer]]


def _mixer(settings: Mapping[str, Any]) -> tuple[nn.Module, Layer]:
    mixer = build_mixer(settings, WIDTH)
    return mixer, lambda x: mixer(x, Rows.fresh_documents(1, x.shape[1]), mixer.start(1))[0]


def _encoder(settings: Mapping[str, Any]) -> tuple[nn.Module, Layer]:
    encoder = build_encoder(settings, WIDTH)
    return encoder, lambda x: encoder.encode(x, Rows.fresh_documents(1, x.shape[1]))


FAMILIES = {"mixer": Family(mixer_kinds, _mixer), "encoder": Family(encoder_kinds, _encoder)}
"""What is measured: one entry for each union of kinds."""


MORE: dict[str, dict[str, dict[str, Any]]] = {
    "sparse": {"strided": {"pattern": "strided"}, "fixed": {"pattern": "fixed"}, "bigbird": {"pattern": "bigbird"}},
    "longformer": {"globals": {"globals": 64}, "alibi": {"position": "alibi"}, "xpos": {"position": "xpos"}},
}
"""By kind of a mixer and name: settings beside the default ones that are computed in another way."""


def subjects(longest: int) -> dict[str, Subject]:
    """Every kind of every family, by name; one that has a `length` is made for documents of `longest` tokens."""
    found = {}
    for family, run in FAMILIES.items():
        for kind, settings in run.kinds().items():
            sized = {"length": max(longest, 1)} if "length" in settings.model_fields else {}
            for more, values in {"": sized, **(MORE.get(kind, {}) if family == "mixer" else {})}.items():
                name = ".".join(part for part in (family if family != "mixer" else "", kind, more) if part)
                claims = "linear" in settings(**values).computed
                found[name] = Subject(name, family, {"kind": kind, **values}, claims)
    return found


Work = tuple[tuple[Tensor, ...], Callable[[], None]]
"""What is there before, and the two passes."""


def measure(subject: Subject, lengths: Sequence[int], repeats: int) -> list[Cost]:
    """The costs of one kind, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    _keep_what_is_freed()
    module, layer = FAMILIES[subject.family].build(subject.settings)
    works = {length: _work(module, layer, length) for length in lengths}
    peaks = {length: _peak(module, work) for length, work in works.items()}
    seconds = _seconds(works, repeats)
    return [Cost(length, seconds[length], peaks[length]) for length in lengths]


def _seconds(works: Mapping[int, Work], repeats: int) -> dict[int, float]:
    """By length: the median of the processor's seconds."""
    taken: dict[int, list[float]] = {length: [] for length in works}
    for _ in range(repeats + 1):
        for length, (_, passes) in works.items():
            began = time.process_time()
            passes()
            taken[length].append(time.process_time() - began)
    # The first call chooses kernels and takes memory from the system.
    return {length: statistics.median(some[1:]) for length, some in taken.items()}


def _keep_what_is_freed() -> None:
    """In this process; without effect where the C library is not glibc."""
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)  # never


def _work(module: nn.Module, layer: Layer, length: int) -> Work:
    x, above = torch.randn(2, 1, length, WIDTH).unbind(0)
    x.requires_grad_()

    def passes() -> None:
        module.zero_grad(set_to_none=True)
        x.grad = None
        layer(x).backward(above)

    return (x, above), passes


def _peak(module: nn.Module, work: Work) -> int:
    given, passes = work
    module.zero_grad(set_to_none=True)
    gc.collect()
    with Peak([*given, *module.parameters(), *module.buffers()]) as peak:
        passes()
    most: int = peak.most
    return most


def growth(costs: Iterable[tuple[int, float]]) -> float:
    """Of costs by length: the worst, over pairs, of the costs' ratio over the lengths' ratio. 1 is linear."""
    pairs = itertools.combinations(sorted(costs), 2)
    return max((more / less) / (long / short) for (short, less), (long, more) in pairs)


def _rows(chosen: Sequence[Subject], lengths: Sequence[int], repeats: int) -> Iterator[dict[str, Any]]:
    """A row for each kind, measured in a fresh process of its own: no caches or allocations of another are in it."""
    for subject in chosen:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            costs = pool.apply(measure, (subject, lengths, repeats))
        grown = {
            "growth_time": growth((cost.length, cost.seconds) for cost in costs),
            "growth_memory": growth((cost.length, cost.peak_bytes) for cost in costs),
        }
        holds = max(grown.values()) <= ALLOWED
        yield {**asdict(subject), "costs": [asdict(cost) for cost in costs], **grown, "holds": holds}


def main(words: Sequence[str] | None = None) -> int:
    """The table; 0 if every claim that was measured holds, 1 if one does not."""
    claimed = [name for name, subject in subjects(0).items() if subject.claims]
    parser = argparse.ArgumentParser(
        prog="python -m farfield.benchmarks.linear_cost",
        description="Growth of time and memory with length, of every kind that is said to be linear.",
    )
    parser.add_argument("--json", type=Path, help="where to write the figures, with the versions")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192, 32768], help="tokens; two at least")
    parser.add_argument("--kinds", nargs="+", default=claimed, choices=list(subjects(0)), metavar="KIND")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each length")
    given = parser.parse_args(words)
    if len(set(given.lengths)) < 2:
        parser.error("--lengths: growth is between two lengths at least.")
    known, rows = subjects(max(given.lengths)), []
    with Bar("linear cost", total=len(given.kinds), unit="kinds") as bar:
        for row in _rows([known[name] for name in given.kinds], given.lengths, given.repeats):
            rows.append(row)
            bar.step(note=row["name"])
    Console(width=120).print(_table(rows, given.lengths))
    if given.json:
        told = {**provenance(), "width": WIDTH, "seed": SEED, "threads": 1, "repeats": given.repeats, "rows": rows}
        given.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return 0 if all(row["holds"] for row in rows if row["claims"]) else 1


def _table(rows: Sequence[Mapping[str, Any]], lengths: Sequence[int]) -> Table:
    table = Table(
        "kind", title=f"Forward and backward of a document, and their growth: 1 is linear, at most {ALLOWED} is allowed"
    )
    for unit in ("ms", "MiB"):
        for length in lengths:
            told = f"{length // 1024}k" if length % 1024 == 0 else f"{length:,}"
            table.add_column(f"{unit} {told}", justify="right")
    for name in ("time", "memory"):
        table.add_column(name, justify="right")
    table.add_column("linear")
    for row in rows:
        cells = [f"{cost['seconds'] * 1e3:,.0f}" for cost in row["costs"]]
        cells += [f"{cost['peak_bytes'] / 2**20:,.1f}" for cost in row["costs"]]
        verdict = "holds" if row["holds"] else "[red]broken[/red]"
        table.add_row(
            row["name"],
            *cells,
            *(f"{row[key]:.2f}" for key in ("growth_time", "growth_memory")),
            verdict if row["claims"] else "not claimed",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
