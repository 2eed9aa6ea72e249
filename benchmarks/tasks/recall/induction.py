"""Induction heads: what stood behind the one earlier place of a trigger?

    prompt    e b a > c d a e b >          targets   c at the last place         answer    c

The trigger stands at a random place and at the end, every other token is one of 15 symbols at random. Published with a
vocabulary of 16, trained at a length of 256 and tested from 64 to a million.
Gu and Dao, Mamba, https://arxiv.org/abs/2312.00752; HazyResearch/safari, src/dataloaders/synthetics.py.

Ids: 0 is the trigger, then the symbols.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from farfield.benchmarks.tasks.recall.one_an_index import OneAnIndex
from farfield.benchmarks.tasks.recall.strings import asked_last, check_ids, check_length, draw_string, share
from farfield.benchmarks.tasks.sample import (
    SPLITS,
    Condition,
    Ids,
    Sample,
    Scoring,
    Split,
    generator,
)

__all__ = ["Induction"]

TRIGGER, SYMBOLS = 0, 15
VERSION = 2


@dataclass(frozen=True)
class Induction(OneAnIndex):
    """One question a row. `ids` counts the vocabulary without the end."""

    ids: int

    name: str = "induction"
    metric: str = "accuracy"
    scorings: tuple[Scoring, ...] = ("read", "generate", "likelihood")

    @property
    def fingerprint(self) -> str:
        return f"{self.name} {VERSION}"

    def check(self, seed: int, length: int, n: int, split: Split) -> None:
        check_ids(self.name, self.ids, 1 + SYMBOLS)
        check_length(self.name, length, 5)

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        return share(samples, outputs)

    def _draw(self, seed: int, length: int, index: int, split: Split) -> Sample:
        rng = generator("sample", seed, length, index, SPLITS[split])
        string = 1 + draw_string(rng, length - 3, SYMBOLS, split)
        place = int(rng.integers(len(string)))
        prompt = np.concatenate([string[:place], [TRIGGER], string[place:], [TRIGGER]]).astype(np.int32)
        answer = string[place : place + 1]
        controls: dict[Condition, Ids] = {
            "no_context": prompt[-1:],
            "gold_only": np.concatenate([prompt[place : place + 2], prompt[-1:]]),
        }
        return Sample(
            prompt=prompt,
            answer=answer,
            length=length,
            budget=1,
            seed=seed,
            version=VERSION,
            depths=(place / len(string),),
            gold=((place, place + 2),),
            question=len(prompt) - 1,
            candidates=np.arange(1, 1 + SYMBOLS, dtype=np.int32),
            targets=asked_last(len(prompt), answer),
            prompts=controls,
            asked={condition: asked_last(len(ids), answer) for condition, ids in controls.items()},
        )
