"""An index that grows: what is new is added where that gives the same vectors, and all is made anew where not."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from filling import Ingest

from farfield.config import ConfigError, IndexingError
from farfield.retrieval import FunctionEmbedder, IngestConfig, RetrievalConfig, ingest, making, open_index
from farfield.retrieval.settings import VectorConfig

DIMENSION = 24


def embed(texts: Sequence[str]) -> np.ndarray:
    """Each word a direction of its own, drawn from its checksum."""
    out = np.full((len(texts), DIMENSION), 1e-3)
    for row, text in zip(out, texts, strict=True):
        for word in set(text.lower().split()):
            row += np.random.default_rng(zlib.crc32(word.encode())).normal(size=DIMENSION)
    return out


EMBEDDER = FunctionEmbedder("crc-1", DIMENSION, embed)


def write(folder: Path, numbers: Sequence[int]) -> None:
    """A file of one line for each number, its own words and some that many share."""
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"id": str(n), "text": f"entry{n} shelf{n % 37} room{n % 11}"}) for n in numbers]
    (folder / f"{numbers[0]:06}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def fill(folder: Path, root: Path, name: str, prune: bool = False, **vectors: object) -> None:
    settings = IngestConfig(
        path=str(folder), index=name, root=str(root), prune=prune, vectors=VectorConfig.model_validate(vectors)
    )
    ingest(settings, EMBEDDER)


def manifest(root: Path, name: str) -> dict[str, object]:
    return dict(json.loads((root / name / "vectors.json").read_text()))


def answers(root: Path, name: str) -> list[list[tuple[str, int | None]]]:
    with open_index(root / name, settings=RetrievalConfig(search="dense", k=5), embedder=EMBEDDER) as index:
        return [
            [(hit.key, hit.dense) for hit in index.search(f"entry{n} shelf{n % 37} room{n % 11}")]
            for n in range(0, 1500, 60)
        ]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of passages in each call that makes vectors of them."""
    counts: list[int] = []
    vectors = EMBEDDER.vectors

    def counted(passages: Sequence[object], frequencies: object) -> np.ndarray:
        counts.append(len(passages))
        return vectors(passages, frequencies)  # type: ignore[arg-type]

    monkeypatch.setattr(EMBEDDER, "vectors", counted)
    return counts


@pytest.mark.parametrize("kind", ["flat", "ivf", "pq"])
def test_only_what_is_new_is_added(kind: str, tmp_path: Path, made: list[int]) -> None:
    documents = tmp_path / "documents"
    write(documents, range(1200))
    fill(documents, tmp_path, "grown", kind=kind, recall=0.99)
    trained = manifest(tmp_path, "grown")
    made.clear()
    write(documents, range(1200, 1500))
    fill(documents, tmp_path, "grown")
    assert sum(made) == 300
    (documents / "000000.jsonl").unlink()
    write(documents, range(100, 1200))
    made.clear()
    fill(documents, tmp_path, "grown", prune=True)
    assert manifest(tmp_path, "grown")["count"] == 1400
    assert manifest(tmp_path, "grown")["trained"] == trained["trained"]
    write(documents, range(100))
    fill(documents, tmp_path, "grown")
    fill(documents, tmp_path, "whole", kind="flat")
    grown, whole = answers(tmp_path, "grown"), answers(tmp_path, "whole")
    assert all(hits[0] == (str(n), 1) for n, hits in zip(range(0, 1500, 60), grown, strict=True))
    if kind == "flat":
        assert grown == whole
    else:
        found = [len(set(one) & set(other)) / 5 for one, other in zip(grown, whole, strict=True)]
        assert np.mean(found) >= 0.95


def test_lists_are_trained_again_when_the_index_has_doubled(tmp_path: Path) -> None:
    documents = tmp_path / "documents"
    write(documents, range(1000))
    fill(documents, tmp_path, "grown", kind="pq")
    for first, trained in ((1000, 1000), (1600, 2200), (2200, 2200)):
        write(documents, range(first, first + (600 if first < 2000 else 300)))
        fill(documents, tmp_path, "grown")
        assert manifest(tmp_path, "grown")["trained"] == trained


def test_vectors_that_depend_on_the_collection_are_all_made_anew(
    documents: Path, fill: Ingest, root: str, tmp_path: Path
) -> None:
    fill(documents)
    (documents / "notes" / "more.txt").write_text("Leave is counted in days. Lions count nothing.")
    fill(documents)
    fill(documents, index="whole")
    files = [(Path(root) / name / "vectors.faiss").read_bytes() for name in ("test", "whole")]
    assert files[0] == files[1]


def test_the_settings_stay_until_others_are_given(tmp_path: Path) -> None:
    documents = tmp_path / "documents"
    write(documents, range(1000))
    fill(documents, tmp_path, "kept")
    assert not (tmp_path / "kept" / "vectors.settings.json").exists()
    assert manifest(tmp_path, "kept")["kind"] == "flat"
    fill(documents, tmp_path, "kept", kind="ivf", recall=0.8)
    told = manifest(tmp_path, "kept")
    assert (told["kind"], told["settings"]) == ("ivf", {"kind": "ivf", "recall": 0.8})
    assert 0.8 <= float(str(told["recall"])) <= 1
    fill(documents, tmp_path, "kept")
    assert manifest(tmp_path, "kept") == told
    (tmp_path / "kept" / "vectors.json").unlink()
    with open_index(tmp_path / "kept", embedder=EMBEDDER):
        assert manifest(tmp_path, "kept") == told
    fill(documents, tmp_path, "kept", recall=0.9)
    assert manifest(tmp_path, "kept")["settings"] == {"kind": "ivf", "recall": 0.9}
    fill(documents, tmp_path, "kept", kind="auto")
    assert manifest(tmp_path, "kept")["kind"] == "flat"


def test_settings_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    documents = tmp_path / "documents"
    write(documents, range(10))
    fill(documents, tmp_path, "kept")
    (tmp_path / "kept" / "vectors.settings.json").write_text("{")
    with pytest.raises(IndexingError, match=r"vectors\.settings\.json is damaged\. Delete it, and ingest again"):
        fill(documents, tmp_path, "kept")


@pytest.mark.parametrize("kind", ["ivf", "pq"])
def test_vectors_come_in_blocks(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None that is made at a time is larger than a block: all of them are held in the store alone."""
    monkeypatch.setattr(making, "CHUNKS_AT_ONCE", 100)
    sizes: list[int] = []
    vectors = EMBEDDER.vectors

    def counted(passages: Sequence[object], frequencies: object) -> np.ndarray:
        sizes.append(len(passages))
        return vectors(passages, frequencies)  # type: ignore[arg-type]

    monkeypatch.setattr(EMBEDDER, "vectors", counted)
    write(tmp_path / "documents", range(1200))
    fill(tmp_path / "documents", tmp_path, "large", kind=kind)
    assert max(sizes) == 100
    assert sum(sizes) == 1200 + min(1200, 64 * 30)


def test_a_gpu_that_is_not_there_is_one_line(documents: Path, fill: Ingest, root: str) -> None:
    fill(documents)
    with pytest.raises(ConfigError, match=r"device: cuda given, but .*(no part for GPUs|finds no GPU)"):
        open_index("test", root, RetrievalConfig(device="cuda"))
    with pytest.raises(ConfigError, match=r"device: cuda given, but .*(no part for GPUs|finds no GPU)"):
        ingest(IngestConfig(path=str(documents), index="other", root=root, device="cuda"))
    assert not (Path(root) / "other").exists()
