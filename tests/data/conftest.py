from __future__ import annotations

import json
from pathlib import Path

import pytest
from writing import Files, Write

from farfield.tokenizers import BpeTokenizer, train_bpe

SAMPLES = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness",
    "Grüße aus München: über Straßen und Plätze, naïve façade, Ωμέγα, 日本語 日本語, 😀😀 😀",
)


@pytest.fixture(scope="session")
def bpe() -> BpeTokenizer:
    return train_bpe(SAMPLES, 300)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a collection below tmp_path / "texts": texts, bytes, or a list of texts as lines of jsonl."""
    root = tmp_path / "texts"

    def write(files: Files) -> Path:
        root.mkdir(exist_ok=True)
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, list):
                content = "".join(json.dumps({"text": text}) + "\n" for text in content)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return root

    return write
