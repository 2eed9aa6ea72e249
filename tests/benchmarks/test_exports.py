"""CSV and Markdown."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
from fake_results import (
    answers,
    cell,
    head,
    retrieval,
    ruler,
)
from fake_results import write as write_result
from report_cases import THRESHOLD

from farfield.benchmarks.reports.exports import as_csv, as_markdown
from farfield.benchmarks.reports.intervals import wilson
from farfield.benchmarks.reports.tables import tables


def test_a_line_of_csv_for_each_cell(tmp_path: Path) -> None:
    evil = "=cmd|' /C calc'!A0"
    results = [ruler(tmp_path, evil, 0.9, samples=4), retrieval(tmp_path, "lexical", 0.7)]
    rows = list(csv.DictReader(io.StringIO(as_csv(results))))
    assert len(rows) == len(results[0].cells) + len(results[0].skipped) + 9
    assert {row["model"] for row in rows} == {f"'{evil}", "lexical"}
    first = next(row for row in rows if row["task"] == "vt" and row["length"] == "512" and row["condition"] == "full")
    scores = next(
        got.scores for at, got in results[0].cells.items() if (at.task, at.length, at.condition) == ("vt", 512, "full")
    )
    assert float(first["value"]) == np.mean(scores)
    assert float(first["low"]) < float(first["value"]) < float(first["high"])
    assert (first["depth"], first["samples"], first["seed"]) == ("", "4", "0")
    (skipped,) = [row for row in rows if row["skipped"]]
    assert (skipped["value"], skipped["task"], skipped["length"]) == ("", "qa_1", "256")
    assert [row["value"] for row in rows if row["value_name"] == "mrr" and row["task"] == "scifact"] == [
        str(0.7 - 0.05)
    ]


def test_markdown_has_the_tables_and_no_markup_of_others(tmp_path: Path) -> None:
    results = [ruler(tmp_path, "<b>|pipe", 0.9, samples=4)]
    text = as_markdown(tables(results, THRESHOLD), results)
    assert "<b>" not in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert lines[1] == "| :-- | :-- | --: | --: | --: | --: | --: |"
    assert "commit 01234567" in text


def test_the_questions_of_one_text_are_one_draw_of_a_cell(tmp_path: Path) -> None:
    got = answers([1.0, 1.0, 0.0, 0.0], 256, count=2)
    found = write_result(
        tmp_path / "r.jsonl", head("needle", "m", {"one": {"scoring": "generate"}}), [cell("one", got, 256)]
    )
    (row,) = csv.DictReader(io.StringIO(as_csv([found])))
    assert (float(row["low"]), float(row["high"])) == pytest.approx(wilson(1, 2))
    assert (row["samples"], row["hits"]) == ("4", "2")


def test_answers_that_say_nothing_are_counted_where_they_were_written(tmp_path: Path) -> None:
    tasks = {name: {"scoring": "generate"} for name in ("one", "two")}
    outputs = ["", " \n\x07", "a", "1."]
    records = [cell("one", answers([0.0] * 4, 256, outputs=outputs), 256)]
    records.append(cell("one", answers([0.0] * 4, 256, outputs=outputs, scoring="read"), 256, None, "gold_only"))
    records.append(cell("two", answers([0.0] * 4, 256), 256))
    found = write_result(tmp_path / "ruler.jsonl", head("ruler", "m", tasks), records)
    (table,) = tables([found], THRESHOLD)
    assert "m: 2 of 8 answers say nothing." in table.notes
    rows = list(csv.DictReader(io.StringIO(as_csv([found]))))
    assert [row["nulls"] for row in rows] == ["2", "0", "0"]
    assert {row["silent"] for row in rows} == {"0"}
    assert "never came" not in as_markdown([table], [found])


def test_answers_that_never_came_are_told_wherever_results_are_shown(tmp_path: Path) -> None:
    tasks = {name: {"scoring": "generate"} for name in ("one", "two")}
    outputs = ["", "", "a", "1."]
    records = [cell("one", answers([0.0] * 4, 256, outputs=outputs, silent=1), 256)]
    records.append(cell("two", answers([0.0] * 4, 256, outputs=outputs, silent=2), 256, None, "gold_only"))
    found = write_result(tmp_path / "ruler.jsonl", head("ruler", "m", tasks), records)
    (table,) = tables([found], THRESHOLD)
    said = "m: 3 answers never came: thoughts took their room (endpoint.extra_tokens)."
    assert said in table.notes
    assert said.replace("_", "\\_") in as_markdown([table], [found])
    rows = list(csv.DictReader(io.StringIO(as_csv([found]))))
    assert [(row["nulls"], row["silent"]) for row in rows] == [("2", "1"), ("2", "2")]
