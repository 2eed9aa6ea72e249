"""The token mode: the same structure and counts, of single ids. Questions about documents have none.

    niah   n n K V n n n ? K                    V         see `token_niah`
    vt     n X1 V n n X2 X1 n X3 X2 n ? V       X1 X2 X3  behind an example of the same form
    cwe    K1 V1 K2 V2 K1 V1 K3 V3 ... ?        K1 V1     a word is a key and a value; behind an example
    fwe    . . K1 V1 . K2 V2 K1 V1 . ... ?      K1 V1     the dots are one id

Keys and values belong together as in `farfield.benchmarks.tasks.pairs`. An output scores the share of what is asked for
that stands in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.tasks.pairs import Pairs
from farfield.benchmarks.tasks.ruler.assembly import OTHERS, Hidden, Parts, hide, joined
from farfield.benchmarks.tasks.ruler.common_words import COMMON, LONG, LONGER, SHORT, WRONG, Counts
from farfield.benchmarks.tasks.ruler.frequent_words import ASKED, LEAST, counted, largest, listed, vocabulary
from farfield.benchmarks.tasks.ruler.task import Place
from farfield.benchmarks.tasks.ruler.variable_tracking import EXAMPLE, HOPS
from farfield.benchmarks.tasks.ruler.vocabulary import Vocabulary
from farfield.benchmarks.tasks.sample import Ids, Sample

__all__ = ["TokenCommonWords", "TokenFrequentWords", "TokenVariableTracking", "judge_ids"]


def judge_ids(sample: Sample, output: Sequence[int]) -> float:
    """The share of the gold that stands in `output`, each id after the other."""
    wanted, text = sample.reference, tuple(output)
    assert isinstance(wanted, tuple)
    return sum(_within(gold, text) for gold in wanted) / len(wanted)


def _within(gold: tuple[int, ...], text: tuple[int, ...]) -> bool:
    return any(text[at : at + len(gold)] == gold for at in range(len(text) - len(gold) + 1))


@dataclass(frozen=True)
class TokenVariableTracking:
    """Chains of ids."""

    pairs: Pairs

    @property
    def fingerprint(self) -> str:
        return f"{self.pairs}"

    @property
    def _chain(self) -> int:
        """Tokens of a chain, its question and its answer."""
        return 3 * (HOPS + 1) + 2

    def least(self, place: Place) -> int:
        Vocabulary(self.pairs, place.split).keys(place.rng(), place.task, 2 * (HOPS + 1))
        return 2 * self._chain + 1

    def parts(self, place: Place) -> Parts:
        rng, words = place.rng(), Vocabulary(self.pairs, place.split)
        keys = words.keys(rng, place.task, len(words.allowed(self.pairs.keys)))
        first, second = keys[: HOPS + 1], keys[HOPS + 1 : 2 * HOPS + 2]
        value = words.pairs_of(rng, np.array([first[0], second[0]]))
        noise = min(min(EXAMPLE, place.length // 4) - self._chain, place.length - self.least(place))
        example = self._hidden(rng, words, first, int(value[0]), max(0, noise))
        before = joined([example.body, self._question(int(value[0])), first.astype(np.int32)])
        hidden = self._hidden(rng, words, second, int(value[1]), place.length - len(before) - self._chain)
        answer = second.astype(np.int32)
        wrong = keys[2 * HOPS + 2 :][:OTHERS].astype(np.int32)
        return Parts(
            before=before,
            body=hidden.body,
            question=self._question(int(value[1])),
            gold=hidden.spans,
            depths=hidden.depths,
            alone=joined(self._lines(second, int(value[1]))),
            answer=answer,
            budget=len(answer),
            choices=list(np.concatenate([answer, wrong])[:, None]),
            right=len(answer),
            wanted=tuple((int(name),) for name in answer),
        )

    def _question(self, value: int) -> Ids:
        return np.array([self.pairs.query, value], dtype=np.int32)

    def _lines(self, names: NDArray[np.int64], value: int) -> list[Ids]:
        """Each name before what it is assigned."""
        return list(np.stack([names, [value, *names[:-1]]], axis=1).astype(np.int32))

    def _hidden(
        self, rng: np.random.Generator, words: Vocabulary, names: NDArray[np.int64], value: int, room: int
    ) -> Hidden:
        return hide(rng, words.noise(rng, room), np.arange(room + 1), self._lines(names, value))


@dataclass(frozen=True)
class TokenCommonWords:
    """A list of words of two ids, without numbers."""

    pairs: Pairs

    @property
    def fingerprint(self) -> str:
        return f"{self.pairs}"

    def least(self, place: Place) -> int:
        counts, words = self._counts(place), Vocabulary(self.pairs, place.split)
        words.words(place.rng(), place.task, self._needed(counts, self._others(counts, place.length)[0]))
        return self._frame(SHORT) + 2 * SHORT.seldom

    def parts(self, place: Place) -> Parts:
        rng, counts = place.rng(), self._counts(place)
        others, left = self._others(counts, place.length)
        words = Vocabulary(self.pairs, place.split)
        drawn = words.words(rng, place.task, self._needed(counts, others)).astype(np.int32)
        shown, drawn = drawn[: COMMON + counts.others], drawn[COMMON + counts.others :]
        example = _repeated(rng, shown, counts.example_often, counts.example_seldom)
        body = _repeated(rng, drawn[: COMMON + others], counts.often, counts.seldom)
        query = np.array([self.pairs.query], dtype=np.int32)
        starts = [2 * int(np.argmax((body == word).all(axis=1))) for word in drawn[:COMMON]]
        return Parts(
            before=joined([example.ravel(), query, shown[:COMMON].ravel(), words.noise(rng, left)]),
            body=body.ravel(),
            question=query,
            gold=[(start, start + 2) for start in starts],
            depths=[start / body.size for start in starts],
            alone=drawn[:COMMON].ravel(),
            answer=drawn[:COMMON].ravel(),
            budget=2 * COMMON,
            choices=list(drawn[: COMMON + WRONG]),
            right=COMMON,
            wanted=tuple((int(key), int(value)) for key, value in drawn[:COMMON]),
        )

    def _counts(self, place: Place) -> Counts:
        return LONG if place.length >= LONGER else SHORT

    def _needed(self, counts: Counts, others: int) -> int:
        """Different words of a sample."""
        return 2 * COMMON + counts.others + max(others, WRONG)

    def _frame(self, counts: Counts) -> int:
        """Tokens without the other words."""
        example = counts.example_often * COMMON + counts.example_seldom * counts.others
        return 2 * (example + COMMON + counts.often * COMMON + COMMON) + 2

    def _others(self, counts: Counts, length: int) -> tuple[int, int]:
        """How many other words fit, and the tokens that are left."""
        return divmod(length - self._frame(counts), 2 * counts.seldom)


def _repeated(rng: np.random.Generator, words: Ids, often: int, seldom: int) -> Ids:
    """(entries, 2): the first COMMON of `words` each `often` times, the others each `seldom` times, shuffled."""
    times = np.where(np.arange(len(words)) < COMMON, often, seldom)
    return rng.permutation(np.repeat(words, times, axis=0))


@dataclass(frozen=True)
class TokenFrequentWords:
    """Words of two ids, and dots of one."""

    pairs: Pairs

    @property
    def fingerprint(self) -> str:
        return f"{self.pairs}"

    def least(self, place: Place) -> int:
        self._words(place)
        counts = counted(LEAST, vocabulary(place.length))
        return self._frame + int(counts[0] + 2 * counts[1:].sum())

    def parts(self, place: Place) -> Parts:
        rng, room = place.rng(1), place.length - self._frame
        drawn = self._words(place)
        sizes = [1] + [2] * (vocabulary(place.length) - 1)
        counts = counted(largest(sizes, room), len(sizes))
        spare = room - int(counts @ np.array(sizes[: len(counts)]))
        ranks = listed(rng, counts, spare)
        body = joined([drawn[rank] for rank in ranks])
        ends = np.cumsum([len(drawn[rank]) for rank in ranks])
        spans = [(int(ends[at]) - 2, int(ends[at])) for at in (int(np.argmax(ranks == k)) for k in range(1, ASKED + 1))]
        asked = drawn[1 : 1 + ASKED]
        return Parts(
            before=joined([]),
            body=body,
            question=np.array([self.pairs.query], dtype=np.int32),
            gold=spans,
            depths=[start / len(body) for start, _ in spans],
            alone=joined([drawn[rank] for rank in ranks if 0 < rank <= ASKED]),
            answer=joined(asked),
            budget=2 * ASKED,
            choices=drawn[1 : 1 + ASKED + OTHERS],
            right=ASKED,
            wanted=tuple((int(key), int(value)) for key, value in asked),
        )

    @property
    def _frame(self) -> int:
        """Tokens without the text."""
        return 2 * ASKED + 1

    def _words(self, place: Place) -> list[Ids]:
        """The dots, as many words as can come at all, and OTHERS more."""
        words = Vocabulary(self.pairs, place.split)
        ranks = len(counted(place.length, vocabulary(place.length)))
        drawn = words.words(place.rng(), place.task, ranks - 1 + OTHERS).astype(np.int32)
        return [np.array([self.pairs.noise.start], dtype=np.int32), *drawn]
