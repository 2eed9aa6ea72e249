"""The benchmark of searches on collections of a few lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from farfield.benchmarks.retrieval_quality.__main__ import main
from farfield.benchmarks.retrieval_quality.collection import beir, squad
from farfield.config import DataError

DOCUMENTS = {"1": "Lions sleep for twenty hours a day.", "2": "Zebras stand while they sleep.", "3": "Trains are late."}
ASKED = {"a": "How long do lions sleep?", "b": "What do zebras do?", "c": "nobody has judged this"}


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """A folder in BEIR's layout."""
    folder = tmp_path / "animals"
    (folder / "qrels").mkdir(parents=True)
    corpus = [json.dumps({"_id": key, "title": "", "text": text}) for key, text in DOCUMENTS.items()]
    (folder / "corpus.jsonl").write_text("\n".join(corpus))
    (folder / "queries.jsonl").write_text("\n".join(json.dumps({"_id": k, "text": t}) for k, t in ASKED.items()))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\na\t1\t2\na\t2\t1\nb\t2\t1\n")
    return folder


@pytest.fixture
def paragraphs(tmp_path: Path) -> Path:
    """Two articles of two paragraphs, each with a question, in SQuAD's schema."""
    names = [["Lions", "Zebras"], ["Trains", "Boats"]]
    articles = [
        {"paragraphs": [{"context": f"{name} sleep at noon.", "qas": [{"question": f"When do {name.lower()} sleep?"}]}]}
        for pair in names
        for name in pair
    ]
    joined = [{"paragraphs": articles[0]["paragraphs"] + articles[1]["paragraphs"]}]
    joined += [{"paragraphs": articles[2]["paragraphs"] + articles[3]["paragraphs"]}]
    (tmp_path / "squad.json").write_text(json.dumps({"data": joined}))
    return tmp_path / "squad.json"


def test_collections_are_read(animals: Path, paragraphs: Path, tmp_path: Path) -> None:
    questions = beir(animals).questions
    assert [(one.text, dict(one.relevant)) for one in questions] == [
        (ASKED["a"], {"1": 2, "2": 1}),
        (ASKED["b"], {"2": 1}),
    ]
    assert beir(animals).sample(1).questions == questions[:1]
    halved = squad(paragraphs, tmp_path / "halved.jsonl", skip=1)
    assert [json.loads(line)["id"] for line in halved.documents.read_text().splitlines()] == ["0-0", "1-0"]
    assert [(one.group, dict(one.relevant)) for one in halved.questions] == [
        (0, {"0-0": 1}),
        (0, {}),
        (1, {"1-0": 1}),
        (1, {}),
    ]


@pytest.mark.parametrize("content", ["", "[]", '{"data": [{}]}'])
def test_a_file_of_another_schema_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(DataError, match=r"^--squad: .*other\.json is not in SQuAD's schema \("):
        squad(tmp_path / "other.json", tmp_path / "out.jsonl")


def test_what_needs_no_model_is_measured(
    animals: Path, paragraphs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = [
        "--collections",
        animals,
        "--squad",
        paragraphs,
        "--weights",
        "1",
        "--out",
        out,
        "--json",
        out / "all.json",
    ]
    assert main(list(map(str, words))) == 0
    found = json.loads((out / "all.json").read_text())
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in found["rows"]:
        rows.setdefault(row.pop("measure"), []).append(row)
    assert [(row["collection"], row["method"], row["dense_weight"]) for row in rows["quality"]] == [
        (collection, method, weight)
        for collection in ("animals", "squad")
        for method, weight in [
            ("lexical", None),
            ("hashed", None),
            ("hashed + lexical", None),
            ("hashed + lexical", 1.0),
        ]
    ]
    assert all(row["hit_1"] == row["mrr_10"] == 1.0 for row in rows["quality"] if row["method"] != "hashed")
    assert {"p50", "p95", "batched", "stages"} <= set(rows["latency"][0])
    assert {row["method"] for row in rows["refusal"]} == {"lexical", "hashed + lexical"}
    assert all(row["area"] == 1.0 and row["questions"] == 2 for row in rows["refusal"])
    assert found["task"]["collections"] == ["animals"]
    assert "nDCG@10" in capsys.readouterr().out


def test_a_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--collections", str(tmp_path), "--json", str(tmp_path / "x.json")]) == 2
    assert "is no folder in BEIR's layout" in capsys.readouterr().err
