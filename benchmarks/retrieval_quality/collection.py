"""Documents, questions, and which documents answer them.

A collection is a folder in BEIR's layout, of which documents are ingested as they are:

    corpus.jsonl         {"_id", "title", "text"}
    queries.jsonl        {"_id", "text"}
    qrels/test.tsv       query-id <tab> corpus-id <tab> grade, below a line of names

or a file of SQuAD's questions, where each paragraph is a document.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from farfield.config import DataError

__all__ = ["Collection", "Question", "beir", "squad"]


@dataclass(frozen=True)
class Question:
    """What is asked, and the grade of each document that answers it; `group` says what belongs together."""

    text: str
    relevant: Mapping[str, int]
    group: int = 0


@dataclass(frozen=True)
class Collection:
    """A name, a file of documents by their ids, and questions about them."""

    name: str
    documents: Path
    questions: tuple[Question, ...]

    def sample(self, count: int | None) -> Collection:
        """The same documents with `count` of the questions, evenly spread; all where it is None."""
        step = 1 if count is None else max(1, len(self.questions) // count)
        return replace(self, questions=self.questions[::step][:count])


def beir(folder: Path) -> Collection:
    """The collection in `folder`, with the questions that somebody has judged.

    Raises:
        DataError: a file is missing, or not of the layout.
    """
    try:
        relevant: dict[str, dict[str, int]] = {}
        for row in (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
            question, document, grade = row.split("\t")
            relevant.setdefault(question, {})[document] = int(grade)
        lines = (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()
        asked = {str(one["_id"]): str(one["text"]) for one in map(json.loads, lines)}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"--collections: {folder} is no folder in BEIR's layout ({error}).") from None
    questions = [Question(text, relevant[key]) for key, text in asked.items() if key in relevant]
    return Collection(folder.name, folder / "corpus.jsonl", tuple(questions))


def squad(file: Path, out: Path, skip: int = 0) -> Collection:
    """The paragraphs of a SQuAD file as documents, which `out` is to hold; a question belongs to its paragraph.

    Args:
        file: JSON in SQuAD's schema. out: a new file.
        skip: leave out every paragraph of an article that stands at an odd place, if 1; its questions stay.

    Raises:
        DataError: the file cannot be read, or is of another schema.
    """
    try:
        articles = json.loads(file.read_text(encoding="utf-8"))["data"]
        return _squad(articles, file.stem, out, skip)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"--squad: {file} is not in SQuAD's schema ({error}).") from None


def _squad(articles: list[dict[str, Any]], name: str, out: Path, skip: int) -> Collection:
    lines, questions = [], []
    for group, article in enumerate(articles):
        for place, paragraph in enumerate(article["paragraphs"]):
            key = f"{group}-{place}"
            there = not (skip and place % 2)
            if there:
                lines.append(json.dumps({"id": key, "text": paragraph["context"]}))
            relevant = {key: 1} if there else {}
            questions += [Question(one["question"], relevant, group) for one in paragraph["qas"]]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Collection(name, out, tuple(questions))
