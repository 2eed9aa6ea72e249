"""The sample documents: they hold what the questions ask, and nothing that a reader is trained or tested on."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

import pytest

from farfield.benchmarks.tasks.reading import SYLLABLES, exact, split_of
from farfield.retrieval import ChunkConfig, IngestConfig, ingest, open_index

DEMO = Path(str(files("farfield.demo")))
DOCUMENTS = sorted((DEMO / "documents").glob("*.md"))
QUESTIONS: dict[str, list[dict[str, str]]] = json.loads((DEMO / "questions.json").read_text(encoding="utf-8"))
ALL = [*QUESTIONS["demo"], *QUESTIONS["more"]]
INVENTED = re.compile(rf"(?:{'|'.join(SYLLABLES)}){{2,3}}")
VALUE = re.compile(r"\d\d:\d\d|\b[A-Z]\d\d\b|\b\d+(?: (?:days|degrees|crowns))?")


def test_there_are_handbooks_and_five_questions_one_for_each() -> None:
    assert 4 <= len(DOCUMENTS) <= 6
    assert len(QUESTIONS["demo"]) == 5
    assert len({question["document"] for question in QUESTIONS["demo"]}) == len(DOCUMENTS)
    assert len({question["question"] for question in ALL}) == len(ALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_a_handbook_is_prose_under_headings(document: Path) -> None:
    lines = document.read_text(encoding="utf-8").splitlines()
    assert 60 <= len(lines) <= 150
    assert lines[0].startswith("# ")
    assert sum(line.startswith("## ") for line in lines) >= 6
    assert not any(line.startswith(("-", "*", "|")) for line in lines)


@pytest.mark.parametrize("question", ALL, ids=lambda question: question["question"])
def test_the_gold_sentence_stands_in_its_document_once_and_holds_the_answer(question: dict[str, str]) -> None:
    text = (DEMO / "documents" / question["document"]).read_text(encoding="utf-8")
    assert text.count(question["sentence"]) == 1
    assert f" {question['answer']}" in f" {question['sentence']}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_no_name_and_no_value_of_a_handbook_is_ever_generated_for_another_split(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    names = {word for word in re.findall(r"\b[A-Z][a-z]+\b", text) if INVENTED.fullmatch(word.lower())}
    assert len(names) > 10
    assert {name: split_of(name) for name in names if split_of(name) != "documents"} == {}
    assert {value: split_of(value) for value in VALUE.findall(text) if split_of(value) != "documents"} == {}


def test_the_gold_answers_belong_to_the_documents() -> None:
    for question in ALL:
        parts = question["answer"].split() if question["answer"].istitle() else [question["answer"]]
        assert {split_of(part) for part in parts} == {"documents"}, question["answer"]
        assert exact(question["answer"], f" {question['answer']}")


def test_search_brings_the_gold_sentence_among_the_first_two(tmp_path: Path) -> None:
    chunk = ChunkConfig(size=400, overlap=0)
    ingest(IngestConfig(path=str(DEMO / "documents"), index="handbooks", root=str(tmp_path), chunk=chunk))
    with open_index("handbooks", str(tmp_path)) as index:
        missed = [
            question["question"]
            for question in ALL
            if not any(question["sentence"] in hit.text for hit in index.search(question["question"], k=2))
        ]
    assert missed == []
