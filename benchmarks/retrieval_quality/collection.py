"""Documents, questions, and which documents answer them.

A collection is a folder in BEIR's layout, of which documents are ingested as they are:

    corpus.jsonl         {"_id", "title", "text"}
    queries.jsonl        {"_id", "text"}
    qrels/test.tsv       query-id <tab> corpus-id <tab> grade, below a line of names

or a file of SQuAD's questions, where each paragraph is a document.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from farfield.config import DataError

__all__ = ["Collection", "Question", "beir", "squad"]

COLUMNS = ("query-id", "corpus-id", "score")
TABBED = " <tab> ".join(COLUMNS)


@dataclass(frozen=True)
class Question:
    """What is asked, and the grade of each document that answers it; `group` says what belongs together."""

    text: str
    relevant: Mapping[str, int]
    group: int = 0


@dataclass(frozen=True)
class Collection:
    """A name, a file of documents by their ids, questions about them, and what is odd about them."""

    name: str
    documents: Path
    questions: tuple[Question, ...]
    doubts: tuple[str, ...] = ()

    def sample(self, count: int | None) -> Collection:
        """The same documents with `count` of the questions, evenly spread; all where it is None."""
        step = 1 if count is None else max(1, len(self.questions) // count)
        return replace(self, questions=self.questions[::step][:count])


def beir(folder: Path, split: str = "test") -> Collection:
    """The collection in `folder`, with the questions that somebody has judged in `qrels/<split>.tsv`.

    Raises:
        DataError: a file is missing, or a line is not of the layout: which one, and which field.
    """
    corpus, queries, judged = folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels" / f"{split}.tsv"
    for file in (corpus, queries, judged):
        if not file.is_file():
            raise DataError(
                f"{folder} is no folder in BEIR's layout: {file.relative_to(folder)} is missing. It has corpus.jsonl, "
                f"queries.jsonl and qrels/{split}.tsv."
            )
    documents, asked, relevant = set(_entries(corpus)), _entries(queries), _judgements(judged)
    questions = tuple(Question(text, relevant[key]) for key, text in asked.items() if key in relevant)
    if not questions:
        raise DataError(f"{judged}: no question of {queries.name} is judged in it.")
    lost = len(relevant.keys() - asked.keys())
    gone = sum(document not in documents for grades in relevant.values() for document in grades)
    doubts = [f"{lost} judged questions are not in {queries.name}, and are left out."] if lost else []
    doubts += [f"{gone} judged documents are not in {corpus.name}, and cannot be found."] if gone else []
    return Collection(folder.name, corpus, questions, tuple(doubts))


def _entries(file: Path) -> dict[str, str]:
    """The text of each "_id" in a file of JSON lines."""
    found: dict[str, str] = {}
    for number, line in _lines(file):
        where = f"{file}:{number}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: not JSON: {error}.") from None
        if not isinstance(entry, dict):
            raise DataError(f'{where}: a JSON object with "_id" and "text" is expected, not {type(entry).__name__}.')
        for name in ("_id", "text"):
            if name not in entry:
                raise DataError(f'{where}: no "{name}" in this line. Keys: {", ".join(entry) or "none"}.')
            if not isinstance(entry[name], str):
                raise DataError(f'{where}: "{name}" is a text, not {type(entry[name]).__name__}.')
        if entry["_id"] in found:
            raise DataError(f"{where}: \"_id\" '{entry['_id']}' was there before.")
        found[entry["_id"]] = entry["text"]
    return found


def _judgements(file: Path) -> dict[str, dict[str, int]]:
    """The grade of each document by question."""
    found: dict[str, dict[str, int]] = {}
    for number, line in _lines(file):
        where, fields = f"{file}:{number}", line.rstrip("\r\n").split("\t")
        if len(fields) != len(COLUMNS):
            raise DataError(f"{where}: {len(fields)} fields given, {len(COLUMNS)} are needed: {TABBED}.")
        grade = fields[2].strip()
        if number == 1:
            if grade.lstrip("-").isdecimal():
                raise DataError(f"{where}: the first line names the fields: {TABBED}. This one has a grade already.")
            continue
        if not grade.lstrip("-").isdecimal():
            raise DataError(f"{where}: score '{grade}' given, a whole number is needed.")
        found.setdefault(fields[0], {})[fields[1]] = int(grade)
    return found


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file that have something, by their numbers."""
    try:
        with file.open(encoding="utf-8-sig") as stream:
            yield from ((number, line) for number, line in enumerate(stream, start=1) if line.strip())
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8: {error.reason} at byte {error.start}.") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}.") from None


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
