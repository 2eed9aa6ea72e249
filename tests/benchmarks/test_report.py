from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import Bytes, Lookup, Numbers
from rich.console import Console

from farfield.benchmarks.grid import Grid, grids, short
from farfield.benchmarks.report import curves, heat_map, page, read_result, summary, tables, wilson, write
from farfield.benchmarks.results import Answers, Result
from farfield.benchmarks.runner import evaluate
from farfield.benchmarks.suites.needle import NeedleSuite
from farfield.config import read

IDS = Numbers(128)


def result(folder: Path, window: int = 1 << 40, name: str = "lookup", **changes: Any) -> Result:
    suite = read(NeedleSuite, {"lengths": [32, 64, 128], "depths": 5, "samples": 4, "controls": [], **changes})
    subject = Lookup(IDS, window, name=name, extra={"trained_length": 32})
    return read_result(evaluate(suite, subject, folder / name).path)


def printed(results: list[Result]) -> str:
    console = Console(width=110, record=True, file=open("/dev/null", "w"), force_terminal=False)  # noqa: SIM115, PTH123
    with console.file:
        console.print(*tables(results))
        return console.export_text()


@given(n=st.integers(0, 10_000), share=st.floats(0, 1))
def test_the_interval_holds_the_share_and_shrinks(n: int, share: float) -> None:
    hits = round(share * n)
    low, high = wilson(hits, n)
    assert 0 <= low < high <= 1
    assert n == 0 or low <= hits / n <= high
    other_low, other_high = wilson(n - hits, n)
    assert (other_low, other_high) == pytest.approx((1 - high, 1 - low))
    more_low, more_high = wilson(4 * hits, 4 * n)
    assert n == 0 or more_high - more_low < high - low


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # Published values of the Wilson interval, and 0 of n: the upper end is z² / (n + z²).
    [
        (50, 100, 0.4038, 0.5962),
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
        (0, 20, 0.0, 3.841459 / 23.841459),
        (20, 20, 1 - 3.841459 / 23.841459, 1.0),
    ],
)
def test_the_interval_has_the_known_values(hits: int, n: int, low: float, high: float) -> None:
    assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)


def test_lengths_are_written_short() -> None:
    assert [short(length) for length in (96, 1024, 1536, 65536, 1 << 20, 1000)] == [
        "96",
        "1k",
        "1536",
        "64k",
        "1M",
        "1000",
    ]


def test_the_table_has_a_rate_and_an_interval_for_each_cell(tmp_path: Path) -> None:
    text = printed([result(tmp_path, window=40)])
    assert "lookup, needle_tokens: 66.7% (54.1% to 77.3%, 40 of 60)" in text
    cells = [re.findall(r"[\w.*-]+", line) for line in text.splitlines() if line.startswith(("┃", "│"))]
    # The window reaches back over 40 tokens: all of 32, half of 64 and a third of 128.
    assert cells == [
        ["depth", "32", "64*", "128*"],
        *[["0", "100", "0", "0"], ["51-100", "0-49", "0-49"]],
        *[["25", "100", "0", "0"], ["51-100", "0-49", "0-49"]],
        *[["50", "100", "100", "0"], ["51-100", "51-100", "0-49"]],
        *[["75", "100", "100", "100"], ["51-100", "51-100", "51-100"]],
        *[["100", "100", "100", "100"], ["51-100", "51-100", "51-100"]],
        *[["mean", "100", "60", "40"], ["84-100", "39-78", "22-61"]],
    ]
    notes = "below it the Wilson 95 % interval. * longer than trained (32). Prefilled 3,160 tokens instead of 4,420."
    assert notes in " ".join(text.split())


def test_unfinished_and_skipped_cells_show_as_what_they_are(tmp_path: Path) -> None:
    whole = result(tmp_path)
    text = whole.path.read_text().splitlines(keepends=True)
    whole.path.write_text("".join(text[:8]))
    half = read_result(whole.path)
    said = summary([half])["results"][0]
    assert (said["finished"], said["cells"], said["samples"]) == (7, 15, 28)
    assert [row["samples"] for row in said["lengths"]] == [20, 8, 0]
    assert said["lengths"][2]["score"] is None
    assert printed([half])
    suite = NeedleSuite(lengths=(32,), depths=2, scoring="likelihood", controls=())
    blind = Lookup(IDS, name="blind", capabilities=frozenset({"state"}))
    skipped = read_result(evaluate(suite, blind, tmp_path / "blind").path)
    assert "nothing finished" in printed([skipped])
    assert len(re.findall(r"│ skipped │", printed([skipped]))) == 2
    reason = "needs a model that tells how likely a continuation is"
    assert [cell["reason"] for cell in summary([skipped])["results"][0]["skipped"]] == [reason] * 2
    for path in write([half, skipped], tmp_path):
        assert path.stat().st_size > 1000
    assert f"Skipped: {reason}." in (tmp_path / "report.html").read_text()


