"""How much of a question a passage holds, and where in it that stands.

    coverage = sum over words of the question that the passage has of idf  /  sum over all of them of idf
    idf      = log(1 + (chunks - chunks with the word + 1/2) / (chunks with the word + 1/2))

Words are the same where FTS5's Porter stemmer makes them so. A passage that answers a question has most of its rare
words; the first passage for a question that the documents do not answer has few (measured: `docs/log.md`).
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from farfield.retrieval.chunks import SENTENCE
from farfield.retrieval.words import Frequencies, term, words

__all__ = ["Quote", "coverage", "quoted", "rarities", "stems"]

TOKENIZER = "porter unicode61 remove_diacritics 0"


def stems(texts: Sequence[str]) -> list[set[str]]:
    """The stems of each text's words, as lexical search has them."""
    with closing(sqlite3.connect(":memory:")) as scratch:
        scratch.execute(f"CREATE VIRTUAL TABLE texts USING fts5 (words, tokenize = '{TOKENIZER}')")
        scratch.execute("CREATE VIRTUAL TABLE stems USING fts5vocab (texts, instance)")
        rows = [(number, " ".join(words(text))) for number, text in enumerate(texts)]
        scratch.executemany("INSERT INTO texts (rowid, words) VALUES (?, ?)", rows)
        found: list[set[str]] = [set() for _ in texts]
        for stem, number in scratch.execute("SELECT DISTINCT term, doc FROM stems"):
            found[number].add(stem)
    return found


def rarities(asked: Sequence[str], frequencies: Frequencies) -> dict[str, float]:
    """The idf of each word of a question."""
    distinct = list(dict.fromkeys(asked))
    known = frequencies.of(np.array([term(word) for word in distinct], np.int64))
    idf = np.log(1 + (frequencies.chunks - known + 0.5).clip(min=0.5) / (known + 0.5))
    return dict(zip(distinct, idf.tolist(), strict=True))


def coverage(rarity: Mapping[str, float], passages: Sequence[str]) -> list[float]:
    """The share (passages,) of a question that each passage holds, from 0 to 1; `rarity` weighs its words."""
    whole = sum(rarity.values())
    if not whole:
        return [0.0] * len(passages)
    first = {word[0] for word in rarity}  # a stem begins as its word does: no other word can be the same
    near = [" ".join({word for word in words(passage) if word[0] in first}) for passage in passages]
    found = stems([*rarity, *near])
    weights = list(zip(found, rarity.values(), strict=False))
    return [sum(weight for stem, weight in weights if stem and stem <= held) / whole for held in found[len(rarity) :]]


@dataclass(frozen=True)
class Quote:
    """The characters `start` to `end` of a document, as they stand there."""

    start: int
    end: int
    text: str


class _Sentence(NamedTuple):
    start: int
    end: int


def quoted(passage: str, start: int, rarity: Mapping[str, float]) -> Quote | None:
    """The sentence of a passage that holds most of the words that `rarity` weighs; the first of equals.

    Args:
        passage: a document's text from character `start` on. rarity: weights of words of the question and the answer.

    Returns:
        None where no sentence holds any of them.
    """
    found = _sentences(passage)
    shares = coverage(rarity, [passage[one.start : one.end] for one in found])
    if not shares or max(shares) <= 0:
        return None
    best = found[shares.index(max(shares))]
    return Quote(start + best.start, start + best.end, passage[best.start : best.end])


def _sentences(text: str) -> list[_Sentence]:
    """The sentences of a text without the white space around them; an empty line ends one too."""
    borders = [0, *(match.end() for match in SENTENCE.finditer(text)), len(text)]
    found = []
    for first, last in itertools.pairwise(borders):
        piece = first
        for part in text[first:last].split("\n\n"):
            begin = piece + len(part) - len(part.lstrip())
            end = piece + len(part.rstrip())
            if begin < end:
                found.append(_Sentence(begin, end))
            piece += len(part) + 2
    return found
