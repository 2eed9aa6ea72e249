"""The choice of a GPU, with a FAISS that only says that it has one. No kernel runs here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from filling import Ingest
from test_vector_stores import Exact, check, whole

from farfield.config import ConfigError
from farfield.retrieval import RetrievalConfig, open_index
from farfield.retrieval.flat import Flat
from farfield.retrieval.inverted import Inverted, Shape


class Copy:
    """What stands on the GPU: it counts its searches, and takes no filter, no long list and no many lists."""

    def __init__(self, index: Any, searches: list[int]) -> None:
        self.index, self.searches = index, searches

    def search(self, questions: np.ndarray, k: int, params: Any = None) -> tuple[np.ndarray, np.ndarray]:
        assert k <= 2048
        if params is not None:
            assert params.sel is None
            assert params.nprobe <= 2048
        self.searches.append(len(questions))
        return self.index.search(questions, k, params=params)  # type: ignore[no-any-return]


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Questions that were searched on the GPU, by call."""
    found: list[int] = []

    def copied(resources: object, device: int, index: Any) -> Any:
        known = isinstance(index, faiss.IndexFlat | faiss.IndexIVFScalarQuantizer)
        assert known, "a GPU has no index of this kind"
        return index if not index.ntotal else Copy(index, found)

    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", copied, raising=False)
    return found


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_what_a_gpu_can_search_it_searches_and_the_rest_stays(kind: str, searches: list[int]) -> None:
    store: Flat | Inverted = Flat(8) if kind == "flat" else Inverted(Shape("ivf", 4), whole(700, 1), True)
    if isinstance(store, Inverted):
        store.probe = 4
    exact, ids = Exact(8), np.arange(0, 6000, 2)
    for one in (store, exact):
        one.add(ids, whole(3000, 2))
    store.use_gpu()
    check(store, exact, whole(3, 3), 10)
    assert searches
    searches.clear()
    check(store, exact, whole(3, 3), 10, ids[::3])
    check(store, exact, whole(1, 3), 2100)
    assert searches == []
    for one in (store, exact):
        one.remove(ids[:5])
    check(store, exact, whole(3, 3), 10)
    assert searches == []


def test_an_index_searched_on_the_gpu_answers_as_on_the_cpu(
    documents: Path, fill: Ingest, root: str, searches: list[int]
) -> None:
    fill(documents)
    with open_index("test", root) as index:
        expected = index.search("Who signs the leave?")
    assert searches == []
    with open_index("test", root, RetrievalConfig(device="cuda")) as index:
        assert index.search("Who signs the leave?") == expected
    assert searches
    assert json.loads((Path(root) / "test" / "vectors.json").read_text())["kind"] == "flat"


def test_codes_are_none_for_a_gpu(searches: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"an index of kind pq\. Ingest with vectors\.kind=ivf device=cuda"):
        Inverted(Shape("pq", 4), whole(700, 1)).use_gpu()


def test_without_a_gpu_or_its_faiss_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Flat(8)
    with pytest.raises(ConfigError, match=r"no part for GPUs\. Install 'farfield\[gpu\]' in the place of"):
        store.use_gpu()
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0, raising=False)
    with pytest.raises(ConfigError, match=r"FAISS finds no GPU\. Use device=cpu"):
        store.use_gpu()