def test_the_summary_is_plain_and_adds_up(tmp_path: Path) -> None:
    both = [result(tmp_path, window=40, name="near"), result(tmp_path, name="far")]
    said = json.loads(json.dumps(summary(both), allow_nan=False))["results"]
    assert [entry["model"] for entry in said] == ["near", "far"]
    near, far = said
    assert (far["score"], far["hits"], far["samples"]) == (1.0, 60, 60)
    assert far["interval"] == pytest.approx(wilson(60, 60))
    assert near["hits"] == sum(cell["hits"] for cell in near["grid"]) == sum(row["hits"] for row in near["lengths"])
    assert len(near["grid"]) == 15
    assert near["prefilled"] < near["naive"]
    assert near["trained_length"] == 32


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
    assert share(one, high) > 0.3 > 0.05 > share(one, low)
    assert share(none, low) > 0.3 > 0.05 > share(none, high)
    # A model that fails everywhere is not stretched to the scale of one that does not.
    assert min(share(both, low), share(both, high)) > 0.2
    assert both.shape[1] > one.shape[1]
    assert share(one, (214 / 255, 39 / 255, 40 / 255)) > 0.0005  # the line behind the trained length


def test_many_models_and_one_row_fit_in_a_picture(tmp_path: Path) -> None:
    single = result(tmp_path, lengths=[64], depths=1)
    image = pixels(heat_map(grids(single) * 4, tmp_path / "many.png"))
    assert min(image.shape[:2]) > 200
    assert pixels(curves(grids(single) * 9, tmp_path / "curves.png")).std() > 0.01


def test_grids_without_depths_and_without_cells_are_drawn(tmp_path: Path) -> None:
    answers = Answers(
        0,
        2,
        "generate",
        [1.0, 0.5],
        [64, 64],
        [[], []],
        ["a", "b"],
        ["a", "b"],
        [],
        ["", "b"],
        0,
        "",
        False,
        10,
        20,
        0.1,
    )
    flat = Grid("flat", "recall", (64, 128), (None,), {(64, None): answers}, {}, None)
    empty = Grid("empty", "recall", (64,), (0.0, 1.0), {}, {}, 32)
    rate = flat.rate(64)
    assert rate is not None
    assert (rate.score, rate.hits, rate.n) == (0.75, 1, 2)
    assert heat_map([flat, empty], tmp_path / "map.png").stat().st_size > 1000
    assert curves([flat, empty], tmp_path / "curves.png").stat().st_size > 1000


def test_the_page_stands_alone_and_is_escaped(tmp_path: Path) -> None:
    evil = result(tmp_path, name="<b>bold & 'quoted'")
    paths = write([evil, result(tmp_path, window=40, name="near")], tmp_path / "out")
    assert [path.name for path in paths] == ["heat_map.png", "curves.png", "report.html"]
    html = paths[-1].read_text(encoding="utf-8")
    assert html == page([evil, read_result(tmp_path / "near" / "needle.jsonl")], paths[:2])
    assert "<b>" not in html
    assert "&lt;b&gt;bold &amp; &#x27;quoted&#x27;" in html
    assert html.count('src="data:image/png;base64,') == 2
    assert not re.findall(r'(?:src|href)="(?!data:)', html)
    assert "http" not in html
    assert "<script" not in html
    assert np.__version__ in html
    assert "suite.batch_tokens" in html
    assert html.count("<table>") == html.count("</table>") - html.count('<table class="facts">') == 2


def test_text_and_token_results_stand_in_one_report(tmp_path: Path) -> None:
    suite = NeedleSuite(lengths=(300,), depths=2, samples=2, controls=())
    text = read_result(evaluate(suite, Lookup(Bytes(), name="bytes"), tmp_path / "bytes").path)
    names = [(entry["model"], entry["task"]) for entry in summary([text, result(tmp_path)])["results"]]
    assert names == [("bytes", "needle_text"), ("lookup", "needle_tokens")]
    assert len(write([text, result(tmp_path)], tmp_path)) == 3


def test_importing_tasks_runner_and_report_loads_neither_torch_nor_matplotlib() -> None:
    script = (
        "import sys, farfield.benchmarks.runner, farfield.benchmarks.report\n"
        "print([name for name in ('torch', 'matplotlib', 'lightning', 'hydra') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    script = script.replace(
        "farfield.benchmarks.runner, farfield.benchmarks.report", "farfield.benchmarks.tasks.needle"
    )
    script = script.replace("'hydra'", "'hydra', 'rich', 'farfield.progress'")
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
