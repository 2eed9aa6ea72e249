"""What all pictures of results share: colours, panels side by side, axes of lengths, and where numbers come from."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farfield.benchmarks.reports.grid import short
from farfield.benchmarks.tasks.sample import Condition

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "DASHES", "MARKS", "Canvas", "against_length", "line", "share_scale", "tidy"]

# Told apart by readers who do not see red and green (Okabe and Ito), and by their markers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#333333")
MARKERS = "osDv^P*X"
DOTS_PER_INCH = 150
COLUMNS = 4  # panels side by side
TICKS = 7  # of an axis of lengths
HEADING, ENTRY = 0.3, 0.19  # inches of the title, and of a line of the legend
INK, FAINT = "#222222", "#777777"
# Of the full prompt, and of what is shown beside it: strokes and gaps, and markers where the colour is that of all.
DASHES: dict[Condition, tuple[float, tuple[float, ...] | None]] = {
    "full": (0, None),
    "retrieved": (0, (6, 2, 1, 2)),
    "remembered": (0, (9, 2)),
    "gold_only": (0, (4, 2)),
    "no_context": (0, (1, 1.5)),
    "memory_off": (0, (4, 2, 1, 2, 1, 2)),
    "memory_shuffled": (0, (1, 4)),
}
MARKS: dict[Condition, str] = {
    "retrieved": "^",
    "remembered": "v",
    "gold_only": "+",
    "no_context": "x",
    "memory_off": "d",
    "memory_shuffled": "*",
}


class Canvas:
    """A figure of equal panels with one legend above them, and its source below."""

    def __init__(self, panels: int, wide: float, high: float, title: str, source: str, columns: int = COLUMNS) -> None:
        # The object interface: no window, no state that outlives the figure.
        from matplotlib.figure import Figure

        columns = min(columns, panels)
        rows = math.ceil(panels / columns)
        width = max(columns * wide, 4.2)
        self.footer = textwrap.wrap(source, round(width * 20))
        self.below = 0.13 * len(self.footer) + 0.06
        height = rows * high + 0.45 + HEADING + self.below
        self.figure: Figure = Figure(figsize=(width, height), layout="constrained")
        self.panels: list[Axes] = list(self.figure.subplots(rows, columns, squeeze=False).ravel())
        for panel in self.panels[panels:]:
            panel.set_visible(False)
        self.figure.text(0.01, 1 - 0.06 / height, title, fontsize=11, fontweight="bold", color=INK, va="top")
        self.height, self.above = height, HEADING

    def legend(self) -> None:
        """One for all panels, of what is drawn in any of them."""
        found: dict[str, Artist] = {}
        for panel in self.panels:
            for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
                found.setdefault(label, handle)
        if found:
            inches = 0.55 + 0.075 * max(map(len, found))
            columns = max(1, min(len(found), int(self.figure.get_figwidth() / inches)))
            place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0.002, 1 - 0.85 * HEADING / self.height)}
            style: dict[str, Any] = {
                "ncols": columns,
                "frameon": False,
                "fontsize": 8,
                "borderpad": 0.2,
                "handlelength": 3.2,
            }
            self.figure.legend(list(found.values()), list(found), **place, **style)
            self.above += ENTRY * math.ceil(len(found) / columns)

    def save(self, path: Path) -> Path:
        """Writes a PNG; its path."""
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        path.parent.mkdir(parents=True, exist_ok=True)
        share, top = self.below / self.height, self.above / self.height
        engine = self.figure.get_layout_engine()
        assert isinstance(engine, ConstrainedLayoutEngine)
        engine.set(rect=(0.005, share, 0.99, 1 - share - top), hspace=0.06, wspace=0.04)
        self.figure.text(0.01, 0.06 / self.height, "\n".join(self.footer), fontsize=6.5, color=FAINT, va="bottom")
        self.figure.savefig(path, format="png", dpi=DOTS_PER_INCH)
        return path


def share_scale(panels: Sequence[Axes]) -> None:
    """Gives panels that show the same value the same axis of values."""
    ends = [panel.get_ylim() for panel in panels]
    for panel in panels:
        panel.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))


def tidy(panel: Axes, title: str) -> None:
    """A quiet frame and a title."""
    panel.set_title(title, fontsize=9, color=INK, loc="left")
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=7.5)
    panel.grid(alpha=0.25, linewidth=0.6)
    for axis in (panel.xaxis, panel.yaxis):
        axis.label.set_fontsize(8)


def against_length(panel: Axes, lengths: Iterable[int]) -> None:
    """An axis of lengths in powers of two, with a tick for each length, or for some where there are many."""
    ticks = sorted(set(lengths))
    shown = ticks[:: math.ceil(len(ticks) / TICKS)]
    panel.set_xscale("log", base=2)
    panel.set_xticks(shown, labels=[short(tick) for tick in shown], minor=False)
    panel.minorticks_off()


def line(
    panel: Axes,
    number: int,
    label: str,
    points: Sequence[tuple[float, float]],
    ends: Sequence[tuple[float, float]] = (),
    condition: Condition = "full",
) -> None:
    """The points of the model `number`, and their intervals as a band."""
    colour, x = COLOURS[number % len(COLOURS)], [at for at, _ in points]
    style: dict[str, Any] = {"marker": MARKERS[number % len(MARKERS)], "markersize": 3.5, "linewidth": 1.4}
    panel.plot(x, [y for _, y in points], label=label, color=colour, linestyle=DASHES[condition], **style)
    if not ends:
        return
    low, high = zip(*ends, strict=True)
    if len(points) == 1:
        panel.vlines(x, low, high, color=colour, linewidth=1.0)
    else:
        panel.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
