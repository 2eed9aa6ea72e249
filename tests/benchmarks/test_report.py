from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_results import (
    RULER,
    answers,
    cell,
    head,
    measured,
    recall,
    retrieval,
    ruler,
    skip,
)
from fake_results import write as write_result
from oracle import Bytes, Lookup
from report_cases import IDS, THRESHOLD, entries, printed, result

from farfield.benchmarks.reports.exports import as_csv
from farfield.benchmarks.reports.figures import pictures
from farfield.benchmarks.reports.grid import grids, short
from farfield.benchmarks.reports.intervals import mean_interval, wilson
from farfield.benchmarks.reports.report import summary, write
from farfield.benchmarks.reports.tables import tables
from farfield.benchmarks.running.results import Measured, Result, read_result
from farfield.benchmarks.running.runner import evaluate
from farfield.benchmarks.suites.needle import NeedleSuite


def written(results: list[Result], folder: Path) -> list[Path]:
    return write(results, tables(results, THRESHOLD), folder)


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
    assert "lookup, needle_tokens: 66.7% (50.1% to 83.2%, 40 of 60)" in text
    cells = [re.findall(r"[\w.*-]+", line) for line in text.splitlines() if line.startswith(("┃", "│"))]
    # The window reaches back over 40 tokens: all of 32, half of 64 and a third of 128.
    assert cells == [
        ["depth", "32", "64*", "128*"],
        *[["0", "100", "0", "0"], ["51-100", "0-49", "0-49"]],
        *[["25", "100", "0", "0"], ["51-100", "0-49", "0-49"]],
        *[["50", "100", "100", "0"], ["51-100", "51-100", "0-49"]],
        *[["75", "100", "100", "100"], ["51-100", "51-100", "51-100"]],
        *[["100", "100", "100", "100"], ["51-100", "51-100", "51-100"]],
        *[["mean", "100", "60", "40"], ["51-100", "20-90", "10-80"]],
    ]
    notes = "about it are one draw. * longer than trained (32). Prefilled 3,160 tokens instead of 4,420."
    assert notes in " ".join(text.split())


def test_a_star_is_explained_where_one_is_shown(tmp_path: Path) -> None:
    long, short_ones = result(tmp_path, name="long"), result(tmp_path, name="short", lengths=[24, 32])
    for found, shown in ((long, True), (short_ones, False)):
        (table,) = tables([found], THRESHOLD)
        assert any("*" in column for column in table.columns) == shown
        assert any("longer than trained" in note for note in table.notes) == shown


def test_unfinished_and_skipped_cells_show_as_what_they_are(tmp_path: Path) -> None:
    whole = result(tmp_path)
    text = whole.path.read_text().splitlines(keepends=True)
    whole.path.write_text("".join(text[:8]))
    half = read_result(whole.path)
    said = summary([half], THRESHOLD)["results"][0]
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
    assert [cell["reason"] for cell in summary([skipped], THRESHOLD)["results"][0]["skipped"]] == [reason] * 2
    for path in written([half, skipped], tmp_path):
        assert path.stat().st_size > 1000
    assert f"Skipped: {reason}." in (tmp_path / "report.html").read_text()
    assert f",{reason}," in (tmp_path / "report.csv").read_text()


def test_the_summary_is_plain_and_adds_up(tmp_path: Path) -> None:
    both = [result(tmp_path, window=40, name="near"), result(tmp_path, name="far")]
    said = json.loads(json.dumps(summary(both, THRESHOLD), allow_nan=False))["results"]
    assert [entry["model"] for entry in said] == ["near", "far"]
    near, far = said
    assert (far["score"], far["hits"], far["samples"]) == (1.0, 60, 60)
    assert far["interval"] == pytest.approx(wilson(12, 12))
    assert near["hits"] == sum(cell["hits"] for cell in near["grid"]) == sum(row["hits"] for row in near["lengths"])
    assert len(near["grid"]) == 15
    assert near["prefilled"] < near["naive"]
    assert near["trained_length"] == 32


