"""The eight tasks of needles: keys and values in noise, in an essay, or among nothing but other needles.

    A secret number is written somewhere in the text below. Remember it: ...       introduction
    The road is long. The hill is steep. The wind is cold. We go on. We ...        haystack
    One of the secret numbers of old-harbour is: 4823917.                          needle
    The road is long. The hill is steep. The wind is cold. We go on. We ...
    What is the secret number of old-harbour that the text above names?            question
     The secret number of old-harbour that the text above names is                 beginning of the answer

Noise and needles are lines; in an essay the needles stand between sentences. The first line or sentence loses its
beginning, so that the length is filled exactly. The order of the needles and their places are drawn for each sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.tasks.haystack import Haystack
from farfield.benchmarks.tasks.ruler import words
from farfield.benchmarks.tasks.ruler.assembly import OTHERS, Parts, Pieces, fitted, hide, joined
from farfield.benchmarks.tasks.ruler.task import Place
from farfield.benchmarks.tasks.sample import Ids, Split
from farfield.benchmarks.tasks.wording_file import Wording

__all__ = ["NIAH", "SPECS", "Niah", "Spec", "noise_line"]

BUDGET = 128
NIAH = {
    "introduction": "Some secret {kind} are written somewhere in the text below. Remember them: you will be asked "
    "about the {kind} at its end.",
    "introduction_one": "A secret {kind} is written somewhere in the text below. Remember it: you will be asked about "
    "the {kind} at its end.",
    "noise": "The road is long. The hill is steep. The wind is cold. We go on. We come home again.",
    "needle": "One of the secret {kind} of {key} is: {value}.",
    "question": "What are all the secret {kind} of {query} that the text above names?",
    "question_one": "What is the secret {kind} of {query} that the text above names?",
    "answer": " The secret {kind} of {query} that the text above names are",
    "answer_one": " The secret {kind} of {query} that the text above names is",
}

Draw = Callable[[np.random.Generator, int, Split], list[str]]
DRAWN: dict[str, Draw] = {"words": words.keys, "numbers": words.numbers, "uuids": words.uuids}


@dataclass(frozen=True)
class Spec:
    """One of the tasks: what hides the needles, what they are made of, and how many there are.

    keys:    different keys; the first `queries` of them are asked for
    values:  needles of each key
    """

    haystack: Literal["noise", "essay", "needles"]
    key: Literal["words", "uuids"] = "words"
    value: Literal["numbers", "uuids"] = "numbers"
    keys: int = 1
    values: int = 1
    queries: int = 1

    @property
    def several(self) -> bool:
        """Whether more than one value is asked for."""
        return self.queries * self.values > 1


SPECS = {
    "niah_single_1": Spec("noise"),
    "niah_single_2": Spec("essay"),
    "niah_single_3": Spec("essay", value="uuids"),
    "niah_multikey_1": Spec("essay", keys=4),
    "niah_multikey_2": Spec("needles"),
    "niah_multikey_3": Spec("needles", key="uuids", value="uuids"),
    "niah_multivalue": Spec("essay", values=4),
    "niah_multiquery": Spec("essay", keys=4, queries=4),
}


@dataclass(frozen=True, eq=False)
class Frame:
    """All of a sample but its haystack. The gold needles are `needles[:gold]`, with `values[:gold]` in them."""

    before: Ids
    question: Ids
    needles: list[Ids]
    keys: list[str]
    values: list[str]
    gold: int
    answer: Ids

    @property
    def budget(self) -> int:
        return max(BUDGET, len(self.answer))

    @property
    def size(self) -> int:
        return len(self.before) + sum(map(len, self.needles)) + len(self.question) + self.budget


@dataclass(frozen=True, eq=False)
class Niah:
    """Needles in texts. `essay` is the haystack of the tasks that have one."""

    spec: Spec
    pieces: Pieces
    wording: Wording
    essay: Haystack

    @property
    def fingerprint(self) -> str:
        essay = self.essay.fingerprint if self.spec.haystack == "essay" else ""
        return f"{self.spec} {self.pieces.tokenizer.kind} {self.wording.fingerprint} {essay}"

    def least(self, place: Place) -> int:
        frame = self._frame(place.rng(), place.split)
        match self.spec.haystack:
            case "noise":
                return frame.size + len(noise_line(self.pieces, self.wording))
            case "essay":
                return frame.size + len(self.essay.tokens) // (len(self.essay.starts) - 1)
            case "needles":
                return frame.size + len(frame.needles[0])

    def parts(self, place: Place) -> Parts:
        rng = place.rng()
        frame = self._frame(rng, place.split)
        room = place.length - frame.size
        haystack, borders, others = self._haystack(rng, frame, room, place.split)
        order = rng.permutation(len(frame.needles))
        hidden = hide(rng, haystack, borders, [frame.needles[at] for at in order])
        asked = [at for at in range(len(order)) if order[at] < frame.gold]
        wrong = [value for value in (*others, *frame.values[frame.gold :]) if value not in frame.values[: frame.gold]]
        return Parts(
            before=frame.before,
            body=hidden.body,
            question=frame.question,
            gold=[hidden.spans[at] for at in asked],
            depths=[hidden.depths[at] for at in asked],
            alone=joined(frame.needles[: frame.gold]),
            answer=frame.answer,
            budget=frame.budget,
            choices=[self.pieces.once(f" {value}") for value in (*frame.values[: frame.gold], *wrong[:OTHERS])],
            right=frame.gold,
            texts=tuple(frame.values[: frame.gold]),
        )

    def _frame(self, rng: np.random.Generator, split: Split) -> Frame:
        spec, one = self.spec, "" if self.spec.several else "_one"
        keys = DRAWN[spec.key](rng, spec.keys, split)
        values = DRAWN[spec.value](rng, spec.keys * spec.values + OTHERS, split)
        kind, query = spec.value if spec.several else spec.value[:-1], _listed(keys[: spec.queries])
        question = "\n" + self.wording[f"question{one}"].format(kind=kind, query=query)
        gold = spec.queries * spec.values
        return Frame(
            before=self.pieces(self.wording[f"introduction{one}"].format(kind=kind) + "\n"),
            question=self.pieces.once(question + self.wording[f"answer{one}"].format(kind=kind, query=query)),
            needles=[self._needle(keys[at // spec.values], values[at]) for at in range(spec.keys * spec.values)],
            keys=keys,
            values=values,
            gold=gold,
            answer=self.pieces.once(f" {_listed(values[:gold])}."),
        )

    def _needle(self, key: str, value: str) -> Ids:
        text = self.wording["needle"].format(kind=self.spec.value, key=key, value=value)
        return self.pieces.once((" " if self.spec.haystack == "essay" else "\n") + text)

    def _haystack(
        self, rng: np.random.Generator, frame: Frame, room: int, split: Split
    ) -> tuple[Ids, NDArray[np.int64], Sequence[str]]:
        """`room` tokens, the borders at which needles may stand, and other values in the text."""
        match self.spec.haystack:
            case "noise":
                line = noise_line(self.pieces, self.wording)
                return *fitted([line] * (room // len(line) + 1), room), ()
            case "essay":
                tokens, borders = self.essay.take(rng, room)
                return tokens, borders[1:], ()  # not before a sentence that has lost its beginning
            case "needles":
                lines, values = self._lines(rng, frame, room, split)
                return *fitted(lines, room), values[-OTHERS:]

    def _lines(self, rng: np.random.Generator, frame: Frame, room: int, split: Split) -> tuple[list[Ids], list[str]]:
        """Needles of other keys, `room` tokens of them or more, and their values."""
        lines: list[Ids] = []
        used: list[str] = []
        size = 0
        while size < room:
            count = (room - size) // len(frame.needles[0]) + 8
            drawn = zip(DRAWN[self.spec.key](rng, count, split), DRAWN[self.spec.value](rng, count, split), strict=True)
            for key, value in drawn:
                if size < room and key not in frame.keys and value not in frame.values[: frame.gold]:
                    lines.append(self._needle(key, value))
                    used.append(value)
                    size += len(lines[-1])
        return lines, used


def noise_line(pieces: Pieces, wording: Wording) -> Ids:
    """One line of noise."""
    return pieces("\n" + wording["noise"])


def _listed(names: Sequence[str]) -> str:
    """`a`, or `a, b, c, and d`."""
    return ", ".join([*names[:-1], f"and {names[-1]}"]) if len(names) > 1 else names[0]
