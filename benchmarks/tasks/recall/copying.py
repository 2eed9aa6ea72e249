"""Copying a string: what a constant state cannot do beyond its size.

    read        prompt    $ g b a d | g b a      targets   . . . . . g b a d    a choice at each symbol, teacher forced
    generate    prompt    $ g b a d |            answer    g b a d

A string of letters of the alphabet, each as likely; the string fills the length. Published with 26 letters and judged
by greedy choices at teacher-forced places: a string counts if all of it is right, which here are the hits; the score is
the share of right symbols. Written freely, only a whole string counts.
Jelassi et al., Repeat After Me, https://arxiv.org/abs/2402.01032; sjelassi/transformers_ssm_copy, synthetic_exps.

Selective copying: symbols stand scattered among noise, and are asked for in their order, one at each marker.

    prompt    . . g . . b . . . a . > > >         targets   g b a at the markers >

Published with a length of 4,096, 16 symbols and a vocabulary of 16: noise, the marker and 14 symbols.
Gu and Dao, Mamba, https://arxiv.org/abs/2312.00752, after Arjovsky et al., https://arxiv.org/abs/1511.06464.

Ids: 0 is $ or noise, 1 is | or the marker, then the symbols.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from farfield.benchmarks.tasks.recall.one_an_index import OneAnIndex
from farfield.benchmarks.tasks.recall.strings import (
    asked_last,
    check_ids,
    check_length,
    draw_string,
    exact,
    share,
    short_of,
)
from farfield.benchmarks.tasks.sample import (
    SPLITS,
    Sample,
    Scoring,
    Split,
    TooShortError,
    generator,
)

__all__ = ["ALL_GOLD", "ALPHABET", "Copying", "SelectiveCopying"]

ALL_GOLD = "the text of copying is gold all through: alone it would be the full prompt"

ALPHABET = 26
BEGIN, BREAK, FIRST = 0, 1, 2
NOISE, MARKER, SYMBOLS = 0, 1, 14
VERSION = 2


@dataclass(frozen=True)
class Copying(OneAnIndex):
    """A string, once more. `ids` counts the vocabulary without the end; `written` asks for generation."""

    ids: int
    written: bool = False

    name: str = "copying"
    metric: str = "accuracy"

    @property
    def scorings(self) -> tuple[Scoring, ...]:
        return ("generate",) if self.written else ("read",)

    @property
    def fingerprint(self) -> str:
        return f"{self.name} {VERSION} {ALPHABET} {self.written}"

    def check(self, seed: int, length: int, n: int, split: Split) -> None:
        check_ids(self.name, self.ids, FIRST + ALPHABET)
        check_length(self.name, length, 4)

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        return exact(samples, outputs) if self.written else share(samples, outputs)

    def _draw(self, seed: int, length: int, index: int, split: Split) -> Sample:
        size = (length - 2) // 2
        rng = generator("sample", seed, length, index, SPLITS[split])
        string = FIRST + draw_string(rng, size, ALPHABET, split)
        again = string[:0] if self.written else string[:-1]
        prompt = np.concatenate([[BEGIN], string, [BREAK], again]).astype(np.int32)
        question = prompt[size + 1 :]
        budget = size if self.written else 1
        filled = len(prompt) + budget
        return Sample(
            prompt=prompt,
            answer=string,
            length=filled,
            budget=budget,
            seed=seed,
            version=VERSION,
            gold=((1, size + 1),),
            question=size + 1,
            targets=None if self.written else asked_last(len(prompt), string),
            prompts={"no_context": question},
            asked={} if self.written else {"no_context": asked_last(len(question), string)},
            unasked={"gold_only": ALL_GOLD},
            unfilled=short_of(filled, length, "a string and its copy are of one length: an odd token is left"),
        )


@dataclass(frozen=True)
class SelectiveCopying(OneAnIndex):
    """Scattered symbols, in their order. `tokens` symbols in a row."""

    ids: int
    tokens: int = 16

    name: str = "selective_copying"
    metric: str = "accuracy"
    scorings: tuple[Scoring, ...] = ("read",)

    @property
    def fingerprint(self) -> str:
        return f"{self.name} {VERSION} {self.tokens}"

    def check(self, seed: int, length: int, n: int, split: Split) -> None:
        check_ids(self.name, self.ids, FIRST + SYMBOLS)
        if length < 2 * self.tokens:
            raise TooShortError(
                f"recall: {self.name} needs {2 * self.tokens} tokens or more for {self.tokens} symbols and their "
                f"markers, {length} is given. Give longer lengths or fewer tokens."
            )

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        return share(samples, outputs)

    def _draw(self, seed: int, length: int, index: int, split: Split) -> Sample:
        rng = generator("sample", seed, length, index, SPLITS[split])
        symbols = FIRST + draw_string(rng, self.tokens, SYMBOLS, split)
        room = length - self.tokens
        places = np.sort(rng.choice(room, self.tokens, replace=False))
        prompt = np.full(length, NOISE, dtype=np.int32)
        prompt[places], prompt[room:] = symbols, MARKER
        alone = np.concatenate([prompt[places], prompt[room:]])
        return Sample(
            prompt=prompt,
            answer=symbols,
            length=length,
            budget=0,
            seed=seed,
            version=VERSION,
            depths=tuple((places / max(room - 1, 1)).tolist()),
            gold=tuple((int(place), int(place) + 1) for place in places),
            question=room,
            targets=asked_last(length, symbols),
            prompts={"no_context": prompt[room:], "gold_only": alone},
            asked={"no_context": symbols, "gold_only": asked_last(len(alone), symbols)},
        )