def test_ruler_has_a_table_of_tasks_with_means_effective_length_and_controls(tmp_path: Path) -> None:
    both = [ruler(tmp_path, "strong", 0.99), ruler(tmp_path, "weak", 0.5)]
    (table,) = tables(both, THRESHOLD)
    shown = entries(table)
    assert list(shown)[:4] == [
        ("niah_single_1", "strong"),
        ("niah_single_1", "weak"),
        ("niah_single_2", "strong"),
        ("niah_single_2", "weak"),
    ]
    assert table.columns == ("256", "512", "1k", "2k*", "4k*")
    assert shown["qa_1", "weak"][0] == "skipped"
    columns = [[shown[task, "weak"][at] for task in RULER] for at in (1, 4)]
    scores = [both[1].cells[got].scores for got in both[1].cells if got.length == 512 and got.condition == "full"]
    assert [float(text) for text in columns[0]] == [round(100 * np.mean(one)) for one in scores]
    assert shown["mean of 13", "weak"][1] == f"{100 * np.mean([np.mean(one) for one in scores]):.1f}"
    assert shown["mean of 13", "weak"][0].endswith("†")
    assert float(shown["gold only, mean", "weak"][2]) > 90 > 10 > float(shown["no context, mean", "weak"][2])
    notes = "\n".join(table.notes)
    assert "above 85.6%): strong none, weak none." in notes
    assert "weak: 10 ties within rounding, in 5 of 192 cells." in notes
    assert "Skipped: qa_1: 256 tokens are too short: 512 is the least." in notes


def test_tasks_that_differ_in_a_number_stand_in_its_order(tmp_path: Path) -> None:
    (table,) = tables([recall(tmp_path, "small", 8)], THRESHOLD)
    assert table.title == "recall: mqar by pairs"
    assert [row.heads[0] for row in table.rows][:5] == [f"pairs {pairs}" for pairs in (4, 8, 16, 32, 64)]
    assert not any("ffective" in note for note in table.notes)


def test_what_was_measured_is_a_table_of_values_with_their_intervals(tmp_path: Path) -> None:
    (table,) = tables([retrieval(tmp_path, "lexical", 0.7)], THRESHOLD)
    assert table.columns == ("ndcg at 10", "recall at 10", "mrr")
    assert entries(table)["scifact", "lexical"] == ["0.7000", "0.7000", "0.6500"]
    assert table.rows[0].entries[2].small == "±0.0300"
    long = Measured({"prefill": 12345.6, "state": 0.0}, {"prefill": 12.0}, {"prefill": "tokens/s"}, notes=["Hot."])
    made = write_result(
        tmp_path / "efficiency.jsonl",
        head("efficiency", "m", {"cost": {}}),
        [measured("cost", long, 256), measured("cost", long, 512)],
    )
    (table,) = tables([made], THRESHOLD)
    assert entries(table) == {
        ("cost: prefill, tokens/s", "m"): ["12,346", "12,346", "", "", ""],
        ("cost: state", "m"): ["0", "0", "", "", ""],
    }
    assert table.rows[0].entries[0].small == "±12"
    assert table.notes == ("± half of the 95 % interval.", "Hot.")


def test_a_note_names_its_cells_where_these_are_not_all(tmp_path: Path) -> None:
    got = {
        (256, "full"): ["All.", "Two."],
        (512, "full"): ["All.", "Two."],
        (512, "memory_off"): ["All.", "Off."],
    }
    records = [measured("cost", Measured({"prefill": 1.0}, notes=notes), *place) for place, notes in got.items()]
    (table,) = tables([write_result(tmp_path / "e.jsonl", head("e", "m", {"cost": {}}), records)], THRESHOLD)
    assert table.notes == ("All.", "Two. (m, cost at 256; m, cost at 512)", "Off. (m, cost at 512)")


def test_capped_and_unfilled_cells_are_noted(tmp_path: Path) -> None:
    tasks = {"one": {"scoring": "generate", "placed": True}}
    got = answers([1.0], 256, 0.5, capped=True, unfilled="The text has no more.")
    found = write_result(
        tmp_path / "needle.jsonl", head("needle", "m", tasks, depths=[0.5, 1.0]), [cell("one", got, 256, 0.5)]
    )
    (table,) = tables([found], THRESHOLD)
    assert "m: 1 of 1 cells were closed early, their time was over." in table.notes
    assert "Not filled at 256: The text has no more." in table.notes


