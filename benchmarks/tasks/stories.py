"""What text mode hides and asks: a story for each kind of needle.

    Keyed      The secret number of amber canyon is 4823917.        several, one of them asked for by its key
    OneKey     One of the secret numbers of amber canyon is 4823917.    one key, several numbers, all of them asked
    ManyKeys   as Keyed, and all of them asked in one question
    Passkey    a password, said twice; the first integer of the answer counts

A story is told in words; `farfield.benchmarks.tasks.text_needle` makes tokens of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from farfield.benchmarks.tasks import wording as words
from farfield.benchmarks.tasks.layout import anywhere, behind
from farfield.benchmarks.tasks.sample import SPLITS, Split, generator
from farfield.benchmarks.tasks.scoring import first_integer
from farfield.benchmarks.tasks.wording_file import Wording
from farfield.config import ConfigError

__all__ = ["Keyed", "ManyKeys", "OneKey", "Passkey", "Plot", "Question", "Story", "shuffled", "whole_numbers"]

CHOICES = 16  # values that are compared by likelihood
WRITTEN = 10  # tokens that are generated for a passkey, as published
POOL = 4096  # sentences of a haystack of needles
KEYED, ONE_KEY, MANY_KEYS, PASSKEY = map(Wording, (words.KEYED, words.ONE_KEY, words.MANY_KEYS, words.PASSKEY))
ROUND = 1024  # keys of them that differ: as many as there are for testing


@dataclass(frozen=True)
class Question:
    """A question, what it should be answered with, and answers of the same form to choose from.

    gold:    numbers of the needles that answer it
    values:  what an answer is judged by
    right:   numbers of the choices that are right
    """

    text: str
    reply: str
    values: tuple[str, ...]
    gold: tuple[int, ...]
    choices: tuple[str, ...]
    right: tuple[int, ...]


@dataclass(frozen=True)
class Plot:
    """What one haystack hides and is asked.

    about:   what no other sentence of a haystack of needles may be about
    budget:  tokens that are generated at most
    """

    needles: tuple[str, ...]
    about: frozenset[str]
    questions: tuple[Question, ...]
    budget: int


class Story(Protocol):
    """A kind of needle."""

    @property
    def name(self) -> str: ...

    @property
    def placed(self) -> bool: ...

    @property
    def introduction(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def plot(self, rng: np.random.Generator, split: Split) -> Plot: ...

    def others(self, split: Split) -> list[tuple[str, str]]:
        """Sentences like the needles, each with what it is about: of these a haystack of needles is made."""
        ...

    def depths(self, rng: np.random.Generator, depth: float) -> tuple[float, ...]:
        """Of all needles of a plot, the first at `depth`."""
        ...

    def score(self, text: str, values: Sequence[str]) -> float:
        """How good the answer `text` is, 0 to 1."""
        ...


@dataclass(frozen=True)
class Keyed:
    """`needles` numbers by keys; `queries` samples ask for one each. By `apart`, the others stand anywhere."""

    needles: int = 1
    queries: int = 1
    apart: bool = False
    name: str = "needle"
    wording: Wording = KEYED
    placed: ClassVar[bool] = True

    @property
    def introduction(self) -> str:
        return self.wording["introduction"]

    @property
    def fingerprint(self) -> str:
        return f"{self.needles} {self.queries} {self.apart} {self.wording.fingerprint}"

    def plot(self, rng: np.random.Generator, split: Split) -> Plot:
        keys, values = words.draw_keys(rng, self.needles, split), words.draw_values(rng, self.needles, split)
        more = words.draw_values(rng, CHOICES, split)
        questions = tuple(self._question(rng, at, keys[at], values, more) for at in range(self.queries))
        needles = tuple(self._needle(key, value) for key, value in zip(keys, values, strict=True))
        # A token holds at least a byte: the same budget for each tokenizer and value.
        return Plot(needles, frozenset(keys), questions, len(questions[0].reply.encode()))

    def others(self, split: Split) -> list[tuple[str, str]]:
        return [(self._needle(key, value), key) for key, value in _others(split)]

    def depths(self, rng: np.random.Generator, depth: float) -> tuple[float, ...]:
        return anywhere(rng, depth, self.needles) if self.apart else behind(depth, self.needles)

    def score(self, text: str, values: Sequence[str]) -> float:
        return whole_numbers(text, values)

    def _needle(self, key: str, value: str) -> str:
        return self.wording["needle"].format(key=key, value=value)

    def _question(
        self, rng: np.random.Generator, at: int, key: str, values: Sequence[str], more: Sequence[str]
    ) -> Question:
        others = [value for value in dict.fromkeys((*values, *more)) if value != values[at]][: CHOICES - 1]
        gold, *wrong = (self.wording["reply"].format(value=value) for value in (values[at], *others))
        choices, right = shuffled(rng, [gold], wrong)
        return Question(self.wording["question"].format(key=key), gold, (values[at],), (at,), choices, right)


@dataclass(frozen=True)
class OneKey:
    """One key with several numbers, all of them asked: the share that is among as many numbers of the answer."""

    needles: int = 4
    wording: Wording = ONE_KEY
    name: ClassVar[str] = "multi_value"
    placed: ClassVar[bool] = False

    @property
    def introduction(self) -> str:
        return self.wording["introduction"]

    @property
    def fingerprint(self) -> str:
        return f"{self.needles} {self.wording.fingerprint}"

    def plot(self, rng: np.random.Generator, split: Split) -> Plot:
        (key,), values = words.draw_keys(rng, 1, split), words.draw_values(rng, self.needles, split)
        others = [value for value in words.draw_values(rng, 2 * self._choices, split) if value not in values]
        reply = self.wording["reply"]
        start = reply.partition("{values}")[0]  # the first number is chosen, and any of the right ones will do
        right = [start + value for value in values]
        wrong = [start + value for value in others[: self._choices - self.needles]]
        gold = reply.format(values=words.listed(values))
        text = self.wording["question"].format(key=key)
        every = tuple(range(self.needles))
        question = Question(text, gold, tuple(values), every, *shuffled(rng, right, wrong))
        needles = tuple(self.wording["needle"].format(key=key, value=value) for value in values)
        return Plot(needles, frozenset([key]), (question,), len(gold.encode()))

    @property
    def _choices(self) -> int:
        return max(CHOICES, 2 * self.needles)

    def others(self, split: Split) -> list[tuple[str, str]]:
        return [(self.wording["needle"].format(key=key, value=value), key) for key, value in _others(split)]

    def depths(self, rng: np.random.Generator, depth: float) -> tuple[float, ...]:
        return anywhere(rng, depth, self.needles)

    def score(self, text: str, values: Sequence[str]) -> float:
        return whole_numbers(text, values)


@dataclass(frozen=True)
class ManyKeys:
    """Several keys, all of them asked in one question: the share that is among as many numbers of the answer."""

    needles: int = 4
    wording: Wording = MANY_KEYS
    name: ClassVar[str] = "multi_query"
    placed: ClassVar[bool] = False

    @property
    def introduction(self) -> str:
        return self.wording["introduction"]

    @property
    def fingerprint(self) -> str:
        return f"{self.needles} {self.wording.fingerprint}"

    def plot(self, rng: np.random.Generator, split: Split) -> Plot:
        keys, values = words.draw_keys(rng, self.needles, split), words.draw_values(rng, self.needles, split)
        gold, *wrong = dict.fromkeys(self._reply(order) for order in self._lists(rng, values, split))
        text = self.wording["question"].format(keys=words.listed(keys))
        every = tuple(range(self.needles))
        question = Question(text, gold, tuple(values), every, *shuffled(rng, [gold], wrong))
        needles = tuple(
            self.wording["needle"].format(key=key, value=value) for key, value in zip(keys, values, strict=True)
        )
        return Plot(needles, frozenset(keys), (question,), len(gold.encode()))

    def _lists(self, rng: np.random.Generator, values: list[str], split: Split) -> list[list[str]]:
        """The right list, half as many lists that are right but for their order, and lists of other numbers."""
        turned = [rng.permutation(values).tolist() for _ in range(CHOICES // 2 - 1)]
        return [values, *turned, *(words.draw_values(rng, self.needles, split) for _ in range(CHOICES // 2))]

    def _reply(self, values: Sequence[str]) -> str:
        return self.wording["reply"].format(values=words.listed(values))

    def others(self, split: Split) -> list[tuple[str, str]]:
        return [(self.wording["needle"].format(key=key, value=value), key) for key, value in _others(split)]

    def depths(self, rng: np.random.Generator, depth: float) -> tuple[float, ...]:
        return anywhere(rng, depth, self.needles)

    def score(self, text: str, values: Sequence[str]) -> float:
        return whole_numbers(text, values)


@dataclass(frozen=True)
class Passkey:
    """A password that is said twice, as in Landmark Attention: the first integer of the answer is compared."""

    wording: Wording = PASSKEY
    needles: ClassVar[int] = 1
    name: ClassVar[str] = "passkey"
    placed: ClassVar[bool] = True

    @property
    def introduction(self) -> str:
        return self.wording["introduction"]

    @property
    def fingerprint(self) -> str:
        return self.wording.fingerprint

    def plot(self, rng: np.random.Generator, split: Split) -> Plot:
        value, *others = words.draw_passkeys(rng, CHOICES, split)
        gold, *wrong = (self.wording["reply"].format(value=number) for number in (value, *others))
        choices, right = shuffled(rng, [gold], wrong)
        question = Question(self.wording["question"], gold, (value,), (0,), choices, right)
        needle = self.wording["needle"].format(value=value)
        return Plot((needle,), frozenset(), (question,), max(WRITTEN, len(gold.encode())))

    def others(self, split: Split) -> list[tuple[str, str]]:
        raise ConfigError(
            "needle: passkey hides the only password there is. Take another haystack than needles for it."
        )

    def depths(self, rng: np.random.Generator, depth: float) -> tuple[float, ...]:
        return (depth,)

    def score(self, text: str, values: Sequence[str]) -> float:
        return first_integer(text, values[0])


def whole_numbers(text: str, values: Sequence[str]) -> float:
    """The share of `values` among as many numbers that `text` writes first.

    Only whole numbers count: 12345678 does not hold 1234567. Of one value, naming several is no answer.
    """
    written = re.findall(r"\w*\d\w*", text)[: len(values)]
    return len(set(written) & set(values)) / len(values)


def shuffled(
    rng: np.random.Generator, right: Sequence[str], wrong: Sequence[str]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Choices in an order that tells nothing, and where the right ones stand."""
    every = [*right, *wrong]
    order = rng.permutation(len(every)).tolist()
    return tuple(every[at] for at in order), tuple(place for place, at in enumerate(order) if at < len(right))


def _others(split: Split) -> list[tuple[str, str]]:
    """Keys and values of a haystack of needles. Each key comes several times, with other values."""
    rng = generator("noise", SPLITS[split])
    keys = [key for _ in range(POOL // ROUND) for key in words.draw_keys(rng, ROUND, split)]
    return list(zip(keys, words.draw_values(rng, POOL, split), strict=True))
