"""Pictures: what is in them, and that they say where their numbers come from."""

from __future__ import annotations

import csv
import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_results import (
    answers,
    cell,
    efficiency,
    head,
    measured,
    needle,
    perplexity,
    recall,
    retrieval,
    ruler,
)
from fake_results import write as write_result
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from report_cases import THRESHOLD, entries, result

from farfield.benchmarks.reports.canvas import DASHES
from farfield.benchmarks.reports.exports import as_csv
from farfield.benchmarks.reports.figures import by_depth, by_label, by_length, heat_map, pictures
from farfield.benchmarks.reports.grid import CONDITIONS, Grid, grids
from farfield.benchmarks.reports.tables import tables
from farfield.benchmarks.running.results import Measured


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return np.asarray(imread(path))[..., :3]


def share(image: np.ndarray, colour: tuple[float, ...]) -> float:
    return float((np.abs(image - np.array(colour[:3])).max(axis=-1) < 0.02).mean())


def test_the_heat_map_shows_the_scores_on_one_scale(tmp_path: Path) -> None:
    from matplotlib import colormaps

    low, high = colormaps["cividis"](0.0), colormaps["cividis"](1.0)
    far, near = result(tmp_path, name="far"), result(tmp_path, window=3, name="near")
    one = pixels(heat_map(grids(far), tmp_path / "far.png"))
    none = pixels(heat_map(grids(near), tmp_path / "near.png"))
    both = pixels(heat_map([*grids(far), *grids(near)], tmp_path / "both.png"))
    assert share(one, high) > 0.25 > 0.05 > share(one, low)
    assert share(none, low) > 0.25 > 0.05 > share(none, high)
    # A model that fails everywhere is not stretched to the scale of one that does not.
    assert min(share(both, low), share(both, high)) > 0.15
    assert both.shape[1] > one.shape[1]
    assert share(one, (214 / 255, 39 / 255, 40 / 255)) > 0.0005  # the line behind the trained length


def test_many_models_and_one_row_fit_in_a_picture(tmp_path: Path) -> None:
    single = result(tmp_path, lengths=[64], depths=1)
    image = pixels(heat_map(grids(single) * 4, tmp_path / "many.png"))
    assert min(image.shape[:2]) > 200
    assert pixels(by_length(grids(single) * 9, tmp_path / "curves.png")).std() > 0.01


def test_grids_without_depths_and_without_cells_are_drawn(tmp_path: Path) -> None:
    got = answers([1.0, 0.5], 64)
    plain = {
        "suite": "recall",
        "metric": "recall",
        "controls": {},
        "lacking": {},
        "labels": {},
        "source": "",
        "samples": 2,
    }
    flat = Grid(
        "flat",
        task="recall",
        lengths=(64, 128),
        depths=(None,),
        cells={(64, None): got},
        skipped={},
        trained=None,
        **plain,
    )
    empty = Grid("empty", task="recall", lengths=(64,), depths=(0.0, 1.0), cells={}, skipped={}, trained=32, **plain)
    rate = flat.rate(64)
    assert rate is not None
    assert (rate.score, rate.hits, rate.n) == (0.75, 1, 2)
    for number, draw in enumerate((heat_map, by_length, by_depth)):
        assert draw([flat, empty], tmp_path / f"{number}.png").stat().st_size > 1000


def test_each_suite_has_the_pictures_of_its_shape_and_each_says_where_its_numbers_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: dict[str, str] = {}
    old = Figure.savefig

    def savefig(figure: Figure, path: Path, **options: Any) -> None:
        texts[path.name] = " ".join(text.get_text().replace("\n", " ") for text in figure.texts)
        if path.name.startswith(("perplexity", "efficiency", "retrieval")):  # the others are rendered in other tests
            old(figure, path, **{**options, "dpi": 20})

    monkeypatch.setattr(Figure, "savefig", savefig)
    results = [needle(tmp_path, "small", 1, depths=3), ruler(tmp_path, "small", 0.8, tasks=("vt", "cwe"))]
    results += [recall(tmp_path, "small", 8), perplexity(tmp_path, "small", 0.1)]
    results += [efficiency(tmp_path, "small", 1), retrieval(tmp_path, "small", 0.7)]
    made = pictures(results, tmp_path / "out")
    assert [path.name for path in made] == list(texts)
    assert set(texts) == {
        *("needle_heat_map.png", "needle_by_length.png", "needle_by_depth.png"),
        *("ruler_heat_map.png", "ruler_by_length.png"),
        *("recall_heat_map.png", "recall_by_length.png", "recall_mqar_by_pairs.png"),
        *("perplexity_by_length.png", "perplexity_loss_by_position.png", "perplexity_context_gain.png"),
        *("efficiency_by_length.png", "retrieval_bars.png"),
    }
    for name, text in texts.items():
        for part in ("commit 01234567", f"suite {name.split('_')[0]}", "model small", "seed 0", "settings "):
            assert part in text


