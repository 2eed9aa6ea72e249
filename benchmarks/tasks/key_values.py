"""Key-value retrieval of Lost in the Middle: a JSON object of random pairs, and one key whose value is asked for.

    Say the value of ...                                 introduction; with the key in it, where the prompt is aware
    {"5cb3...": "d1ff...",                               pairs, each a line, the gold one where its depth says
     "9f4a...": "703a...",
     "0b01...": "714f..."}

    Key: "9f4a..."
    Value:                                               question
     "703a..."                                           answer: right if the value is in it

A depth is the share of the other pairs that stand before the gold one. There are as many pairs as fit, or a fixed
number. In token mode keys and values are single ids, and where the vocabulary has no more of them, noise between them
fills the length: K V n K V n n K V ? K.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import numpy as np

from farfield.benchmarks.tasks.fitting import first_fitting, least_of
from farfield.benchmarks.tasks.gold_row import FILLED, WRITTEN, GoldRow, numbered, place_of, too_few
from farfield.benchmarks.tasks.layout import weave
from farfield.benchmarks.tasks.lost_files import Records
from farfield.benchmarks.tasks.pairs import Pairs
from farfield.benchmarks.tasks.sample import (
    SPLITS,
    Ids,
    Sample,
    Scoring,
    Split,
    Tokenizer,
    TooShortError,
    generator,
    hashed,
    judged,
)
from farfield.benchmarks.tasks.scoring import substring
from farfield.benchmarks.tasks.wording_file import Wording
from farfield.config import ConfigError

__all__ = ["KEY_VALUES", "KeyValues", "TokenKeyValues", "draw_uuids"]

KEY_VALUES = {
    "introduction": "Say which value belongs to the key at the end, by the JSON object that follows.\n\n",
    "introduction_aware": 'Say which value belongs to the key "{key}" in the JSON object that follows.\n\n',
    "question": '\n\nKey: "{key}"\nValue:',
    "reply": ' "{value}"',
}
VERSION, TOKENS_VERSION = 1, 2
CHOICES = 16
SLACK = 8  # tokens by which the first and the last line may be longer than those between
DRAWN = 64  # texts that are drawn at once
Pair = tuple[str, str]


class KeyValues:
    """The task of texts. Each index gives one sample."""

    name = "kv_text"
    metric = "accuracy"
    placed = True
    scorings: tuple[Scoring, ...] = ("generate", "likelihood")
    stop: tuple[str, ...] = ()
    labels: Mapping[str, float] = {}

    def __init__(
        self,
        tokenizer: Tokenizer,
        wording: Wording,
        pairs: int | None = None,
        aware: bool = False,
        records: Sequence[Records] = (),
        source: str = "",
    ) -> None:
        """What is asked.

        pairs:    of each prompt, None as many as fit
        aware:    whether the introduction too says which key is asked for
        records:  of the file `source`; without them pairs are drawn
        """
        self.tokenizer, self.wording, self.pairs, self.aware = tokenizer, wording, pairs, aware
        self.records, self.source = records, source

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.records).encode()).hexdigest()[:16]
        return (
            f"{self.name} {VERSION} {self.pairs} {self.aware} {self.wording.fingerprint} {self.tokenizer.kind} {digest}"
        )

    def check(self, seed: int, length: int, n: int, split: Split) -> None:
        if self.records and split == "train":
            raise ConfigError(f"suite.split: {self.source} is for testing. Take split=test, or no file of pairs.")
        fewest = min((len(line.ordered_kv_records) for line in self.records), default=self.pairs or 0)
        if self.pairs and self.pairs > fewest:
            raise ConfigError(f"suite.pairs: {self.pairs} given, and {self.source} has lines of {fewest} pairs.")
        self._check(seed, length, range(n), split)

    def _check(self, seed: int, length: int, indices: range, split: Split) -> None:
        least = max((self._lines(seed, 0, at, split).used for at in indices), default=0) if self.records else self.least
        if length < least:
            raise too_few(length, f"{self.pairs or 2} pairs", least)

    @cached_property
    def least(self) -> int:
        """Tokens of as few pairs as there may be, where they are drawn."""
        return least_of(lambda number: self._lines(0, 0, number, "test").used)

    def generate(
        self, seed: int, length: int, n: int, split: Split, *, depth: float | None = None, first: int = 0
    ) -> list[Sample]:
        indices = range(first, first + n)
        self._check(seed, length, indices, split)
        return [self._ask(seed, length, index, split, depth) for index in indices]

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        return judged(self.tokenizer, samples, outputs, lambda text, answers: substring(text, answers[0]))

    def _ask(self, seed: int, length: int, index: int, split: Split, depth: float | None) -> Sample:
        found = first_fitting(
            index, lambda number: self._lines(seed, length, number, split), lambda found: found.used <= length
        )
        pairs, lines = found.pairs, found.lines
        rng = generator("sample", seed, length, index, SPLITS[split], 1)
        place, value = place_of(rng, depth, len(lines)), pairs[0][1]
        order = [*range(1, place + 1), 0, *range(place + 1, len(lines))]
        shown = [lines[at] for at in order]
        shown[-1] = self._line(pairs[order[-1]], len(order) == 1, last=True)
        shown[0] = self._line(pairs[order[0]], True, last=len(order) == 1)
        others = [other for other in dict.fromkeys(other for _, other in pairs[1:]) if other != value]
        row = GoldRow(
            introduction=found.introduction,
            things=shown,
            place=place,
            question=found.question,
            alone=self._line(pairs[0], True, last=True),
            replies=[self._encode(self.wording["reply"].format(value=one)) for one in (value, *others[: CHOICES - 1])],
            values=(value,),
            why=self._why(len(lines)),
        )
        return row.sample(rng, length, seed)

    def _lines(self, seed: int, length: int, index: int, split: Split) -> _Lines:
        """As many pairs as fit or as are asked for, and two at least, whether they fit or not."""
        found = self._pairs(generator("sample", seed, length, index, SPLITS[split]), seed, index, split)
        gold = next(found)
        name, least = "introduction_aware" if self.aware else "introduction", self.pairs or 2
        introduction = self._encode(self.wording[name].format(key=gold[0]))
        question = self._encode(self.wording["question"].format(key=gold[0]))
        pairs, lines = [gold], [self._line(gold, False, last=False)]
        used = len(introduction) + len(question) + len(lines[0]) + WRITTEN + SLACK
        for pair in islice(found, None if self.pairs is None else self.pairs - 1):
            line = self._line(pair, False, last=False)
            if len(lines) >= least and used + len(line) > length:
                break
            pairs.append(pair)
            lines.append(line)
            used += len(line)
        return _Lines(pairs, lines, introduction, question, used)

    def _pairs(self, rng: np.random.Generator, seed: int, index: int, split: Split) -> Iterator[Pair]:
        """The gold pair, then others: those of a line of the file, or random ones without end."""
        while not self.records:
            drawn = draw_uuids(rng, DRAWN, split)
            yield from zip(drawn[::2], drawn[1::2], strict=True)
        line = self.records[numbered(seed, index, len(self.records), self.source)]
        yield line.key, line.value
        yield from (pair for pair in line.ordered_kv_records if pair != (line.key, line.value))

    def _line(self, pair: Pair, first: bool, *, last: bool) -> Ids:
        key, value = pair
        return self._encode(("{" if first else " ") + f'"{key}": "{value}"' + ("}" if last else ",\n"))

    def _why(self, count: int) -> str:
        if self.pairs:
            return f"{count} pairs are asked for"
        return f"{self.source} has no more pairs, or the next does not fit" if self.records else "the next does not fit"

    def _encode(self, text: str) -> Ids:
        return np.array(self.tokenizer.encode(text), dtype=np.int32)


@dataclass(frozen=True, eq=False)
class _Lines:
    """Pairs with the gold one first, their lines as they are amid others, and the tokens of all with the answer."""

    pairs: list[Pair]
    lines: list[Ids]
    introduction: Ids
    question: Ids
    used: int


@dataclass(frozen=True)
class TokenKeyValues:
    """The task of single ids: as many pairs as fit or as the vocabulary has room for, and noise between them.

    The noise stands where it stands whatever the depth is, so that all depths begin alike. A number of pairs that is
    asked for has no noise: its prompts are of one size at all lengths, as those of texts are.
    """

    ids: Pairs
    pairs: int | None = None
    aware: bool = False
    name: str = "kv_tokens"
    metric: str = "accuracy"
    placed: bool = True
    scorings: tuple[Scoring, ...] = ("generate", "likelihood")
    stop: tuple[str, ...] = ()
    labels: Mapping[str, float] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        return f"{self.name} {TOKENS_VERSION} {self.ids} {self.pairs} {self.aware}"

    def check(self, seed: int, length: int, n: int, split: Split) -> None:
        least = 2 * (self.pairs or 2) + self._around
        if length < least:
            raise TooShortError(
                f"lost_in_the_middle: a length of {length} tokens is too short for {self.pairs or 2} pairs, the "
                f"question and the answer: {least} is the least. Give longer lengths or fewer pairs."
            )
        self.ids.draw(generator("sample", seed), 1, self.pairs or 2, split)

    def generate(
        self, seed: int, length: int, n: int, split: Split, *, depth: float | None = None, first: int = 0
    ) -> list[Sample]:
        self.check(seed, length, n, split)
        return [self._ask(seed, length, index, split, depth) for index in range(first, first + n)]

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        return [
            float(list(output[:1]) == sample.answer.tolist()) for sample, output in zip(samples, outputs, strict=True)
        ]

    @property
    def _around(self) -> int:
        """Tokens beside the pairs: the question, at the beginning too if aware, and the answer."""
        return 5 if self.aware else 3

    def _ask(self, seed: int, length: int, index: int, split: Split, depth: float | None) -> Sample:
        rng = generator("sample", seed, length, index, SPLITS[split])
        count = self.pairs or min((length - self._around) // 2, self.ids.room(split))
        keys, values = (part[0] for part in self.ids.draw(rng, 1, count, split))
        room = 0 if self.pairs else length - self._around - 2 * count
        noise = rng.integers(self.ids.noise.start, self.ids.noise.stop, room, dtype=np.int32)
        before = np.sort(rng.integers(0, room + 1, count))  # ids of noise before each place of a pair
        place = place_of(rng, depth, count)
        order = [*range(1, place + 1), 0, *range(place + 1, count)]
        body = weave(noise, before.tolist(), list(np.stack([keys, values], axis=1)[order]))
        question = np.array([self.ids.query, keys[0]], dtype=np.int32)
        introduction = question if self.aware else question[:0]
        start, size = len(introduction) + int(before[place]) + 2 * place, len(body) + self._around
        return Sample(
            prompt=np.concatenate([introduction, body, question]),
            answer=values[:1],
            length=size,
            budget=1,
            seed=seed,
            version=TOKENS_VERSION,
            depths=(place / max(1, count - 1),),
            gold=((start, start + 2),),
            question=len(introduction) + len(body),
            candidates=np.arange(self.ids.values.start, self.ids.values.stop, dtype=np.int32),
            prompts={
                "no_context": np.concatenate([introduction, question]),
                "gold_only": np.concatenate([introduction, keys[:1], values[:1], question]),
            },
            unfilled=""
            if size >= FILLED * length
            else f"{size} of {length} tokens are filled: {count} pairs are asked for",
        )


def draw_uuids(rng: np.random.Generator, count: int, split: Split) -> list[str]:
    """Random UUIDs of version 4. The last two bits, by a hash of the first 32, say whether one is for testing."""
    high, low = rng.integers(0, 1 << 63, (2, count), dtype=np.int64)
    other = rng.integers(1, 4, count) if split == "train" else np.zeros(count, dtype=np.int64)
    low = low // 4 * 4 + (hashed(high >> 31) + other) % 4
    pairs = zip(high.tolist(), low.tolist(), strict=True)
    return [str(uuid.UUID(int=(first << 65) | last, version=4)) for first, last in pairs]
