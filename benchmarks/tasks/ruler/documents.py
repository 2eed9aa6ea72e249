"""Questions with the documents that answer them: the files of SQuAD and of HotpotQA, as they are published.

    SQuAD     {"data": [{"paragraphs": [{"context": ..., "qas": [{"question": ..., "answers": [{"text": ...}]}]}]}]}
    HotpotQA  [{"question": ..., "answer": ..., "context": [[title, [sentence, ...]], ...],
                "supporting_facts": [[title, number], ...]}, ...]
              or a line for each, with "gold_titles": [title, ...] in the place of the facts, and texts for sentences

Questions of SQuAD that have no answer are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from farfield.config import DataError

__all__ = ["Collection", "Question", "read_hotpot", "read_squad"]

SUFFIXES = (".json", ".jsonl")
PUBLISHED = {"suite.squad": "SQuAD's dev-v2.0.json", "suite.hotpot": "HotpotQA's hotpot_dev_distractor_v1.json"}
NAMES: dict[type, str] = {
    list: "a list",
    dict: "an object",
    str: "a text",
    bool: "a truth value",
    int: "a number",
    float: "a number",
    type(None): "null",
}


@dataclass(frozen=True)
class Question:
    """One question. Numbers are of documents.

    gold:     those that answer it
    related:  those that are most like them: distractors before all others
    """

    text: str
    answers: tuple[str, ...]
    gold: tuple[int, ...]
    related: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Collection:
    """Documents, each once, and the questions about them."""

    documents: Sequence[str]
    questions: Sequence[Question]
    source: str

    @property
    def fingerprint(self) -> str:
        content = json.dumps([list(self.documents), [[one.text, one.answers] for one in self.questions]])
        return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass
class _Pool:
    """Documents by their text."""

    numbers: dict[str, int] = field(default_factory=dict)

    def number(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))


@dataclass(frozen=True)
class _Node:
    """A value in a file, and where it stands: `file.json: data.0.paragraphs`."""

    value: object
    where: str

    def at(self, key: str, kind: type) -> _Node:
        """The entry `key` of an object.

        Raises:
            DataError: this is no object, or the entry is missing or of another kind.
        """
        if not isinstance(self.value, Mapping):
            raise DataError(f"{self.where}: an object is expected, not {NAMES[type(self.value)]}.")
        if key not in self.value:
            raise DataError(
                f"{self.where}: '{key}' is missing. It has: {', '.join(map(str, self.value)) or 'nothing'}."
            )
        return _Node(self.value[key], f"{self.where}.{key}" if ": " in self.where else f"{self.where}: {key}").of(kind)

    def of(self, kind: type) -> _Node:
        """This value, which is of `kind`."""
        if not isinstance(self.value, kind):
            raise DataError(f"{self.where}: {NAMES[kind]} is expected, not {NAMES[type(self.value)]}.")
        return self

    def each(self) -> Iterator[_Node]:
        """The entries of a list."""
        assert isinstance(self.value, list)
        for number, value in enumerate(self.value):
            yield _Node(value, f"{self.where}.{number}" if ": " in self.where else f"{self.where}: {number}")

    @property
    def text(self) -> str:
        assert isinstance(self.value, str)
        return self.value


def read_squad(path: str) -> Collection:
    """The questions of SQuAD, version 1 or 2, in a file or in the json files of a folder.

    Raises:
        DataError: a file cannot be read, or something is missing in it; the message says what and where.
    """
    pool, questions = _Pool(), list[Question]()
    with _published("suite.squad"):
        asked = _ask_squad(path, pool, questions)
    if not questions:
        what = f"none of its {asked} questions has one" if asked else "no 'qas' of 'paragraphs' of 'data' hold any"
        raise DataError(
            f"suite.squad: {path} has no question with an answer: {what}, a text in 'answers'. "
            f"Give a file like {PUBLISHED['suite.squad']}."
        )
    return Collection(tuple(pool.numbers), tuple(questions), path)


def _ask_squad(path: str, pool: _Pool, questions: list[Question]) -> int:
    """Adds what is in the files, and says how many questions there are, with those that have no answer."""
    count = 0
    for file in _files("suite.squad", path, (".json",)):
        for article in _json("suite.squad", file).at("data", list).each():
            paragraphs = list(article.at("paragraphs", list).each())
            numbers = [pool.number(paragraph.at("context", str).text) for paragraph in paragraphs]
            for paragraph, number in zip(paragraphs, numbers, strict=True):
                related = tuple(dict.fromkeys(other for other in numbers if other != number))
                for asked in paragraph.at("qas", list).each():
                    count += 1
                    answers = [answer.at("text", str).text for answer in asked.at("answers", list).each()]
                    found = tuple(dict.fromkeys(answer.strip() for answer in answers if answer.strip()))
                    if found:
                        questions.append(Question(asked.at("question", str).text.strip(), found, (number,), related))
    return count


def read_hotpot(path: str) -> Collection:
    """The questions of HotpotQA with their paragraphs, in a json file, in lines, or in a folder with either.

    Raises:
        DataError: a file cannot be read, or something is missing in it; the message says what and where.
    """
    pool, questions = _Pool(), list[Question]()
    with _published("suite.hotpot"):
        _ask_hotpot(path, pool, questions)
    if not questions:
        raise DataError(f"suite.hotpot: {path} has no question. Give a file like {PUBLISHED['suite.hotpot']}.")
    return Collection(tuple(pool.numbers), tuple(questions), path)


@contextmanager
def _published(setting: str) -> Iterator[None]:
    """Has mistakes in files name the setting, and what the file was to be."""
    try:
        yield
    except DataError as error:
        if str(error).startswith(f"{setting}: "):
            raise
        raise DataError(f"{setting}: {error} Give a file like {PUBLISHED[setting]}.") from None


def _ask_hotpot(path: str, pool: _Pool, questions: list[Question]) -> None:
    """Adds what is in the files."""
    for file in _files("suite.hotpot", path, SUFFIXES):
        for entry in _entries("suite.hotpot", file):
            titles = _titles(entry)
            numbers: dict[str, int] = {}
            for paragraph in entry.at("context", list).each():
                title, text = _paragraph(paragraph)
                numbers[title] = pool.number(f"{title}\n{text}")
            for title in titles:
                if title not in numbers:
                    raise DataError(f"{entry.where}: the gold title '{title}' is not among the titles of 'context'.")
            gold = tuple(numbers[title] for title in titles)
            related = tuple(number for number in numbers.values() if number not in gold)
            answer = entry.at("answer", str).text.strip()
            questions.append(Question(entry.at("question", str).text.strip(), (answer,), gold, related))


def _titles(entry: _Node) -> list[str]:
    """The titles of the gold paragraphs, each once."""
    assert isinstance(entry.of(dict).value, Mapping)
    if isinstance(entry.value, Mapping) and "gold_titles" in entry.value:
        return list(dict.fromkeys(title.of(str).text for title in entry.at("gold_titles", list).each()))
    facts = [_pair(fact)[0].of(str).text for fact in entry.at("supporting_facts", list).each()]
    return list(dict.fromkeys(facts))


def _paragraph(node: _Node) -> tuple[str, str]:
    """Title and text."""
    title, text = _pair(node)
    if isinstance(text.value, list):
        return title.of(str).text, "".join(sentence.of(str).text for sentence in text.each())
    return title.of(str).text, text.of(str).text


def _pair(node: _Node) -> tuple[_Node, _Node]:
    entries = list(node.of(list).each())
    if len(entries) != 2:
        raise DataError(f"{node.where}: a list of 2 is expected, not of {len(entries)}.")
    return entries[0], entries[1]


def _files(setting: str, path: str, suffixes: Sequence[str]) -> list[Path]:
    place = Path(path)
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise DataError(f"{setting}: {path} is no file and no folder.")
    found = sorted(file for file in place.iterdir() if file.suffix in suffixes and file.is_file())
    if not found:
        raise DataError(f"{setting}: the folder {path} has no file that ends in {' or '.join(suffixes)}.")
    return found


def _entries(setting: str, file: Path) -> Iterator[_Node]:
    """The entries of a json list, or of lines."""
    if file.suffix == ".jsonl":
        for number, line in enumerate(_read(setting, file).splitlines(), 1):
            if line.strip():
                yield _parsed(line, f"{file}: line {number}")
    else:
        yield from _json(setting, file).of(list).each()


def _json(setting: str, file: Path) -> _Node:
    return _parsed(_read(setting, file), str(file))


def _parsed(text: str, where: str) -> _Node:
    try:
        return _Node(json.loads(text), where)
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}.") from None


def _read(setting: str, file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{setting}: {file} is not UTF-8 text: {error.reason} at byte {error.start}.") from None
    except OSError as error:
        raise DataError(f"{setting}: {file} cannot be read: {error.strerror}.") from None
