from __future__ import annotations

from pathlib import Path

import pytest
from fake_results import needle, recall, ruler

from farfield.benchmarks.commands import evaluate_together, report_command
from farfield.benchmarks.reports.collected import collected
from farfield.config import DataError
from farfield.settings import ReportSettings


def names(places: list[Path]) -> list[tuple[str, str]]:
    return [(str(result.head["suite"]), result.name) for result in collected(places).results]


def test_every_file_that_begins_like_a_result_is_found_at_any_depth(tmp_path: Path) -> None:
    needle(tmp_path, "deep/model", 1, samples=1)
    recall(tmp_path, "model", 8)
    (tmp_path / "model" / "speed.jsonl").write_text('{"record": "row", "tokens": 3}\n')
    (tmp_path / "model" / "notes.jsonl").write_text("not JSON\n")
    (tmp_path / "model" / "empty.jsonl").write_text("")
    assert names([tmp_path]) == [("needle", "deep/model"), ("recall", "model")]
    assert names([tmp_path, tmp_path / "model"]) == names([tmp_path])


def test_files_that_were_kept_aside_are_read_where_they_are_named_only(tmp_path: Path) -> None:
    path = recall(tmp_path, "model", 8).path
    aside = path.with_name("recall.1.jsonl")
    aside.write_bytes(path.read_bytes())
    assert len(names([tmp_path])) == 1
    assert names([aside]) == [("recall", "model")]


def test_models_that_are_called_alike_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        recall(tmp_path / folder, "model", 8)
    assert names([tmp_path]) == [("recall", "model (one/model)"), ("recall", "model (two/model)")]


def test_half_a_file_is_reported_as_far_as_it_goes(tmp_path: Path) -> None:
    path = ruler(tmp_path, "model", 0.9, samples=1).path
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    found = collected([tmp_path])
    (result,) = found.results
    assert 10 < len(result.cells) < 190
    last = content[: len(content) // 2].count(b"\n") + 1
    assert found.notes == [f"{path}: left out what is no record, at line {last}. The same evaluation makes it again."]


def test_lines_that_are_no_records_are_named_and_the_others_reported(tmp_path: Path) -> None:
    path = ruler(tmp_path, "model", 0.9, samples=1).path
    lines = path.read_bytes().splitlines(keepends=True)
    for number in range(2, 9):
        lines[number] = b"\xff\xfe not a record\n"
    path.write_bytes(b"".join(lines))
    found = collected([tmp_path])
    assert len(found.results[0].cells) > 180
    assert "at line 3, 4, 5, 6, 7, .... The same" in found.notes[0]


def test_an_unusable_file_is_left_out_and_said(tmp_path: Path) -> None:
    good, bad = recall(tmp_path, "good", 8).path, recall(tmp_path, "bad", 8).path
    bad.write_text(bad.read_text().replace('"format": 2', '"format": 1', 1))
    found = collected([tmp_path])
    assert [result.path for result in found.results] == [good]
    assert found.notes == [f"left out: {bad}: format 1 given, this version reads 2. Evaluate again."]
    with pytest.raises(DataError, match="format 1 given"):
        collected([bad])
    with pytest.raises(DataError, match="format 1 given"):
        collected([bad.parent])


def test_places_that_are_not_there_are_refused_in_one_line(tmp_path: Path) -> None:
    recall(tmp_path, "model", 8)
    with pytest.raises(DataError, match=r"modle: no such file or folder. Did you mean '.*model'\?"):
        collected([tmp_path / "modle"])
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match=r"nothing: no results in it. `farfield evaluate"):
        collected([tmp_path / "nothing"])


def test_a_report_says_that_it_wrote_what_it_wrote_and_not_what_it_read(tmp_path: Path) -> None:
    path = recall(tmp_path / "results", "model", 8).path
    told = report_command(ReportSettings(results=(str(tmp_path / "results"),), out=str(tmp_path / "out")))
    assert {Path(name).parent for name in told["written"]} == {tmp_path / "out"}
    assert f"wrote {tmp_path / 'out' / 'report.html'}" in told["text"]
    assert f"wrote {path}" not in told["text"]
    # The jobs of a sweep wrote theirs.
    told = evaluate_together([{"written": [str(path)]}])
    assert told["written"][0] == str(path)
    assert f"wrote {path}\n" in told["text"]
