"""How the runner sees a model: any model, through one narrow interface.

state = subject.prefill(haystack)                       # (batch, time) ids
one = subject.prefill(question_one, state)              # a state is a value: both go on from the same haystack
two = subject.prefill(question_two, state)
subject.generate(one, budget=8)                         # greedy, one list of ids for each row
subject.score(two, candidates)                          # log-probabilities of single next ids
subject.choose(two, choices)                            # log-probabilities of continuations of any length
subject.read(tokens, targets)                           # what would come next at every position
subject.select(state, [0, 0, 0])                        # three rows that have all read what the first one has

What a subject cannot do is missing in its capabilities: cells that need it are skipped with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.tasks.sample import Ids, Tokenizer, Turn
from farfield.config import FarfieldError, ModelError

__all__ = [
    "Capability",
    "Chat",
    "IncapableError",
    "Lacking",
    "Prefilled",
    "Reading",
    "Refused",
    "Subject",
    "TemporaryError",
    "Written",
    "incapable",
]

# state     what was prefilled is kept, so that common beginnings are read once and long texts go in in pieces
# generate  it writes
# score     it says how likely a continuation is
# read      it says what is likely at every position of a text
# memory    it has an external memory, which can be switched off and shuffled
Capability = Literal["state", "generate", "score", "read", "memory"]

# What a subject knows after some tokens: its state and its last logits. Only the subject looks inside.
Prefilled = object


class Lacking(Exception):  # noqa: N818  not an error: the reason why a cell is skipped
    """A cell has no meaning for this task and model; the text is the reason."""


class Refused(Lacking):
    """A subject does not take what it is asked, as its server is set up now: a later run may find another one."""


class TemporaryError(FarfieldError):
    """A subject cannot answer now, and may be able to later: what it was asked is asked again after a while."""


class IncapableError(ModelError):
    """A subject is asked for what its capabilities leave out."""


@dataclass(frozen=True)
class Written:
    """What was generated: ids a row, and how often a row's two likeliest ids were equal but for rounding.

    silent: rows that hold no answer because the model never came to it: its thoughts took the room
    made:   of each row how many tokens the model wrote, None where nobody knows; empty where these are its ids
    """

    ids: list[list[int]]
    ties: list[int]
    silent: frozenset[int] = frozenset()
    made: tuple[int | None, ...] = ()

    @property
    def steps(self) -> int | None:
        """Tokens of the longest row as the model wrote them; None where nobody knows."""
        if not self.made:
            return max(map(len, self.ids), default=0)
        known = [count for count in self.made if count is not None]
        return max(known) if len(known) == len(self.made) else None


class Reading(NamedTuple):
    """What was read.

    known:    what the subject knows now
    likely:   (batch, time) the most likely next id at each position
    logprobs: (batch, time) log-probability of the target there, in nats; 0 where the target is negative
    ties:     (batch, time) whether the two likeliest ids are equal but for rounding; False where the target is negative
    """

    known: Prefilled
    likely: NDArray[np.int64]
    logprobs: NDArray[np.float64]
    ties: NDArray[np.bool_]


class Subject(Protocol):
    """A model that can be asked."""

    @property
    def name(self) -> str: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What it can do; the runner skips what needs more, and says so."""
        ...

    def describe(self) -> Mapping[str, object]:
        """Architecture, memory, parameters and whatever tells two models apart, as plain values.

        Two subjects with equal descriptions count as one model when a stopped run is resumed, so it holds a fingerprint
        of the weights. `trained_length`, where it is known, is marked in pictures.
        """
        ...

    def state_bytes(self, length: int) -> int:
        """Bytes that the state of one row holds after `length` tokens; 0 where it is not known."""
        ...

    def prefill(self, tokens: NDArray[np.int64], after: Prefilled | None = None) -> Prefilled:
        """What is known after `tokens` (batch, time), one or more a row; `after` stays as it was."""
        ...

    def select(self, prefilled: Prefilled, rows: Sequence[int]) -> Prefilled:
        """What is known of these rows, each as often as it is named. Needs the capability `state`."""
        ...

    def generate(self, prefilled: Prefilled, budget: int, stop: tuple[str, ...] = ()) -> Written:
        """At most `budget` ids for each row, the most likely at each step; a text of `stop` may end a row early."""
        ...

    def score(self, prefilled: Prefilled, candidates: NDArray[np.int64]) -> NDArray[np.floating]:
        """Log-probabilities (batch, n), in nats, of `candidates` (batch, n) as the next id."""
        ...

    def choose(self, prefilled: Prefilled, choices: Sequence[Sequence[Ids]]) -> list[NDArray[np.float64]]:
        """For each row the log-probability of each of its `choices`, in nats, all of its ids together."""
        ...

    def rounding(self, prefilled: Prefilled) -> NDArray[np.float64]:
        """How far the log-probability of an id of `choose` or `score` may be off by the order of work: (batch,) nats.

        0 where that is not known: there equal ones alone are ties.
        """
        ...

    def read(self, tokens: NDArray[np.int64], targets: NDArray[np.int64], after: Prefilled | None = None) -> Reading:
        """Reads `tokens` (batch, time); `targets` (batch, time) is what comes next, negative where nobody asks."""
        ...

    def without_memory(self) -> Subject:
        """The same weights without the external memory. Needs the capability `memory`, as `shuffled` does.

        Raises:
            Lacking: the memory cannot be told from the rest.
        """
        ...

    def shuffled(self, prefilled: Prefilled, seed: int) -> Prefilled:
        """What is known, but each entry that the memory holds of a row brings the content of another entry.

        Raises:
            Lacking: the memory has no entries that could be exchanged.
        """
        ...


@runtime_checkable
class Chat(Protocol):
    """A subject that may be asked in a chat."""

    @property
    def turns(self) -> frozenset[Turn]:
        """Where prompts can stand in its chat; empty where it is asked in none."""
        ...

    def taking(self, turn: Turn) -> Subject:
        """The same model, whose prompts stand there; as they stand now, where they cannot or where there is no chat."""
        ...


def incapable(subject: Subject, asked: Capability) -> IncapableError:
    """What to raise where `subject` cannot do what is asked."""
    known = ", ".join(sorted(subject.capabilities)) or "nothing"
    return IncapableError(f"{subject.name}: asked for '{asked}', which it cannot do. Its capabilities: {known}.")
