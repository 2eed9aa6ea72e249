"""An index whose vectors are on a Qdrant server: here its client in this process, one for all that connect."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_vector_updates import fill as fill_numbers
from test_vector_updates import write

from farfield.config import IndexingError
from farfield.retrieval import IngestConfig, RetrievalConfig, ingest, open_index, qdrant
from farfield.retrieval.settings import VectorConfig
from farfield.retrieval.vector_store import Found

pytest.importorskip("qdrant_client")

URL = "http://qdrant.invalid:6333"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    from qdrant_client import QdrantClient

    client = QdrantClient(":memory:")
    monkeypatch.setattr(qdrant, "connect", lambda url: client)
    return client


def on_server(documents: Path, root: str, **vectors: object) -> tuple[str, ...]:
    settings = VectorConfig.model_validate({"kind": "qdrant", "url": URL, **vectors})
    return ingest(IngestConfig(path=str(documents), index="test", root=root, vectors=settings)).notices


def hits(root: str, question: str) -> list[tuple[str, int | None, int | None]]:
    with open_index("test", root) as index:
        return [(hit.source, hit.dense, hit.lexical) for hit in index.search(question)]


QUESTIONS = ("Who signs the leave?", "lions sleep", "coffee machine", "nothing of this")


def test_answers_are_those_of_the_file(documents: Path, root: str, tmp_path: Path, server: Any) -> None:
    on_server(documents, root)
    other = str(tmp_path / "other")
    ingest(IngestConfig(path=str(documents), index="test", root=other))
    assert [hits(root, one) for one in QUESTIONS] == [hits(other, one) for one in QUESTIONS]
    assert not (Path(root) / "test" / "vectors.faiss").exists()
    (collection,) = server.get_collections().collections
    told = server.get_collection(collection.name).config.metadata
    assert collection.name == f"farfield-{database(root)}"
    assert (told["embedder"], told["generation"], told["count"]) == ("hashed-tfidf-1 dimension=2048", 1, count(server))


def database(root: str) -> str:
    with open_index("test", root, RetrievalConfig(search="lexical")) as index, index._store.reading() as snapshot:
        return snapshot.state.database


def count(server: Any) -> int:
    (collection,) = server.get_collections().collections
    return int(server.count(collection.name).count)


def test_what_is_ingested_and_pruned_later_follows(documents: Path, root: str, server: Any) -> None:
    on_server(documents, root)
    (documents / "notes" / "giraffe.txt").write_text("Giraffes eat leaves.")
    assert on_server(documents, root) == ()
    assert hits(root, "giraffes")[0][1] == 1
    (documents / "notes" / "kitchen.txt").unlink()
    ingest(IngestConfig(path=str(documents), index="test", root=root, prune=True))
    assert hits(root, "coffee machine") == []
    with open_index("test", root) as index:
        assert count(server) == index.stats().chunks


def test_a_steady_embedder_sends_only_what_is_new(tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "documents", range(50))
    fill_numbers(tmp_path / "documents", tmp_path, "test", kind="qdrant", url=URL)
    sent: list[int] = []
    upsert = server.upsert

    def counted(collection: str, points: Any, wait: bool) -> Any:
        sent.append(len(points.ids))
        return upsert(collection, points=points, wait=wait)

    monkeypatch.setattr(server, "upsert", counted)
    write(tmp_path / "documents", range(50, 60))
    fill_numbers(tmp_path / "documents", tmp_path, "test")
    assert sent == [10]
    assert count(server) == 60


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        ("delete", "is missing"),
        ("lose a point", "is damaged"),
        ("stop while filling", "is damaged"),
        ("another embedder", "belongs to another index"),
        ("an older generation", "is older than the documents"),
    ],
)
def test_a_collection_that_does_not_fit_is_filled_again(
    harm: str, reason: str, documents: Path, root: str, server: Any
) -> None:
    on_server(documents, root)
    expected = hits(root, QUESTIONS[0])
    (collection,) = server.get_collections().collections
    told = dict(server.get_collection(collection.name).config.metadata)
    if harm == "delete":
        server.delete_collection(collection.name)
    elif harm == "lose a point":
        server.delete(collection.name, points_selector=[1])
    else:
        changed = {"stop while filling": ("generation", -1), "another embedder": ("embedder", "other")}
        key, value = changed.get(harm, ("generation", 0))
        server.update_collection(collection.name, metadata={**told, key: value})
    with open_index("test", root) as index:
        assert len(index.notices) == 1
        assert f"the vector collection {reason}; rebuilt from the database" in index.notices[0]
        assert [(hit.source, hit.dense, hit.lexical) for hit in index.search(QUESTIONS[0])] == expected
    with open_index("test", root) as index:
        assert index.notices == ()


def test_a_collection_that_was_made_before_keeps_its_shape(documents: Path, root: str, server: Any) -> None:
    from qdrant_client import models

    on_server(documents, root)
    expected = hits(root, QUESTIONS[0])
    (collection,) = server.get_collections().collections
    for size, kept in ((2048, True), (7, False)):
        server.delete_collection(collection.name)
        space = models.VectorParams(size=size, distance=models.Distance.DOT, on_disk=True)
        server.create_collection(collection.name, vectors_config=space)
        server.upsert(collection.name, points=models.Batch(ids=[9999], vectors=[[1.0] * size]))
        on_server(documents, root)
        assert bool(server.get_collection(collection.name).config.params.vectors.on_disk) == kept
        assert hits(root, QUESTIONS[0]) == expected
        with open_index("test", root) as index:
            assert count(server) == index.stats().chunks


def test_back_to_a_file(documents: Path, root: str, server: Any) -> None:
    on_server(documents, root)
    expected = [hits(root, one) for one in QUESTIONS]
    ingest(IngestConfig(path=str(documents), index="test", root=root, vectors=VectorConfig(kind="flat")))
    assert (Path(root) / "test" / "vectors.faiss").exists()
    assert [hits(root, one) for one in QUESTIONS] == expected


def test_long_filters_are_asked_in_parts(monkeypatch: pytest.MonkeyPatch, server: Any) -> None:
    store = qdrant.QdrantStore(server, "points", 4)
    store.create({})
    rows = np.random.default_rng(0).integers(-3, 4, (50, 4)).astype(np.float32)
    store.add(np.arange(50), rows)
    among = np.arange(0, 50, 2)
    whole = store.search(rows[:6], 7, among)
    monkeypatch.setattr(qdrant, "FILTER_AT_ONCE", 3)
    parts: Found = store.search(rows[:6], 7, among)
    np.testing.assert_array_equal(parts.ids, whole.ids)
    np.testing.assert_array_equal(parts.scores, whole.scores)


def test_a_server_that_does_not_answer_is_one_line(documents: Path, root: str) -> None:
    with pytest.raises(IndexingError) as error:
        on_server(documents, root, url="http://127.0.0.1:9")
    assert str(error.value).startswith("vectors.url: the Qdrant server at http://127.0.0.1:9 cannot do what is asked (")
    assert "\n" not in str(error.value)


def test_an_address_that_is_none_is_one_line(documents: Path, root: str) -> None:
    with pytest.raises(IndexingError, match=r"vectors\.url: 'http://a b:c' is no address of a server"):
        on_server(documents, root, url="http://a b:c")


def test_a_server_without_an_address_is_one_line(documents: Path, root: str) -> None:
    with pytest.raises(IndexingError, match=r"vectors\.kind: qdrant given without vectors\.url\. Give the server's"):
        ingest(IngestConfig(path=str(documents), index="test", root=root, vectors=VectorConfig(kind="qdrant")))


def test_without_the_client_the_line_says_what_to_install(
    documents: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(IndexingError, match=r"pip install 'farfield\[qdrant\]'"):
        on_server(documents, root)


def test_a_server_that_is_not_named_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Leave is signed by the head.", encoding="utf-8")
    given = {"path": str(tmp_path / "a.txt"), "index": "test", "root": str(tmp_path)}
    with pytest.raises(IndexingError, match=r"^vectors.kind: qdrant given without vectors.url"):
        ingest(IngestConfig(**given, vectors=VectorConfig(kind="qdrant")))
    assert not (tmp_path / "test").exists()
    ingest(IngestConfig(**given))
    with open_index(tmp_path / "test") as index:
        assert len(index.search("leave")) == 1
