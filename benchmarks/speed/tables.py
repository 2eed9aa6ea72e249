"""The rows of a run as tables: for a terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from farfield.benchmarks.speed.rows import MEASURES

__all__ = ["markdown", "text"]

Row = dict[str, Any]
NOT_DECODED = "does not decode"
RATIO = (
    "Ratio: how many times as fast as the best peer; of a peer, as ours; of our projections alone, the most that ours "
    "could be. Of a token the bytes are the state's."
)


class _Sheet(NamedTuple):
    """One table: its title, its columns, its lines, and notes below it."""

    title: str
    columns: tuple[str, ...]
    lines: list[tuple[str, ...]]
    notes: list[str] = []


def text(rows: Sequence[Row]) -> str:
    """The tables for a terminal."""
    console = Console(width=140, highlight=False)
    with console.capture() as capture:
        for sheet in _sheets(rows):
            table = Table(title=sheet.title, title_justify="left")
            for index, column in enumerate(sheet.columns):
                table.add_column(column, justify="left" if index < 2 or column == "note" else "right")
            for line in sheet.lines:
                table.add_row(*line)
            console.print(table, *sheet.notes, "", sep="\n")
    return capture.get()


def markdown(rows: Sequence[Row]) -> str:
    """The tables as Markdown."""
    told = []
    for sheet in _sheets(rows):
        lines = [sheet.columns, ("---",) * len(sheet.columns), *sheet.lines]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        told.append("\n".join([sheet.title, "", table, "", *(f"- {note}" for note in sheet.notes)]).rstrip() + "\n")
    return "\n".join(told)


def _sheets(rows: Sequence[Row]) -> list[_Sheet]:
    found = []
    for threads in _unlike(row["threads"] for row in rows):
        mine = [row for row in rows if row["threads"] == threads]
        for length in _unlike(row["length"] for row in mine if row["what"] == "mixers"):
            found.append(_mixers([r for r in mine if r["what"] == "mixers" and r["length"] == length], length, threads))
        for measure in _unlike(row["measure"] for row in mine if row["what"] == "decoder"):
            chosen = [row for row in mine if row["what"] == "decoder" and row["measure"] == measure]
            found.append(_decoders(chosen, measure, threads))
        for what, sheet in (("step", _step), ("decoding", _decoding)):
            if chosen := [row for row in mine if row["what"] == what]:
                found.append(sheet(chosen, threads))
    return found


def _mixers(rows: Sequence[Row], length: int, threads: int | None) -> _Sheet:
    """One line for each layer, with each measure's milliseconds, bytes and ratio; below, why and what differs."""
    measures = [measure for measure in MEASURES if any(row["measure"] == measure for row in rows)]
    lines, notes = [], []
    for case, who in _unlike((row["case"], row["who"]) for row in rows):
        mine = {row["measure"]: row for row in rows if (row["case"], row["who"]) == (case, who)}
        cells = [_cell(mine.get(measure)) for measure in measures]
        lines.append((case, who, *(cell for pair in cells for cell in pair)))
        told = _unlike(row[key] for row in mine.values() for key in ("differs", "reason") if row.get(key))
        if told and told != [NOT_DECODED]:
            notes.append(f"{case}, {who}: {'; '.join(told)}")
    columns = [column for measure in measures for column in (f"{MEASURES[measure]}, ms (MiB)", "ratio")]
    title = f"One layer, {length:,} tokens, {_threads(threads)}; {_yardstick(rows)}. {RATIO}"
    return _Sheet(title, ("layer", "who", *columns), lines, notes)


def _cell(row: Row | None) -> tuple[str, str]:
    """Milliseconds and MiB, of decoding those of the state; and the ratio."""
    if row is None:
        return "", ""
    if "seconds" not in row:
        return "-", ""
    held = row["state_bytes"] if "state_bytes" in row else row["peak_bytes"]
    ratio = "" if row.get("ratio") is None else f"{row['ratio']:.2f}"
    return f"{_ms(row['seconds'])} ({_mib(held)})", ratio


def _decoders(rows: Sequence[Row], measure: str, threads: int | None) -> _Sheet:
    lengths = _unlike(row["length"] for row in rows)
    lines = []
    for name, who in _unlike((row["architecture"], row["who"]) for row in rows):
        mine = {row["length"]: row for row in rows if (row["architecture"], row["who"]) == (name, who)}
        lines.append((name, who, *(_tokens(mine[length]) for length in lengths)))
    first = rows[0]["architecture"]
    title = (
        f"Decoder, {MEASURES[measure]}: tokens/s (times {first}), MiB at the peak, MiB of state; {_threads(threads)}; "
        f"{_yardstick(rows)}"
    )
    return _Sheet(title, ("architecture", "who", *(f"{length:,}" for length in lengths)), lines)


def _tokens(row: Row) -> str:
    if "seconds" not in row:
        return str(row["reason"])
    ratio = "" if row["ratio"] is None else f" ({row['ratio']:.2f})"
    held = f", {_mib(row['state_bytes'])}" if "state_bytes" in row else ""
    return f"{row['tokens_per_second']:,.0f}{ratio} {_mib(row['peak_bytes'])}{held}"


def _step(rows: Sequence[Row], threads: int | None) -> _Sheet:
    lines: list[tuple[str, ...]] = []
    for row in rows:
        losses = row.get("losses") or []
        curve = f"{losses[0]:.2f} to {losses[-1]:.2f}" if losses else ""
        done = "seconds" in row
        compiling = f"{row['compile_seconds']:.0f} s of compiling" if "compile_seconds" in row else ""
        lines.append(
            (
                "step",
                row["who"],
                f"{_ms(row['seconds'])} ({_mib(row['peak_bytes'])})" if done else row["reason"],
                f"{row['ratio']:.2f}" if row.get("ratio") is not None else "",
                curve,
                compiling or row.get("differs") or "",
            )
        )
    title = (
        f"A training step of {rows[0]['batch']} x {rows[0]['length']:,} tokens, {_threads(threads)}; {_yardstick(rows)}"
    )
    return _Sheet(title, ("what", "who", "ms (MiB)", "ratio", "loss", "note"), lines)


def _decoding(rows: Sequence[Row], threads: int | None) -> _Sheet:
    lines = []
    for row in rows:
        done = "seconds" in row
        cells = (_ms(row["seconds"]), _ms(row["reading_seconds"]), f"{row['over_reading']:.2f}") if done else ()
        held = _mib(row["state_bytes"]) if done else ""
        lines.append(("token", row["who"], *(cells or (row["reason"], "", "")), held))
    first = rows[0]
    told = f"{_threads(threads)}; {_yardstick(rows)}"
    title = f"A token behind {first['length']:,} others, batch {first['batch']}, {told}"
    return _Sheet(title, ("what", "who", "ms", "reading, ms", "over reading", "state, MiB"), lines)


def _unlike(values: Iterable[Any]) -> list[Any]:
    """Each value once, in their order."""
    return list(dict.fromkeys(values))


def _threads(threads: int | None) -> str:
    return {None: "PyTorch's threads", 1: "one thread"}.get(threads, f"{threads} threads")


def _yardstick(rows: Sequence[Row]) -> str:
    """The lowest and the highest of what the matrix product took beside the rows."""
    told = [row["yardstick"] for row in rows if row["yardstick"][0]]
    if not told:
        return "no yardstick"
    return f"yardstick {min(low for _, low, _ in told):.0f} to {max(high for _, _, high in told):.0f} GFLOP/s"


def _ms(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _mib(count: int) -> str:
    value = count / 2**20
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