def test_other_settings_side_by_side_are_said(tmp_path: Path) -> None:
    both = [result(tmp_path, name="a"), result(tmp_path, name="b", samples=2)]
    assert "Not all were asked the same: samples 4 and 2." in tables(both, THRESHOLD)[-1].notes


def test_text_and_token_results_stand_in_one_report(tmp_path: Path) -> None:
    suite = NeedleSuite(lengths=(300,), depths=2, samples=2, controls=())
    text = read_result(evaluate(suite, Lookup(Bytes(), name="bytes"), tmp_path / "bytes").path)
    names = [(entry["model"], entry["task"]) for entry in summary([text, result(tmp_path)], THRESHOLD)["results"]]
    assert names == [("bytes", "needle_text"), ("lookup", "needle_tokens")]
    names = {path.name for path in written([text, result(tmp_path)], tmp_path)}
    assert {"report.html", "report.csv", "report.md", "needle_heat_map.png"} <= names


def test_importing_tasks_runner_and_report_loads_neither_torch_nor_matplotlib() -> None:
    script = (
        "import sys, farfield.benchmarks.running.runner, farfield.benchmarks.reports.report\n"
        "print([name for name in ('torch', 'matplotlib', 'lightning', 'hydra') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    script = script.replace(
        "farfield.benchmarks.running.runner, farfield.benchmarks.reports.report", "farfield.benchmarks.tasks.needle"
    )
    script = script.replace("'hydra'", "'hydra', 'rich', 'farfield.progress'")
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_means_over_other_numbers_of_tasks_say_so(tmp_path: Path) -> None:
    results = [ruler(tmp_path, "all", 0.9, samples=1), ruler(tmp_path, "some", 0.9, samples=1, tasks=RULER[:11])]
    (table,) = tables(results, THRESHOLD)
    assert [row.heads for row in table.rows if row.heads[0].startswith("mean")] == [
        ("mean of 13", "all"),
        ("mean of 11", "some"),
    ]


def test_choices_by_likelihood_stand_apart_with_their_chance_and_without_a_published_name(tmp_path: Path) -> None:
    tasks = {name: {"scoring": "likelihood", "metric": "String_match_all"} for name in ("one", "two")}
    chances = {"one": [0.25, 0.25], "two": [0.5, 0.1]}
    lengths = [256, 512]
    records = [cell(name, answers([1.0, 1.0], at, chances=chances[name]), at) for name in tasks for at in lengths]
    chosen = write_result(tmp_path / "chosen" / "ruler.jsonl", head("ruler", "m", tasks, lengths=lengths), records)
    wrote = ruler(tmp_path, "m", 0.99, samples=2, tasks=("vt", "cwe"))
    written_table, table = tables([wrote, chosen], THRESHOLD)
    assert (written_table.title, table.title) == ("ruler: tasks by length", "ruler by likelihood: tasks by length")
    assert table.notes[0] == "Choice accuracy in %."
    assert table.suite == "ruler by likelihood"
    assert [(row.heads, row.entries[0].text) for row in table.rows][1::2] == [
        (("", "chance"), "25.0"),
        (("", "chance"), "30.0"),
        (("", "chance"), "27.5"),
    ]
    assert any("above 85.6%)" in note for note in written_table.notes)
    assert not any("85.6" in note for note in table.notes)
    assert any("no published score" in note for note in table.notes)
    said = summary([chosen], THRESHOLD)
    assert said["effective"][0]["lengths"] == {"own": 512}
    assert said["results"][0]["metric"] == "choice accuracy"
    assert said["results"][0]["lengths"][0]["chance"] == 0.25
    assert "String_match_all" not in as_csv([chosen])
    names = {path.name for path in pictures([wrote, chosen], tmp_path / "out")}
    assert {"ruler_heat_map.png", "ruler_by_likelihood_heat_map.png"} <= names


