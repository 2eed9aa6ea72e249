"""Rows of results: what was measured of ours and of each peer, and how many times as fast one is as the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from farfield.benchmarks.speed.turns import Measured, Turns, clock

__all__ = ["MEASURES", "OURS", "compared", "described"]

OURS = "Farfield"
MEASURES = {"prefill": "forward", "train": "forward + backward", "decode": "a token"}


def described(what: str, threads: int | None, **more: object) -> dict[str, Any]:
    """What the rows of one block have in common."""
    return {"what": what, "threads": threads, "clock": clock(threads), **more}


def compared(
    head: Mapping[str, Any],
    turns: Turns,
    reasons: Mapping[str, str],
    told: Mapping[str, Mapping[str, Any]],
    about: Mapping[str, Mapping[str, Any]],
    times: int = 1,
) -> list[dict[str, Any]]:
    """A row for ours, what more of ours was measured, and each peer: seconds and bytes, or why there are none.

    Args:
        head: what all rows hold. turns: what was measured. reasons: by name, why something was not.
        told: by name, what is told of it. about: by name of a peer, its library. times: repeats within one work.
    """
    names, rows = [OURS, *about], []
    more = [name for name in turns.measured if name not in names]
    for name in sorted([*names, *more], key=lambda name: not name.startswith(OURS)):
        row = {**head, "who": name, **about.get(name, {}), **told.get(name, {}), "yardstick": turns.yardstick}
        found = turns.measured.get(name, reasons.get(name, "not measured"))
        if isinstance(found, Measured):
            row |= {"seconds": found.seconds / times, "shortest": found.shortest / times}
            row |= {"longest": found.longest / times, "peak_bytes": found.peak_bytes}
        else:
            row["reason"] = found
        rows.append(row)
    return _with_ratios(rows)


def _with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with how many times as fast as the best peer ours is, and each peer as ours."""
    seconds = {row["who"]: row["seconds"] for row in rows if "seconds" in row}
    ours = seconds.get(OURS)
    best = min((value for name, value in seconds.items() if not name.startswith(OURS)), default=None)
    for row in rows:
        if "seconds" not in row:
            continue
        if row["who"].startswith(OURS):
            row["ratio"] = None if best is None else best / row["seconds"]
        else:
            row["ratio"] = None if ours is None else ours / row["seconds"]
    return rows
