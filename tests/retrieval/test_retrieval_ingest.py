from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from filling import Ingest

from farfield.config import ConfigError, DataError, IndexingError, read
from farfield.retrieval import HashedConfig, IngestConfig, IngestResult, ingest, open_index

UNKNOWN = "and too little speaks for any other encoding; name it, as in encoding=latin-1"


def counts(result: IngestResult) -> tuple[int, int, int, int]:
    return result.added, result.replaced, result.unchanged, result.removed


def test_the_result_tells_what_was_done(documents: Path, fill: Ingest, root: str) -> None:
    result = fill(documents)
    assert counts(result) == (4, 0, 0, 0)
    assert (result.index, result.folder) == ("test", f"{root}/test")
    assert (result.documents, result.chunks, result.skipped, result.notices) == (4, 7, (), ())
    assert result.seconds > 0


def test_what_is_unchanged_costs_no_change(documents: Path, fill: Ingest, root: str) -> None:
    fill(documents)
    files = [Path(root, "test", name) for name in ("documents.sqlite", "vectors.faiss", "vectors.json")]
    before = [file.read_bytes() for file in files]
    assert counts(fill(documents)) == (0, 0, 4, 0)
    assert [file.read_bytes() for file in files] == before


def test_a_touched_file_is_unchanged_and_a_changed_one_of_the_same_size_and_time_is_not(
    documents: Path, fill: Ingest
) -> None:
    file = documents / "notes" / "kitchen.txt"
    fill(documents)
    stat = file.stat()
    file.touch()
    assert counts(fill(documents)) == (0, 0, 4, 0)
    file.write_text(file.read_text().replace("Fridays", "Mondays"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert counts(fill(documents)) == (0, 1, 3, 0)


def test_a_changed_file_gives_way_to_its_new_chunks(documents: Path, fill: Ingest, root: str) -> None:
    fill(documents)
    (documents / "notes" / "kitchen.txt").write_text("The tea is in the cupboard.")
    assert counts(fill(documents)) == (0, 1, 3, 0)
    with open_index("test", root) as index:
        assert index.search("coffee") == []
        assert index.search("tea cupboard")[0].text == "The tea is in the cupboard."


def test_lines_of_a_file_are_documents_of_their_own(documents: Path, fill: Ingest) -> None:
    fill(documents)
    lines = [{"id": "lion", "title": "Lions", "text": "Lions roar."}, {"id": "new", "text": "A new one."}]
    (documents / "animals.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert counts(fill(documents)) == (1, 1, 2, 1)


def test_pruning_forgets_only_what_is_gone_below_the_path(documents: Path, fill: Ingest) -> None:
    fill(documents)
    for name in ("handbook.md", "notes/kitchen.txt"):
        (documents / name).unlink()
    (documents / "notes" / "new.txt").write_text("new")
    assert counts(fill(documents / "notes")) == (1, 0, 0, 0)
    assert counts(fill(documents / "notes", prune=True)) == (0, 0, 1, 1)
    assert counts(fill(documents, prune=True)) == (0, 0, 3, 1)


def test_pruning_does_not_take_a_neighbour_with_the_same_beginning(tmp_path: Path, fill: Ingest) -> None:
    for name in ("a", "ab"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text(name)
        fill(tmp_path / name)
    (tmp_path / "ab" / "x.txt").unlink()
    assert counts(fill(tmp_path / "a", prune=True)) == (0, 0, 1, 0)


@pytest.mark.parametrize("path", ["", "notes", "notes/kitchen.txt"])
def test_pruning_forgets_a_path_that_is_gone(path: str, documents: Path, fill: Ingest, root: str) -> None:
    fill(documents)
    gone = documents / path
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(DataError, match=r"does not exist\."):
        fill(gone)
    assert counts(fill(gone, prune=True)) == (0, 0, 0, 1 if path else 4)
    with open_index("test", root) as index:
        assert index.search("coffee machine") == []
        assert bool(index.search("travel by train")) == bool(path)
    with pytest.raises(DataError, match=r"does not exist\."):
        fill(gone, prune=True)


@pytest.mark.parametrize("left", ["nothing", "a picture", "a broken file", "an emptied file", "a file that broke"])
def test_pruning_needs_no_file_that_can_be_used(left: str, documents: Path, fill: Ingest) -> None:
    notes = documents / "notes"
    (notes / "new.txt").write_text("new")
    fill(documents)
    (notes / "kitchen.txt").unlink()
    removed = 2
    match left:
        case "an emptied file":
            (notes / "new.txt").write_text("")
        case "a file that broke":
            (notes / "new.txt").write_bytes(b"\xff")
            removed = 1  # what can no longer be read stays
        case _:
            (notes / "new.txt").unlink()
            files = {"nothing": ".hidden", "a picture": "a.png", "a broken file": "b.txt"}
            (notes / files[left]).write_bytes(b"\xff")
    result = fill(notes, prune=True)
    assert counts(result) == (0, 0, 0, removed)
    assert result.documents == 5 - removed
    assert bool(result.skipped) == (left in ("a broken file", "an emptied file", "a file that broke"))
    assert counts(fill(documents))[2] == 3


def test_pruning_where_nothing_is_stored_is_an_error_as_before(documents: Path, fill: Ingest, root: str) -> None:
    nowhere = documents / "nowhere"
    with pytest.raises(DataError, match=r"does not exist\."):
        fill(nowhere, prune=True)
    assert not Path(root).exists()
    fill(documents)
    with pytest.raises(DataError, match=r"does not exist\."):
        fill(nowhere, prune=True)
    nowhere.mkdir()
    with pytest.raises(DataError, match=r"is an empty folder\."):
        fill(nowhere, prune=True)
    assert counts(fill(documents)) == (0, 0, 4, 0)


def test_a_folder_that_cannot_be_listed_is_not_pruned(
    documents: Path, fill: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(documents)

    def scandir(path: str) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        with pytest.raises(DataError, match=r"cannot be read \(Permission denied\)\.$"):
            fill(documents, prune=True)
    assert counts(fill(documents)) == (0, 0, 4, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_file_whose_name_is_not_utf8_is_named_and_the_rest_stored(
    documents: Path, fill: Ingest, capsys: pytest.CaptureFixture[str]
) -> None:
    (documents / os.fsdecode(b"caf\xe9.txt")).write_text("coffee")
    result = fill(documents, prune=True)
    assert counts(result) == (4, 0, 0, 0)
    line = rf"{documents}/caf\xe9.txt: its name is not UTF-8"
    assert [str(one) for one in result.skipped] == [line]
    assert f"ingest: skipped {line}\n" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_folder_whose_name_is_not_utf8_holds_nothing_that_can_be_used(
    tmp_path: Path, fill: Ingest, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    monkeypatch.chdir(folder)
    with pytest.raises(DataError) as error:
        fill(Path())
    assert str(error.value) == (
        rf"path: .: none of its 1 files can be used. {tmp_path}/\xff/a.txt: its name is not UTF-8."
    )
    assert not Path(root).exists()


def test_what_cannot_be_read_is_named_and_the_rest_stored(
    documents: Path, fill: Ingest, capsys: pytest.CaptureFixture[str]
) -> None:
    (documents / "latin.txt").write_bytes(b"caf\xe9")
    (documents / "picture.png").write_bytes(b"\x89PNG")
    result = fill(documents)
    assert counts(result) == (4, 0, 0, 0)
    line = f"{(documents / 'latin.txt').as_posix()}: not UTF-8 (byte 0xe9 at 3), {UNKNOWN}"
    assert [str(one) for one in result.skipped] == [line]
    assert result.ignored == {".png": 1}
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "ingest: files of other kinds are left out (.png 1)"
    assert f"ingest: skipped {line}" in said


def test_a_skipped_line_is_named_each_time(documents: Path, fill: Ingest) -> None:
    with (documents / "animals.jsonl").open("a") as file:
        file.write("{broken\n")
    for _ in range(2):
        (skipped,) = fill(documents).skipped
        assert skipped.path.endswith("animals.jsonl:3")


def test_a_flood_of_skipped_lines_is_cut_short(
    documents: Path, fill: Ingest, capsys: pytest.CaptureFixture[str]
) -> None:
    (documents / "bad.jsonl").write_text("broken\n" * 50)
    assert len(fill(documents).skipped) == 50
    said = capsys.readouterr().err
    assert said.count("ingest: skipped /") == 20
    assert "ingest: skipped 30 more\n" in said


def test_a_file_that_can_no_longer_be_read_stays_as_it_was(documents: Path, fill: Ingest, root: str) -> None:
    fill(documents)
    (documents / "notes" / "kitchen.txt").write_bytes(b"\xff")
    assert counts(fill(documents, prune=True)) == (0, 0, 3, 0)
    with open_index("test", root) as index:
        assert index.search("coffee machine")


def test_an_emptied_file_leaves(documents: Path, fill: Ingest, root: str) -> None:
    fill(documents)
    (documents / "notes" / "kitchen.txt").write_text("")
    assert counts(fill(documents)) == (0, 0, 3, 1)
    with open_index("test", root) as index:
        assert index.search("coffee machine") == []


def test_other_settings_cut_anew(documents: Path, fill: Ingest) -> None:
    assert fill(documents).chunks == 7
    result = fill(documents, size=20)
    assert counts(result) == (0, 4, 0, 0)
    assert result.chunks > 7


def test_nothing_usable_is_one_line_and_leaves_no_index(tmp_path: Path, fill: Ingest, root: str) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    with pytest.raises(DataError) as error:
        fill(tmp_path)
    bad = (tmp_path / "bad.txt").as_posix()
    assert str(error.value) == (
        f"path: {tmp_path}: none of its 1 files can be used. {bad}: not UTF-8 (byte 0xff at 0), {UNKNOWN}."
    )
    assert not Path(root).exists()


def test_another_embedder_is_refused(documents: Path, fill: Ingest, root: str) -> None:
    fill(documents)
    with pytest.raises(IndexingError) as error:
        ingest(IngestConfig(path=str(documents), index="test", root=root, embedder=HashedConfig(dimension=64)))
    assert str(error.value) == (
        "index 'test' was made by embedder 'hashed-tfidf-1 dimension=2048'; 'hashed-tfidf-1 dimension=64' given."
        " Give the same, or another index."
    )


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a\\b", ".", "..", ".hidden", "-x", "a b", "x" * 101])
def test_names_that_could_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(IngestConfig, {"path": "p", "index": name}, "ingest")
    assert str(error.value) == (
        f"ingest.index: '{name}' cannot name an index. Use up to 100 letters, digits, '_', '-' and '.',"
        " with a letter or digit first."
    )


def test_settings_survive_a_round_trip() -> None:
    settings = read(IngestConfig, {"path": "p", "index": "i", "chunk": {"unit": "words", "size": 200}})
    assert read(IngestConfig, settings.mapping()) == settings


KILLED = """
import os, signal, sys
from farfield.retrieval import ChunkConfig, IngestConfig, ingest, ingestion, writing
path, root, moment, turn = *sys.argv[1:4], int(sys.argv[4])
turns = []
def die_in_turn(here):
    turns.append(here) if here == moment else None
    if len(turns) == turn:
        os.kill(os.getpid(), signal.SIGKILL)
class Bar(ingestion.Bar):
    def step(self, count=1, note=""):
        super().step(count, note)
        sys.stdout.write(note + "\\n")
        sys.stdout.flush()
        die_in_turn("after a report")
class Change(writing._Change):
    def settle(self):
        changes = super().settle()
        die_in_turn("before a commit")
        return changes
ingestion.Bar, ingestion.GROUP_DOCUMENTS, writing._Change = Bar, 8, Change
sys.stdout.write("0 documents\\n")
sys.stdout.flush()
ingest(IngestConfig(path=path, index="test", root=root, chunk=ChunkConfig(size=80, overlap=16)))
"""


@pytest.mark.parametrize(
    ("moment", "turn", "stored"),
    [("before a commit", 1, 0), ("before a commit", 9, 32), ("after a report", 40, 170)],
)
def test_a_kill_loses_nothing_that_was_reported(
    moment: str, turn: int, stored: int, tmp_path: Path, fill: Ingest, root: str
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(150):
        (folder / f"{number:04}.txt").write_text(f"Report {number} is about item {number % 17}. " * 4)
    lines = [json.dumps({"id": str(number), "text": f"Line {number} of many. " * 4}) for number in range(150)]
    (folder / "lines.jsonl").write_text("\n".join(lines))

    command = [sys.executable, "-c", KILLED, str(folder), root, moment, str(turn)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == -signal.SIGKILL, run.stderr
    reported = int(run.stdout.splitlines()[-1].split()[0])

    connection = sqlite3.connect(Path(root, "test", "documents.sqlite"))
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("SELECT count(*) FROM documents").fetchone()[0] == reported == stored
    assert len(connection.execute("SELECT DISTINCT document FROM chunks").fetchall()) == stored
    connection.close()
    with open_index("test", root) as index:
        assert bool(index.search("report about item and line of many")) == (stored > 0)

    again = fill(folder)
    assert (again.added, again.unchanged, again.documents) == (300 - stored, stored, 300)
    fill(folder, index="fresh")
    with open_index("test", root) as resumed, open_index("fresh", root) as fresh:
        for question in ("report 7", "item 3", "line 149 of many"):
            found = [(hit.source, hit.start, hit.score) for hit in resumed.search(question, 20)]
            assert found == [(hit.source, hit.start, hit.score) for hit in fresh.search(question, 20)]
