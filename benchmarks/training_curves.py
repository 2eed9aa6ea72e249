"""Runs side by side: their losses against the tokens they have read, as a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from farfield.config import DataError
from farfield.pretrained import CONFIG, model_config, read_config
from farfield.training.metrics import FILE, Row, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Run", "draw", "find_runs", "read_run", "summary", "table"]

SMOOTH = 40  # points of a training curve: each is the mean of the lines between two


@dataclass(frozen=True)
class Run:
    """What a run says of itself, and its metrics by step."""

    path: Path
    config: dict[str, Any]
    parameters: int
    rows: list[Row]

    @property
    def name(self) -> str:
        return str(self.config.get("name", self.path.name))

    def last(self, column: str) -> float | None:
        """The newest value of a column."""
        return next((row[column] for row in reversed(self.rows) if column in row), None)


def find_runs(place: Path) -> list[Path]:
    """The runs at or directly below `place`: folders with a config.yaml and a metrics.csv."""
    return sorted(file.parent for pattern in (FILE, f"*/{FILE}") for file in place.glob(pattern) if _whole(file.parent))


def _whole(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def read_run(folder: Path) -> Run:
    """The run in `folder`.

    Raises:
        ModelError: its settings cannot be read. DataError: it has no line of metrics yet.
    """
    config, rows = read_config(folder / CONFIG), read_metrics(folder / FILE)
    if not rows:
        raise DataError(f"{folder}: no step has been logged there yet.")
    return Run(folder, config, model_config(config, folder / CONFIG).parameters(), rows)


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Where each run stands, as plain values; losses in nats a token."""
    columns = ("step", "tokens", "loss", "validation_loss", "tokens_per_second")
    return [
        {
            "name": run.name,
            "path": str(run.path),
            "parameters": run.parameters,
            **{column: run.last(column) for column in columns},
        }
        for run in runs
    ]


def table(runs: Sequence[Run]) -> Table:
    """A line for each run, the lowest validation loss first."""
    shown = Table("run", title="Training, losses in nats a token")
    for column in ("parameters", "steps", "tokens", "training loss", "validation loss", "tokens/s"):
        shown.add_column(column, justify="right")
    for one in summary(sorted(runs, key=_end)):
        counts = [f"{one[name]:,.0f}" for name in ("parameters", "step", "tokens")]
        losses = ["-" if one[name] is None else f"{one[name]:.3f}" for name in ("loss", "validation_loss")]
        rate = one["tokens_per_second"]
        shown.add_row(one["name"], *counts, *losses, "-" if rate is None else f"{rate:,.0f}")
    return shown


def draw(runs: Sequence[Run], path: Path) -> Path:
    """A PNG of the training losses against the tokens read, smoothed, and of where each run ends, the best on top.

    Returns:
        `path`.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    path.parent.mkdir(parents=True, exist_ok=True)
    ordered = sorted(runs, key=_end)
    figure = Figure(figsize=(10.4, max(4.2, 1.2 + 0.22 * len(runs))), layout="constrained")
    curves, ends = figure.subplots(1, 2, width_ratios=(3, 2))
    for place, run in enumerate(ordered):
        colour = colormaps["tab20"](place % 20)
        _line(curves, run, colour, ("-", "--", ":")[place // 20 % 3])
        ends.plot([_end(run)], [place], "o", color=colour)
        ends.annotate(f"{_end(run):.3f}", (_end(run), place), xytext=(8, 0), textcoords="offset points", va="center")
    curves.set(xlabel="tokens read", ylabel="training loss (nats a token)", xscale="log")
    ends.set(xlabel="last validation loss", ylim=(len(ordered) - 0.5, -0.5))
    ends.set_yticks(range(len(ordered)), [run.name for run in ordered])
    ends.margins(x=0.3)
    for panel in (curves, ends):
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png", dpi=150)
    return path


def _end(run: Run) -> float:
    """The last validation loss, or training loss where nothing was held out."""
    return run.last("validation_loss") or run.last("loss") or 0.0


def _line(panel: Axes, run: Run, colour: object, style: str) -> None:
    points = [(row["tokens"], row["loss"]) for row in run.rows if "loss" in row]
    group = max(1, len(points) // SMOOTH)
    groups = [points[begin : begin + group] for begin in range(0, len(points), group)]
    tokens = [sum(x for x, _ in one) / len(one) for one in groups]
    losses = [sum(y for _, y in one) / len(one) for one in groups]
    panel.plot(tokens, losses, color=colour, linestyle=style, linewidth=1.4)
