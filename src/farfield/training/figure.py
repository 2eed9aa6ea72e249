"""The picture of a run: training and validation loss by step."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from farfield.training.metrics import Row
from farfield.training.saving import replacing

__all__ = ["draw_losses"]


def draw_losses(rows: list[Row], file: Path, title: str) -> None:
    """Writes a PNG of the losses in `rows`."""
    figure = Figure(figsize=(7.0, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for column, label, color, marker in (
        ("loss", "training", "#7a9cc6", None),
        ("validation_loss", "validation", "#c2452d", "o"),
    ):
        points = [(row["step"], row[column]) for row in rows if column in row]
        if points:
            steps, losses = zip(*points, strict=True)
            said = f"{label}, at the end {losses[-1]:.3f}"
            axes.plot(steps, losses, label=said, color=color, marker=marker, markersize=3.5, linewidth=1.4)
    axes.set(xlabel="step", ylabel="loss (nats a token)", title=title)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    with replacing(file) as temporary:
        figure.savefig(temporary, format="png")
