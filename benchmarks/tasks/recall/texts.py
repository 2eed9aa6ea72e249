"""Copying and n-gram lookup in text, for a model of language.

    CopyingText    a text, an empty line, the text again, an empty line, its first eight tokens: the rest is asked for
    NgramText      a list of words; three that stand together there only are named, and the four behind them asked for

The text is our noise, the words are those of the needle's keys. Written answers count whole; by likelihood the right
answer is chosen among others of the same length. After Jelassi et al., Repeat After Me,
https://arxiv.org/abs/2402.01032, whose text is C4's and whose lists are of letters.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.tasks.haystack import Haystack
from farfield.benchmarks.tasks.recall.copying import ALL_GOLD
from farfield.benchmarks.tasks.recall.ngram import NAMED, places
from farfield.benchmarks.tasks.recall.one_an_index import OneAnIndex
from farfield.benchmarks.tasks.recall.strings import check_length, draw_string, short_of
from farfield.benchmarks.tasks.sample import (
    SPLITS,
    Ids,
    Sample,
    Scoring,
    Split,
    Tokenizer,
    generator,
)
from farfield.benchmarks.tasks.wording import ADJECTIVES, NOUNS
from farfield.benchmarks.tasks.wording_file import Wording

__all__ = ["COPYING", "NGRAM", "CopyingText", "NgramText"]

COPYING = {"break": "\n\n"}
NGRAM = {"introduction": "Words:", "question": "\nIn this list of words,{words} are followed by"}
WORDS = [f" {word}" for word in ADJECTIVES + NOUNS]
ASKED, GIVEN, CHOICES = 4, 8, 8  # words that are asked for, tokens of a copy that are given, answers to choose from
VERSION = 2


@dataclass(frozen=True, eq=False)
class CopyingText(OneAnIndex):
    """One text a row."""

    tokenizer: Tokenizer
    haystack: Haystack
    wording: Wording

    name: str = "copying"
    metric: str = "accuracy"
    scorings: tuple[Scoring, ...] = ("generate", "likelihood")

    @property
    def fingerprint(self) -> str:
        return f"{self.name} {VERSION} {self.tokenizer.kind} {self.haystack.fingerprint} {self.wording.fingerprint}"

    @cached_property
    def gap(self) -> Ids:
        return np.array(self.tokenizer.encode(self.wording["break"]), dtype=np.int32)

    def check(self, seed: int, length: int, n: int, split: Split) -> None:
        least = 3 * 2 * GIVEN + 2 * len(self.gap)
        check_length(self.name, length, least, " for a text three times")

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        written = (self.tokenizer.decode(list(output)).strip() for output in outputs)
        return [
            float(text.startswith(sample.text_answers[0].strip()))
            for sample, text in zip(samples, written, strict=True)
        ]

    def _draw(self, seed: int, length: int, index: int, split: Split) -> Sample:
        rng = generator("sample", seed, length, index, SPLITS[split])
        size = (length - 2 * len(self.gap)) // 3
        text, *others = [self.haystack.take(rng, size)[0] for _ in range(CHOICES)]
        prompt = np.concatenate([text, self.gap, text, self.gap, text[:GIVEN]])
        filled = 3 * size + 2 * len(self.gap)
        return Sample(
            prompt=prompt,
            answer=text[GIVEN:],
            length=filled,
            budget=size - GIVEN,
            seed=seed,
            version=VERSION,
            text_answers=(self.tokenizer.decode(text[GIVEN:].tolist()),),
            gold=((GIVEN, size),),
            question=len(prompt) - GIVEN,
            choices=tuple(one[GIVEN:] for one in [text, *others]),
            right=(0,),
            prompts={"no_context": text[:GIVEN]},
            unasked={"gold_only": ALL_GOLD},
            unfilled=short_of(filled, length, "a text that stands three times has a third of the tokens"),
        )


@dataclass(frozen=True, eq=False)
class NgramText(OneAnIndex):
    """One question a list."""

    tokenizer: Tokenizer
    wording: Wording

    name: str = "ngram_suffix"
    metric: str = "accuracy"
    scorings: tuple[Scoring, ...] = ("generate", "likelihood")
    stop = ("\n",)

    @property
    def fingerprint(self) -> str:
        return f"{self.name} {VERSION} {self.tokenizer.kind} {self.tokenizer.vocabulary} {self.wording.fingerprint}"

    @cached_property
    def words(self) -> list[Ids]:
        return [self._encode(word) for word in WORDS]

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        return np.array([len(word) for word in self.words])

    @cached_property
    def introduction(self) -> Ids:
        return self._encode(self.wording["introduction"])

    @cached_property
    def budget(self) -> int:
        """Tokens of any answer: one holds at least a byte."""
        return ASKED * max(len(word.encode()) for word in WORDS)

    def check(self, seed: int, length: int, n: int, split: Split) -> None:
        longest = sorted(WORDS, key=len)[-NAMED:]
        question = self._encode(self.wording["question"].format(words="".join(longest)))
        least = len(self.introduction) + len(question) + self.budget
        least += (2 * NAMED + ASKED) * max(map(len, self.words))
        check_length(self.name, length, least)

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        written = (self.tokenizer.decode(list(output)).replace(",", " ").split() for output in outputs)
        return [
            float(words[:ASKED] == sample.text_answers[0].split())
            for sample, words in zip(samples, written, strict=True)
        ]

    def _draw(self, seed: int, length: int, index: int, split: Split) -> Sample:
        rng = generator("sample", seed, length, index, SPLITS[split])
        lists = (self._list(rng, length, split) for _ in itertools.count())
        string, place, question = next(one for one in lists if len(places(one[0], one[0][one[1] :][:NAMED])) == 1)
        gold = string[place : place + NAMED + ASKED]
        asked = gold[NAMED:]
        starts = len(self.introduction) + np.concatenate([[0], np.cumsum(self.sizes[string])])
        body = np.concatenate([self.introduction, *(self.words[word] for word in string)])
        others = [rng.integers(0, len(WORDS), ASKED, dtype=np.int32) for _ in range(CHOICES - 1)]
        filled = len(body) + len(question) + self.budget
        return Sample(
            prompt=np.concatenate([body, question]),
            answer=self._ids(asked),
            length=filled,
            budget=self.budget,
            seed=seed,
            version=VERSION,
            text_answers=(self._text(asked).strip(),),
            depths=(place / len(string),),
            gold=((int(starts[place]), int(starts[place + NAMED + ASKED])),),
            question=len(body),
            choices=tuple(self._ids(words) for words in [asked, *others]),
            right=(0,),
            prompts={
                "no_context": np.concatenate([self.introduction, question]),
                "gold_only": np.concatenate([self.introduction, self._ids(gold), question]),
            },
            unfilled=short_of(filled, length, "another word does not fit"),
        )

    def _list(self, rng: np.random.Generator, length: int, split: Split) -> tuple[Ids, int, Ids]:
        """Words that fill the length, where the three are that are named, and the question."""
        gold = draw_string(rng, NAMED + ASKED, len(WORDS), split)
        question = self._encode(self.wording["question"].format(words=self._text(gold[:NAMED])))
        drawn = rng.integers(0, len(WORDS), length, dtype=np.int32)
        room = length - len(self.introduction) - len(question) - self.budget - int(self.sizes[gold].sum())
        others = drawn[: int(np.searchsorted(np.cumsum(self.sizes[drawn]), room, side="right"))]
        place = int(rng.integers(len(others) + 1))
        return np.concatenate([others[:place], gold, others[place:]]), place, question

    def _encode(self, text: str) -> Ids:
        return np.array(self.tokenizer.encode(text), dtype=np.int32)

    def _text(self, words: Ids) -> str:
        return "".join(WORDS[word] for word in words)

    def _ids(self, words: Ids) -> Ids:
        return np.concatenate([self.words[word] for word in words])
