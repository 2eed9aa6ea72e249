"""What a search finds while vectors are made anew: older ones, or words alone; and what processes see of each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filling import Ingest

from farfield.config import IndexingError
from farfield.retrieval import Index, RetrievalConfig, held, making, open_index
from farfield.retrieval.writing import lock

NEVER = RetrievalConfig(wait="never")


@pytest.fixture
def folder(documents: Path, fill: Ingest, root: str) -> Path:
    fill(documents)
    return Path(root, "test")


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Vectors are made when it is set, not before."""
    event, blocks = threading.Event(), making.Source.blocks

    def waiting(*given: Any, **more: Any) -> object:
        assert event.wait(60)
        return blocks(*given, **more)

    monkeypatch.setattr(making.Source, "blocks", waiting)
    yield event
    event.set()


def finished(index: Index) -> None:
    """The thread that makes vectors has ended."""
    thread = index._held._thread
    assert thread is not None
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize(("harm", "reason"), [("missing", "is missing"), ("damaged", "is damaged")])
def test_words_alone_answer_at_once_where_vectors_are_of_no_use(
    harm: str, reason: str, folder: Path, gate: threading.Event, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "vectors.faiss"
    file.unlink() if harm == "missing" else file.write_bytes(b"no index")
    with open_index(folder, settings=NEVER) as index:
        for _ in range(3):
            hit = index.search("Who signs the leave?")[0]
            assert (hit.heading, hit.dense, hit.lexical) == ("Handbook > Leave", None, 1)
        line = (
            f"index 'test': the vector file {reason}; words alone answer until they are made anew;"
            " retrieval.wait=always waits for that"
        )
        assert index.notices == (line,)
        gate.set()
        finished(index)
        assert index.search("Who signs the leave?")[0].dense == 1
        assert len(index.notices) == 2
        assert index.notices[1].startswith(
            f"index 'test': the vector file {reason}; rebuilt from the database (7 chunks"
        )
    assert line in capsys.readouterr().err


def test_older_vectors_answer_at_once(folder: Path, documents: Path, fill: Ingest, gate: threading.Event) -> None:
    old = {name: (folder / name).read_bytes() for name in ("vectors.faiss", "vectors.json")}
    (documents / "notes" / "giraffe.txt").write_text("Giraffes eat leaves.")
    gate.set()
    fill(documents)
    gate.clear()
    for name, data in old.items():
        (folder / name).write_bytes(data)
    with open_index(folder, settings=NEVER) as index:
        assert index.search("Who signs the leave?")[0].dense == 1
        giraffe = index.search("giraffes")[0]
        assert (giraffe.dense, giraffe.lexical) == (None, 1)
        assert index.notices == (
            "index 'test': the vector file is older than the documents; what is newer is found by its words"
            " until they are made anew; retrieval.wait=always waits for that",
        )
        gate.set()
        finished(index)
        assert index.search("giraffes")[0].dense == 1


def test_an_open_index_goes_on_with_older_vectors_after_an_ingest(folder: Path, documents: Path, fill: Ingest) -> None:
    with open_index(folder, settings=NEVER) as index:
        assert index.search("lions")[0].dense == 1
        (documents / "notes" / "giraffe.txt").write_text("Giraffes eat leaves.")
        fill(documents)
        index.search("giraffes")
        finished(index)
        assert index.search("giraffes")[0].dense == 1
        assert index.notices == ()


def test_who_waits_never_sees_words_alone(folder: Path) -> None:
    (folder / "vectors.faiss").unlink()
    with open_index(folder, settings=RetrievalConfig(wait="always")) as index:
        assert index.search("Who signs the leave?")[0].dense == 1


def test_many_are_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch, gate: threading.Event) -> None:
    monkeypatch.setattr(held, "FEW", 6)
    (folder / "vectors.faiss").unlink()
    with open_index(folder) as index:
        assert index.search("Who signs the leave?")[0].dense is None
        gate.set()
        finished(index)
        assert index.search("Who signs the leave?")[0].dense == 1


def test_closing_stops_the_thread_before_the_next_block(folder: Path, gate: threading.Event) -> None:
    (folder / "vectors.faiss").unlink()
    with open_index(folder, settings=NEVER) as index:
        assert index.search("Who signs the leave?")[0].dense is None
    gate.set()
    finished(index)
    assert not (folder / "vectors.faiss").exists()
    assert len(index.notices) == 1


