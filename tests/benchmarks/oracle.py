"""Subjects that know the answers: they look them up in what they have been prefilled with."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.subjects.subject import Capability, Prefilled, Written
from farfield.benchmarks.tasks.pairs import Pairs


@dataclass(frozen=True)
class Bytes:
    """UTF-8 bytes and an end."""

    kind: str = "bytes"
    vocabulary: int = 257

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="replace")


@dataclass(frozen=True)
class Numbers:
    """Ids written as numbers."""

    vocabulary: int = 128
    kind: str = "ids"

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))


@dataclass
class Lookup:
    """Remembers the last `window` tokens, or all, and finds the needle that is asked for in them.

    prefilled: tokens it has read so far, rows times columns
    before:    called ahead of each prefill
    """

    tokenizer: Bytes | Numbers
    window: int = 1 << 40
    name: str = "lookup"
    capabilities: frozenset[Capability] = frozenset({"state", "generate", "score"})
    extra: dict[str, object] = field(default_factory=dict)
    before: Callable[[Lookup], None] = lambda subject: None
    prefilled: int = 0
    calls: int = 0

    def describe(self) -> Mapping[str, object]:
        return {"architecture": "lookup", "window": self.window, **self.extra}

    def state_bytes(self, length: int) -> int:
        return 8 * min(length, self.window)

    def prefill(self, tokens: NDArray[np.int64], after: Prefilled | None = None) -> Prefilled:
        self.before(self)
        assert tokens.dtype == np.int64
        assert tokens.size
        self.calls += 1
        self.prefilled += tokens.size
        seen = tokens if after is None else np.concatenate([_seen(after), tokens], axis=1)
        kept = seen[:, -min(self.window, seen.shape[1]) :].copy()
        kept.flags.writeable = False
        return kept

    def select(self, prefilled: Prefilled, rows: Sequence[int]) -> Prefilled:
        return _seen(prefilled)[list(rows)]

    def generate(self, prefilled: Prefilled, budget: int, stop: tuple[str, ...] = ()) -> Written:
        find = self._value if isinstance(self.tokenizer, Numbers) else self._reply
        found = [find(row)[:budget] for row in _seen(prefilled)]
        return Written(found, [0] * len(found))

    def score(self, prefilled: Prefilled, candidates: NDArray[np.int64]) -> NDArray[np.floating]:
        found = np.array([(self._value(row) or [-1])[0] for row in _seen(prefilled)])
        return np.where(candidates == found[:, None], -0.5, -np.inf)

    def rounding(self, prefilled: Prefilled) -> NDArray[np.float64]:
        return np.zeros(len(_seen(prefilled)))

    def _value(self, row: NDArray[np.int64]) -> list[int]:
        """Token mode: what stands behind the first place of the last token, if it is there and it is a value."""
        assert row[-2] == Pairs(self.tokenizer.vocabulary).query
        places = np.flatnonzero(row[:-1] == row[-1])
        values = Pairs(self.tokenizer.vocabulary).values
        return [int(row[at + 1]) for at in places[:1] if int(row[at + 1]) in values]

    def _reply(self, row: NDArray[np.int64]) -> list[int]:
        """Text mode: the number behind the words of the question."""
        text = self.tokenizer.decode(row.tolist())
        key = text.rsplit(" of ", 1)[-1].removesuffix(" is")
        found = re.search(rf"The secret number of {key} is (\d+)\.", text)
        return self.tokenizer.encode(f" {found[1]}.\nMore") if found else []


def _seen(prefilled: Prefilled) -> NDArray[np.int64]:
    assert isinstance(prefilled, np.ndarray)
    return prefilled
