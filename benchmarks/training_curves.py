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
    for one in sorted(summary(runs), key=lambda one: one["validation_loss"] or one["loss"] or 0.0):
        counts = [f"{one[name]:,.0f}" for name in ("parameters", "step", "tokens")]
        losses = ["-" if one[name] is None else f"{one[name]:.3f}" for name in ("loss", "validation_loss")]
        rate = one["tokens_per_second"]
        shown.add_row(one["name"], *counts, *losses, "-" if rate is None else f"{rate:,.0f}")
    return shown


def draw(runs: Sequence[Run], path: Path) -> Path:
    """A PNG of the training losses, smoothed, and the validation losses, a colour a run. Returns `path`."""
    from matplotlib.figure import Figure

    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(10.4, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, column, title in zip(panels, ("loss", "validation_loss"), ("training", "validation"), strict=True):
        for number, run in enumerate(runs):
            _line(panel, run, column, number)
        panel.set(xlabel="tokens read", title=title)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("loss (nats a token)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(path, format="png", dpi=150)
    return path


def _line(panel: Axes, run: Run, column: str, number: int) -> None:
    points = [(row["tokens"], row[column]) for row in run.rows if column in row]
    group = max(1, len(points) // SMOOTH)
    groups = [points[begin : begin + group] for begin in range(0, len(points), group)]
    tokens = [sum(x for x, _ in one) / len(one) for one in groups]
    losses = [sum(y for _, y in one) / len(one) for one in groups]
    style = ("-", "--", ":")[number // 10 % 3]
    panel.plot(tokens, losses, label=run.name, color=f"C{number % 10}", linestyle=style, linewidth=1.4)
