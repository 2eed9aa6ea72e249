"""The suite `retrieval`: the engine's rankings of collections, and collections that are none."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from farfield.benchmarks.retrieval_quality.collection import beir
from farfield.benchmarks.running.results import Cell, Measured, read_result
from farfield.benchmarks.running.runner import evaluate
from farfield.benchmarks.subjects.retrieval_subject import RetrievalSubject
from farfield.benchmarks.suites.needle import NeedleSuite
from farfield.benchmarks.suites.perplexity import PerplexitySuite
from farfield.benchmarks.suites.retrieval import RetrievalSuite
from farfield.config import ConfigError, DataError, ModelError, read

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "ir"
DOCUMENTS = {
    "1": "Lions sleep for twenty hours a day.",
    "2": "Zebras stand while they sleep, and lions watch.",
    "a#3": "Trains are late.",
}
ASKED = {"a": "How long do lions sleep?", "b": "Which trains are late?", "c": "nobody has judged this"}
JUDGED = "query-id\tcorpus-id\tscore\na\t1\t2\na\t2\t1\nb\ta#3\t1\n"


def collection(folder: Path, name: str = "animals") -> Path:
    folder = folder / name
    (folder / "qrels").mkdir(parents=True)
    corpus = [json.dumps({"_id": key, "title": "", "text": text}) for key, text in DOCUMENTS.items()]
    (folder / "corpus.jsonl").write_text("\n".join(corpus))
    (folder / "queries.jsonl").write_text("\n".join(json.dumps({"_id": k, "text": t}) for k, t in ASKED.items()))
    (folder / "qrels" / "test.tsv").write_text(JUDGED)
    return folder


def suite(root: Path, *folders: Path, **changes: Any) -> RetrievalSuite:
    given = {"collections": list(map(str, folders)), "indexes": str(root / "indexes"), **changes}
    return read(RetrievalSuite, given, "suite")


def measured(root: Path, settings: RetrievalSuite) -> dict[Cell, Measured]:
    return read_result(evaluate(settings, RetrievalSubject(), root / "results").path).measured


def test_rankings_of_a_collection_are_measured(tmp_path: Path) -> None:
    found = measured(tmp_path, suite(tmp_path, collection(tmp_path), methods=["lexical", "hybrid"], lengths=[2, 20]))
    assert list(found) == [
        Cell(task, length) for task in ("animals.lexical", "animals.hybrid") for length in (2, 20)
    ]  # fmt: skip
    got = found[Cell("animals.lexical", 20)]
    assert list(got.values) == ["ndcg@10", "recall@10", "recall@20", "mrr@10", "map@20"]
    assert got.values == dict.fromkeys(got.values, 1.0)
    assert got.each == [1.0, 1.0]
    assert got.half == dict.fromkeys(got.values, 0.0)
    assert got.notes == ["2 questions.", "2 of 2 rankings have fewer than 20 documents."]
    assert list(found[Cell("animals.lexical", 2)].values) == ["ndcg@2", "recall@2", "mrr@2", "map@2"]


def test_values_are_those_of_the_ranking(tmp_path: Path) -> None:
    """The judges of the same rankings say otherwise: what is found first is of no use to the first question."""
    folder = collection(tmp_path)
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\na\t2\t3\na\ta#3\t1\nb\ta#3\t1\n")
    got = measured(tmp_path, suite(tmp_path, folder, methods=["lexical"]))[Cell("animals.lexical", 100)]
    # Of the first question's two, one is second, and the other one shares no word with it.
    assert got.each == pytest.approx([(3 / math.log2(3)) / (3 + 1 / math.log2(3)), 1])
    assert got.values["recall@100"] == pytest.approx((0.5 + 1) / 2)
    assert got.values["mrr@10"] == pytest.approx((0.5 + 1) / 2)
    assert got.values["map@100"] == pytest.approx((0.5 / 2 + 1) / 2)


def test_a_cell_whose_time_is_over_has_asked_some_of_the_questions(tmp_path: Path) -> None:
    settings = suite(tmp_path, collection(tmp_path), methods=["lexical"], lengths=[2], cell_seconds=1e-9)
    (got,) = measured(tmp_path, settings).values()
    assert (got.capped, len(got.each)) == (True, 1)
    assert got.notes[:2] == ["Closed early, its time was over: 1 of 2 questions were asked.", "1 questions."]
    (whole,) = measured(tmp_path, settings.model_copy(update={"cell_seconds": None})).values()
    assert (whole.capped, len(whole.each)) == (False, 2)


def test_a_collection_that_has_changed_is_another_one(tmp_path: Path) -> None:
    folder = collection(tmp_path)
    settings = suite(tmp_path, folder, methods=["lexical"])
    measured(tmp_path, settings)
    before = (tmp_path / "results" / "retrieval.jsonl").read_text().splitlines()
    evaluate(suite(tmp_path, folder, methods=["lexical"]), RetrievalSubject(), tmp_path / "results")
    again = (tmp_path / "results" / "retrieval.jsonl").read_text().splitlines()
    assert again[: len(before)] == before
    assert [json.loads(line)["record"] for line in again[len(before) :]] == ["resumed"]
    corpus = folder / "corpus.jsonl"
    corpus.write_text(corpus.read_text().replace("Trains are late.", "Boats."))
    changed = measured(tmp_path, suite(tmp_path, folder, methods=["lexical"]))
    assert changed[Cell("animals.lexical", 100)].values["ndcg@10"] == 0.5
    assert (tmp_path / "results" / "retrieval.1.jsonl").is_file()
    assert len(list((tmp_path / "indexes").iterdir())) == 2


@pytest.mark.parametrize(
    ("file", "content", "line"),
    [
        ("corpus.jsonl", None, " is no folder in BEIR's layout: corpus.jsonl is missing. It has corpus.jsonl, "
         "queries.jsonl and qrels/test.tsv."),
        ("qrels/test.tsv", None, " is no folder in BEIR's layout: qrels/test.tsv is missing. It has corpus.jsonl, "
         "queries.jsonl and qrels/test.tsv."),
        ("corpus.jsonl", '{"_id": "1", "text": "x"}\n{"_id": "2"}\n',
         '/corpus.jsonl:2: no "text" in this line. Keys: _id.'),
        ("corpus.jsonl", '{"_id": "1", "text": "x"}\n\n{"_id": "1", "text": "y"}\n',
         '/corpus.jsonl:3: "_id" \'1\' was there before.'),
        ("corpus.jsonl", '{"_id": 1, "text": "x"}\n', '/corpus.jsonl:1: "_id" is a text, not int.'),
        ("queries.jsonl", '{"_id": "a", "text": "x"\n',
         "/queries.jsonl:1: not JSON: Expecting ',' delimiter: line 2 column 1 (char 25)."),
        ("queries.jsonl", "[]\n", '/queries.jsonl:1: a JSON object with "_id" and "text" is expected, not list.'),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\na 1 2\n",
         "/qrels/test.tsv:2: 1 fields given, 3 are needed: query-id <tab> corpus-id <tab> score."),
        ("qrels/test.tsv", "a\t1\t2\nb\ta#3\t1\n",
         "/qrels/test.tsv:1: the first line names the fields: query-id <tab> corpus-id <tab> score. This one has a "
         "grade already."),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\na\t1\tgood\n",
         "/qrels/test.tsv:2: score 'good' given, a whole number is needed."),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nz\t1\t1\n",
         "/qrels/test.tsv: no question of queries.jsonl is judged in it."),
    ],
)  # fmt: skip
def test_a_folder_of_another_layout_is_one_line(file: str, content: str | None, line: str, tmp_path: Path) -> None:
    folder = collection(tmp_path)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(DataError) as error:
        evaluate(suite(tmp_path, folder), RetrievalSubject(), tmp_path / "results")
    assert str(error.value) == f"{folder}{line}"
    assert not (tmp_path / "results").exists()


def test_bytes_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    folder = collection(tmp_path)
    (folder / "queries.jsonl").write_bytes(b'{"_id": "a", "text": "\xff"}\n')
    with pytest.raises(DataError, match=r"queries\.jsonl: not UTF-8: invalid start byte at byte 22\.$"):
        beir(folder)


def test_judgements_of_what_is_not_there_are_noted(tmp_path: Path) -> None:
    folder = collection(tmp_path)
    (folder / "qrels" / "test.tsv").write_text(JUDGED + "a\t99\t1\nz\t1\t1\n")
    assert beir(folder).doubts == (
        "1 judged questions are not in queries.jsonl, and are left out.",
        "1 judged documents are not in corpus.jsonl, and cannot be found.",
    )


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"methods": ["model"]}, "suite: methods: 'model' embeds by a model, and none is named. Add "
         "suite.model=<folder>."),
        ({"methods": []}, "suite.methods: no value given, at least 1 is needed."),
        ({"methods": ["hybrids"]}, "suite.methods.0: unknown choice 'hybrids'. Did you mean 'hybrid'? Known: hashed, "
         "hybrid, lexical, model, model_hybrid, model_late."),
        ({"collections": ["a/x", "b/x"]}, "suite: collections: x, x: names must differ, results are told apart by "
         "them."),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_said_in_one_line(changes: dict[str, Any], line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        suite(tmp_path, **changes)
    assert str(error.value) == line


def test_what_is_not_there_is_said_before_anything_is_done(tmp_path: Path) -> None:
    settings = suite(tmp_path, collection(tmp_path), methods=["model"], model="/nowhere")
    with pytest.raises(ConfigError, match=r"^suite\.model: there is no folder '/nowhere'\. Give a folder of sentence-"):
        evaluate(settings, RetrievalSubject(), tmp_path / "results")
    with pytest.raises(ConfigError, match=r"^suite\.collections: none given\. Name folders in BEIR's layout"):
        evaluate(suite(tmp_path), RetrievalSubject(), tmp_path / "results")


@pytest.mark.parametrize("asking", [NeedleSuite(), PerplexitySuite()])
def test_a_suite_that_asks_a_model_says_that_none_is_given(asking: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^model: none is given, and this suite asks one\."):
        evaluate(asking, RetrievalSubject(), tmp_path)


def test_a_public_collection_gives_the_known_figures(tmp_path: Path) -> None:
    """An independent BM25 with Porter's stemmer has nDCG@10 .501 and MAP .397 on Cranfield."""
    if not DATA.is_dir():
        pytest.skip("the collections are not beside this checkout")
    got = measured(tmp_path, suite(tmp_path, DATA / "cranfield", methods=["lexical"], questions=75))
    values = got[Cell("cranfield.lexical", 100)].values
    assert values["ndcg@10"] == pytest.approx(0.513, abs=0.005)
    assert values["map@100"] == pytest.approx(0.388, abs=0.005)
    assert got[Cell("cranfield.lexical", 100)].notes[0] == "75 questions."
