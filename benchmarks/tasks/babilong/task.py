"""One of BABILong's tasks: the facts of a story, in order, at random places between the sentences of other text.

    introduction | ...text. | fact | text. Text. | fact | fact | text. ... | question            answer
                            ^ the gaps of facts are drawn with replacement, evenly among all, and sorted

A window keeps them in a part of the text. What is written is right if it names the answer and none of the task's other
labels. Token mode is the same with ids for words: a tokenizer that knows the words of our own stories, and noise of
other ids.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from farfield.benchmarks.tasks.babilong.stories import LABELS, Story
from farfield.benchmarks.tasks.babilong.world import draw_story, vocabulary, words_of
from farfield.benchmarks.tasks.fitting import ENDLESS, first_fitting, least_of
from farfield.benchmarks.tasks.haystack import Haystack
from farfield.benchmarks.tasks.layout import weave
from farfield.benchmarks.tasks.sample import (
    SPLITS,
    Ids,
    LackingError,
    Sample,
    Scoring,
    Split,
    Tokenizer,
    TooShortError,
    generator,
)
from farfield.benchmarks.tasks.scoring import label_set
from farfield.benchmarks.tasks.wording_file import Wording
from farfield.config import ConfigError

__all__ = ["BabilongTask", "Drawn", "Stored", "StoryIds", "noise_ids"]

VERSION = 2
BUDGET = 20
SENTENCES = 1024  # different sentences of noise ids


@dataclass(frozen=True)
class Stored:
    """Stories of files, of each split that has one; `asked` is the split that is evaluated."""

    asked: Split
    by_split: Mapping[Split, Sequence[Story]]

    @functools.cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr(sorted(self.by_split.items())).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Drawn:
    """Stories of our own, of any number."""

    fingerprint: str = "drawn 1"


@dataclass(frozen=True)
class StoryIds:
    """A tokenizer of the words of our own stories: id 0 is none, then the words, then noise, the last id ends a text.

    `vocabulary` ids in all.
    """

    vocabulary: int
    kind: str = "ids"
    ids: Mapping[str, int] = field(default_factory=lambda: {word: at for at, word in enumerate(vocabulary(), start=1)})

    @functools.cached_property
    def words(self) -> dict[int, str]:
        return {place: word for word, place in self.ids.items()}

    def encode(self, text: str) -> list[int]:
        return [self.ids[word] for word in words_of(text)]

    def decode(self, ids: Sequence[int], /) -> str:
        return " ".join(self.words.get(one, "~") for one in ids)


def noise_ids(tokenizer: StoryIds) -> Haystack:
    """Sentences of ids that no story has.

    Raises:
        ConfigError: there are too few ids.
    """
    first = len(tokenizer.ids) + 1
    if tokenizer.vocabulary < 2 * first:
        raise ConfigError(
            f"vocabulary: {tokenizer.vocabulary} ids given; babilong in ids needs {2 * first} for its words and noise."
        )
    rng = generator("noise")
    sizes = rng.integers(4, 13, SENTENCES)
    tokens = rng.integers(first, tokenizer.vocabulary - 1, int(sizes.sum())).astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return Haystack(tokens, starts, np.ones(len(tokens), np.bool_), "shuffled", "the noise")


class BabilongTask:
    """A task of BABILong. An index is a story."""

    metric = "accuracy"
    placed = False
    scorings: tuple[Scoring, ...] = ("generate", "likelihood")
    stop: tuple[str, ...] = ()

    def __init__(
        self,
        task: str,
        stories: Stored | Drawn,
        tokenizer: Tokenizer,
        haystack: Haystack,
        wording: Wording,
        window: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self.task, self.stories, self.tokenizer = task, stories, tokenizer
        self.haystack, self.wording, self.window = haystack, wording, window
        self.name = f"babilong_{task}"
        self.labels: Mapping[str, float] = {}  # the number of a task is a name
        self.budget = 1 if tokenizer.kind == "ids" else BUDGET
        self.introduction = self._encode(wording["introduction"])
        self._sentence = functools.lru_cache(maxsize=1 << 14)(self._fact)
        self._kept = functools.lru_cache(maxsize=16)(self._fitting)

    @property
    def fingerprint(self) -> str:
        parts = (self.tokenizer.kind, self.stories.fingerprint, self.haystack.fingerprint, self.wording.fingerprint)
        return f"{self.name} {VERSION} {' '.join(parts)} {self.window}"

    def available(self, length: int, split: Split) -> int:
        """Stories that are not long for the length; more than anybody asks for where they are drawn."""
        return ENDLESS if isinstance(self.stories, Drawn) else len(self._kept(0, length, split))

    def check(self, seed: int, length: int, n: int, split: Split) -> None:
        self._check(seed, length, range(n), split)

    def _check(self, seed: int, length: int, indices: range, split: Split) -> None:
        if isinstance(self.stories, Drawn) and length < self.least:
            raise self._too_short(length, self.least)
        sizes = [self._size(self._story(seed, length, index, split)) for index in indices]
        if self.haystack.order == "once" and length - min(sizes) > len(self.haystack.tokens):
            raise LackingError(
                f"{self.name}: a length of {length} tokens needs more text than {self.haystack.source} has: "
                f"{len(self.haystack.tokens)} tokens. Give more text or shorter lengths, or set suite.repeat=true."
            )

    @functools.cached_property
    def least(self) -> int:
        """Tokens of everything but the other text, and one of it, where stories are drawn: whatever is asked."""
        return 1 + least_of(lambda number: self._size(self._drawn(0, number, "test")))

    def generate(
        self, seed: int, length: int, n: int, split: Split, *, depth: float | None = None, first: int = 0
    ) -> list[Sample]:
        indices = range(first, first + n)
        self._check(seed, length, indices, split)
        return [self._sample(seed, length, index, split) for index in indices]

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        scores = []
        for sample, output in zip(samples, outputs, strict=True):
            story = sample.reference
            assert isinstance(story, Story)
            scores.append(
                label_set(self.tokenizer.decode(list(output)), story.answer, LABELS[self.task], story.question)
            )
        return scores

    def _sample(self, seed: int, length: int, index: int, split: Split) -> Sample:
        rng = generator("sample", seed, length, index, SPLITS[split])
        story = self._story(seed, length, index, split)
        facts, question = [self._sentence(fact) for fact in story.facts], self._question(story)
        room = length - self._size(story)
        text, borders = self.haystack.take(rng, room)
        low, high = (round(share * room) for share in self.window)
        inside = borders[(borders >= low) & (borders <= high)]
        allowed = inside if len(inside) else borders[np.abs(borders - low).argmin() :][:1]
        places = sorted(allowed[rng.integers(0, len(allowed), len(facts))].tolist())
        body = np.concatenate([self.introduction, weave(text, places, facts)])
        starts = len(self.introduction) + np.array(places) + np.cumsum([0, *map(len, facts[:-1])])
        choices = list(dict.fromkeys((*LABELS[self.task], story.answer)))
        return Sample(
            prompt=np.concatenate([body, question]),
            answer=self._encode(f" {story.answer}"),
            length=length,
            budget=self.budget,
            seed=seed,
            version=VERSION,
            text_answers=(story.answer,),
            depths=tuple(places[at] / room for at in story.support),
            gold=tuple((int(starts[at]), int(starts[at]) + len(facts[at])) for at in story.support),
            question=len(body),
            choices=tuple(self._encode(f" {choice}") for choice in choices),
            right=(choices.index(story.answer),),
            prompts={
                "no_context": np.concatenate([self.introduction, question]),
                "gold_only": np.concatenate([self.introduction, *facts, question]),
            },
            reference=story,
        )

    def _story(self, seed: int, length: int, index: int, split: Split) -> Story:
        if isinstance(self.stories, Drawn):
            return first_fitting(
                index, lambda number: self._drawn(seed, number, split), lambda story: self._size(story) < length
            )
        kept = self._kept(seed, length, split)
        return kept[index % len(kept)]

    def _drawn(self, seed: int, number: int, split: Split) -> Story:
        return draw_story(self.task, generator("facts", seed, number, SPLITS[split]), split)

    def _fitting(self, seed: int, length: int, split: Split) -> list[Story]:
        """Stories of a split's file, in an order that the seed draws, without those that are long for the length.

        As published, a story has at most a fact for every eight tokens of the length.
        """
        assert isinstance(self.stories, Stored)
        if split not in self.stories.by_split:
            raise LackingError(f"{self.name}: there is no file with stories of split={split}.")
        stories = self.stories.by_split[split]
        order = generator("facts", seed).permutation(len(stories))
        kept = [
            stories[at] for at in order if self._size(stories[at]) < length and 8 * len(stories[at].facts) <= length
        ]
        if not kept:
            least = min(max(self._size(story) + 1, 8 * len(story.facts)) for story in stories)
            raise self._too_short(length, least)
        return kept

    def _too_short(self, length: int, least: int) -> TooShortError:
        return TooShortError(
            f"{self.name}: a length of {length} tokens is too short for the instruction, the story and the answer: "
            f"{least} is the least. Give longer lengths, or suite.examples=false."
        )

    def _size(self, story: Story) -> int:
        """Tokens of everything but the other text."""
        facts = sum(len(self._sentence(fact)) for fact in story.facts)
        return len(self.introduction) + facts + len(self._question(story)) + self.budget

    def _question(self, story: Story) -> Ids:
        return self._encode(self.wording["question"].format(question=story.question))

    def _fact(self, fact: str) -> Ids:
        return self._encode(f" {fact}")

    def _encode(self, text: str) -> Ids:
        return np.array(self.tokenizer.encode(text) if text else [], dtype=np.int32)
