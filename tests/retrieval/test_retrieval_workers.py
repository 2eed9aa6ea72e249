"""Documents prepared by other processes: the same index, and an end in one line whatever happens to them."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from farfield.config import IndexingError
from farfield.retrieval import ChunkConfig, IngestConfig, IngestResult, ingest, workers

TABLES = {
    "files": "path, digest",
    "documents": "id, file, key, title, digest, kind, metadata, length, content, original",
    "chunks": 'id, document, start, "end", page, heading, text, bag, digest',
    "terms": "term, chunks",
    "facts": "name, value, document",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of several kinds, among them duplicates, broken lines and repeated keys."""
    place = tmp_path / "many"
    place.mkdir()
    for number in range(150):
        (place / f"{number:03}.txt").write_text(f"Report {number % 140} is about item {number % 140 % 17}. " * 9)
    lines = [f'{{"text": "Line {number} of many.", "id": "{number % 190}", "n": {number}}}' for number in range(200)]
    lines[5] = "{"
    (place / "zlines.jsonl").write_text("\n".join(lines))
    (place / "zz.md").write_text("# Last\n\nThe end.")
    return place


def stored(folder: Path, root: str, count: int | None, index: str = "test") -> IngestResult:
    chunk = ChunkConfig(size=100, overlap=20)
    return ingest(IngestConfig(path=str(folder), index=index, root=root, workers=count, chunk=chunk))


def content(root: str, index: str) -> dict[str, list[object]]:
    connection = sqlite3.connect(Path(root, index, "documents.sqlite"))
    found = {
        table: connection.execute(f"SELECT {columns} FROM {table} ORDER BY {columns}").fetchall()
        for table, columns in TABLES.items()
    }
    connection.close()
    return found


def test_how_many_processes_take_part_changes_nothing(folder: Path, root: str) -> None:
    alone = stored(folder, root, 1, "one")
    assert (alone.documents, len(alone.duplicates), len(alone.skipped)) == (150 + 190 + 1, 10, 10)
    together = stored(folder, root, 3, "three")
    assert together.skipped == alone.skipped
    assert content(root, "three") == content(root, "one")
    assert stored(folder, root, 2, "one").unchanged == alone.documents


def test_a_small_ingest_starts_no_process(folder: Path, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.Pool, "_start", lambda pool: pytest.fail("a process for a few kilobytes"))
    assert stored(folder, root, None).documents == 341


def test_a_killed_worker_is_one_line_that_says_what_it_read(
    folder: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = workers.Pool._start

    def killed(pool: workers.Pool) -> object:
        connection = start(pool)
        pool._workers[connection].kill()
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(workers.Pool, "_start", killed)
        with pytest.raises(IndexingError) as error:
            stored(folder, root, 2)
    line = str(error.value).replace("/064.txt", "/000.txt")  # whichever of the two is noticed first
    assert line == (
        f"a worker was killed (signal 9) while it read {folder.as_posix()}/000.txt or one of 63 files after it."
        " What was reported is stored; the next ingest goes on from there. One process at a time: workers=1."
    )
    assert stored(folder, root, 2).documents == 341


class Stumbling:
    """Where tokens begin, until it meets what it did not expect."""

    name = "stumbling"

    def __call__(self, text: str) -> Iterable[int]:
        if "Report 139 " in text:
            raise KeyError("what\nis this")
        return range(len(text))


def test_an_error_in_a_worker_is_one_line(folder: Path, root: str) -> None:
    chunk = ChunkConfig(size=100, overlap=0, unit="tokens", tokenizer="t")
    settings = IngestConfig(path=str(folder), index="test", root=root, workers=2, chunk=chunk)
    with pytest.raises(IndexingError) as error:
        ingest(settings, offsets=Stumbling())
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(
        f"a worker stumbled over {folder.as_posix()}/128.txt or one of 21 files after it"
    )
    assert "(KeyError: 'what\\nis this')" in str(error.value)


def gone(group: int) -> bool:
    """Whether every process of a group has ended."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def eventually(holds: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether something comes to hold before long; how long does not matter."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_stopped_from_outside_it_leaves_no_process_and_what_is_stored(
    stop: signal.Signals, tmp_path: Path, root: str
) -> None:
    lines = (f'{{"text": "Line {number}. {"More words follow here. " * 40}"}}\n' for number in range(20_000))
    (tmp_path / "large.jsonl").write_text("".join(lines))
    settings = {"path": f"{tmp_path}/large.jsonl", "index": "test", "root": root}
    command = ["-m", "farfield", "ingest", *(f"{name}={value}" for name, value in settings.items()), "workers=2"]
    if stop == signal.SIGKILL:  # no line to be seen, so without the command line, which takes longer to start
        command = ["-c", f"from farfield.retrieval import *; ingest(IngestConfig(workers=2, **{settings}))"]
    database = Path(root, "test", "documents.sqlite")

    def begun() -> bool:
        if not database.exists():
            return False
        connection = sqlite3.connect(database)
        try:
            return bool(connection.execute("SELECT documents FROM state WHERE documents").fetchone())
        except sqlite3.OperationalError:
            return False
        finally:
            connection.close()

    # Whoever runs this test in the background ignores Ctrl-C, which processes that are started inherit.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True, start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with run:
        assert eventually(begun)
        (os.killpg if stop == signal.SIGINT else os.kill)(run.pid, stop)
        said = (run.communicate()[1]).splitlines()
    assert run.returncode == (130 if stop == signal.SIGINT else -stop)
    assert [line for line in said if not line.startswith("ingest: ")] == (
        ["farfield: stopped."] if stop == signal.SIGINT else []
    )
    assert eventually(lambda: gone(run.pid))
    connection = sqlite3.connect(database)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    documents = connection.execute("SELECT documents FROM state").fetchone()[0]
    assert connection.execute("SELECT count(DISTINCT document) FROM chunks").fetchone()[0] == documents > 0
    connection.close()
