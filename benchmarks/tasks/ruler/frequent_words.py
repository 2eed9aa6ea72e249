"""Frequent words: coded words whose frequencies fall as a power of their rank, the first of them being dots.

    Read the coded text below and count each of its coded words. ...                        introduction
    ... qwhzta ... plmsak qwhzta ... ... vbnoie ...                                         coded text
    Question: ... Which three coded words come most often in the text above?                question
     Answer: in the coded text above, the three words that come most often are:             beginning of the answer

Of `n` words, rank k of a vocabulary of length / 50 words comes int(n k^-2 / zeta(2)) times. Rank 1 is the dots; ranks 2
to 4 are asked for. `n` is the largest number that fits and leaves no doubt, which is that rank 4 comes more often than
rank 5; more dots, and empty lines where these do not fit, fill the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.tasks.ruler.assembly import OTHERS, Parts, Pieces, joined
from farfield.benchmarks.tasks.ruler.task import Place
from farfield.benchmarks.tasks.ruler.words import coded
from farfield.benchmarks.tasks.sample import Ids
from farfield.benchmarks.tasks.wording_file import Wording

__all__ = ["ASKED", "FWE", "LEAST", "FrequentWords", "counted", "largest", "listed", "vocabulary"]

BUDGET = 50
ALPHA = 2.0
ZETA = math.pi**2 / 6  # the sum of k^-ALPHA
ASKED = 3  # ranks 2 to 4
LEAST = 27  # words: from so many on rank 4 comes once and rank 5 does not
FWE = {
    "introduction": "Read the coded text below and count each of its coded words. Find the three that come most often.",
    "noise": "...",
    "question": "Question: give no explanation. Pay no regard to the dots '....'. Which three coded words come most "
    "often in the text above?",
    "answer": " Answer: in the coded text above, the three words that come most often are:",
}


def vocabulary(length: int) -> int:
    """Words of a text of `length` tokens, the dots among them."""
    return max(ASKED + 1, length // 50)


def counted(n: int, words: int) -> NDArray[np.int64]:
    """How often each rank comes among `n` words, as far as it comes at all."""
    ranks = min(words, math.isqrt(int(n / ZETA)) + 1)
    counts: NDArray[np.int64] = (n * np.arange(1, ranks + 1) ** -ALPHA / ZETA).astype(np.int64)
    return counts[counts > 0]


def largest(sizes: Sequence[int], room: int) -> int:
    """The largest `n` that fits: rank k takes `sizes[k - 1]` tokens each time; ranks 4 and 5 come unequally often."""

    def fits(n: int) -> bool:
        counts = counted(n, len(sizes))
        return int(counts @ np.array(sizes[: len(counts)])) <= room

    low, high = 0, 2 * room + LEAST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    while low >= LEAST and not _clear(counted(low, len(sizes))):
        low -= 1
    return low


def _clear(counts: NDArray[np.int64]) -> bool:
    return len(counts) == ASKED + 1 or (len(counts) > ASKED + 1 and bool(counts[ASKED] > counts[ASKED + 1]))


def listed(rng: np.random.Generator, counts: NDArray[np.int64], dots: int) -> NDArray[np.int64]:
    """Ranks from 0, shuffled; rank 0 comes `dots` more times."""
    ranks = np.repeat(np.arange(len(counts)), counts)
    return rng.permutation(np.concatenate([ranks, np.zeros(dots, np.int64)]))


@dataclass(frozen=True, eq=False)
class FrequentWords:
    """Coded words with spaces between."""

    pieces: Pieces
    wording: Wording

    @property
    def fingerprint(self) -> str:
        return f"{self.pieces.tokenizer.kind} {self.wording.fingerprint}"

    def least(self, place: Place) -> int:
        drawn, _ = self._words(place)
        sizes = [len(word) for word in drawn[: vocabulary(place.length)]]
        counts = counted(LEAST, len(sizes))
        return self._frame(drawn) + int(counts @ np.array(sizes[: len(counts)]))

    def parts(self, place: Place) -> Parts:
        rng = place.rng(1)
        drawn, texts = self._words(place)
        room = place.length - self._frame(drawn)
        sizes = [len(word) for word in drawn[: vocabulary(place.length)]]
        counts = counted(largest(sizes, room), len(sizes))
        spare = room - int(counts @ np.array(sizes[: len(counts)]))
        ranks = listed(rng, counts, spare // sizes[0])
        body = joined([drawn[rank] for rank in ranks])
        ends = np.cumsum([sizes[rank] for rank in ranks])
        firsts = [int(np.argmax(ranks == rank)) for rank in range(1, ASKED + 1)]
        spans = [(int(ends[at]) - sizes[ranks[at]], int(ends[at])) for at in firsts]
        return Parts(
            before=joined([self._introduction, self.pieces.blank(spare % sizes[0])]),
            body=body,
            question=self._question,
            gold=spans,
            depths=[start / len(body) for start, _ in spans],
            alone=joined([drawn[rank] for rank in ranks if 0 < rank <= ASKED]),
            answer=self._answer(drawn),
            budget=self._budget(drawn),
            choices=drawn[1 : 1 + ASKED + OTHERS],
            right=ASKED,
            texts=tuple(texts[:ASKED]),
        )

    @property
    def _introduction(self) -> Ids:
        return self.pieces(self.wording["introduction"])

    @property
    def _question(self) -> Ids:
        return self.pieces("\n" + self.wording["question"] + self.wording["answer"])

    def _words(self, place: Place) -> tuple[list[Ids], list[str]]:
        """The ids of the dots and of as many coded words as a text can hold, OTHERS more, and these words."""
        # Each of `n` words has a token or more, and the ranks that come at all are as many as the root of `n`.
        most = math.isqrt(int(2 * place.length / ZETA)) + 2
        texts = coded(place.rng(), min(vocabulary(place.length) - 1, most) + OTHERS, place.split)
        return [self.pieces(f" {self.wording['noise']}"), *(self.pieces.once(f" {text}") for text in texts)], texts

    def _answer(self, drawn: Sequence[Ids]) -> Ids:
        return joined(drawn[1 : 1 + ASKED])

    def _budget(self, drawn: Sequence[Ids]) -> int:
        return max(BUDGET, len(self._answer(drawn)))

    def _frame(self, drawn: Sequence[Ids]) -> int:
        """Tokens without the text."""
        return len(self._introduction) + len(self._question) + self._budget(drawn)
