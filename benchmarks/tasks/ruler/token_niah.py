"""Needles of ids.

    n n K V n n n ? K               V         an uuid is four ids, a number and a word of a key are one
    K V K V K V K V ? K             V         among other needles: where keys are few, others' come again

The noise is one phrase again and again for the task with noise, and drawn for those with an essay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.tasks.pairs import Pairs
from farfield.benchmarks.tasks.ruler.assembly import OTHERS, Parts, hide, joined
from farfield.benchmarks.tasks.ruler.niah import Spec
from farfield.benchmarks.tasks.ruler.task import Place
from farfield.benchmarks.tasks.ruler.vocabulary import Vocabulary
from farfield.benchmarks.tasks.sample import Ids

__all__ = ["LONG_ID", "TokenNiah"]

LONG_ID = 4  # ids of an uuid
PHRASE = 16  # ids of the noise that repeats itself


@dataclass(frozen=True)
class TokenNiah:
    """Needles of ids."""

    spec: Spec
    pairs: Pairs

    @property
    def fingerprint(self) -> str:
        return f"{self.spec} {self.pairs}"

    @property
    def _sizes(self) -> tuple[int, int]:
        """Ids of a key and of a value."""
        return (LONG_ID if self.spec.key == "uuids" else 1, LONG_ID if self.spec.value == "uuids" else 1)

    @property
    def _frame(self) -> int:
        """Tokens without the haystack."""
        key, value = self._sizes
        spec = self.spec
        return spec.keys * spec.values * (key + value) + 1 + spec.queries * key + spec.queries * spec.values * value

    def least(self, place: Place) -> int:
        self._needles(place.rng(), place)
        if self.spec.haystack == "needles":  # of other keys
            Vocabulary(self.pairs, place.split).keys(place.rng(), place.task, self.spec.keys + 1)
        return self._frame + (sum(self._sizes) if self.spec.haystack == "needles" else 1)

    def parts(self, place: Place) -> Parts:
        rng = place.rng()
        spec, gold = self.spec, self.spec.queries * self.spec.values
        keys, values = self._needles(rng, place)
        haystack, borders, others = self._haystack(rng, place, keys, place.length - self._frame)
        needles = [np.concatenate([keys[at // spec.values], value]) for at, value in enumerate(values)]
        order = rng.permutation(len(needles))
        hidden = hide(rng, haystack, borders, [needles[at] for at in order])
        asked = [at for at in range(len(order)) if order[at] < gold]
        query = np.array([self.pairs.query], dtype=np.int32)
        return Parts(
            before=joined([]),
            body=hidden.body,
            question=joined([query, *keys[: spec.queries]]),
            gold=[hidden.spans[at] for at in asked],
            depths=[hidden.depths[at] for at in asked],
            alone=joined(needles[:gold]),
            answer=joined(values[:gold]),
            budget=gold * self._sizes[1],
            choices=self._choices(rng, place, values, gold, others),
            right=gold,
            wanted=tuple(tuple(value.tolist()) for value in values[:gold]),
        )

    def _needles(self, rng: np.random.Generator, place: Place) -> tuple[list[Ids], list[Ids]]:
        """The keys, those that are asked for first, and the values of each in turn, no first id twice."""
        words = Vocabulary(self.pairs, place.split)
        keys = words.keys(rng, place.task, self.spec.keys)
        firsts = words.values(rng, place.task, np.repeat(keys, self.spec.values))
        return self._long(rng, words, keys, self.pairs.keys, 0), self._long(rng, words, firsts, self.pairs.values, 1)

    def _long(
        self, rng: np.random.Generator, words: Vocabulary, firsts: NDArray[np.int64], ids: range, which: int
    ) -> list[Ids]:
        """Each of `firsts` with as many ids of `ids` behind it as a key or a value has."""
        allowed = words.allowed(ids)
        rest = rng.integers(allowed.start, allowed.stop, (len(firsts), self._sizes[which] - 1))
        return list(np.concatenate([firsts[:, None], rest], axis=1).astype(np.int32))

    def _haystack(
        self, rng: np.random.Generator, place: Place, keys: Sequence[Ids], room: int
    ) -> tuple[Ids, NDArray[np.int64], list[Ids]]:
        """`room` ids, the borders at which needles may stand, and other values in them."""
        words = Vocabulary(self.pairs, place.split)
        match self.spec.haystack:
            case "noise":
                return np.resize(words.noise(rng, PHRASE), room), np.arange(room + 1), []
            case "essay":
                return words.noise(rng, room), np.arange(room + 1), []
            case "needles":
                lines, others = self._lines(rng, words, keys, room // sum(self._sizes))
                left = room - lines.size
                borders = left + lines.shape[1] * np.arange(len(lines) + 1)
                return joined([words.noise(rng, left), lines.ravel()]), borders, others

    def _lines(
        self, rng: np.random.Generator, words: Vocabulary, keys: Sequence[Ids], count: int
    ) -> tuple[Ids, list[Ids]]:
        """Needles of other keys, (count, ids), and their values."""
        free = np.setdiff1d(np.array(words.allowed(self.pairs.keys)), [int(key[0]) for key in keys])
        firsts = rng.choice(free, count)
        others = self._long(rng, words, words.pairs_of(rng, firsts), self.pairs.values, 1)
        pairs = [self._long(rng, words, firsts, self.pairs.keys, 0), others]
        return np.concatenate([np.stack(part) for part in pairs], axis=1), others

    def _choices(
        self, rng: np.random.Generator, place: Place, values: list[Ids], gold: int, others: list[Ids]
    ) -> list[Ids]:
        """The gold values, and others: of the text first, then any."""
        allowed = Vocabulary(self.pairs, place.split).allowed(self.pairs.values)
        size = self._sizes[1]
        near = [others[at] for at in rng.permutation(len(others))[:OTHERS].tolist()]
        far = rng.integers(allowed.start, allowed.stop, (4 * OTHERS, size), dtype=np.int32)
        right = {value.tobytes() for value in values[:gold]}
        wrong = {one.tobytes(): one for one in [*values[gold:], *near, *far] if one.tobytes() not in right}
        return [*values[:gold], *list(wrong.values())[:OTHERS]]
