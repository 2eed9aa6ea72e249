"""How a prompt is laid out: an introduction, needles in a haystack, a question. In ids, for both modes.

    introduction | h h h [needle 1] h h h h [needle 0] h h | question            answer
                         ^ place 3          ^ place 7                            `budget` tokens of room

A place is the number of haystack tokens before a needle. All questions about one haystack are of one length, so that
prompt and budget fill the length whichever is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.tasks.sample import IGNORED, Ids, Sample, TooShortError

__all__ = ["Asked", "Frame", "anywhere", "behind", "lay_out", "nearest", "too_short", "weave"]


@dataclass(frozen=True, eq=False)
class Asked:
    """A question about a haystack.

    gold:     numbers of the needles that answer it
    targets:  (tokens,) of the question, for a model that is read: what comes next, IGNORED where nothing is asked
    The others are what they are in a sample.
    """

    question: Ids
    answer: Ids
    gold: tuple[int, ...]
    text_answers: tuple[str, ...] = ()
    candidates: Ids | None = None
    choices: tuple[Ids, ...] = ()
    right: tuple[int, ...] = ()
    targets: Ids | None = None


@dataclass(frozen=True, eq=False)
class Frame:
    """All of a prompt but its haystack."""

    needles: list[Ids]
    asked: list[Asked]
    budget: int
    introduction: Ids = field(default_factory=lambda: np.empty(0, dtype=np.int32))

    @property
    def size(self) -> int:
        """Tokens, with those of the answer."""
        return len(self.introduction) + sum(map(len, self.needles)) + len(self.asked[0].question) + self.budget


def behind(depth: float, needles: int) -> tuple[float, ...]:
    """The depths of all needles of a cell: the first at `depth`, the others at even steps behind it."""
    return tuple(depth + (1 - depth) * index / needles for index in range(needles))


def anywhere(rng: np.random.Generator, depth: float, needles: int) -> tuple[float, ...]:
    """The first at `depth`, the others wherever `rng` says, so that the order of needles tells nothing."""
    return (depth, *rng.random(needles - 1).tolist())


def lay_out(
    frame: Frame, haystack: Ids, places: Sequence[int], *, length: int, seed: int, version: int
) -> list[Sample]:
    """A sample for each question, with needle i before the haystack's token at `places[i]`."""
    order = sorted(range(len(places)), key=lambda needle: places[needle])
    body = weave(haystack, [places[needle] for needle in order], [frame.needles[needle] for needle in order])
    spans, before = {}, len(frame.introduction)
    for needle in order:
        spans[needle] = (before + places[needle], before + places[needle] + len(frame.needles[needle]))
        before += len(frame.needles[needle])
    context = np.concatenate([frame.introduction, body])
    share = max(1, len(haystack))
    return [
        Sample(
            prompt=np.concatenate([context, asked.question]),
            answer=asked.answer,
            length=length,
            budget=frame.budget,
            seed=seed,
            version=version,
            text_answers=asked.text_answers,
            depths=tuple(places[needle] / share for needle in asked.gold),
            gold=tuple(spans[needle] for needle in asked.gold),
            question=len(context),
            candidates=asked.candidates,
            choices=asked.choices,
            right=asked.right,
            targets=None if asked.targets is None else _behind(context, asked.targets),
            prompts={
                "no_context": np.concatenate([frame.introduction, asked.question]),
                "gold_only": np.concatenate(
                    [frame.introduction, *(frame.needles[needle] for needle in asked.gold), asked.question]
                ),
            },
        )
        for asked in frame.asked
    ]


def weave(haystack: Ids, places: Sequence[int], needles: Sequence[Ids]) -> Ids:
    """`haystack` with each needle before the token at its place; needles at one place keep their order."""
    pieces = np.split(haystack, places)
    woven = [part for pair in zip(pieces, needles, strict=False) for part in pair]
    return np.concatenate([*woven, pieces[-1]])


def nearest(borders: NDArray[np.int64], place: float) -> int:
    """Of the rising `borders` the one nearest to `place`, the earlier of two."""
    at = int(np.searchsorted(borders, place))
    near = borders[max(0, at - 1) : at + 1]
    return int(near[np.abs(near - place).argmin()])


def too_short(length: int, needles: int, least: int) -> TooShortError:
    """The error for a length that cannot hold its needles and question."""
    some = "1 needle" if needles == 1 else f"{needles} needles"
    return TooShortError(
        f"needle: a length of {length} tokens is too short for {some}, the question and the answer: "
        f"{least} is the least. Give longer lengths or fewer needles."
    )


def _behind(context: Ids, targets: Ids) -> Ids:
    return np.concatenate([np.full(len(context), IGNORED, dtype=np.int32), targets])
