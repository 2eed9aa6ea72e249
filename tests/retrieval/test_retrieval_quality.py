"""Does it find the right passages? Floors lie a little below what was measured, so that a loss shows."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from filling import Ingest

from farfield.retrieval import Index, IngestConfig, RetrievalConfig, ingest, open_index

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "ir"
SEARCHES = ("hybrid", "dense", "lexical")


def search(folder: Path, name: str) -> Index:
    return open_index(folder, settings=RetrievalConfig.model_validate({"search": name}))


def test_needles_are_found_among_documents_that_look_alike(tmp_path: Path, fill: Ingest, root: str) -> None:
    """400 documents of 60 words with the frequencies of a language; a question holds 8 of one's words and 4 others."""
    source = random.Random(0)
    language = [f"w{number}" for number in range(3000)]
    shares = [1 / (rank + 1) for rank in range(len(language))]
    texts = [source.choices(language, shares, k=60) for _ in range(400)]
    lines = [json.dumps({"id": str(number), "text": " ".join(text)}) for number, text in enumerate(texts)]
    (tmp_path / "needles.jsonl").write_text("\n".join(lines))
    fill(tmp_path / "needles.jsonl", size=1000)
    asked = [source.sample(text, 8) + source.choices(language, shares, k=4) for text in texts[:100]]
    first = {}
    for name in SEARCHES:
        with search(Path(root, "test"), name) as index:
            found = [index.search(" ".join(words), 1)[0].key for words in asked]
        first[name] = sum(key == str(number) for number, key in enumerate(found)) / len(asked)
    assert first["hybrid"] >= 0.95
    assert first["lexical"] >= 0.95
    assert first["dense"] >= 0.85


def ndcg(found: list[str], relevant: Mapping[str, int], k: int = 10) -> float:
    """Normalised discounted cumulative gain of a ranking, linear gains."""
    gain = sum(relevant.get(key, 0) / math.log2(rank + 2) for rank, key in enumerate(found[:k]))
    ideal = sorted(relevant.values(), reverse=True)[:k]
    return gain / sum(value / math.log2(rank + 2) for rank, value in enumerate(ideal))


@pytest.fixture(scope="module")
def measure(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], float]:
    """Mean nDCG@10 of a collection: every third question, a document counted by its best chunk.

    Large collections are thinned to 1,400 documents, those that answer a question among them.
    """
    root = tmp_path_factory.mktemp("indexes")

    def prepare(folder: Path, needed: set[str]) -> None:
        if not folder.is_dir():
            pytest.skip(f"the collection {folder.name} is not beside this checkout")
        if not (root / folder.name).is_dir():
            lines = (folder / "corpus.jsonl").read_text().splitlines()
            answers = [line for line in lines if json.loads(line)["_id"] in needed]
            others = [line for line in lines if json.loads(line)["_id"] not in needed]
            corpus = root / f"{folder.name}.jsonl"
            corpus.write_text("\n".join(answers + others[: 1400 - len(answers)]))
            ingest(IngestConfig(path=str(corpus), index=folder.name, root=str(root)))

    def run(name: str, how: str) -> float:
        folder = DATA / name
        relevant: dict[str, dict[str, int]] = {}
        for row in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:] if folder.is_dir() else ():
            question, document, grade = row.split("\t")
            relevant.setdefault(question, {})[document] = int(grade)
        prepare(folder, {document for documents in relevant.values() for document in documents})
        questions = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
        asked = [question for question in questions if question["_id"] in relevant][::3]
        with search(root / name, how) as index:
            found = [list(dict.fromkeys(hit.key for hit in index.search(one["text"], 30))) for one in asked]
        return sum(ndcg(keys, relevant[one["_id"]]) for keys, one in zip(found, asked, strict=True)) / len(asked)

    return run


@pytest.mark.parametrize(
    ("name", "how", "floor"),
    [
        ("scifact", "hybrid", 0.77),
        ("scifact", "dense", 0.68),
        ("scifact", "lexical", 0.77),
        ("cranfield", "hybrid", 0.495),
        ("cranfield", "dense", 0.445),
        ("cranfield", "lexical", 0.5),
    ],
)
def test_public_collections(name: str, how: str, floor: float, measure: Callable[[str, str], float]) -> None:
    assert measure(name, how) >= floor
