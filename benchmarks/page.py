"""The HTML page of a report: one file, pictures inside, no script and nothing fetched."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from farfield.benchmarks.grid import Grid, Rate, grids, short
from farfield.benchmarks.results import Result

__all__ = ["page"]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
img { max-width: 100%; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; }
th, td { border: 1px solid #ccc; padding: 0.2rem 0.6rem; text-align: right; vertical-align: top; }
table.facts th, table.facts td { text-align: left; overflow-wrap: anywhere; }
small { color: #666; display: block; }
"""
HEAD = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Farfield results</title><style>{STYLE}</style></head>
<body>
"""


def page(results: Sequence[Result], pictures: Sequence[Path]) -> str:
    """The page of `results`, with the PNG files `pictures` at its top."""
    parts = ["<h1>Farfield results</h1>", *(_picture(path) for path in pictures)]
    for result in results:
        parts += [_section(result, grid) for grid in grids(result)]
    return HEAD + "\n".join(parts) + "\n</body></html>\n"


def _picture(path: Path) -> str:
    name = escape(path.stem.replace("_", " "))
    return f'<p><img alt="{name}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"></p>'


def _section(result: Result, grid: Grid) -> str:
    overall, (prefilled, naive) = grid.rate(), grid.prefilled()
    said = "nothing finished" if overall is None else f"{_rate(overall)} of {overall.n} samples"
    shared = f" Prefilled {prefilled:,} tokens instead of {naive:,}." if naive else ""
    facts = {
        "file": str(result.path),
        **{f"model.{name}": value for name, value in result.head["model"].items()},
        **{f"suite.{name}": value for name, value in result.head["settings"].items()},
        **result.head["provenance"],
        **{f"resumed {number}": later for number, later in enumerate(result.resumed, start=1)},
    }
    return "\n".join(
        [
            f"<h2>{escape(grid.name)}, {escape(grid.task)}</h2>",
            f"<p>{said}.{shared} Recall in %, below it the Wilson 95 % interval.</p>",
            _grid(grid),
            *(f"<p>Skipped: {escape(reason)}.</p>" for reason in dict.fromkeys(grid.skipped.values())),
            "<details><summary>Settings and versions</summary>",
            _facts(facts),
            "</details>",
        ]
    )


def _grid(grid: Grid) -> str:
    rows = [_row("th", ["depth, %", *(short(length) for length in grid.lengths)])]
    for depth in grid.depths:
        cells = (grid.cells.get((length, depth)) for length in grid.lengths)
        rates = [Rate(cell.score, cell.hits, len(cell.scores)) if cell else None for cell in cells]
        rows.append(_row("td", ["all" if depth is None else f"{100 * depth:.3g}", *map(_rate, rates)]))
    rows.append(_row("td", ["mean", *(_rate(grid.rate(length)) for length in grid.lengths)]))
    return "<table>\n" + "\n".join(rows) + "\n</table>"


def _row(tag: str, cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def _rate(rate: Rate | None) -> str:
    if rate is None:
        return ""
    low, high = rate.interval
    return f"{100 * rate.score:.0f}<small>{100 * low:.0f}-{100 * high:.0f}</small>"


def _facts(facts: Mapping[str, object]) -> str:
    rows = (
        f"<tr><th>{escape(name)}</th><td>{escape(value if isinstance(value, str) else json.dumps(value))}</td></tr>"
        for name, value in facts.items()
    )
    return '<table class="facts">\n' + "\n".join(rows) + "\n</table>"
