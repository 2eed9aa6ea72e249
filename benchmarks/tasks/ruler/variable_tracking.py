"""Variable tracking: a chain of assignments among lines of noise, and the names of all variables with its value.

    Follow the chain of assignments to variables that is hidden in the text below.     introduction

    ... The road is long. The hill is steep. ...
    VAR QWHZT = 41873                                                                   the chain, in its order
    The road is long. The hill is steep. The wind is cold. We go on. We ...
    VAR PLMSA = VAR QWHZT
    Question: which are all the variables that have been assigned the value 41873 ...    question
     Answer: ..., 5 variables have been assigned the value 41873, namely:               beginning of the answer

An example of the same form, with its answer, stands before it: 500 tokens, or a quarter of a short length, or what its
chain needs. Its names have three letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from farfield.benchmarks.tasks.ruler.assembly import OTHERS, Parts, Pieces, fitted, hide, joined
from farfield.benchmarks.tasks.ruler.niah import noise_line
from farfield.benchmarks.tasks.ruler.task import Place
from farfield.benchmarks.tasks.ruler.words import draw, names
from farfield.benchmarks.tasks.sample import Ids, Split
from farfield.benchmarks.tasks.wording_file import Wording

__all__ = ["VT", "VariableTracking"]

BUDGET = 30
HOPS = 4
EXAMPLE = 500  # tokens
LOWEST, VALUES = 10_000, 90_000  # five digits
VT = {
    "introduction": "Follow the chain of assignments to variables that is hidden in the text below.",
    "noise": "The road is long. The hill is steep. The wind is cold. We go on. We come home again.",
    "value": "VAR {name} = {value}",
    "copy": "VAR {name} = VAR {other}",
    "question": "Question: which are all the variables that have been assigned the value {query} in the text above?",
    "answer": " Answer: going by the chain of assignments in the text above, {count} variables have been assigned the "
    "value {query}, namely:",
}


@dataclass(frozen=True, eq=False)
class Chain:
    """The lines of a chain, its names, the question for them, and other names of the same form."""

    lines: list[Ids]
    names: list[str]
    others: list[str]
    question: Ids
    answer: Ids

    @property
    def size(self) -> int:
        return sum(map(len, self.lines)) + len(self.question)


@dataclass(frozen=True, eq=False)
class VariableTracking:
    """One chain of HOPS copies."""

    pieces: Pieces
    wording: Wording

    @property
    def fingerprint(self) -> str:
        return f"{self.pieces.tokenizer.kind} {self.wording.fingerprint}"

    def least(self, place: Place) -> int:
        rng = place.rng()
        first, second = self._chains(rng, place.split)
        frame = 2 * len(self._introduction) + first.size + len(first.answer) + len(self.pieces("\n\n"))
        return frame + second.size + _budget(second) + len(noise_line(self.pieces, self.wording))

    def parts(self, place: Place) -> Parts:
        rng = place.rng()
        first, second = self._chains(rng, place.split)
        line = noise_line(self.pieces, self.wording)
        spare = place.length - self.least(place)
        target = min(EXAMPLE, place.length // 4) - len(self._introduction) - first.size - len(first.answer)
        before = [self._example(rng, first, max(0, min(target, spare)) // len(line)), self._introduction]
        room = place.length - sum(map(len, before)) - second.size - _budget(second)
        haystack, borders = fitted([line] * (room // len(line) + 1), room)
        hidden = hide(rng, haystack, borders, second.lines)
        return Parts(
            before=joined(before),
            body=hidden.body,
            question=second.question,
            gold=hidden.spans,
            depths=hidden.depths,
            alone=joined(second.lines),
            answer=second.answer,
            budget=_budget(second),
            choices=[self.pieces.once(f" {name}") for name in (*second.names, *second.others)],
            right=len(second.names),
            texts=tuple(second.names),
        )

    @property
    def _introduction(self) -> Ids:
        return self.pieces(self.wording["introduction"] + "\n")

    def _example(self, rng: np.random.Generator, chain: Chain, lines: int) -> Ids:
        """The example, with `lines` lines of noise."""
        line = noise_line(self.pieces, self.wording)
        noise, borders = fitted([line] * lines, lines * len(line))
        body = hide(rng, noise, borders, chain.lines).body
        return joined([self._introduction, body, chain.question, chain.answer, self.pieces("\n\n")])

    def _chains(self, rng: np.random.Generator, split: Split) -> tuple[Chain, Chain]:
        """The chain of the example, and the one that is asked for."""
        values = (LOWEST + draw(rng, VALUES, 2, split)).tolist()
        first, second = (names(rng, HOPS + 1 + OTHERS, split, letters) for letters in (3, 5))
        return self._chain(first, values[0]), self._chain(second, values[1])

    def _chain(self, drawn: Sequence[str], value: int) -> Chain:
        chain, others = list(drawn[: HOPS + 1]), list(drawn[HOPS + 1 :])
        said = [self.wording["value"].format(name=chain[0], value=value)]
        said += [self.wording["copy"].format(name=name, other=chain[at]) for at, name in enumerate(chain[1:])]
        asked = "\n" + self.wording["question"].format(query=value)
        asked += self.wording["answer"].format(query=value, count=len(chain))
        lines = [self.pieces.once(f"\n{line}") for line in said]
        return Chain(lines, chain, others, self.pieces.once(asked), self.pieces.once("".join(f" {n}" for n in chain)))


def _budget(chain: Chain) -> int:
    return max(BUDGET, len(chain.answer))