def test_labelled_curves_have_a_panel_for_each_length(tmp_path: Path) -> None:
    every = grids(recall(tmp_path, "small", 8))
    wide = pixels(by_label(every, tmp_path / "all.png", "recall"))
    narrow = pixels(by_label([grid for grid in every if grid.labels["pairs"] < 16], tmp_path / "two.png", "recall"))
    assert wide.shape == narrow.shape


def test_where_there_is_one_length_tasks_stand_against_what_was_read(tmp_path: Path) -> None:
    from matplotlib import colormaps

    tasks = {name: {"scoring": "generate"} for name in ("one", "two")}
    conditions = {"full": 0.0, "retrieved": 1.0, "no_context": 0.0}
    records = [cell(name, answers([score], 256), 256, None, how) for name in tasks for how, score in conditions.items()]
    found = write_result(tmp_path / "longdoc.jsonl", head("longdoc", "m", tasks, lengths=[256]), records)
    image = pixels(heat_map(grids(found), tmp_path / "map.png"))
    low, high = (share(image, colormaps["cividis"](end)) for end in (0.0, 1.0))
    assert low == pytest.approx(2 * high, rel=0.3)
    (table,) = tables([found], THRESHOLD)
    assert entries(table)["retrieved, mean", "m"] == ["100.0"]


def drawn_panels(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """The panels of all figures that are saved from now on, without rendering them."""
    panels: list[Axes] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: panels.extend(figure.axes))
    return panels


def test_controls_are_told_apart_by_dashes_and_by_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    panels = drawn_panels(monkeypatch)
    conditions = [name for name in CONDITIONS if name != "full"]
    records = [cell("one", answers([1.0, 0.0], at), at) for at in (256, 512)]
    records += [cell("one", answers([0.0] * 2, at), at, None, how) for how in conditions for at in (256, 512)]
    found = write_result(tmp_path / "n.jsonl", head("needle", "m", {"one": {"scoring": "generate"}}), records)
    by_length(grids(found), tmp_path / "n.png")
    lines = {line.get_label(): line for line in panels[0].lines}
    controls = [lines[CONDITIONS[name]] for name in conditions]
    assert len({line.get_marker() for line in controls} - {"None", ""}) == len(conditions)
    patterns = [DASHES[name][1] for name in conditions]
    for one, other in itertools.combinations(patterns, 2):
        assert one is not None
        assert other is not None
        # Another number of strokes, or a stroke or gap that is half as long again.
        assert len(one) != len(other) or max(max(a / b, b / a) for a, b in zip(one, other, strict=True)) >= 1.5


def test_what_things_cost_is_drawn_and_written_at_no_less_than_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panels = drawn_panels(monkeypatch)
    units = {"first_token": "s", "gain": "nats a token"}
    got = Measured({"first_token": 0.2, "gain": 0.1}, {"first_token": 0.5, "gain": 0.5}, units)
    for lengths in ([256], [256, 512]):
        records = [measured("cost", got, length) for length in lengths]
        about = head("efficiency", "m", {"cost": {}}, lengths=lengths)
        found = write_result(tmp_path / f"{len(lengths)}.jsonl", about, records)
        pictures([found], tmp_path / "out")
        rows = list(csv.DictReader(io.StringIO(as_csv([found]))))
        assert [(float(row["low"]), float(row["high"])) for row in rows[:2]] == [(0.0, 0.7), (-0.4, 0.6)]
    for cost, gain in (panels[:2], panels[2:4]):  # bars, and lines with a band
        ends = [panel.collections[0].get_paths()[0].vertices for panel in (cost, gain)]
        assert [float(np.asarray(one)[:, 1].min()) for one in ends] == [0, pytest.approx(-0.4)]
