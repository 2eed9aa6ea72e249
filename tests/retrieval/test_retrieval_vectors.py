from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
from filling import Ingest

from farfield.config import IndexingError
from farfield.retrieval import open_index
from farfield.retrieval.flat import Flat

NOTICE = r"index 'test': the vector file {reason}; rebuilt from the database \(7 chunks, \d+\.\d s\)"


@pytest.fixture
def folder(documents: Path, fill: Ingest, root: str) -> Path:
    fill(documents)
    return Path(root, "test")


def check_rebuilt(folder: Path, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Opening says in one line that the vectors were rebuilt, and opening again says nothing."""
    with open_index(folder) as index:
        (notice,) = index.notices
        assert index.search("Who signs the leave?")[0].heading == "Handbook > Leave"
        assert index.search("Who signs the leave?")[0].dense == 1
    assert re.fullmatch(NOTICE.format(reason=reason), notice)
    assert capsys.readouterr().err.splitlines()[-1] == notice
    with open_index(folder) as index:
        assert index.notices == ()


def test_the_manifest_tells_what_the_file_is(folder: Path) -> None:
    manifest = json.loads((folder / "vectors.json").read_text())
    connection = sqlite3.connect(folder / "documents.sqlite")
    database, generation = connection.execute("SELECT database, generation FROM state").fetchone()
    connection.close()
    assert manifest == {
        "sha256": hashlib.sha256((folder / "vectors.faiss").read_bytes()).hexdigest(),
        "database": database,
        "generation": generation,
        "embedder": "hashed-tfidf-1 dimension=2048",
        "version": "",
        "dimension": 2048,
        "count": 7,
        "faiss": faiss.__version__,
        "settings": {},
        "kind": "flat",
        "trained": 7,
    }
    assert sorted(file.name for file in folder.iterdir()) == [
        "documents.sqlite",
        "vectors.faiss",
        "vectors.json",
        "writer.lock",
    ]


def test_the_file_is_a_flat_index_and_the_ids_of_its_rows(folder: Path) -> None:
    file = folder / "vectors.faiss"
    index = faiss.read_index(str(file))
    assert type(index) is faiss.IndexFlatIP
    ids = np.frombuffer(file.read_bytes()[-8 * index.ntotal :], "<i8")
    with open_index(folder) as opened, opened._store.reading() as snapshot:
        assert ids.tolist() == snapshot.order("").tolist()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.999])
def test_a_flipped_bit_is_found(share: float, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray((folder / "vectors.faiss").read_bytes())
    data[int(share * len(data))] ^= 1
    (folder / "vectors.faiss").write_bytes(data)
    check_rebuilt(folder, "is damaged", capsys)


@pytest.mark.parametrize("name", ["vectors.faiss", "vectors.json"])
@pytest.mark.parametrize("size", [0, 100])
def test_a_file_that_was_cut_is_found(name: str, size: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.truncate(folder / name, size)
    check_rebuilt(folder, "is damaged", capsys)


@pytest.mark.parametrize("name", ["vectors.faiss", "vectors.json"])
def test_a_missing_file_is_made_again(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / name).unlink()
    check_rebuilt(folder, "is missing", capsys)


def test_vectors_of_another_index_are_not_used(
    folder: Path, fill: Ingest, documents: Path, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(documents, index="other", size=40)
    for name in ("vectors.faiss", "vectors.json"):
        (Path(root, "other") / name).replace(folder / name)
    check_rebuilt(folder, "belongs to another index", capsys)


def test_vectors_older_than_the_documents_are_not_used(
    folder: Path, documents: Path, fill: Ingest, capsys: pytest.CaptureFixture[str]
) -> None:
    old = {name: (folder / name).read_bytes() for name in ("vectors.faiss", "vectors.json")}
    (documents / "notes" / "kitchen.txt").write_text("The kitchen is closed.")
    fill(documents)
    for name, data in old.items():
        (folder / name).write_bytes(data)
    check_rebuilt(folder, "is older than the documents", capsys)


def test_a_rebuilt_file_is_the_same_to_the_last_bit(folder: Path) -> None:
    before = (folder / "vectors.faiss").read_bytes()
    (folder / "vectors.faiss").write_bytes(b"")
    open_index(folder).close()
    assert (folder / "vectors.faiss").read_bytes() == before


def test_an_ingest_mends_what_is_damaged(folder: Path, documents: Path, fill: Ingest) -> None:
    (folder / "vectors.faiss").write_bytes(b"")
    (notice,) = fill(documents).notices
    assert re.fullmatch(NOTICE.format(reason="is damaged"), notice)
    assert fill(documents).notices == ()


KILLED = """
import os, signal, sys
from pathlib import Path
from farfield.retrieval import ChunkConfig, IngestConfig, ingest
replace, moves = Path.replace, []
def killed(self, target):
    moves.append(target)
    if len(moves) > int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
Path.replace = killed
ingest(IngestConfig(path=sys.argv[1], index="test", root=sys.argv[2], chunk=ChunkConfig(size=80, overlap=16)))
"""


@pytest.mark.parametrize(("moves", "reason"), [(0, "is older than the documents"), (1, "is damaged")])
def test_a_kill_while_the_vectors_are_written(
    moves: int, reason: str, folder: Path, documents: Path, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (documents / "notes" / "kitchen.txt").write_text("The kitchen is closed.")
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(documents), root, str(moves)], capture_output=True, check=False
    )
    assert run.returncode == -9, run.stderr.decode()
    check_rebuilt(folder, reason, capsys)
    assert not list(folder.glob("*.tmp"))


def written(index: faiss.Index, ids: list[int], path: Path) -> Path:
    """A file as the store writes it, of any index and ids."""
    faiss.write_index(index, str(path))
    with path.open("ab") as file:
        file.write(np.array(ids, "<i8").tobytes())
    return path


def read(path: Path) -> Flat:
    with path.open("rb") as file:
        return Flat.read(file.read, path.stat().st_size)


def flat(count: int) -> faiss.Index:
    index = faiss.IndexFlatIP(4)
    index.add(np.eye(4, dtype=np.float32)[:count])
    return index


def test_another_kind_of_faiss_index_is_refused(tmp_path: Path) -> None:
    quantizer = faiss.IndexFlatIP(4)
    for index in (faiss.IndexFlatL2(4), faiss.IndexIDMap2(flat(0)), faiss.IndexIVFFlat(quantizer, 4, 1)):
        with pytest.raises(ValueError, match="not a flat inner-product index"):
            read(written(index, [], tmp_path / "x"))


def test_ids_that_do_not_fit_the_rows_are_refused(tmp_path: Path) -> None:
    assert read(written(flat(3), [5, 0, 9], tmp_path / "x")).count == 3
    for ids, line in (
        ([5, 0], "16 bytes of ids for 3 vectors"),
        ([5, 0, 5], "an id comes twice, or is none"),
        ([5, 0, -7], "an id comes twice, or is none"),
        ([5, 0, -1], "a vector has no id"),
    ):
        with pytest.raises(ValueError, match=line):
            read(written(flat(3), ids, tmp_path / "x"))


def test_without_faiss_the_line_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(IndexingError) as error:
        open_index(folder)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("Install it with: pip install 'farfield[cpu]'")
