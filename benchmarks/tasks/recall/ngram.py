"""N-gram lookup: what follows three symbols of a string?

    suffix    $ g b a d e c f | b a d e c          the three are named behind the string, and what follows is asked for
    prefix    $ b a d | g b a d e c f | e c        they are named before it, so that a state need not hold the string
                ^^^^^                   ^^^

The three stand once in the string, which fills the length; eight symbols are asked for. Read as they are forced (see
`copying`), or written. Jelassi et al., Repeat After Me, https://arxiv.org/abs/2402.01032; in
sjelassi/transformers_ssm_copy, synthetic_exps/data_utils.py, the three may stand more than once, and the rest of the
string is asked for.

Ids: 0 is $, 1 is |, then 26 symbols.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.tasks.recall.copying import ALPHABET, BEGIN, BREAK, FIRST
from farfield.benchmarks.tasks.recall.one_an_index import OneAnIndex
from farfield.benchmarks.tasks.recall.strings import asked_last, check_ids, check_length, draw_string, exact, share
from farfield.benchmarks.tasks.sample import (
    SPLITS,
    Condition,
    Ids,
    Sample,
    Scoring,
    Split,
    generator,
)

__all__ = ["ASKED", "NAMED", "Ngram", "alone", "places"]

NAMED, ASKED = 3, 8  # symbols that are named, and symbols that are asked for
VERSION = 2


@dataclass(frozen=True)
class Ngram(OneAnIndex):
    """One question a row. `ids` counts the vocabulary without the end; `written` asks for generation."""

    ids: int
    prefix: bool = False
    written: bool = False

    metric: str = "accuracy"

    @property
    def name(self) -> str:
        return "ngram_prefix" if self.prefix else "ngram_suffix"

    @property
    def scorings(self) -> tuple[Scoring, ...]:
        return ("generate",) if self.written else ("read",)

    @property
    def fingerprint(self) -> str:
        return f"{self.name} {VERSION} {self.written}"

    def check(self, seed: int, length: int, n: int, split: Split) -> None:
        check_ids(self.name, self.ids, FIRST + ALPHABET)
        check_length(self.name, length, self._frame() + NAMED + ASKED)

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        return exact(samples, outputs) if self.written else share(samples, outputs)

    def _frame(self) -> int:
        """Tokens that are not the string, with the answer."""
        return (3 if self.prefix else 2) + NAMED + ASKED

    def _draw(self, seed: int, length: int, index: int, split: Split) -> Sample:
        rng = generator("sample", seed, length, index, SPLITS[split])
        string = rng.integers(0, ALPHABET, length - self._frame(), dtype=np.int32)
        place = int(rng.integers(len(string) - NAMED - ASKED + 1))
        golds = (draw_string(rng, NAMED + ASKED, ALPHABET, split) for _ in itertools.count())
        string[place : place + NAMED + ASKED] = next(gold for gold in golds if len(places(gold, gold[:NAMED])) == 1)
        string = FIRST + alone(string, place, ALPHABET, rng)
        gram, answer = np.split(string[place : place + NAMED + ASKED], [NAMED])
        read = None if self.written else answer[:-1]
        prompt = self._prompt(string, gram, read)
        begin = 2 + NAMED if self.prefix else 1
        controls: dict[Condition, Ids] = {
            "no_context": self._prompt(string[:0], gram, read),
            "gold_only": self._prompt(np.concatenate([gram, answer]), gram, read),
        }
        every = {} if self.written else {at: asked_last(len(ids), answer) for at, ids in controls.items()}
        return Sample(
            prompt=prompt,
            answer=answer,
            length=length,
            budget=ASKED if self.written else 1,
            seed=seed,
            version=VERSION,
            depths=(place / len(string),),
            gold=((begin + place, begin + place + NAMED + ASKED),),
            question=begin + len(string),
            targets=None if self.written else asked_last(len(prompt), answer),
            prompts=controls,
            asked=every,
        )

    def _prompt(self, string: Ids, gram: Ids, read: Ids | None = None) -> Ids:
        """The prompt on a string, and behind it what is `read` of the answer."""
        behind = gram[:0] if read is None else read
        if self.prefix:
            return np.concatenate([[BEGIN], gram, [BREAK], string, [BREAK], behind]).astype(np.int32)
        return np.concatenate([[BEGIN], string, [BREAK], gram, behind]).astype(np.int32)


def alone(string: Ids, place: int, symbols: int, rng: np.random.Generator) -> Ids:
    """`string` with its n-gram at `place` nowhere else: one symbol of every other place becomes another."""
    gram = string[place : place + NAMED]
    found = places(string, gram)
    found = found[found != place]
    # The symbol that goes is outside of the n-gram where the two overlap. One that is not in it makes no new place.
    changed = np.where(found < place, found, found + NAMED - 1)
    string = string.copy()
    string[changed] = rng.choice(np.setdiff1d(np.arange(symbols, dtype=np.int32), gram), len(changed))
    return string


def places(string: Ids, gram: Ids) -> NDArray[np.int64]:
    """Where `gram` begins in `string`."""
    windows = np.lib.stride_tricks.sliding_window_view(string, len(gram))
    return np.flatnonzero((windows == gram).all(axis=1))
