"""Tables and pictures of what neighbours, and datastores, are worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from rich.table import Table

from farfield.benchmarks.augmented.neighbours import EDGES, Read
from farfield.benchmarks.augmented.output import Row
from farfield.benchmarks.memories.pictures import finish, line, new_figure

__all__ = ["draw_neighbours", "draw_output", "table_neighbours", "table_output"]


def table_neighbours(reads: Sequence[Read]) -> Table:
    """Bits a token, the gain against the same model without passages, and that gain by overlap."""
    table = Table("model", title=f"Bits a token of {len(reads[0].bits)} documents; gains against neighbours off")
    for column in ("found", "bits", "gain", *(_bucket(number) for number in range(len(EDGES) - 1))):
        table.add_column(column, justify="right")
    for one in reads:
        off = _off(reads, one)
        gain, error = one.gain(off)
        told = ["-"] * len(EDGES)
        if one is not off:
            pairs = zip(off.buckets, one.buckets, strict=True)
            saved = [_saved(before, after) for before, after in pairs]
            told = [f"{gain:+.4f} ± {error:.4f}", *("-" if bits is None else f"{bits:+.4f}" for bits in saved)]
        table.add_row(one.label, f"{one.found:.0%}", f"{one.mean():.4f}", *told)
    counts = [f"{count:,}" for count, _ in reads[0].buckets]
    table.add_row("tokens", "", "", "", *counts)
    return table


def draw_neighbours(reads: Sequence[Read], path: Path) -> Path:
    """Bits a token against the overlap that passages may have, and the gain by the overlap that they have."""
    figure = new_figure(11.0, 4.2)
    allowed, by_bucket = figure.subplots(1, 2)
    for place, name in enumerate(dict.fromkeys(one.model for one in reads)):
        mine = [one for one in reads if one.model == name]
        off, on = _off(reads, mine[0]), sorted((one for one in mine if one.reads), key=_allowed)
        style = line(place, name)
        allowed.axhline(off.mean(), color=f"C{place}", linestyle="--", linewidth=1.0, label=f"{name}, off")
        if on:
            allowed.plot(range(len(on)), [one.mean() for one in on], **style)
            allowed.set_xticks(range(len(on)), ["any" if one.overlap is None else f"{one.overlap:g}" for one in on])
            gains = [_saved(*pair) for pair in zip(off.buckets, on[-1].buckets, strict=True)]
            by_bucket.plot(range(len(gains)), [math.nan if gain is None else gain for gain in gains], **style)
    by_bucket.axhline(0, color="black", linewidth=0.8)
    by_bucket.set_xticks(range(len(EDGES) - 1), [_bucket(number) for number in range(len(EDGES) - 1)])
    allowed.set(xlabel="longest run that passages may share, in chunks", ylabel="bits a token")
    by_bucket.set(xlabel="longest run that a chunk shares with its passages, in chunks", ylabel="bits a token saved")
    finish(figure, [allowed, by_bucket], path)
    return path


def _off(reads: Sequence[Read], one: Read) -> Read:
    """The same model without passages."""
    return next(other for other in reads if other.model == one.model and not other.reads)


def _allowed(one: Read) -> float:
    return math.inf if one.overlap is None else one.overlap


def _bucket(number: int) -> str:
    low, high = EDGES[number], EDGES[number + 1]
    return f"{Fraction(low)} up" if math.isinf(high) else f"below {Fraction(high)}"


def _saved(before: tuple[int, float | None], after: tuple[int, float | None]) -> float | None:
    """Bits a token; None where there is none."""
    return None if before[1] is None or after[1] is None else before[1] - after[1]


def table_output(rows: Sequence[Row]) -> Table:
    """Bits a token by way of reading, the gain against the model alone, and what searching cost."""
    first = rows[0]
    told = f"{first.tokens:,} tokens of {first.documents} texts; {first.entries:,} entries"
    table = Table("way", title=f"Bits a token with a datastore: {told}")
    for column in ("neighbours", "weight", "temperature", "pointers", "bits", "gain", "searches saved", "measured"):
        table.add_column(column, justify="right")
    for row in rows:
        chosen = ["learned" if one is None else f"{one:g}" for one in (row.weight, row.temperature)]
        if row.weight == 0:
            chosen[1] = "-"
        least = "-" if row.least is None else str(row.least)
        gain = "-" if row is first else f"{row.gain:+.4f} ± {row.error:.4f}"
        saved = "-" if row.least is None else f"{row.saved:.1%}"
        table.add_row(row.way, str(row.k), *chosen, least, f"{row.bits:.4f}", gain, saved, f"{row.measured:,.0f}")
    return table


def draw_output(rows: Sequence[Row], path: Path) -> Path:
    """Bits a token saved by each way of reading, and of the automaton against the share of searches that it saves."""
    figure = new_figure(11.0, 4.2)
    ways, saved = figure.subplots(1, 2)
    plain, told = [row for row in rows if row.least is None], rows[1:]
    names = [row.way if row.least is None else f"{row.way}, {row.least}" for row in told]
    ways.barh(names, [row.gain for row in told], xerr=[row.error for row in told], color="C0", capsize=3)
    ways.invert_yaxis()
    ways.set(xlabel=f"bits a token saved, of {rows[0].bits:.3f} (bars: standard error over texts)")
    alone, stepped = rows[0], [row for row in rows if row.least is not None]
    every = next((row for row in plain if row.way == "fixed weight"), None)
    saved.axhline(alone.bits, color="black", linestyle="--", linewidth=1.2, label="model alone")
    points = [(0.0, every.bits)] if every else []
    points += sorted((row.saved, row.bits) for row in stepped)
    if points:
        saved.plot(*zip(*points, strict=True), **line(0, "automaton"))
    saved.set(xlabel="share of searches saved", ylabel="bits a token")
    finish(figure, [ways, saved], path)
    return path
