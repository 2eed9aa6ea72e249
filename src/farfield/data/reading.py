"""data=reading: passages of invented facts with questions on them, made on the fly, for a reader of retrieved passages.

    [1] Harbour rules > Gates                                      passages, as a query's prompt holds them: not scored
    The Velamo gate opens with the code 4719. ...
    Question: Which code opens the Velamo gate?                    scored if `score` is questions: a dense signal
    Answer: 4719 <end>                                             scored
    Question: ...                                                  more questions on the same passages

The tokenizer is a BPE of the generator's own words in which names and values stay small pieces, so that one that was
never seen is written piece by piece from the passage: it is trained on syllables and digits cut apart by hyphens.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from typing import Literal

import numpy as np
from pydantic import Field

from farfield.benchmarks.tasks.reading import SYLLABLES, Draw, Example, Shape, Split, example
from farfield.config import Config
from farfield.data.batch import UNSCORED, Batch, Description
from farfield.tokenizers import BpeTokenizer, train_bpe

__all__ = ["ReadingData", "ReadingSource"]

TOKENIZER_SEED, TOKENIZER_EXAMPLES, TOKENIZER_SYLLABLES = 99, 4000, 60_000
VALIDATION_SEED = 7  # whatever the training's seed, so that runs are compared on the same questions
ASKED = 3  # tokens of a question that are the same for all of them, at its begin and end: not worth scoring


class ReadingData(Config):
    """Passages of invented facts, and questions that only they answer.

    vocabulary: ids of the BPE, which is made of generated text.
    length: tokens of a row; a question that does not fit is left out.
    facts, fillers, chunks: least and most of them in a row's passages.
    questions: the most questions of a row.
    score: answers alone, or the questions' own words too.
    validation: batches of names and values that training never sees.
    """

    kind: Literal["reading"] = "reading"
    vocabulary: int = Field(1536, ge=512)
    length: int = Field(112, ge=32)
    facts: tuple[int, int] = (1, 2)
    fillers: tuple[int, int] = (0, 1)
    chunks: tuple[int, int] = (1, 1)
    questions: int = Field(2, ge=1)
    score: Literal["answers", "questions"] = "questions"
    validation: int = Field(4, ge=0)

    def shape(self) -> Shape:
        """How the generator is asked."""
        return Shape(facts=self.facts, fillers=self.fillers, chunks=self.chunks, questions=self.questions)

    def open(self, seed: int, batch: int) -> ReadingSource:
        """The source."""
        return ReadingSource(self, seed, batch)


class ReadingSource:
    """Batches that are drawn when asked for; no two steps have the same."""

    def __init__(self, config: ReadingData, seed: int, batch: int) -> None:
        self.config, self.seed, self.rows = config, seed, batch
        self.tokenizer = reading_tokenizer(config.vocabulary)

    @property
    def tokens_per_batch(self) -> int:
        return self.rows * self.config.length

    @property
    def validation_batches(self) -> int:
        return self.config.validation

    def batch(self, step: int) -> Batch:
        return self._drawn(self.seed, step, "train")

    def validation(self, index: int) -> Batch:
        return self._drawn(VALIDATION_SEED, index, "test")

    def describe(self) -> Description:
        return {
            "data": "reading",
            "tokenizer": f"{self.tokenizer.kind}, {self.tokenizer.vocabulary} ids",
            "length": self.config.length,
        }

    def _drawn(self, seed: int, step: int, split: Split) -> Batch:
        """(batch, length) rows, filled up with unscored end tokens."""
        shape, first = self.config.shape(), step * self.rows
        examples = [example(seed, first + row, split, shape) for row in range(self.rows)]
        tokens = np.full((self.rows, self.config.length + 1), self.tokenizer.end, np.int64)
        scored = np.zeros(tokens.shape, bool)
        for row, (ids, counts) in enumerate(self._encoded(examples)):
            tokens[row, : len(ids)], scored[row, : len(ids)] = ids, counts
        targets = np.where(scored[:, 1:], tokens[:, 1:], UNSCORED)
        positions = np.tile(np.arange(self.config.length, dtype=np.int64), (self.rows, 1))
        return Batch(tokens[:, :-1], targets, positions)

    def _encoded(self, examples: list[Example]) -> Iterator[tuple[list[int], list[bool]]]:
        """Ids of each row and which of them are scored; the passages are cut where not even one question fits."""
        texts: list[str] = []
        for one in examples:
            texts.append(one.passages)
            for pair in one.questions:
                texts += [f"Question: {pair.question}\nAnswer:", f" {pair.answer}"]
        pieces = iter(self.tokenizer.encode_many(texts))
        for one in examples:
            ids = next(pieces).tolist()
            counts = [False] * len(ids)
            for asked, answer in [(next(pieces).tolist(), next(pieces).tolist()) for _ in one.questions]:
                if len(ids) + len(asked) + len(answer) + 1 > self.config.length + 1:
                    continue
                inner = self.config.score == "questions"
                ids += [*asked, *answer, self.tokenizer.end]
                counts += [inner and 0 < place < len(asked) - ASKED + 1 for place in range(len(asked))]
                counts += [True] * (len(answer) + 1)
            yield ids[: self.config.length + 1], counts[: self.config.length + 1]


@functools.lru_cache(maxsize=4)
def reading_tokenizer(vocabulary: int) -> BpeTokenizer:
    """The BPE of generated text: words become single tokens, names syllables, numbers digits."""
    examples = (example(TOKENIZER_SEED, index) for index in range(TOKENIZER_EXAMPLES))
    prompts = (_digits_apart(f"{one.prompt} {one.answer}") for one in examples)
    return train_bpe(itertools.chain(_syllables(), prompts), vocabulary)


def _syllables() -> Iterator[str]:
    """Names cut into syllables, so that no merge goes beyond one."""
    draw = Draw(5, 0, "train")
    for _ in range(TOKENIZER_SYLLABLES):
        word = [draw.pick(SYLLABLES) for _ in range(3)]
        yield f" {word[0].capitalize()}-{word[1]}-{word[2]} {'-'.join(word)}"


def _digits_apart(text: str) -> str:
    return re.sub(r"\d", lambda digit: digit[0] + "-", text)
