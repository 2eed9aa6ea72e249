"""Needles that are found by what they mean: question and needle share no word of content.

    ...ce. Belumrix rents a room across from the Colosseum. The baker walked past the market. Tavolem spends the whole
    day mending taps and leaking pipes. ...
    Which person lives in Rome? The name is            ->  Belumrix

After NoLiMa (arxiv.org/abs/2502.05167), with associations of our own. People with other clues stand in the same text,
so that a name alone is no answer; a name in the first line of the answer counts, but only as a whole word.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from farfield.benchmarks.tasks.associations import FAMILIES, Family
from farfield.benchmarks.tasks.layout import anywhere
from farfield.benchmarks.tasks.sample import SPLITS, Split, generator
from farfield.benchmarks.tasks.stories import Plot, Question, shuffled
from farfield.benchmarks.tasks.wording import draw_names
from farfield.benchmarks.tasks.wording_file import Wording

__all__ = ["NO_LITERAL", "NoLiteral", "associations"]

NO_LITERAL = {
    "introduction": "Read about these people, and remember who is who.\n",
    "question": "\n{question} The name is",
    "reply": " {name}.",
}
OURS = Wording(NO_LITERAL)
CHOICES = 8  # names, those in the text among them
PEOPLE = 32  # for each association of a haystack of needles
WRITTEN = 24  # tokens that are generated: room for a name within a short sentence


@dataclass(frozen=True)
class NoLiteral:
    """`needles` people, one of whom the question means."""

    needles: int = 4
    wording: Wording = OURS
    name: ClassVar[str] = "no_literal"
    placed: ClassVar[bool] = True

    @property
    def introduction(self) -> str:
        return self.wording["introduction"]

    @property
    def fingerprint(self) -> str:
        return f"{self.needles} {self.wording.fingerprint} {hashlib.sha256(repr(FAMILIES).encode()).hexdigest()[:16]}"

    def plot(self, rng: np.random.Generator, split: Split) -> Plot:
        known = associations(split)
        drawn = [known[at] for at in rng.choice(len(known), self.needles, replace=False)]
        names = draw_names(rng, max(CHOICES, self.needles), split)
        gold, *wrong = (self.wording["reply"].format(name=name) for name in names)
        choices, right = shuffled(rng, [gold], wrong)
        family, _, meaning = drawn[0]
        text = self.wording["question"].format(question=family.question.format(meaning=meaning))
        needles = tuple(
            family.needle.format(name=name, clue=clue) for name, (family, clue, _) in zip(names, drawn, strict=False)
        )
        question = Question(text, gold, (names[0],), (0,), choices, right)
        return Plot(needles, frozenset([meaning]), (question,), WRITTEN)

    def others(self, split: Split) -> list[tuple[str, str]]:
        rng = generator("noise", SPLITS[split], 1)
        known = associations(split) * PEOPLE
        return [
            (family.needle.format(name=name, clue=clue), meaning)
            for name, (family, clue, meaning) in zip(draw_names(rng, len(known), split), known, strict=True)
        ]

    def depths(self, rng: np.random.Generator, depth: float) -> tuple[float, ...]:
        return anywhere(rng, depth, self.needles)

    def score(self, text: str, values: Sequence[str]) -> float:
        line = text.strip().split("\n")[0]
        return float(re.search(rf"\b{re.escape(values[0])}\b", line, re.IGNORECASE) is not None)


def associations(split: Split) -> list[tuple[Family, str, str]]:
    """The family, clue and meaning of each association of `split`: every second one of each family."""
    return [(family, clue, meaning) for family in FAMILIES for clue, meaning in family.associations[SPLITS[split] :: 2]]
