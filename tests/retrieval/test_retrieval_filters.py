from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from farfield.config import ConfigError
from farfield.retrieval import IngestConfig, RetrievalConfig, ingest, open_index
from farfield.retrieval.chunks import Chunk
from farfield.retrieval.embedders import HashedTfIdf
from farfield.retrieval.filters import Filter, Metadata
from farfield.retrieval.store import Snapshot
from farfield.retrieval.writing import Put, Writer

Documents = dict[str, tuple[str, Metadata]]

DOCUMENTS: Documents = {
    "/docs/a.md": ("markdown", {"language": "en", "year": 2024, "tags": ["red", "blue"]}),
    "/docs/deep/b.pdf": ("pdf", {"language": "de", "year": 2024.0, "draft": True}),
    "/docs2/c.txt": ("text", {"year": "2024", "draft": False, "tags": "red"}),
    "/other/a.md": ("markdown", {"note": "x" * 1000, "rate": 0.5, "draft": 1}),
}


@pytest.fixture
def snapshot(tmp_path: Path) -> Iterator[Snapshot]:
    """Two chunks a document, in the order of `DOCUMENTS`: ids 1 and 2 are of the first."""
    with Writer(tmp_path / "i", "i", HashedTfIdf(16), None) as writer:
        for path, (kind, metadata) in DOCUMENTS.items():
            chunks = [Chunk(0, 3, "", "one"), Chunk(3, 6, "", "two")]
            writer.apply([Put(path, "", Path(path).stem, b"", chunks, kind, metadata)])
        with writer.reading() as snapshot:
            yield snapshot


@pytest.mark.parametrize(
    ("where", "meant"),
    [
        ({}, "1234"),
        ({"path": "/docs"}, "12"),
        ({"path": "/docs/"}, "12"),
        ({"path": "/docs/a.md"}, "1"),
        ({"path": "a.md"}, "14"),
        ({"path": "deep"}, "2"),
        ({"path": "*.md"}, "14"),
        ({"path": "/docs*"}, "123"),
        ({"path": "doc"}, ""),
        ({"path": ["/docs2", "/other"]}, "34"),
        ({"path": []}, ""),
        ({"title": "a"}, "14"),
        ({"key": ""}, "1234"),
        ({"kind": "markdown"}, "14"),
        ({"kind": ["pdf", "text"]}, "23"),
        ({"language": "en"}, "1"),
        ({"language": ["en", "de", "fr"]}, "12"),
        ({"year": 2024}, "12"),
        ({"year": "2024"}, "3"),
        ({"rate": 0.5}, "4"),
        ({"draft": True}, "2"),
        ({"draft": 1}, "4"),
        ({"draft": False}, "3"),
        ({"tags": "red"}, "13"),
        ({"tags": "blue", "language": "en"}, "1"),
        ({"tags": "blue", "language": "de"}, ""),
        ({"note": "x" * 1000}, "4"),
        ({"note": "x" * 999}, ""),
        ({"language": "x' OR 1=1 --"}, ""),
        ({"nothing' OR 1": 1}, ""),
    ],
)
def test_a_filter_means_the_chunks_of_its_documents(where: Filter, meant: str, snapshot: Snapshot) -> None:
    ids = [chunk for number in map(int, meant) for chunk in (2 * number - 1, 2 * number)]
    found = snapshot.matching(where)
    assert found.dtype == "int64"
    assert found.tolist() == ids
    assert [path for path, _ in snapshot.meant(where)] == [list(DOCUMENTS)[int(number) - 1] for number in meant]


@pytest.mark.parametrize("value", [None, {"a": 1}, [None], [[1]]])
def test_a_value_that_cannot_be_compared_is_one_line(value: object, snapshot: Snapshot) -> None:
    where: dict[str, object] = {"year": value}
    matching: Callable[[dict[str, object]], object] = snapshot.matching  # type: ignore[assignment]
    with pytest.raises(ConfigError) as error:
        matching(where)
    assert str(error.value) == (
        f"where.year: {value!r} given. Use a string, a number, true or false, or a list of them."
    )


def test_a_passage_knows_its_page_and_its_documents_metadata(tmp_path: Path) -> None:
    with Writer(tmp_path / "i", "i", HashedTfIdf(16), None) as writer:
        writer.apply([Put("/a.pdf", "", "a", b"", [Chunk(0, 3, "", "one", 7)], "pdf", {"author": "Müller"})])
        with writer.reading() as snapshot:
            (passage,) = snapshot.passages([1])
    assert (passage.page, passage.metadata) == (7, {"author": "Müller"})


def test_a_passage_that_a_duplicate_is_meant_by_is_the_duplicate_s(tmp_path: Path, root: str) -> None:
    """The same words with other white space: what is shown is the file that the filter means, and its own span."""
    texts = {"a": "Leave is signed by the head.", "b": "Leave  is signed\n\n by the head."}
    for name, text in texts.items():
        line = json.dumps({"id": "leave", "text": text, "language": name})
        (tmp_path / f"{name}.jsonl").write_text(line, encoding="utf-8")
        ingest(IngestConfig(path=str(tmp_path / f"{name}.jsonl"), index="test", root=root))
    with open_index(Path(root, "test")) as index:
        cases = (({"language": "a"}, "a"), ({"language": "b"}, "b"), ({"path": "*/b.jsonl"}, "b"), ({}, "a"))
        for where, name in cases:
            answer = index.answer("Who signs leave?", where=where, explain=True)
            (hit,) = answer.hits
            assert hit.path == (tmp_path / f"{name}.jsonl").as_posix()
            assert hit.metadata["language"] == name
            assert hit.text == texts[name][hit.start : hit.end] == texts[name]
            shown = {one.source for stage in answer.stages for one in stage.candidates}
            assert shown == {hit.source}
        answer = index.answer("Who signs leave?", where={"language": "c"})
        assert answer.hits == []
        assert answer.notices == ("where: the filter means no document of the index.",)


def test_more_than_there_is_costs_no_room(tmp_path: Path, root: str) -> None:
    (tmp_path / "a.txt").write_text("Leave is signed by the head.", encoding="utf-8")
    ingest(IngestConfig(path=str(tmp_path / "a.txt"), index="test", root=root))
    with open_index(Path(root, "test"), settings=RetrievalConfig(candidates=10**15)) as index:
        assert len(index.search("leave", k=10**21)) == 1
