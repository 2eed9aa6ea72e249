from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_results import answers, cell, head, perplexity, recall, retrieval, ruler, write
from rich.console import Console

from farfield import cli
from farfield.benchmarks.commands import report_command
from farfield.benchmarks.reports.compare import compared, pairs, plain, table
from farfield.benchmarks.reports.paired import mcnemar, paired
from farfield.benchmarks.reports.terminal import drawn
from farfield.benchmarks.running.results import Result, read_result
from farfield.compose import compose
from farfield.config import ConfigError, DataError, read
from farfield.settings import ReportSettings

TASKS = {"one": {"scoring": "generate", "placed": True}, "two": {"scoring": "generate"}}


def made(folder: Path, name: str, scores: dict[tuple[str, int, float | None], list[float]], count: int = 0) -> Result:
    records = [
        cell(task, answers(got, length, depth, count=count or len(got)), length, depth)
        for (task, length, depth), got in scores.items()
    ]
    return write(folder / name / "needle.jsonl", head("needle", name, TASKS, depths=[0.0, 1.0]), records)


def test_samples_are_paired_by_task_and_index(tmp_path: Path) -> None:
    first = made(tmp_path, "a", {("two", 256, None): [1, 1, 1, 0, 0, 0], ("two", 512, None): [0, 0, 0, 0, 0, 1]})
    second = made(tmp_path, "b", {("two", 256, None): [1, 1, 1, 1, 1, 1], ("two", 512, None): [1, 1, 1, 0, 0, 0]})
    one = compared(first, second).tasks["two"]
    assert (one.n, one.first, one.second) == (12, 4 / 12, 9 / 12)
    assert one.test == "McNemar, exact"
    assert one.p == mcnemar(6, 1)


def test_depths_of_one_text_are_one_unit(tmp_path: Path) -> None:
    first = made(tmp_path, "a", {("one", 256, 0.0): [1, 0, 0], ("one", 256, 1.0): [1, 1, 1]})
    second = made(tmp_path, "b", {("one", 256, 0.0): [1, 1, 1], ("one", 256, 1.0): [1, 1, 1]})
    one = compared(first, second).tasks["one"]
    assert one == paired([1.0, 0.5, 0.5], [1.0, 1.0, 1.0], limit=1)


def test_questions_about_one_text_are_one_unit(tmp_path: Path) -> None:
    first = made(tmp_path, "a", {("two", 256, None): [1, 0, 1, 1]}, count=2)
    second = made(tmp_path, "b", {("two", 256, None): [0, 0, 1, 1]}, count=2)
    assert compared(first, second).tasks["two"] == paired([0.5, 1.0], [0.0, 1.0], limit=1)


def test_cells_that_only_one_has_are_left_out_and_counted(tmp_path: Path) -> None:
    first = made(tmp_path, "a", {("two", 256, None): [1, 1, 0], ("two", 512, None): [0, 0, 0]})
    second = made(tmp_path, "b", {("two", 256, None): [1, 0]})
    found = compared(first, second)
    assert found.tasks["two"].n == 2
    assert found.notes == ("Left out: 1 cell that only one of the two has.",)


def test_probabilities_are_corrected_over_the_tasks_and_not_over_their_sum(tmp_path: Path) -> None:
    first = made(tmp_path, "a", {("one", 256, 0.0): [0] * 6, ("two", 256, None): [0] * 6})
    second = made(tmp_path, "b", {("one", 256, 0.0): [1] * 6, ("two", 256, None): [1] * 5 + [0]})
    found = compared(first, second)
    assert found.corrected == pytest.approx({"one": 2 * mcnemar(6, 0), "two": mcnemar(5, 0)})
    overall = found.tasks["all tasks"]
    assert (overall.n, overall.p) == (12, mcnemar(11, 0))
    shown = table(found)
    assert [row.heads[0] for row in shown.rows] == ["one", "two", "all tasks"]
    assert [entry.text for entry in shown.rows[0].entries] == [
        "0.0",
        "100.0",
        "+100.0",
        "29.2 to 100.0",
        "0.0312",
        "0.0625",
        "6",
    ]
    assert shown.rows[2].entries[5].text == ""


def test_long_names_are_letters_with_a_legend(tmp_path: Path) -> None:
    places = [tmp_path / "a_folder_of_a_long_name" / side for side in ("before_the_change", "after_the_change")]
    scores = {("one", 256, 0.0): [0] * 6, ("two", 256, None): [1, 0] * 3}
    for place in places:
        made(place.parent, place.name, scores)
        (place / "needle.jsonl").write_text((place / "needle.jsonl").read_text().replace(place.name, "model"))
    shown = table(compared(*pairs(places)[0]))
    assert shown.columns[:2] == ("A", "B")
    assert shown.notes[:2] == (f"A: {places[0]}", f"B: {places[1]}")
    assert shown.title == "needle: B against A, %"
    console = Console(width=80)
    with console.capture() as capture:
        console.print(drawn(shown))
    lines = [line.replace(" ", "") for line in capture.get().splitlines()]
    assert any(line.startswith("│two│50.0│50.0│+0.0│-34.6to│1.0000│1.0000│6│") for line in lines)
    assert "…" not in capture.get()
    short = table(compared(made(tmp_path, "a", scores), made(tmp_path, "b", scores)))
    assert (short.columns[:2], short.title) == (("a", "b"), "needle: b against a, %")
    assert not any(note.startswith("A: ") for note in short.notes)


