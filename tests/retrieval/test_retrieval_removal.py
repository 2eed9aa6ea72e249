"""Documents that leave an index, and duplicates that take their place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Ingest

from farfield.config import ConfigError, DataError, IndexingError, read
from farfield.retrieval import IngestConfig, IngestResult, ingest, open_index, remove
from farfield.retrieval.filters import Filter


def found(root: str, question: str = "lions zebras coffee leave travel") -> set[str]:
    with open_index("test", root) as index:
        return {Path(hit.path).name + hit.key for hit in index.search(question, k=50)}


def forgotten(what: object, root: str) -> IngestResult:
    return ingest(read(IngestConfig, {"index": "test", "root": root, "remove": what}, "ingest"))


@pytest.mark.parametrize(
    ("what", "left"),
    [
        ("{documents}/notes", {"animals.jsonllion", "animals.jsonlline 2", "handbook.md"}),
        ("{documents}/notes/", {"animals.jsonllion", "animals.jsonlline 2", "handbook.md"}),
        ("{documents}/animals.jsonl", {"handbook.md", "kitchen.txt"}),
        ("{documents}/*.md", {"animals.jsonllion", "animals.jsonlline 2", "kitchen.txt"}),
        ("*.txt", {"animals.jsonllion", "animals.jsonlline 2", "handbook.md"}),
        ({"kind": "json", "key": "lion"}, {"animals.jsonlline 2", "handbook.md", "kitchen.txt"}),
        ({"title": ["Lions", "kitchen"]}, {"animals.jsonlline 2", "handbook.md"}),
    ],
)
def test_what_is_meant_leaves_and_the_next_ingest_brings_it_back(
    what: str | dict[str, object], left: set[str], documents: Path, fill: Ingest, root: str
) -> None:
    fill(documents)
    result = forgotten(what.format(documents=documents) if isinstance(what, str) else what, root)
    assert (result.removed, result.documents) == (4 - len(left), len(left))
    assert found(root) == left
    again = fill(documents)
    assert (again.added, again.unchanged) == (4 - len(left), len(left))


def test_a_relative_path_begins_where_one_stands(
    documents: Path, fill: Ingest, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(documents)
    monkeypatch.chdir(documents)
    assert remove("test", "notes", root).removed == 1
    assert remove("test", "./*.md", root).removed == 1


def test_an_index_may_become_empty(documents: Path, fill: Ingest, root: str) -> None:
    fill(documents)
    assert remove("test", "*", root).documents == 0
    assert found(root) == set()


@pytest.mark.parametrize("where", ["nowhere", {"kind": "pdf"}])
def test_nothing_meant_is_one_line(where: str | Filter, documents: Path, fill: Ingest, root: str) -> None:
    fill(documents)
    with pytest.raises(DataError) as error:
        remove("test", where, root)
    assert str(error.value) == f"remove: {where} means no document of index 'test'."


def test_an_index_that_is_not_there_is_named_and_not_made(documents: Path, fill: Ingest, root: str) -> None:
    fill(documents)
    with pytest.raises(IndexingError) as error:
        remove("tset", "x", root)
    assert str(error.value) == f"index: there is no index 'tset'. Did you mean 'test'? Known: test. Looked in {root}."
    assert not Path(root, "tset").exists()


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({}, "ingest.path: none given. Add path=<what to add>, or remove=<what to forget>."),
        ({"path": "a", "remove": "b"}, "ingest.remove: given beside a path. Take one of them."),
    ],
)
def test_one_of_path_and_remove_is_given(given: dict[str, str], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(IngestConfig, {"index": "i"} | given, "ingest")
    assert str(error.value) == line


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """The same text three times, and another."""
    folder = tmp_path / "copies"
    folder.mkdir()
    for name, text in {"a.txt": "Lions sleep.", "b.md": "Lions\nsleep.\n", "c.txt": " Lions sleep."}.items():
        (folder / name).write_text(text)
    (folder / "d.jsonl").write_text(json.dumps({"text": "Zebras stand."}))
    return folder


def told(result: IngestResult) -> list[str]:
    return [f"{Path(one.path).name} {Path(one.original_path).name}" for one in result.duplicates]


def test_duplicates_are_named_and_searched_once(
    copies: Path, fill: Ingest, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        result = fill(copies)
        assert (result.documents, result.chunks) == (4, 2)
        assert told(result) == ["b.md a.txt", "c.txt a.txt"]
        folder = copies.as_posix()
        assert f"ingest: duplicate {folder}/b.md is the same as {folder}/a.txt\n" in capsys.readouterr().err
    assert found(root) == {"a.txt", "d.jsonlline 1"}


def test_a_duplicate_is_found_when_its_original_is_gone_or_another(copies: Path, fill: Ingest, root: str) -> None:
    fill(copies)
    (copies / "a.txt").write_text("Tigers run.")
    assert told(fill(copies)) == ["c.txt b.md"]
    with open_index("test", root) as index:
        assert [(hit.title, hit.text) for hit in index.search("lions")] == [("b", "Lions\nsleep.\n")]
        assert [hit.title for hit in index.search("tigers")] == ["a"]
    remove("test", (copies / "b.md").as_posix(), root)
    with open_index("test", root) as index:
        assert [(hit.title, hit.text) for hit in index.search("lions")] == [("c", " Lions sleep.")]
    (copies / "c.txt").unlink()
    (copies / "b.md").unlink()
    assert told(fill(copies, prune=True)) == []
    assert found(root) == {"a.txt", "d.jsonlline 1"} - {"a.txt"}


def test_duplicates_that_are_kept_are_searched(copies: Path, root: str) -> None:
    settings = IngestConfig(path=str(copies), index="test", root=root)
    keeping = settings.model_copy(update={"duplicates": "keep"})
    ingest(settings)
    assert (ingest(keeping).chunks, told(ingest(keeping))) == (4, [])
    assert found(root, "lions") == {"a.txt", "b.md", "c.txt"}
    assert told(ingest(settings)) == ["b.md a.txt", "c.txt a.txt"]
    assert found(root, "lions") == {"a.txt"}
