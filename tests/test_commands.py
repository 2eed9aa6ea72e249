"""Commands from end to end on tiny models: train, evaluate, report, speed, ingest, query, and their mistakes."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from farfield import cli


def farfield(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """One command in `folder`, in this process: a new one would import torch first, and a hundred take minutes."""
    before, said = Path.cwd(), (io.StringIO(), io.StringIO())
    os.chdir(folder)
    try:
        with redirect_stdout(said[0]), redirect_stderr(said[1]):
            status = cli.main(list(words))
    finally:
        os.chdir(before)
    return subprocess.CompletedProcess(words, status, *(text.getvalue() for text in said))


def apart(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "farfield", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)


def plain(folder: Path, *words: str) -> dict[str, object]:
    """The result of a command as --json prints it."""
    done = farfield(folder, *words, "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


def refused(folder: Path, *words: str) -> str:
    """The one line of a command that ends in status 2."""
    done = farfield(folder, *words)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("farfield: ")]
    assert len(lines) == 1, done.stderr
    assert not done.stdout
    return lines[0].removeprefix("farfield: ")


TINY = ("architecture.width=32", "architecture.depth=1", "training.threads=1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on recall, one on reading, and an index of two documents."""
    folder = tmp_path_factory.mktemp("commands")
    needle = ("data=needle", "data.vocabulary=256", "data.length=64", "data.validation=1")
    steps = ("training.steps=4", "training.batch=2", "name=recall")
    plain(folder, "train", "architecture=retnet", *TINY, *needle, *steps)
    steps = ("training.steps=2", "training.batch=2", "name=reader")
    plain(folder, "train", "architecture=attention", *TINY, "data=reading", "data.validation=0", *steps)
    documents = folder / "documents"
    documents.mkdir()
    (documents / "ferry.md").write_text("# Ferry\n\nThe Velamo gate opens with the code 4719.\n", encoding="utf-8")
    (documents / "notes.txt").write_text("Leave is signed by the head of the unit.\n", encoding="utf-8")
    (documents / "broken.txt").write_bytes(b"\xff\x00 not text \xc3")
    return folder


@pytest.fixture(scope="module")
def ingested(place: Path) -> dict[str, object]:
    return plain(place, "ingest", "path=documents", "index=handbook")


def test_a_command_of_its_own_process_says_the_same(place: Path) -> None:
    words = ("evaluate", "model=runs/none", "suite.lengths=[64]")
    done, here = apart(place, *words), farfield(place, *words)
    assert (done.returncode, done.stdout, done.stderr) == (here.returncode, here.stdout, here.stderr)
    assert done.returncode == 2


def test_a_needle_grid_is_evaluated_reported_and_not_done_twice(place: Path) -> None:
    words = ("evaluate", "model=runs/recall", "suite.lengths=[64,128]", "suite.depths=3", "suite.samples=2")
    first = plain(place, *words)
    (result,) = first["results"]  # type: ignore[misc]  # plain JSON
    assert result["finished"] == result["cells"] == 6
    assert result["prefilled"] < result["naive"]
    for name in (
        "needle.jsonl",
        "needle_heat_map.png",
        "needle_by_length.png",
        "report.html",
        "report.csv",
        "report.md",
    ):
        assert (place / "results/recall" / name).stat().st_size > 0
    before = (place / "results/recall/needle.jsonl").read_text(encoding="utf-8")
    assert plain(place, *words)["results"] == first["results"]
    after = (place / "results/recall/needle.jsonl").read_text(encoding="utf-8")
    assert after.count('"cell"') == before.count('"cell"')
    report = plain(place, "report", "results=[results]", "out=comparison")
    assert report["results"] == first["results"]
    assert (place / "comparison/report.html").exists()


def test_speed_measures_every_architecture_at_every_length(place: Path) -> None:
    words = (
        "what=[decoder]",
        "architectures=[attention,retnet]",
        "width=32",
        "depth=1",
        "lengths=[32,64]",
        "repeats=1",
        "peers=false",
    )
    result = plain(place, "speed", *words)
    rows = result["rows"]
    assert isinstance(rows, list)
    assert len(rows) == 2 * 2 * 3
    assert all(row["tokens_per_second"] > 0 for row in rows)
    assert {row["ratio"] for row in rows if row["architecture"] == "attention"} == {1.0}
    assert (place / "results/speed/speed.png").exists()


