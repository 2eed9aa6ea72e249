from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from filling import Ingest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farfield.config import IndexingError
from farfield.retrieval import open_index
from farfield.retrieval.store import DATABASE, Store, connect
from farfield.retrieval.words import BAG, words
from farfield.retrieval.writing import lock


def database(root: str) -> Path:
    return Path(root, "test", DATABASE)


def test_the_database_is_as_it_is_described(documents: Path, fill: Ingest, root: str) -> None:
    fill(documents)
    with sqlite3.connect(database(root)) as connection:
        pragmas = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "user_version")
        }
        assert pragmas == {"journal_mode": "wal", "user_version": 2}
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("SELECT generation, documents, chunks FROM state").fetchone() == (1, 4, 7)
    connection.close()


def recount(root: str) -> tuple[dict[int, int], dict[int, int], int, int]:
    """Term frequencies as stored and as counted again; chunks, and rows of the full-text index."""
    connection = sqlite3.connect(database(root))
    stored = dict(connection.execute("SELECT term, chunks FROM terms").fetchall())
    bags = [row[0] for row in connection.execute("SELECT bag FROM chunks")]
    terms, counts = np.unique(np.frombuffer(b"".join(bags), BAG)["term"], return_counts=True)
    lexical = connection.execute("SELECT count(*) FROM lexicon").fetchone()[0]
    connection.execute("INSERT INTO lexicon (lexicon) VALUES ('integrity-check')")
    total = connection.execute("SELECT chunks FROM state").fetchone()[0]
    connection.close()
    return stored, dict(zip(terms.tolist(), counts.tolist(), strict=True)), total, lexical


def test_frequencies_and_totals_follow_every_change(documents: Path, fill: Ingest, root: str) -> None:
    fill(documents)
    (documents / "handbook.md").write_text("# Handbook\n\nAll is new here. Lions too.\n")
    (documents / "more.txt").write_text("More about lions and zebras.")
    (documents / "notes" / "kitchen.txt").unlink()
    (documents / "animals.jsonl").write_text('{"text": "Only zebras are left."}')
    fill(documents, prune=True)
    stored, counted, total, lexical = recount(root)
    assert stored == counted
    assert total == lexical == 3


QUESTIONS = [
    '"',
    "' OR 1=1 --",
    "leave AND",
    "NOT",
    "NEAR(a b)",
    "lions*",
    "words:leave",
    "^leave",
    "(((",
    "a-b + c",
    "\x00",
]


@pytest.mark.parametrize("question", ["", " ", "?!", "🦁", *QUESTIONS, "lions " * 5000, "AND OR NOT lions"])
def test_no_question_is_a_syntax_error(question: str, documents: Path, fill: Ingest, root: str) -> None:
    fill(documents)
    with open_index("test", root) as index:
        found = {hit.title for hit in index.search(question)}
    assert ("Handbook" in found) == ("leave" in question)
    assert ("Lions" in found) == ("lions" in question or "a" in words(question))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(question=st.text(max_size=40))
def test_no_text_is_a_syntax_error(question: str, documents: Path, fill: Ingest, root: str) -> None:
    fill(documents)
    with open_index("test", root) as index:
        assert len(index.search(question)) <= 7


def damage(file: Path, place: int, data: bytes) -> None:
    with file.open("r+b") as out:
        out.seek(place)
        out.write(data)


def failure(root: str, question: str = "Who signs the leave?") -> str:
    """The one line that a search ends with."""
    with pytest.raises(IndexingError) as error, open_index("test", root) as index:
        index.search(question)
    assert "\n" not in str(error.value)
    return str(error.value)


MEND = " Restore it from a copy, or delete the index's folder and ingest the documents again."


def test_a_database_with_a_damaged_header(documents: Path, fill: Ingest, root: str) -> None:
    fill(documents)
    damage(database(root), 0, b"garbage" * 20)
    assert failure(root) == f"index 'test': documents.sqlite is damaged (file is not a database).{MEND}"


def test_a_database_that_was_cut(documents: Path, fill: Ingest, root: str) -> None:
    fill(documents)
    os.truncate(database(root), database(root).stat().st_size // 2)
    assert failure(root).startswith("index 'test': documents.sqlite is damaged (")


def test_a_passage_with_a_changed_letter(documents: Path, fill: Ingest, root: str) -> None:
    fill(documents)
    place = database(root).read_bytes().index(b"Leave is signed")
    damage(database(root), place, b"Leafe")
    assert failure(root) == (
        f"index 'test': documents.sqlite is damaged (a stored passage does not fit its checksum).{MEND}"
    )


def test_an_empty_database_says_what_to_do(root: str) -> None:
    database(root).parent.mkdir(parents=True)
    database(root).touch()
    assert failure(root) == "index 'test' holds no documents. Make it with: farfield ingest path=... index=test"


def test_a_database_of_another_program(root: str) -> None:
    database(root).parent.mkdir(parents=True)
    connection = sqlite3.connect(database(root))
    connection.execute("PRAGMA application_id = 7")
    connection.close()
    assert failure(root) == "index 'test': documents.sqlite is the database of another program."


def test_a_database_of_another_schema(documents: Path, fill: Ingest, root: str) -> None:
    fill(documents)
    connection = sqlite3.connect(database(root))
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    line = "index 'test' has schema 9; this version reads 2. Ingest into a new index."
    assert failure(root) == line
    with pytest.raises(IndexingError, match=r"^index 'test' has schema 9"):
        fill(documents)


def test_one_writer_at_a_time(documents: Path, fill: Ingest, root: str) -> None:
    fill(documents)
    with (
        lock(Path(root, "test"), "test"),
        pytest.raises(IndexingError, match=r"^index 'test' is being written by another process\. Wait"),
    ):
        fill(documents)
    assert fill(documents).unchanged == 4


def test_a_snapshot_does_not_see_what_is_written_later(documents: Path, fill: Ingest, root: str) -> None:
    fill(documents)
    store = Store(Path(root, "test"), "test")
    with store.reading() as snapshot:
        (documents / "more.txt").write_text("More.")
        fill(documents)
        assert snapshot.state.documents == snapshot.count("documents") == 4
    with store.reading() as snapshot:
        assert snapshot.count("documents") == 5
    store.close()


def test_a_folder_that_cannot_be_written_can_be_searched(
    documents: Path, fill: Ingest, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(documents)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    connection = connect(Path(root, "test"), "rw")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("DELETE FROM terms")
    connection.close()
    with open_index("test", root) as index:
        assert index.search("leave")
