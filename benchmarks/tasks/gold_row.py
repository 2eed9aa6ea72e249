"""Things in a row, of which the question is about one: pairs of a JSON object, passages that a search found.

introduction | thing | thing | gold | thing | question            answer
                               ^ depth 2/3: the share of the other things that stand before it
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from farfield.benchmarks.tasks.sample import Ids, Sample, TooShortError, generator
from farfield.config import ConfigError

__all__ = ["FILLED", "WRITTEN", "GoldRow", "numbered", "place_of", "too_few"]

VERSION = 1
WRITTEN = 100  # tokens that are generated, as published
FILLED = 0.98  # of a length, below which a sample says why it is shorter


@dataclass(frozen=True, eq=False)
class GoldRow:
    """A prompt in parts.

    things:   in their order, the gold one at `place`
    alone:    the gold one as it is without the others
    replies:  the right answer, then wrong ones of the same form
    values:   what an answer is judged by
    why:      the reason why there are not more things
    """

    introduction: Ids
    things: list[Ids]
    place: int
    question: Ids
    alone: Ids
    replies: list[Ids]
    values: tuple[str, ...]
    why: str

    def sample(self, rng: np.random.Generator, length: int, seed: int) -> Sample:
        """The sample; `rng` says in which order the replies can be chosen."""
        prompt = np.concatenate([self.introduction, *self.things, self.question])
        before = len(self.introduction) + sum(map(len, self.things[: self.place]))
        size = len(prompt) + WRITTEN
        assert size <= length
        order = rng.permutation(len(self.replies)).tolist()
        return Sample(
            prompt=prompt,
            answer=self.replies[0],
            length=size,
            budget=WRITTEN,
            seed=seed,
            version=VERSION,
            text_answers=self.values,
            depths=(self.place / max(1, len(self.things) - 1),),
            gold=((before, before + len(self.things[self.place])),),
            question=len(prompt) - len(self.question),
            choices=tuple(self.replies[at] for at in order),
            right=(order.index(0),),
            prompts={
                "no_context": np.concatenate([self.introduction, self.question]),
                "gold_only": np.concatenate([self.introduction, self.alone, self.question]),
            },
            unfilled="" if size >= FILLED * length else f"{size} of {length} tokens are filled: {self.why}",
        )


def place_of(rng: np.random.Generator, depth: float | None, count: int) -> int:
    """Where in a row of `count` the gold thing stands: at `depth`, or anywhere."""
    return int(rng.integers(count)) if depth is None else round(depth * (count - 1))


def numbered(seed: int, index: int, count: int, source: str) -> int:
    """Which of the `count` lines of a file the sample `index` is of: each once, in an order of the seed.

    Raises:
        ConfigError: there are not so many lines.
    """
    if index >= count:
        raise ConfigError(f"suite.samples: {source} has {count} lines, and sample {index + 1} is asked for.")
    return int(generator("sample", seed).permutation(count)[index])


def too_few(length: int, what: str, least: int) -> TooShortError:
    """The error for a length that cannot hold its things."""
    return TooShortError(
        f"lost_in_the_middle: a length of {length} tokens is too short for {what}, the question and {WRITTEN} tokens "
        f"of answer: {least} is the least. Give longer lengths or less to hold."
    )