def test_the_chance_of_a_grid_is_a_row_beneath_it(tmp_path: Path) -> None:
    found = result(tmp_path, lengths=[64], scoring="likelihood")
    (table,) = tables([found], THRESHOLD)
    (chance,) = {chance for got in found.cells.values() for chance in got.chances}
    assert 0 < chance < 0.5
    assert (table.rows[-1].heads, table.rows[-1].entries[0].text) == (("chance",), f"{100 * chance:.1f}")
    assert found.head["tasks"]["needle_tokens"]["metric"] == "choice accuracy"


def test_tasks_that_are_skipped_at_all_lengths_are_in_no_mean(tmp_path: Path) -> None:
    tasks = {name: {"scoring": "generate", "metric": "all"} for name in ("one", "two", "qa_1", "qa_2")}
    records = [cell(name, answers([1.0, 1.0], at), at) for name in ("one", "two") for at in (256, 512)]
    records += [skip(name, at, f"{name}: no file.") for name in ("qa_1", "qa_2") for at in (256, 512)]
    path = tmp_path / "ruler.jsonl"
    found = write_result(path, head("ruler", "m", tasks, lengths=[256, 512]), records)
    (table,) = tables([found], THRESHOLD)
    assert entries(table)["mean of 2 of 4", "m"] == ["100.0", "100.0"]
    notes = "\n".join(table.notes)
    assert "Effective length (mean over the tasks asked above 85.6%): m 512." in notes
    assert "m: not asked at any length, and in no mean: qa_1, qa_2." in notes
    assert "†" not in notes
    (told,) = summary([found], THRESHOLD)["effective"]
    assert (told["lengths"]["published"], told["tasks"], told["not_asked"]) == (512, 2, ["qa_1", "qa_2"])
    # What failed for now, or is asked at one of the lengths, is still to come: no mean is of all tasks without it.
    late = [skip("qa_2", at, "The endpoint is down.") | {"failed": True} for at in (256, 512)]
    found = write_result(path, head("ruler", "m", tasks, lengths=[256, 512]), [*records[:6], *late])
    shown = entries(tables([found], THRESHOLD)[0])
    assert shown["mean of 3 of 4", "m"] == ["100.0†", "100.0†"]
    assert "effective" not in summary([found], THRESHOLD)


def test_depths_of_a_text_and_questions_about_it_are_one_draw(tmp_path: Path) -> None:
    tasks = {"one": {"scoring": "generate", "placed": True}}
    places = [0.0, 0.5, 1.0]
    # Four texts; the first two are answered at all depths, the others at none: four draws, not twelve.
    records = [cell("one", answers([1.0, 1.0, 0.0, 0.0], 256, depth), 256, depth) for depth in places]
    changes = {"depths": places, "lengths": [256, 512]}
    path = tmp_path / "needle.jsonl"
    (grid,) = grids(write_result(path, head("needle", "m", tasks, **changes), records))
    rate = grid.rate(256)
    assert rate is not None
    assert (rate.score, rate.hits, rate.n) == (0.5, 6, 12)
    assert rate.interval == pytest.approx(wilson(2, 4))
    # Texts of another length are other draws.
    records.append(cell("one", answers([1.0, 1.0, 0.0, 0.0], 512, 0.5), 512, 0.5))
    (grid,) = grids(write_result(path, head("needle", "m", tasks, **changes), records))
    overall = grid.rate()
    assert overall is not None
    assert overall.interval == pytest.approx(wilson(4, 8))
    # Depths that differ make fractions of the units: Student's interval, of eight.
    mixed = [([1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0], 0.0), ([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0], 1.0)]
    records = [cell("one", answers(scores, 256, depth), 256, depth) for scores, depth in mixed]
    (grid,) = grids(write_result(path, head("needle", "m", tasks, **changes), records))
    rate = grid.rate(256)
    assert rate is not None
    assert rate.interval == pytest.approx(mean_interval([1, 1, 0.5, 0, 0.5, 0, 1, 0]))


