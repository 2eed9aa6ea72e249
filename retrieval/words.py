"""The words of a text, as lexical search and hashed TF-IDF both see them.

Words are runs of letters and digits (with the marks that belong to them), folded to NFKC and lower case; accents stay.
Chinese and Japanese put no spaces between words: their runs become overlapping pairs of signs.

    words("Der Ärger, 東京都")  ->  ["der", "ärger", "東京", "京都"]

A word is known by a fixed 64-bit hash, and the words of a text are kept as a *bag*: records of (term, count), sorted.
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["BAG", "Frequencies", "bag", "term", "words"]

BAG = np.dtype([("term", "<i8"), ("count", "<u2")])

PLAIN = re.compile(r"[a-z0-9]+")
SIGNS = "\u3041-\u309f\u30a1-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
"""Hiragana, Katakana and the Chinese characters, as a class of a regular expression; the lowest stands first."""


def words(text: str) -> list[str]:
    """The words of `text` in order."""
    if text.isascii():
        return PLAIN.findall(text.lower())
    found = _pattern().findall(unicodedata.normalize("NFKC", text).casefold())
    return [word for run in found for word in (_pairs(run) if run >= SIGNS[0] else (run,))]


def _pairs(run: str) -> Sequence[str]:
    """The overlapping pairs of a run of Chinese or Japanese signs; other runs, and single signs, as they are."""
    if len(run) < 3 or not _signs().match(run):
        return (run,)
    return [run[i : i + 2] for i in range(len(run) - 1)]


@functools.cache
def _signs() -> re.Pattern[str]:
    return re.compile(f"[{SIGNS}]")


@functools.cache
def _pattern() -> re.Pattern[str]:
    """A run of signs, or letters and digits with combining marks, which `\\w` leaves out, between or after them."""
    marks = "".join(char for char in map(chr, range(0x300, 0x10000)) if unicodedata.category(char)[0] == "M")
    letter = f"[^\\W_{SIGNS}]"
    return re.compile(f"[{SIGNS}]+|{letter}+(?:[{marks}]+{letter}*)*")


@functools.lru_cache(maxsize=1 << 17)
def term(word: str) -> int:
    """The fixed hash of a word: a signed 64-bit integer, the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little", signed=True)


def bag(found: Sequence[str]) -> bytes:
    """The distinct words of a text and how often each occurs (65,535 at most): `BAG` records, sorted by term."""
    counts = Counter(found)
    terms = np.fromiter(map(term, counts), np.int64, len(counts))
    order = np.argsort(terms)
    records = np.empty(len(counts), BAG)
    records["term"] = terms[order]
    records["count"] = np.minimum(np.fromiter(counts.values(), np.int64, len(counts)), 65535)[order]
    return records.tobytes()


@dataclass(frozen=True)
class Frequencies:
    """In how many of `chunks` chunks each term occurs.

    Attributes:
        chunks: how many chunks there are.
        terms: (terms,) int64, ascending.
        counts: (terms,) int64, of the same order.
    """

    chunks: int
    terms: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    def of(self, terms: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The frequencies of `terms` (n,); 0 for those that occur nowhere."""
        if not self.terms.size:
            return np.zeros(terms.shape, np.int64)
        place = np.minimum(np.searchsorted(self.terms, terms), self.terms.size - 1)
        return np.where(self.terms[place] == terms, self.counts[place], 0)
