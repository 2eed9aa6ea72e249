"""A folder of documents and an index of them, small enough for every test to have its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from filling import Ingest

from farfield.retrieval import ChunkConfig, Embedder, IngestConfig, IngestResult, ingest

HANDBOOK = """# Handbook

Welcome to the unit. This page says what holds for everybody.

## Leave

Leave is signed by the head of the unit. Ask two weeks ahead.

## Travel

Trips by train are booked at the office. Flights need the signature of the director.
"""


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Four documents in three files of the three kinds, one of them in a subfolder."""
    folder = tmp_path / "documents"
    (folder / "notes").mkdir(parents=True)
    (folder / "handbook.md").write_text(HANDBOOK, encoding="utf-8")
    (folder / "notes" / "kitchen.txt").write_text("The coffee machine is cleaned on Fridays.\n", encoding="utf-8")
    lines = [
        {"id": "lion", "title": "Lions", "text": "Lions sleep for twenty hours a day."},
        {"text": "Zebras stand while they sleep; their stripes confuse flies."},
    ]
    (folder / "animals.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> str:
    """The folder of indexes."""
    return str(tmp_path / "indexes")


@pytest.fixture
def fill(root: str) -> Ingest:
    """Ingests a path into the index `test`, in chunks of 80 characters."""

    def run(
        path: Path, index: str = "test", prune: bool = False, size: int = 80, embedder: Embedder | None = None
    ) -> IngestResult:
        chunk = ChunkConfig(size=size, overlap=min(16, size // 2))
        return ingest(IngestConfig(path=str(path), index=index, root=root, prune=prune, chunk=chunk), embedder)

    return run