def test_while_somebody_else_writes_nothing_is_made(folder: Path) -> None:
    with open_index(folder, settings=NEVER) as index, lock(folder, "test"):
        old = json.loads((folder / "vectors.json").read_text())
        old["generation"] -= 1
        (folder / "vectors.json").write_text(json.dumps(old))
        with open_index(folder, settings=NEVER) as other:
            assert other.search("Who signs the leave?")[0].dense == 1
            finished(other)
            assert other.search("Who signs the leave?")[0].dense == 1
        assert index.search("lions")[0].dense == 1
    assert json.loads((folder / "vectors.json").read_text()) == old


LEFT = """
import sys
from farfield.retrieval import RetrievalConfig, making, open_index
import time
blocks = making.Source.blocks
def slow(*given, **more):
    time.sleep(0.3)
    return blocks(*given, **more)
making.Source.blocks = slow
index = open_index(sys.argv[1], settings=RetrievalConfig(wait="never"))
print(index.search("Who signs the leave?")[0].dense, flush=True)
"""


def test_a_process_that_ends_does_not_wait_for_vectors(folder: Path) -> None:
    (folder / "vectors.faiss").unlink()
    run = subprocess.run([sys.executable, "-c", LEFT, str(folder)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "None\n"), run.stderr
    assert not (folder / "vectors.faiss").exists()


ASKED = """
import json, sys, time
from farfield.retrieval import open_index
ended = time.monotonic() + 60
with open_index(sys.argv[1]) as index:
    print("ready", flush=True)
    while time.monotonic() < ended:
        answer = index.answer("alpha counter", k=50)
        said = [hit.text.split() for hit in answer.hits]
        print(json.dumps([answer.generation, sorted({words[2] for words in said}), len(said)]), flush=True)
        if any(words[2] == sys.argv[2] for words in said):
            break
"""


def test_each_answer_is_of_one_generation_while_another_process_ingests(
    tmp_path: Path, fill: Ingest, root: str
) -> None:
    """A file of eight documents is replaced as a whole, eight times: no answer has a part of two of its states."""
    documents, last = tmp_path / "versions", 8
    documents.mkdir()

    def write(version: int) -> None:
        lines = [json.dumps({"id": str(n), "text": f"alpha counter {version} line{n}"}) for n in range(8)]
        (documents / "a.jsonl").write_text("".join(f"{line}\n" for line in lines))
        fill(documents, index="versions")

    write(0)
    folder = Path(root, "versions")
    runs = [
        subprocess.Popen([sys.executable, "-c", ASKED, str(folder), str(last)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        for run in runs:
            assert run.stdout is not None
            assert run.stdout.readline() == "ready\n"
        for version in range(1, last + 1):
            write(version)
            time.sleep(0.05)
        outputs = [run.communicate(timeout=90)[0] for run in runs]
    finally:
        for run in runs:
            run.kill()
    for run, output in zip(runs, outputs, strict=True):
        seen = [json.loads(line) for line in output.splitlines()]
        assert run.returncode == 0
        assert seen[-1][1] == [str(last)]
        assert len({generation for generation, _, _ in seen}) > 1
        for _, versions, hits in seen:
            assert (len(versions), hits) == (1, 8)


FORKED = """
import os, sys, threading
import numpy as np
if sys.argv[1] == "torch":
    import torch
from farfield.retrieval.faiss_library import library
from farfield.retrieval.flat import Flat
faiss = library()
faiss.omp_set_num_threads(4)
store, rows = Flat(32), np.random.default_rng(0).normal(size=(20000, 32)).astype(np.float32)
store.add(np.arange(20000), rows)
expected = store.search(rows[:200], 3).ids.tolist()   # starts threads
child = os.fork()
if child == 0:
    os._exit(0 if store.search(rows[:200], 3).ids.tolist() == expected else 1)
timer = threading.Timer(30, os.kill, (child, 9))
timer.start()
status = os.waitpid(child, 0)[1]
timer.cancel()
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("first", ["faiss", "torch"])
def test_a_child_forked_after_threads_were_started_can_search(first: str) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, first], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, (run.returncode, run.stderr)


def test_vectors_that_cannot_be_made_are_told_of_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "vectors.faiss").unlink()

    def refuse(*given: object, **more: object) -> object:
        raise IndexingError("no room.")

    monkeypatch.setattr(held, "renew", refuse)
    with open_index(folder, settings=NEVER) as index:
        finished(index)
        for _ in range(3):
            assert index.search("Who signs the leave?")[0].dense is None
        assert index.notices[1:] == ("index 'test': its vectors could not be made anew: no room.",)
    assert capsys.readouterr().err.count("no room.") == 1