def test_two_files_of_one_folder_are_told_apart(tmp_path: Path) -> None:
    first = made(tmp_path, "a", {("two", 256, None): [1]})
    other = first.path.with_name("needle.1.jsonl")
    other.write_bytes(first.path.read_bytes())
    found = compared(first, read_result(other))
    assert (found.first, found.second) == (str(first.path), str(other))


def test_what_was_measured_is_compared_by_document(tmp_path: Path) -> None:
    first, second = perplexity(tmp_path, "a", 0.05), perplexity(tmp_path, "b", 0.1)
    found = compared(first, second)
    assert next(iter(found.tasks)) == "block, bits per byte at 256"
    assert "all tasks" not in found.tasks
    one = found.tasks["block, bits per byte at 512"]
    assert (one.n, one.p) == (6, 2 / 64)
    assert one.difference == pytest.approx(-0.05)
    assert json.dumps(plain(found), allow_nan=False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settings": {"seed": 1}}, "were not asked the same: seed 0 and 1. Evaluate both with the same settings."),
        ({"settings": {"samples": 5}}, "were not asked the same: samples null and 5."),
        (
            {"tasks": {"one": TASKS["one"], "two": {**TASKS["two"], "fingerprint": "two 2"}}},
            "were not asked the same: other samples of two (another tokenizer, version or data).",
        ),
    ],
    ids=["seed", "samples", "fingerprint"],
)
def test_what_was_not_asked_the_same_is_refused(
    changes: dict[str, dict[str, object]], said: str, tmp_path: Path
) -> None:
    made(tmp_path, "a", {("two", 256, None): [1]})
    tasks = changes.get("tasks", TASKS)
    about = {name: value for name, value in changes.items() if name != "tasks"}
    write(tmp_path / "b" / "needle.jsonl", head("needle", "b", tasks, depths=[0.0, 1.0], **about), [])
    with pytest.raises(DataError) as error:
        pairs([tmp_path / "a", tmp_path / "b"])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_of_speed_may_differ(tmp_path: Path) -> None:
    for name, batch in (("a", 1), ("b", 16)):
        about = head("needle", name, TASKS, settings={"batch": batch})
        write(tmp_path / name / "needle.jsonl", {**about, "settings_hash": "same"}, [])
    assert len(pairs([tmp_path / "a", tmp_path / "b"])) == 1


def test_only_results_of_one_suite_go_together(tmp_path: Path) -> None:
    recall(tmp_path, "a", 8)
    retrieval(tmp_path, "b", 0.5)
    with pytest.raises(
        DataError, match=r"compare: .*a has results of recall, .*b of retrieval. Only results of the same"
    ):
        pairs([tmp_path / "a", tmp_path / "b"])
    recall(tmp_path, "b/c", 8)
    recall(tmp_path, "b/d", 8)
    with pytest.raises(DataError, match=r"compare: .*b holds several results of recall. Name one file or folder."):
        pairs([tmp_path / "a", tmp_path / "b"])


def test_nothing_in_common_is_said(tmp_path: Path) -> None:
    first, second = made(tmp_path, "a", {("two", 256, None): [1]}), made(tmp_path, "b", {("two", 512, None): [1]})
    with pytest.raises(DataError, match="have no finished cell in common"):
        compared(first, second)


def test_the_command_compares_folders_suite_by_suite(tmp_path: Path) -> None:
    for name, strength in (("a", 0.9), ("b", 0.6)):
        ruler(tmp_path, name, strength, samples=8, tasks=("vt", "niah_single_1"))
        recall(tmp_path, name, round(40 * strength))
    told = report_command(ReportSettings(compare=(str(tmp_path / "a"), str(tmp_path / "b"))))
    assert [one["suite"] for one in told["compared"]] == ["recall", "ruler"]
    assert told["written"] == []
    assert "ruler: b against a, %" in told["text"]
    assert told["text"] == told["text"].strip("\n")  # the command line ends it in one line's end
    assert json.dumps(told, allow_nan=False)
    assert not list(tmp_path.rglob("*.html"))


def test_two_names_stand_with_a_comma(tmp_path: Path) -> None:
    for word in ("compare=a,b/c", "compare=[a,b/c]", "compare=['a',b/c]"):
        assert read(ReportSettings, compose("report", [word])).compare == ("a", "b/c")


@pytest.mark.parametrize(
    ("word", "given"),
    [("compare=a", "1 value"), ("compare=[a]", "1 value"), ("compare=[]", "no value"), ("compare=a,b,c", "3 values")],
)
def test_other_than_two_are_refused_with_the_form_that_is_meant(word: str, given: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(ReportSettings, compose("report", [word]))
    assert str(error.value) == f"compare: {given} given. Give two: compare=first,second."


def test_one_result_needs_no_brackets() -> None:
    for word in ("results=x/needle.jsonl", "results=[x/needle.jsonl]"):
        assert read(ReportSettings, compose("report", [word])).results == ("x/needle.jsonl",)
    assert read(ReportSettings, compose("report", ["results=[a,b]"])).results == ("a", "b")
    for word in ("results=[]", "results=[1]", "results=3", "results=null", "compare=[a,1]", "compare=3"):
        with pytest.raises(ConfigError):
            read(ReportSettings, compose("report", [word]))


def test_a_refusal_is_one_line_and_status_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path, "a", {("two", 256, None): [1]})
    write(tmp_path / "b" / "needle.jsonl", head("needle", "b", TASKS, depths=[0.0, 1.0], settings={"seed": 3}), [])
    assert cli.main(["report", f"compare={tmp_path / 'a'},{tmp_path / 'b'}"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].endswith("were not asked the same: seed 0 and 3. Evaluate both with the same settings.")
