"""One task of the suite: a recipe that makes samples, and the published rule that judges them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np

from farfield.benchmarks.tasks.fitting import ENDLESS, first_fitting, least_of
from farfield.benchmarks.tasks.ruler.assembly import Parts
from farfield.benchmarks.tasks.sample import (
    SPLITS,
    Condition,
    Ids,
    LackingError,
    Sample,
    Scoring,
    Split,
    TooShortError,
    generator,
)

__all__ = ["Absent", "Filed", "Place", "Recipe", "RulerTask"]

VERSION = 1
FILLED = 0.98

Judge = Callable[[Sample, Sequence[int]], float]


@dataclass(frozen=True)
class Place:
    """Which sample of which task is made."""

    task: str
    seed: int
    length: int
    index: int
    split: Split

    def rng(self, part: int = 0) -> np.random.Generator:
        """A generator of this sample's own, and of one part of it."""
        task = zlib.crc32(self.task.encode())
        return generator("sample", self.seed, self.length, self.index, SPLITS[self.split], task, part)


class Recipe(Protocol):
    """What differs between tasks."""

    @property
    def fingerprint(self) -> str: ...

    def least(self, place: Place) -> int:
        """The shortest length that holds a sample like this, its budget included.

        Raises:
            LackingError: there is no such sample at any length.
        """
        ...

    def parts(self, place: Place) -> Parts:
        """The sample, which is not longer than `place.length`; that holds `least`."""
        ...


@runtime_checkable
class Filed(Protocol):
    """A recipe whose questions are those of a file. Others draw without end, and draw again what does not fit."""

    def questions(self, split: Split) -> int:
        """How many there are; then they come again. One, where there are none, that the reason is told."""
        ...


@dataclass(frozen=True)
class RulerTask:
    """A task by its recipe."""

    name: str
    metric: str
    recipe: Recipe
    judge: Judge
    placed: bool = False
    scorings: tuple[Scoring, ...] = ("generate", "likelihood")
    stop: tuple[str, ...] = ()
    labels: Mapping[str, float] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        return f"{self.name} {VERSION} {self.recipe.fingerprint}"

    def available(self, length: int, split: Split) -> int:
        """Questions of the file; more than anybody asks for where they are drawn."""
        return self.recipe.questions(split) if isinstance(self.recipe, Filed) else ENDLESS

    def check(self, seed: int, length: int, n: int, split: Split) -> None:
        self._check([Place(self.name, seed, length, index, split) for index in range(n)])

    def generate(
        self, seed: int, length: int, n: int, split: Split, *, depth: float | None = None, first: int = 0
    ) -> list[Sample]:
        """The gold stands anywhere, as it was drawn: `depth` is None."""
        assert depth is None, "a task that is not placed has no depths"
        places = [Place(self.name, seed, length, index, split) for index in range(first, first + n)]
        self._check(places)
        return [_sample(place, self.recipe.parts(place)) for place in map(self._fitting, places)]

    @cached_property
    def _least(self) -> int:
        """Tokens of samples that are drawn."""
        return least_of(lambda number: self.recipe.least(Place(self.name, 0, 1, number, "test")))

    def _fitting(self, place: Place) -> Place:
        """The place, or, where what it draws does not fit, the next that draws what does."""
        if isinstance(self.recipe, Filed):
            return place
        return first_fitting(
            place.index,
            lambda number: replace(place, index=number),
            lambda found: self.recipe.least(found) <= place.length,
        )

    def _check(self, places: Sequence[Place]) -> None:
        length = places[0].length
        if isinstance(self.recipe, Filed):
            least = max(self.recipe.least(place) for place in places)
        else:
            self.recipe.least(places[0])  # raises what is wrong at any length
            least = self._least
        if length < least:
            raise TooShortError(
                f"{self.name}: a length of {length} tokens is too short for the task and its answer: {least} is the "
                "least. Give longer lengths."
            )

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        return [self.judge(sample, output) for sample, output in zip(samples, outputs, strict=True)]


@dataclass(frozen=True)
class Absent:
    """A recipe without its data: whatever the length, the cells of its task are skipped with the reason."""

    reason: str

    @property
    def fingerprint(self) -> str:
        return "absent"

    def least(self, place: Place) -> int:
        raise LackingError(f"{place.task}: {self.reason}")

    def parts(self, place: Place) -> Parts:
        raise LackingError(f"{place.task}: {self.reason}")


def _sample(place: Place, parts: Parts) -> Sample:
    prompt = np.concatenate([parts.before, parts.body, parts.question])
    length, shift = len(prompt) + parts.budget, len(parts.before)
    assert length <= place.length, f"{place} fills {length} tokens"
    unfilled = length < FILLED * place.length
    assert parts.unfilled or not unfilled, f"{place} fills {length} tokens"
    return Sample(
        prompt=prompt,
        answer=parts.answer,
        length=length,
        budget=parts.budget,
        seed=place.seed,
        version=VERSION,
        text_answers=parts.texts,
        depths=tuple(parts.depths),
        gold=tuple((first + shift, end + shift) for first, end in parts.gold),
        question=shift + len(parts.body),
        choices=tuple(parts.choices),
        right=tuple(range(parts.right)),
        prompts=_controls(parts),
        unfilled=parts.unfilled if unfilled else "",
        reference=parts.wanted,
    )


def _controls(parts: Parts) -> dict[Condition, Ids]:
    return {
        "no_context": np.concatenate([parts.before, parts.question]),
        "gold_only": np.concatenate([parts.before, parts.alone, parts.question]),
    }