def test_ingest_skips_by_name_what_is_in_no_encoding(ingested: dict[str, object]) -> None:
    assert ingested["documents"] == 2
    skipped = ingested["skipped"]
    assert isinstance(skipped, list)
    assert [Path(one["path"]).name for one in skipped] == ["broken.txt"]


@pytest.mark.usefixtures("ingested")
def test_a_query_generates_an_answer_with_sources_and_times(place: Path) -> None:
    answer = plain(place, "query", "Which code opens the Velamo gate?", "index=handbook", "model=runs/reader")
    assert isinstance(answer["answer"], str)
    sources = answer["sources"]
    assert isinstance(sources, list)
    best = sources[0]
    assert Path(best["path"]).name == "ferry.md"
    text = (place / "documents/ferry.md").read_text(encoding="utf-8")
    assert text[best["start"] : best["end"]] == best["text"]
    assert {"dense", "lexical", "prompt", "generate"} <= set(answer["seconds"])  # type: ignore[call-overload]


@pytest.mark.usefixtures("ingested")
def test_a_flipped_byte_in_the_vectors_is_mended_and_said(place: Path) -> None:
    file = place / "indexes/handbook/vectors.faiss"
    content = bytearray(file.read_bytes())
    content[-5] ^= 0xFF
    file.write_bytes(content)
    done = farfield(place, "query", "Which code opens the Velamo gate?", "index=handbook")
    assert done.returncode == 0
    assert "rebuilt from the database" in done.stderr
    assert "ferry.md" in done.stdout
    assert "rebuilt" not in farfield(place, "query", "Which code?", "index=handbook").stderr


def test_mistakes_are_one_line_each(place: Path) -> None:
    (place / "empty").mkdir(exist_ok=True)
    cut = place / "cut"
    (cut / "checkpoints").mkdir(parents=True, exist_ok=True)
    (cut / "config.yaml").write_bytes((place / "runs/recall/config.yaml").read_bytes())
    whole = (place / "runs/recall/checkpoints/last.ckpt").read_bytes()
    (cut / "checkpoints/last.ckpt").write_bytes(whole[: len(whole) // 2])
    (place / "short.txt").write_text("Too little text. " * 5, encoding="utf-8")
    assert "Did you mean 'runs/recall'" in refused(place, "evaluate", "model=runs/recal")
    assert "cut short or damaged" in refused(place, "evaluate", "model=cut")
    assert "empty" in refused(place, "ingest", "path=empty", "index=nothing")
    assert "there is no index 'handbok'" in refused(place, "query", "Who?", "index=handbok")
    assert "neither a model nor an index" in refused(place, "query", "Who?")
    words = ("evaluate", "model=runs/reader", "suite.haystack=short.txt", "suite.lengths=[4096]", "suite.depths=2")
    assert "short.txt" in refused(place, *words)
    assert "does not fit" in refused(place, "evaluate", "model=runs/reader", "suite.mode=tokens")


def test_a_file_where_a_folder_should_be_is_one_line(place: Path) -> None:
    (place / "file").write_text("x", encoding="utf-8")
    assert refused(place, "speed", "architectures=[retnet]", "lengths=[16]", "root=file").startswith("file")
    assert "file" in refused(place, "evaluate", "model=runs/recall", "suite.lengths=[64]", "root=file")
    assert "file" in refused(place, "ingest", "path=documents", "index=other", "root=file")


def test_a_changed_byte_in_the_weights_is_found(place: Path) -> None:
    folder = place / "flipped"
    shutil.copytree(place / "runs/recall", folder)
    for name in ("model.safetensors", "checkpoints/last.ckpt"):
        file = folder / name
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        assert "cut short or damaged" in refused(place, "evaluate", f"model={file}", "suite.lengths=[64]")
