"""Subjects that answer from the text of a prompt alone, and tokenizers to ask them in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.subjects.subject import Capability, Prefilled, Reading, Written
from farfield.benchmarks.tasks.sample import Ids, Tokenizer
from farfield.benchmarks.tasks.wording import noise_sentences
from farfield.tokenizers.bpe import BpeTokenizer, train_bpe


@cache
def small_bpe() -> BpeTokenizer:
    """A byte-level BPE whose tokens are pieces of words."""
    return train_bpe(noise_sentences(300), 500)


@dataclass
class Solver:
    """Writes what `solve` makes of the last `window` tokens, and takes the choices that it begins with or holds."""

    tokenizer: Tokenizer
    solve: Callable[[str], str]
    window: int = 1 << 40
    name: str = "solver"
    capabilities: frozenset[Capability] = frozenset({"state", "generate", "score", "read"})

    def describe(self) -> Mapping[str, object]:
        return {"architecture": "solver", "window": self.window}

    def state_bytes(self, length: int) -> int:
        return 8 * length

    def prefill(self, tokens: NDArray[np.int64], after: Prefilled | None = None) -> Prefilled:
        return tokens if after is None else np.concatenate([_seen(after), tokens], axis=1)

    def select(self, prefilled: Prefilled, rows: Sequence[int]) -> Prefilled:
        return _seen(prefilled)[list(rows)]

    def generate(self, prefilled: Prefilled, budget: int, stop: tuple[str, ...] = ()) -> Written:
        written = [self.tokenizer.encode(answer)[:budget] for answer in self._answers(prefilled)]
        return Written(written, [0] * len(written))

    def choose(self, prefilled: Prefilled, choices: Sequence[Sequence[Ids]]) -> list[NDArray[np.float64]]:
        return [
            np.array([-0.5 if self._held(answer, choice) else -5.0 for choice in row])
            for answer, row in zip(self._answers(prefilled), choices, strict=True)
        ]

    def score(self, prefilled: Prefilled, candidates: NDArray[np.int64]) -> NDArray[np.floating]:
        raise NotImplementedError

    def rounding(self, prefilled: Prefilled) -> NDArray[np.float64]:
        return np.zeros(len(_seen(prefilled)))

    def read(self, tokens: NDArray[np.int64], targets: NDArray[np.int64], after: Prefilled | None = None) -> Reading:
        raise NotImplementedError

    def without_memory(self) -> Solver:
        raise NotImplementedError

    def shuffled(self, prefilled: Prefilled, seed: int) -> Prefilled:
        raise NotImplementedError

    def _answers(self, prefilled: Prefilled) -> list[str]:
        rows = _seen(prefilled)[:, -self.window :]
        return [self.solve(self.tokenizer.decode(row.tolist())) for row in rows]

    def _held(self, answer: str, choice: Ids) -> bool:
        return self.tokenizer.decode(choice.tolist()).strip(' ."').lower() in answer.lower()


def _seen(prefilled: Prefilled) -> NDArray[np.int64]:
    assert isinstance(prefilled, np.ndarray)
    return prefilled
