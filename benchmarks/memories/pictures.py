"""Tables and pictures of what memories are worth."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from farfield.benchmarks.memories.cost import Cost
from farfield.benchmarks.memories.perplexity import Read
from farfield.benchmarks.memories.recall import NEEDLES, Found
from farfield.benchmarks.memories.search import Searched
from farfield.benchmarks.reports.grid import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "draw_cost",
    "draw_perplexity",
    "draw_recall",
    "draw_search",
    "finish",
    "line",
    "new_figure",
    "table_cost",
    "table_perplexity",
    "table_recall",
    "table_search",
]

MARKERS = "osDv^P*X"


def control_of(reads: Sequence[Read], trained: bool) -> Read:
    """The model without a memory that was trained in as many steps."""
    return next(one for one in reads if one.memory == "none" and one.trained == trained)


def table_perplexity(reads: Sequence[Read]) -> Table:
    """Bits a token over all, and the gain against no memory: over all, and in each bucket of positions."""
    edges = reads[0].edges
    table = Table("memory", title=f"Bits a token of {len(reads[0].bits)} documents; gains against the same training")
    for column in ("state", "bits", "gain"):
        table.add_column(column, justify="right")
    for low, high in itertools.pairwise(edges[1:]):
        table.add_column(f"{short(low)} to {short(high)}", justify="right")
    for one in reads:
        control, cells = control_of(reads, one.trained), ["-"] * (len(edges) - 1)
        if one is not control:
            gain, error = one.gain(control)
            cells = [f"{gain:+.4f} ± {error:.4f}"]
            cells += [f"{bits:+.4f}" for bits in one.gains(control)[1:]]
        table.add_row(one.label, f"{one.state_bytes / 2**20:.2f} MiB", f"{one.mean():.4f}", *cells)
    return table


def draw_perplexity(reads: Sequence[Read], path: Path) -> Path:
    """Bits a token against memory size, and the gain against position, of what was put on and what was trained with."""
    figure = new_figure(13.0, 8.4)
    panels = figure.subplots(2, 2, squeeze=False)
    names = list(dict.fromkeys(one.memory for one in reads if one.memory != "none"))
    for row, trained in enumerate((False, True)):
        shown = [one for one in reads if one.trained == trained]
        if shown:
            _draw_reads(shown, names, panels[row], "trained with it" if trained else "put on the trained model")
    finish(figure, list(panels.ravel()), path)
    return path


def _draw_reads(shown: Sequence[Read], names: Sequence[str], panels: Sequence[Axes], how: str) -> None:
    by_size, by_place = panels
    control = next(one for one in shown if one.memory == "none")
    by_size.axhline(control.mean(), color="black", linestyle="--", linewidth=1.2, label="none")
    by_place.axhline(0, color="black", linewidth=0.8)
    for place, name in enumerate(names):
        mine = [one for one in shown if one.memory == name]
        if not mine:
            continue
        middles = [(low + high) / 2 for low, high in itertools.pairwise(control.edges)]
        by_size.plot([one.size or one.edges[-1] for one in mine], [one.mean() for one in mine], **line(place, name))
        by_place.plot(middles, mine[-1].gains(control), **line(place, name))
    sizes = sorted({one.size or one.edges[-1] for one in shown if one.memory != "none"})
    by_size.set(xscale="log", xlabel="memory, tokens", ylabel="bits a token", title=how)
    by_size.set_xticks(sizes, [f"{size:,}" for size in sizes])
    by_size.minorticks_off()
    by_place.set(xscale="log", xlabel="position in the document, tokens", ylabel="gain, bits", title=f"largest, {how}")


def line(place: int, name: str) -> dict[str, Any]:
    """The look of a memory's line, the same in every panel."""
    style = ("-", ":", "--")[place // 10 % 3]
    return {"color": f"C{place % 10}", "marker": MARKERS[place % 8], "label": name, "markersize": 4, "linestyle": style}


def table_recall(found: Sequence[Found]) -> Table:
    """Shares of the questions that are answered, by task and row length in windows."""
    table = Table("memory", title=f"Answered of {found[0].questions} questions, by row length in windows")
    lengths = list(found[0].rates[next(iter(NEEDLES))])
    for name in NEEDLES:
        for times in lengths:
            table.add_column(f"{name} {times}x", justify="right")
    for one in found:
        cells = [one.rates[name][times] for name in NEEDLES for times in lengths]
        table.add_row(one.label, *("-" if rate is None else f"{100 * rate:.0f}%" for rate in cells))
    return table


def draw_recall(found: Sequence[Found], path: Path) -> Path:
    """A map of memories by lengths, one for each task."""
    figure = new_figure(9.0, 1.6 + 0.32 * len(found))
    panels = figure.subplots(1, len(NEEDLES), sharey=True)
    for panel, name in zip(panels, NEEDLES, strict=True):
        lengths = list(found[0].rates[name])
        rates = [[one.rates[name][times] or 0.0 for times in lengths] for one in found]
        panel.imshow(rates, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        for row, line in enumerate(rates):
            for column, rate in enumerate(line):
                colour = "black" if rate > 0.55 else "white"
                panel.text(column, row, f"{100 * rate:.0f}", ha="center", va="center", color=colour, fontsize=8)
        panel.set_xticks(range(len(lengths)), [f"{times}x" for times in lengths])
        panel.set_yticks(range(len(found)), [one.label for one in found])
        panel.set(title=f"{name}, %", xlabel="row, windows")
    figure.savefig(path, format="png", dpi=150)
    return path


def table_cost(costs: Sequence[Cost]) -> Table:
    """What a token costs, by memory and size."""
    table = Table("memory", title="A token of one layer, beside the layer alone; bytes are those of decoding")
    heads = ("tokens held", "decode, us", "alone", "prefill, us", "alone", "read, KiB", "written, KiB", "state, KiB")
    for head in heads:
        table.add_column(head, justify="right")
    for one in costs:
        times = (one.decode, one.plain_decode, one.prefill, one.plain_prefill)
        moved = (one.read, one.written, one.state)
        table.add_row(
            one.memory,
            f"{one.size:,}",
            *(f"{seconds * 1e6:.1f}" for seconds in times),
            *(f"{count / 1024:,.1f}" for count in moved),
        )
    return table


def draw_cost(costs: Sequence[Cost], path: Path) -> Path:
    """Time of decoding and prefill, bytes read and written, against the tokens that the memory has read."""
    figure = new_figure(12.5, 8.0)
    panels = figure.subplots(2, 2)
    told = (
        ("decode", "decoding, us a token", 1e6),
        ("prefill", "prefill, us a token", 1e6),
        ("read", "read by decoding, KiB a token", 1 / 1024),
        ("written", "written by decoding, KiB a token", 1 / 1024),
    )
    names = list(dict.fromkeys(one.memory for one in costs))
    for panel, (field, title, unit) in zip(panels.ravel(), told, strict=True):
        for place, name in enumerate(names):
            mine = [one for one in costs if one.memory == name]
            panel.plot([one.size for one in mine], [getattr(one, field) * unit for one in mine], **line(place, name))
        panel.set(xscale="log", yscale="log", xlabel="tokens read before", ylabel=title)
    finish(figure, list(panels.ravel()), path)
    return path


def table_search(found: Sequence[Searched]) -> Table:
    """How many times as long as the product and top-k the search takes."""
    table = Table("layout", title="A call of queries: the search beside the product and top-k")
    for head in ("tokens held", "queries", "search, ms", "product and top-k, ms", "ratio"):
        table.add_column(head, justify="right")
    for one in found:
        times = [f"{seconds * 1e3:.3f}" for seconds in (one.seconds, one.plain)]
        table.add_row(one.layout, f"{one.size:,}", f"{one.queries:,}", *times, f"{one.ratio:.2f}")
    return table


def draw_search(found: Sequence[Searched], path: Path) -> Path:
    """The ratio against the bank, a panel for each layout and a line for each number of queries."""
    layouts = list(dict.fromkeys(one.layout for one in found))
    figure = new_figure(3.6 * len(layouts) + 1.2, 3.8)
    panels = list(figure.subplots(1, len(layouts), sharey=True, squeeze=False).ravel())
    for panel, layout in zip(panels, layouts, strict=True):
        panel.axhline(1.0, color="black", linewidth=0.8)
        for place, queries in enumerate(dict.fromkeys(one.queries for one in found)):
            mine = [one for one in found if (one.layout, one.queries) == (layout, queries)]
            label = f"{queries:,} quer{'y' if queries == 1 else 'ies'}"
            panel.plot([one.size for one in mine], [one.ratio for one in mine], **line(place, label))
        panel.set(xscale="log", ylim=(0, None), xlabel="tokens held", title=layout)
    panels[0].set_ylabel("search over product and top-k")
    finish(figure, panels, path)
    return path


def new_figure(width: float, height: float) -> Figure:
    """An empty one, of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def finish(figure: Figure, panels: Sequence[Axes], path: Path) -> None:
    """Writes it, with one legend for all panels."""
    for panel in panels:
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    more = [pair for panel in panels[1:] for pair in zip(*panel.get_legend_handles_labels(), strict=True)]
    found = dict(zip(labels, handles, strict=True)) | {label: handle for handle, label in more}
    figure.legend(found.values(), found.keys(), loc="outside right upper", frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=150)
