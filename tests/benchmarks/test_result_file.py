"""The file that cells go to: broken, cut, of another run, of two writers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from oracle import Lookup
from runner_cases import IDS, answers, lines, suite

from farfield.benchmarks.running.result_file import ResultFile
from farfield.benchmarks.running.results import read_result
from farfield.benchmarks.running.runner import evaluate
from farfield.config import DataError


@pytest.mark.parametrize("cut", [1, 40, 10_000])
def test_a_half_written_line_is_discarded(cut: int, tmp_path: Path) -> None:
    path = evaluate(suite(), Lookup(IDS), tmp_path).path
    whole = answers(path)
    content = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(content[:-1]) + content[-1][:-1][:-cut])
    subject = Lookup(IDS)
    assert len(read_result(path).cells) == 9
    assert evaluate(suite(), subject, tmp_path).cells == 10
    assert answers(path) == whole
    assert subject.prefilled == 4 * 63
    # The head itself may be half written.
    path.write_bytes(content[0][:50])
    assert evaluate(suite(), Lookup(IDS), tmp_path).cells == 10
    assert answers(path) == whole


@pytest.mark.parametrize("broken", [b"{}\n", b'{"record": "cell", "task": "x"\n', b"[1]\n", b"\xff\n", b"\n"])
def test_broken_lines_are_dropped_and_said_and_what_they_told_is_evaluated_again(
    broken: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = evaluate(suite(), Lookup(IDS), tmp_path).path
    whole, content = answers(path), path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*content[:3], broken, *content[4:7], broken]))
    assert (len(read_result(path).cells), read_result(path).dropped) == (5, [4, 8])
    capsys.readouterr()
    assert evaluate(suite(), Lookup(IDS), tmp_path).cells == 10
    said = capsys.readouterr().err
    assert f"{path}: lines 4, 8 were no result records and are left out. What they told is evaluated again." in said
    assert answers(path) == whole
    assert path.read_bytes().startswith(b"".join([*content[:3], *content[4:7]]))
    assert read_result(path).dropped == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prefilled", "x"),
        ("scores", [1, "x"]),
        ("scores", [True, True]),
        ("seconds", float("nan")),
        ("ties", None),
        ("depths", [[0.5], 0.5]),
        ("count", 0),
        ("grid_length", "32"),
        ("condition", "unknown"),
        ("task", ["needle"]),
    ],
)
def test_a_line_with_a_value_of_another_type_is_no_record(name: str, value: object, tmp_path: Path) -> None:
    wanted = suite(lengths=[32], depths=2, samples=2)
    path = evaluate(wanted, Lookup(IDS), tmp_path).path
    whole, lines = answers(path), path.read_text().splitlines()
    lines[2] = json.dumps({**json.loads(lines[2]), name: value})
    path.write_text("\n".join(lines) + "\n")
    assert (len(read_result(path).cells), read_result(path).dropped) == (1, [3])
    evaluate(wanted, Lookup(IDS), tmp_path)
    assert (answers(path), read_result(path).dropped) == (whole, [])


@pytest.mark.parametrize(("name", "value"), [("lengths", "x"), ("tasks", []), ("seed", "0"), ("settings", 1)])
def test_a_head_with_a_value_of_another_type_is_none(name: str, value: object, tmp_path: Path) -> None:
    path = evaluate(suite(lengths=[32], depths=1), Lookup(IDS), tmp_path).path
    head, *others = path.read_text().splitlines(keepends=True)
    path.write_text(json.dumps({**json.loads(head), name: value}) + "\n" + "".join(others))
    with pytest.raises(DataError, match="line 1 is no result record"):
        read_result(path)


def test_parts_behind_a_broken_one_are_dropped_too(tmp_path: Path) -> None:
    wanted = suite(lengths=[32], depths=1, samples=7, batch=2)
    path = evaluate(wanted, Lookup(IDS), tmp_path).path
    whole, content = answers(path), path.read_bytes().splitlines(keepends=True)
    assert len(content) == 5
    path.write_bytes(b"".join([content[0], content[1], b"?\n", content[3]]))
    assert read_result(path).dropped == [3, 4]
    evaluate(wanted, Lookup(IDS), tmp_path)
    assert answers(path) == whole


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.77, 0.999])
def test_a_file_cut_in_half_keeps_its_good_lines(share: float, tmp_path: Path) -> None:
    path = evaluate(suite(samples=5, batch=2), Lookup(IDS), tmp_path).path
    whole, content = answers(path), path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    evaluate(suite(samples=5, batch=2), Lookup(IDS), tmp_path)
    assert answers(path) == whole


def test_a_file_without_a_head_is_kept_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "needle.jsonl"
    path.write_bytes(b"hello\nworld\n")
    with pytest.raises(DataError, match=r"line 1 is no result record. Move the file away and evaluate again."):
        read_result(path)
    assert evaluate(suite(), Lookup(IDS), tmp_path).cells == 10
    assert f"a first line that cannot be read: it is kept as {tmp_path}/needle.1.jsonl." in capsys.readouterr().err
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"empty. Run farfield evaluate again"):
        read_result(path)
    with pytest.raises(DataError, match=r"No such file or directory. Run farfield evaluate first"):
        read_result(tmp_path / "none.jsonl")


def test_a_file_has_one_writer(tmp_path: Path) -> None:
    about = {"provenance": {}, "model": {"name": "a"}, "depths": [], "settings_hash": "", "model_hash": ""}
    head = {"format": 2, "suite": "needle", "settings": {}, "tasks": {}, "seed": 0, "lengths": [], **about}
    path = tmp_path / "needle.jsonl"
    with ResultFile(path, head):
        with pytest.raises(DataError) as error:
            ResultFile(path, head)
        assert str(error.value) == f"{path}: another evaluation writes to it. Wait for it, or take name=..."
    with ResultFile(path, head):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["needle.jsonl"]


def test_results_of_other_settings_or_another_model_are_kept_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "needle.jsonl"
    runs = [
        (suite(), Lookup(IDS), ""),
        (suite(seed=1), Lookup(IDS), "other settings"),
        (suite(seed=1), Lookup(IDS, extra={"fingerprint": "b"}), "another model"),
        (suite(seed=1, batch=2), Lookup(IDS, extra={"fingerprint": "b"}), ""),
        (suite(seed=2), Lookup(IDS), "other settings and another model"),
    ]
    kept: list[bytes] = []
    for wanted, subject, why in runs:
        before = path.read_bytes() if path.exists() else b""
        capsys.readouterr()
        assert evaluate(wanted, subject, tmp_path).cells == 10
        said = capsys.readouterr().err
        if why:
            kept.append(before)
            assert f"{path} was made with {why}: it is kept as {tmp_path}/needle.{len(kept)}.jsonl." in said
        else:
            assert "kept" not in said
    assert [(tmp_path / f"needle.{number}.jsonl").read_bytes() for number in (1, 2, 3)] == kept


def test_an_older_format_is_kept_aside_and_not_read(tmp_path: Path) -> None:
    path = evaluate(suite(), Lookup(IDS), tmp_path).path
    head, *rest = lines(path)
    path.write_text("\n".join(json.dumps(record) for record in [{**head, "format": 0}, *rest]) + "\n")
    with pytest.raises(DataError, match=r"format 0 given, this version reads 2. Evaluate again."):
        read_result(path)
    assert evaluate(suite(), Lookup(IDS), tmp_path).cells == 10
    assert (tmp_path / "needle.1.jsonl").exists()
