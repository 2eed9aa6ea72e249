"""The picture of a run: layers against ours, decoders against length, losses against steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from farfield.benchmarks.speed.rows import MEASURES, OURS

__all__ = ["picture"]

Row = dict[str, Any]
MARKS, TIMES = "os^", (0.25, 0.5, 1, 2, 4, 8, 16)


def picture(rows: Sequence[Row], path: Path) -> Path:
    """A panel for each measure of layers and of decoders, and one of losses."""
    from matplotlib.figure import Figure

    done = [row for row in rows if "seconds" in row]
    panels = []
    for measure in MEASURES:
        panels += [(_layers, chosen) for chosen in [_of(done, "mixers", measure)] if chosen]
    for measure in MEASURES:
        panels += [(_decoders, chosen) for chosen in [_of(done, "decoder", measure)] if chosen]
    panels += [(_losses, chosen) for chosen in [[row for row in done if row.get("losses")]] if chosen]
    tall = max(
        [3.6, *(0.24 * len({row["case"] for row in chosen}) + 1.2 for draw, chosen in panels if draw is _layers)]
    )
    figure = Figure(figsize=(5.6 * max(len(panels), 1), tall), layout="constrained")
    axes = figure.subplots(1, max(len(panels), 1), squeeze=False)[0]
    for axis, (draw, chosen) in zip(axes, panels, strict=False):
        draw(axis, chosen)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    return path


def _of(rows: Sequence[Row], what: str, measure: str) -> list[Row]:
    """Of the first number of threads."""
    return [r for r in rows if r["what"] == what and r["measure"] == measure and r["threads"] == rows[0]["threads"]]


def _layers(axis: Any, rows: Sequence[Row]) -> None:
    """Of the longest texts: each peer's time as a multiple of ours."""
    longest = max(row["length"] for row in rows)
    rows = [row for row in rows if row["length"] == longest]
    ours = {row["case"]: row["seconds"] for row in rows if row["who"] == OURS}
    cases = [case for case in ours if any(row["case"] == case and not row["who"].startswith(OURS) for row in rows)]
    axis.axvline(1, color="black", linewidth=1)
    for index, who in enumerate(dict.fromkeys(row["who"] for row in rows if not row["who"].startswith(OURS))):
        mine = [row for row in rows if row["who"] == who and row["case"] in ours]
        times = [row["seconds"] / ours[row["case"]] for row in mine]
        axis.plot(times, [cases.index(row["case"]) for row in mine], MARKS[index // 10 % len(MARKS)], label=who)
    axis.set(title=f"{MEASURES[rows[0]['measure']]}, {longest:,} tokens", xlabel="times our time", xscale="log")
    axis.set_xticks(TIMES, [f"{time:g}" for time in TIMES])
    axis.minorticks_off()
    axis.set_yticks(range(len(cases)), cases)
    axis.invert_yaxis()
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _decoders(axis: Any, rows: Sequence[Row]) -> None:
    """Tokens a second against length."""
    for name, who in dict.fromkeys((row["architecture"], row["who"]) for row in rows):
        mine = [row for row in rows if (row["architecture"], row["who"]) == (name, who)]
        style, label = ("o-", name) if who == OURS else ("s--", who)
        axis.plot([r["length"] for r in mine], [r["tokens_per_second"] for r in mine], style, label=label)
    axis.set(title=f"decoder, {rows[0]['measure']}", xlabel="tokens", ylabel="tokens/s", xscale="log", yscale="log")
    axis.legend(fontsize=7)


def _losses(axis: Any, rows: Sequence[Row]) -> None:
    """Nats a token against steps, of the same batches."""
    for row in rows:
        axis.plot(range(1, len(row["losses"]) + 1), row["losses"], label=row["who"])
    axis.set(title="the same batches", xlabel="step", ylabel="nats a token")
    axis.legend(fontsize=7)