def test_every_mean_of_fewer_tasks_is_marked(tmp_path: Path) -> None:
    tasks = {name: {"scoring": "generate"} for name in ("one", "two", "three")}
    score = answers([1.0, 1.0], 256)
    records = [cell(name, score, at) for name in ("one", "two") for at in (256, 512)]
    records += [skip("three", at, "three: no file.", how) for at in (256, 512) for how in ("full", "gold_only")]
    records += [cell(name, score, at, None, "gold_only") for name, at in (("one", 256), ("two", 256), ("one", 512))]
    # The second task has no prompts without context at all, and so this mean is never that of the full one's tasks.
    records += [cell("one", score, at, None, "no_context") for at in (256, 512)]
    found = write_result(tmp_path / "ruler.jsonl", head("ruler", "m", tasks, lengths=[256, 512]), records)
    shown = entries(tables([found], THRESHOLD)[0])
    assert shown["mean of 2 of 3", "m"] == ["100.0", "100.0"]
    assert shown["gold only, mean", "m"] == ["100.0", "100.0†"]
    assert shown["no context, mean", "m"] == ["100.0†", "100.0†"]


def test_a_reason_of_many_tasks_is_told_once_and_has_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    panels: dict[str, list[str]] = {}

    def savefig(figure: Figure, path: Path, **options: Any) -> None:
        panels[path.name] = [panel.get_title(loc="left") or panel.get_title() for panel in figure.axes if panel.lines]

    monkeypatch.setattr(Figure, "savefig", savefig)
    counts = (4, 8, 16)
    tasks = {f"mqar_{pairs}": {"scoring": "likelihood", "labels": {"pairs": pairs}} for pairs in counts}
    why = "scoring: likelihood given, and {} is judged by read."
    records = [skip(name, at, why.format(name)) for name in tasks for at in (256, 512)]
    about = {"lengths": [256, 512]}
    nothing = write_result(tmp_path / "nothing" / "recall.jsonl", head("recall", "m", tasks, **about), records)
    assert pictures([nothing], tmp_path / "out") == []
    (table,) = tables([nothing], THRESHOLD)
    reasons = [note for note in table.notes if note.startswith("Skipped")]
    assert reasons == [f"Skipped: {why.format('mqar_4').rstrip('.')} (mqar_8, mqar_16 likewise)."]
    tasks["copying"] = {"scoring": "likelihood"}
    records += [cell("copying", answers([1.0], at), at) for at in (256, 512)]
    some = write_result(tmp_path / "some" / "recall.jsonl", head("recall", "m", tasks, **about), records)
    made = pictures([some], tmp_path / "out")
    names = ["recall_by_likelihood_heat_map.png", "recall_by_likelihood_by_length.png"]
    assert [path.name for path in made] == names == list(panels)
    assert panels[names[1]] == ["copying"]


def test_a_reason_of_controls_alone_says_which(tmp_path: Path) -> None:
    suite = NeedleSuite(lengths=(64,), depths=2, samples=2)
    made = read_result(evaluate(suite, Lookup(IDS), tmp_path).path)
    assert "Skipped memory off, memory shuffled: needs a model that has an external memory." in printed([made])


def test_what_was_measured_says_what_was_skipped(tmp_path: Path) -> None:
    got, lengths = Measured({"bits_per_byte": 1.0}, {}, {}, [], {}, []), [256, 512]
    records = [measured(task, got, 256) for task in ("block", "sliding")]
    records += [skip(task, 512, "needs a model that has learnt 512 positions.") for task in ("block", "sliding")]
    records += [
        skip("block", 256, "needs a model that has an external memory", "memory_off"),
        skip("block", 512, "needs a model that has an external memory", "memory_shuffled"),
        skip("sliding", 256, "needs a model that keeps a state"),
    ]
    about = head("perplexity", "m", {"block": {}, "sliding": {}}, lengths=lengths)
    (made,) = tables([write_result(tmp_path / "perplexity.jsonl", about, records)], THRESHOLD)
    assert made.notes == (
        "Skipped: needs a model that has learnt 512 positions.",
        "Skipped memory off, memory shuffled: needs a model that has an external memory.",
        "Skipped sliding: needs a model that keeps a state.",
    )
