"""What a task asks and how answers are judged: plain data, no model, no torch.

One sample of token mode, drawn: a needle at depth 0.4 of ten noise tokens. The length, 15, counts the answer:

    prompt   n n n n K V n n n n n n ? K        what a model prefills
                     └─┘             └─┘
                    needle         question
    answer                               V      what it should go on with

A task is a pure function of (seed, length, index, split): the n-th sample is the same whatever else is asked for, and
at every depth of one (length, index) only the needle's place changes, so that prompts share their beginnings. A task
is made for one tokenizer, with which it encodes its haystack once.

Three ways to judge:

    generate    the model writes, and the task judges what it wrote by the published rule
    likelihood  the model says how likely each of the sample's candidates (or choices) is
    read        the model reads the prompt, and its most likely next token counts at each position of `targets`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from farfield.config import ConfigError

__all__ = [
    "IGNORED",
    "SPLITS",
    "Condition",
    "Finite",
    "Ids",
    "LackingError",
    "Sample",
    "Scoring",
    "Split",
    "Task",
    "Tokenizer",
    "TooShortError",
    "Turn",
    "Turned",
    "generator",
    "hashed",
    "judged",
]

Ids = NDArray[np.int32]
Split = Literal["train", "test"]
Scoring = Literal["generate", "likelihood", "read"]

# What a prompt holds, and what the model has of its memory. All but `full` are controls, and readings of one document.
#   no_context       the question alone: what is known or guessed without the text
#   gold_only        the gold without the text around it: the most that can be hoped for
#   retrieved        of the text, what retrieval finds for the question
#   remembered       the whole text, however long, through a model that keeps a state or a memory of it
#   memory_off       the full prompt, by the same model without its memory
#   memory_shuffled  the full prompt, and what the memory's keys are bound to is exchanged before the question
Condition = Literal["full", "no_context", "gold_only", "retrieved", "remembered", "memory_off", "memory_shuffled"]

# Where a prompt stands if the model is asked in a chat.
#   begun  in the user's turn, but what it begins the answer with begins the assistant's
#   whole  in the user's turn, to its end
#   none   nowhere: it is asked without the chat's template
Turn = Literal["begun", "whole", "none"]

SPLITS: dict[Split, int] = {"train": 0, "test": 1}
IGNORED = -100  # the target where nothing is scored

# One stream of random numbers for each purpose, whatever the seed.
STREAMS = {"sample": 1, "recall": 2, "noise": 3, "facts": 4, "words": 5, "automata": 6, "suite": 7}


class LackingError(ConfigError):
    """Samples that cannot be made: their cells are skipped with this reason if there are others."""


class TooShortError(LackingError):
    """A length below what the task needs."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One question to a model.

    prompt:       (tokens,) ids to prefill
    answer:       gold ids; a generation of `budget` tokens is judged
    length:       tokens of the prompt and of the budget together; never more than was asked for
    text_answers: gold texts; empty in token mode
    depths:       where each gold needle stands: the share of the haystack before it, 0 to 1
    gold:         where in the prompt the gold is written: first token and end of each place
    question:     the first token of the question, behind which nothing of the text comes; 0 where it is not apart
    candidates:   (n,) single ids, one of them the answer, for a choice by likelihood; None where there is none
    choices:      continuations of any length for a choice by likelihood; `right` are the indices of the gold ones
    targets:      (tokens,) what comes next at each position of the prompt, IGNORED where nothing is asked
    prompts:      the prompts of other conditions than `full`
    asked:        the targets of those of them that are read, as `targets` are the full prompt's: the same answer
    unasked:      why there is no prompt of a condition
    unfilled:     why less than 98 % of the length that was asked for is filled
    reference:    whatever else the task's judge needs
    """

    prompt: Ids
    answer: Ids
    length: int
    budget: int
    seed: int
    version: int
    text_answers: tuple[str, ...] = ()
    depths: tuple[float, ...] = ()
    gold: tuple[tuple[int, int], ...] = ()
    question: int = 0
    candidates: Ids | None = None
    choices: tuple[Ids, ...] = ()
    right: tuple[int, ...] = ()
    targets: Ids | None = None
    prompts: Mapping[Condition, Ids] = field(default_factory=dict)
    asked: Mapping[Condition, Ids] = field(default_factory=dict)
    unasked: Mapping[Condition, str] = field(default_factory=dict)
    unfilled: str = ""
    reference: object = None


class Tokenizer(Protocol):
    """What a task needs of a tokenizer."""

    @property
    def kind(self) -> str: ...

    @property
    def vocabulary(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int], /) -> str: ...


class Task(Protocol):
    """A source of samples and their judge."""

    @property
    def name(self) -> str: ...

    @property
    def metric(self) -> str:
        """What a score is, as tables call it: "recall", "accuracy", "F1", ..."""
        ...

    @property
    def labels(self) -> Mapping[str, float]:
        """Numbers that tell this task from its kin, to draw curves against: {"pairs": 64}. Mostly empty."""
        ...

    @property
    def placed(self) -> bool:
        """Whether the gold can be put at a depth; if not, a length is one cell."""
        ...

    @property
    def scorings(self) -> tuple[Scoring, ...]:
        """The ways in which its samples can be judged, the usual one first."""
        ...

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end a generation early."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal for two tasks only if they make the same samples."""
        ...

    def check(self, seed: int, length: int, n: int, split: Split) -> None:
        """Whether these samples can be made.

        Raises:
            TooShortError: the length cannot hold the task; the message names the length that can.
            LackingError: data or words for it are not there.
            ConfigError: another reason.
        """
        ...

    def generate(
        self, seed: int, length: int, n: int, split: Split, *, depth: float | None = None, first: int = 0
    ) -> list[Sample]:
        """The samples of the indices `first` to `first + n - 1`, the same number for each, in the order of the indices.

        All samples of one index ask about the same text, with the gold at `depth`, or anywhere if it is None.
        """
        ...

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        """How good each output is, 0 to 1.

        An output of `generate` is what was written, of `likelihood` the most likely of the candidates, of `read` the
        most likely ids at the positions of `targets` that are not IGNORED.
        """
        ...


@runtime_checkable
class Finite(Protocol):
    """A task whose questions come from files: fewer may be there than are asked for."""

    def available(self, length: int, split: Split) -> int:
        """How many indices there are, each another question: 0 to `available - 1`.

        Raises:
            LackingError: there are none.
        """
        ...


@runtime_checkable
class Turned(Protocol):
    """A task that was published with another turn of a chat than `begun`."""

    @property
    def turn(self) -> Turn: ...


def generator(stream: str, *parts: int) -> np.random.Generator:
    """A generator of its own for each stream and each tuple of non-negative parts."""
    return np.random.default_rng(np.random.SeedSequence((STREAMS[stream], len(parts), *parts)))


def judged(
    tokenizer: Tokenizer,
    samples: Sequence[Sample],
    outputs: Sequence[Sequence[int]],
    rule: Callable[[str, Sequence[str]], float],
) -> list[float]:
    """What each output is worth, 0 to 1, by a rule of its text and the answers that are right."""
    texts = [tokenizer.decode(list(output)) for output in outputs]
    return [rule(text, sample.text_answers) for text, sample in zip(texts, samples, strict=True)]


def hashed(index: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number of 0, 1, 2, 3 for each index, spread evenly and without a visible pattern (Fibonacci hashing)."""
    spread: NDArray[np.uint64] = np.right_shift(index.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15), np.uint64(62))
    return spread.astype(np.int64)
