"""NoLiMa: needles in books that share no words with the questions about them.

https://github.com/adobe-research/NoLiMa. Its needle set may not be used commercially and is not part of Farfield; it is
read from the user's own copy: `needle_set.json` and the books of `rand_shuffle/*.txt`.

    needle     "Actually, {CHAR} lives next to the {1}."          {CHAR}: one of a set of names, the answer
    onehop     "Which character has been to {2}?"                 {1}, {2}, {3}: of each test of the needle
    twohop     "Which character has been to {3}?"

The needle has a line of its own, at the line's end nearest to its depth. An answer counts that holds the name. 26
depths from 0 to 1 and five books are published; a book that is too short for a length begins anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from farfield.benchmarks.tasks.haystack import Haystack, words
from farfield.benchmarks.tasks.layout import nearest, weave
from farfield.benchmarks.tasks.longdoc.rows import Row, find, require, rows
from farfield.benchmarks.tasks.sample import (
    SPLITS,
    Ids,
    Sample,
    Scoring,
    Split,
    Tokenizer,
    TooShortError,
    generator,
    judged,
)
from farfield.benchmarks.tasks.scoring import substring
from farfield.benchmarks.tasks.wording_file import Wording
from farfield.config import ConfigError, DataError

__all__ = ["HOPS", "NOLIMA", "NolimaTask", "nolima_tasks"]

NOLIMA = "nolima"
HUB = "amodaresi/NoLiMa"
PATTERNS = ("needlesets/needle_set.json", "haystack/rand_shuffle/*.txt")
HOPS = ("onehop", "twohop")
VERSION = 2
BUDGET = 192
LEAST = 32  # tokens of a book
TEXTS = {
    "introduction": "Here is a part of a book. A question about it follows.\n\n",
    "question": "\n\nAnswer with a name alone. The book says it, or it follows from what the book says.\n"
    "Question: {question}\nAnswer:",
}


@dataclass(frozen=True)
class Asked:
    """A needle with all but its name, a question, and the names."""

    needle: str
    question: str
    names: tuple[str, ...]


class NolimaTask:
    """Needles and questions of one number of hops. An index is a test in a book."""

    metric = "recall"
    placed = True
    scorings: tuple[Scoring, ...] = ("generate", "likelihood")
    stop: tuple[str, ...] = ()

    def __init__(
        self, hops: str, asked: Sequence[Asked], books: Sequence[Haystack], tokenizer: Tokenizer, wording: Wording
    ) -> None:
        self.name = f"nolima_{hops}"
        self.labels: Mapping[str, float] = {"hops": HOPS.index(hops) + 1}
        self.asked, self.books, self.tokenizer, self.wording = asked, books, tokenizer, wording
        self.introduction = self._encode(wording["introduction"])

    @property
    def fingerprint(self) -> str:
        content = hashlib.sha256(repr(list(self.asked)).encode())
        for book in self.books:
            content.update(book.fingerprint.encode())
        return f"{self.name} {VERSION} {self.tokenizer.kind} {self.wording.fingerprint} {content.hexdigest()[:16]}"

    def available(self, length: int, split: Split) -> int:
        """Needles in books, whatever the length."""
        return len(self.asked) * len(self.books)

    def check(self, seed: int, length: int, n: int, split: Split) -> None:
        if split == "train":
            raise ConfigError(f"{self.name}: its needles are for testing. Take split=test.")
        longest = max(
            len(self._encode(self._needle(one, max(one.names, key=len)))) + len(self._question(one))
            for one in self.asked
        )
        least = len(self.introduction) + longest + BUDGET + LEAST
        if length < least:
            raise TooShortError(
                f"{self.name}: a length of {length} tokens is too short for the needle, the question and the answer of "
                f"up to {BUDGET} tokens: {least} is the least. Give longer lengths."
            )

    def generate(
        self, seed: int, length: int, n: int, split: Split, *, depth: float | None = None, first: int = 0
    ) -> list[Sample]:
        self.check(seed, length, n, split)
        return [self._sample(seed, length, index, split, depth) for index in range(first, first + n)]

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        return judged(self.tokenizer, samples, outputs, lambda text, answers: substring(text, answers[0]))

    def _sample(self, seed: int, length: int, index: int, split: Split, depth: float | None) -> Sample:
        order = generator("facts", seed).permutation(self.available(length, split))
        test, book = divmod(int(order[index % len(order)]), len(self.books))
        asked, haystack = self.asked[test], self.books[book]
        rng = generator("sample", seed, length, index, SPLITS[split])
        name = asked.names[rng.integers(len(asked.names))]
        needle, question = self._encode(self._needle(asked, name)), self._question(asked)
        room = length - len(self.introduction) - len(needle) - len(question) - BUDGET
        text, borders = haystack.take(rng, room)
        place = nearest(borders, (float(rng.random()) if depth is None else depth) * room)
        body = np.concatenate([self.introduction, weave(text, [place], [needle])])
        start = len(self.introduction) + place
        return Sample(
            prompt=np.concatenate([body, question]),
            answer=self._encode(f" {name}"),
            length=length,
            budget=BUDGET,
            seed=seed,
            version=VERSION,
            text_answers=(name,),
            depths=(place / room,),
            gold=((start, start + len(needle)),),
            question=len(body),
            choices=tuple(self._encode(f" {one}") for one in asked.names),
            right=(asked.names.index(name),),
            prompts={
                "no_context": np.concatenate([self.introduction, question]),
                "gold_only": np.concatenate([self.introduction, needle, question]),
            },
        )

    def _needle(self, asked: Asked, name: str) -> str:
        return asked.needle.replace("{CHAR}", name) + "\n"

    def _question(self, asked: Asked) -> Ids:
        return self._encode(self.wording["question"].format(question=asked.question))

    def _encode(self, text: str) -> Ids:
        return np.array(self.tokenizer.encode(text), dtype=np.int32)


def nolima_tasks(names: Sequence[str], folder: Path, tokenizer: Tokenizer, wording: str | None) -> list[NolimaTask]:
    """The tasks of the numbers of hops that are named, or of both.

    Raises:
        DataError: the needle set or the books are missing, or the needle set has another schema.
    """
    file = require(folder, "needle_set.json")
    books = sorted(path for path in folder.rglob("*.txt") if path.parent.name == "rand_shuffle")
    if not books:
        raise DataError(f"suite.source: {folder} has no folder rand_shuffle with books that end in .txt.")
    hays = [_book(path, tokenizer) for path in books]
    needles = list(rows(file))
    tasks = []
    for hops in HOPS:
        asked = [one for row in needles for one in _asked(row, hops)]
        if asked and (hops in names or not names):
            texts = Wording.of(f"nolima_{hops}", TEXTS, wording, [f"nolima_{other}" for other in HOPS])
            tasks.append(NolimaTask(hops, asked, hays, tokenizer, texts))
    if not tasks:
        raise DataError(f"{file}: no question of {' or '.join(names or HOPS)} in it.")
    return tasks


def _asked(row: Row, hops: str) -> list[Asked]:
    questions, tests = (row.nested(field) for field in ("questions", "tests"))
    if hops not in questions.values:
        return []
    needle, names = row.text("needle"), row.texts("character_set")
    if "{CHAR}" not in needle:
        raise row.error("needle", "has no {CHAR}")
    found = []
    for name in tests.values:
        arguments = tests.nested(name).texts("input_args")
        filled = [needle, questions.text(hops)]
        for place, argument in enumerate(arguments, start=1):
            filled = [text.replace(f"{{{place}}}", argument) for text in filled]
        found.append(Asked(filled[0], filled[1], names))
    return found


def _book(path: Path, tokenizer: Tokenizer) -> Haystack:
    """A book by lines, at whose ends a needle may stand."""
    place = find(path, path.name)
    assert place is not None
    encoded = [np.array(tokenizer.encode(line), dtype=np.int32) for line in place.read().splitlines(keepends=True)]
    encoded = [ids for ids in encoded if len(ids)]
    if not encoded:
        raise DataError(f"{path}: no text in it.")
    starts = np.concatenate([[0], np.cumsum([len(ids) for ids in encoded])]).astype(np.int64)
    tokens = np.concatenate(encoded)
    return Haystack(tokens, starts, words(tokens, starts, tokenizer), "cyclic", str(path))
