"""In-context automata (RegBench): words of an automaton that is met nowhere else, and which symbol may come next.

    prompt     d a a | d b a | d a ...            words of one automaton, and a separator between them
    targets    a a . d b a . d a b ...            the next symbol; none where the next is the separator

Any symbol that the automaton accepts in the state it is in is right, not only the one that comes. An automaton has 2 to
12 states, each with one to three symbols of an alphabet of at most 18 that lead to other states; what cannot be reached
is left out, and states that cannot be told apart are one. All states accept. A word has 1 to 49 symbols, each of those
possible as likely as the others; words fill the length, published are 10 to 19 of them. A quarter of all automata, by
their tables, is for testing only.

Akyürek et al., In-Context Language Learning, https://arxiv.org/abs/2401.12973; berlino/seq_icl, src/dataloaders/dfa.py.

Ids: 0 is the separator, then 18 symbols.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.tasks.recall.one_an_index import OneAnIndex
from farfield.benchmarks.tasks.recall.strings import check_ids, check_length
from farfield.benchmarks.tasks.sample import (
    IGNORED,
    SPLITS,
    Ids,
    Sample,
    Scoring,
    Split,
    generator,
)

__all__ = ["Automata", "Automaton", "draw_automaton", "minimised"]

SEPARATOR, SYMBOLS = 0, 18
STATES, LONGEST = 12, 49
MOST = 3  # symbols of a state
EVERYWHERE = "automata asks at every place of its text, and has no question apart from it"
VERSION = 1

# For each state, the state that each of its symbols leads to; state 0 is the first of a word.
Automaton = tuple[Mapping[int, int], ...]


@dataclass(frozen=True)
class Judge:
    """What is accepted at each target: a row of `accepted` (states, ids) for each entry of `states`."""

    accepted: NDArray[np.bool_]
    states: NDArray[np.int64]


@dataclass(frozen=True)
class Automata(OneAnIndex):
    """One automaton a row. `ids` counts the vocabulary without the end."""

    ids: int

    name: str = "automata"
    metric: str = "accepted"
    scorings: tuple[Scoring, ...] = ("read",)

    @property
    def fingerprint(self) -> str:
        return f"{self.name} {VERSION}"

    def check(self, seed: int, length: int, n: int, split: Split) -> None:
        check_ids(self.name, self.ids, 1 + SYMBOLS)
        check_length(self.name, length, 2)

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        return [_accepted(sample, output) for sample, output in zip(samples, outputs, strict=True)]

    def _draw(self, seed: int, length: int, index: int, split: Split) -> Sample:
        rng = generator("automata", seed, length, index, SPLITS[split])
        automaton = next(one for one in _drawn(rng) if _split(one) == split)
        tokens, states = _words(automaton, length, rng)
        targets = np.append(tokens[1:], SEPARATOR)
        targets = np.where(targets == SEPARATOR, IGNORED, targets).astype(np.int32)
        asked = targets != IGNORED
        accepted = np.zeros((len(automaton), 1 + SYMBOLS), dtype=bool)
        for state, leads in enumerate(automaton):
            accepted[state, list(leads)] = True
        return Sample(
            prompt=tokens,
            answer=targets[asked],
            length=length,
            budget=0,
            seed=seed,
            version=VERSION,
            targets=targets,
            unasked=dict.fromkeys(("no_context", "gold_only", "memory_shuffled"), EVERYWHERE),
            reference=Judge(accepted, states[asked]),
        )


def draw_automaton(rng: np.random.Generator) -> Automaton:
    """Random and minimal."""
    states, symbols = int(rng.integers(2, STATES + 1)), int(rng.integers(4, SYMBOLS + 1))
    alphabet = 1 + rng.choice(SYMBOLS, symbols, replace=False)
    leads = []
    for state in range(states):
        count = int(rng.integers(1, MOST + 1))
        others = (state + rng.integers(1, states, count)) % states
        leads.append(dict(zip(rng.choice(alphabet, count, replace=False).tolist(), others.tolist(), strict=True)))
    return minimised(tuple(leads))


def minimised(automaton: Automaton) -> Automaton:
    """The least automaton of the same words, its states in the order in which they are reached."""
    kinds = [0] * len(automaton)
    for _ in automaton:  # Moore: told apart by what they accept, then by where that leads
        told = [tuple((symbol, kinds[to]) for symbol, to in sorted(leads.items())) for leads in automaton]
        numbers = {one: number for number, one in enumerate(dict.fromkeys(told))}
        kinds = [numbers[one] for one in told]
    order, numbered = [0], {kinds[0]: 0}
    for state in order:  # it grows on the way
        for _, to in sorted(automaton[state].items()):
            if kinds[to] not in numbered:
                numbered[kinds[to]] = len(order)
                order.append(to)
    return tuple({symbol: numbered[kinds[to]] for symbol, to in sorted(automaton[state].items())} for state in order)


def _drawn(rng: np.random.Generator) -> itertools.chain[Automaton]:
    """Without end."""
    return itertools.chain.from_iterable([draw_automaton(rng)] for _ in itertools.count())


def _split(automaton: Automaton) -> Split:
    table = repr([sorted(leads.items()) for leads in automaton])
    return "test" if hashlib.sha256(table.encode()).digest()[0] % 4 == 0 else "train"


def _words(automaton: Automaton, length: int, rng: np.random.Generator) -> tuple[Ids, NDArray[np.int64]]:
    """(length,) tokens that begin with a word, and the state behind each."""
    leads = [list(one.items()) for one in automaton]
    tokens, states = np.empty(length, dtype=np.int32), np.empty(length, dtype=np.int64)
    picks = rng.integers(0, 6, length).tolist()  # 6 is divided by 1, 2 and 3: each symbol is as likely
    sizes = iter(rng.integers(1, LONGEST + 1, length // 2 + 1).tolist())
    state, left = 0, next(sizes)
    for place in range(length):
        if left:
            choices = leads[state]
            tokens[place], state = choices[picks[place] % len(choices)]
            left -= 1
        else:
            tokens[place], state, left = SEPARATOR, 0, next(sizes)
        states[place] = state
    return tokens, states


def _accepted(sample: Sample, output: Sequence[int]) -> float:
    """The share of symbols that the automaton accepts."""
    judge = sample.reference
    assert isinstance(judge, Judge)
    given = np.asarray(output, dtype=np.int64)
    known = (given >= 0) & (given < judge.accepted.shape[1])
    return float((judge.accepted[judge.states, np.where(known, given, SEPARATOR)] & known).mean())
