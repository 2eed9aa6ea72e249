"""Strings of symbols that belong to training or to testing, and how outputs are judged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.tasks.sample import IGNORED, Ids, LackingError, Sample, Split, TooShortError, hashed

__all__ = ["asked_last", "check_ids", "check_length", "draw_held", "draw_string", "exact", "share", "short_of"]


def draw_string(rng: np.random.Generator, size: int, symbols: int, split: Split) -> Ids:
    """(size,) numbers below `symbols`. Their sum is a multiple of 4 in testing and in testing only."""
    drawn = rng.integers(0, symbols, size, dtype=np.int32)
    sums: NDArray[np.int64] = (int(drawn[:-1].sum()) + np.arange(symbols)) % 4
    drawn[-1] = rng.choice(np.flatnonzero(sums == 0 if split == "test" else sums != 0))
    return drawn


def draw_held(rng: np.random.Generator, size: int, count: int, split: Split) -> NDArray[np.int64]:
    """(count,) different numbers below `size`; of each block of four, one is for testing, the others for training."""
    blocks: NDArray[np.int64] = rng.choice(size // 4, count, replace=False)
    other: NDArray[np.int64] | int = rng.integers(1, 4, count) if split == "train" else 0
    return 4 * blocks + (hashed(blocks) + other) % 4


def asked_last(size: int, answer: Ids) -> Ids:
    """(size,) targets: the answer at the last places, nothing before."""
    targets = np.full(size, IGNORED, dtype=np.int32)
    targets[size - len(answer) :] = answer
    return targets


def check_ids(task: str, ids: int, needed: int) -> None:
    """Raises LackingError unless there are `needed` ids beside the end of a document."""
    if ids < needed:
        raise LackingError(
            f"recall: {task} needs {needed} ids and the end of a document, and there are {ids + 1}. Take a model with "
            "a larger vocabulary."
        )


def check_length(task: str, length: int, least: int, why: str = "") -> None:
    """Raises TooShortError unless a length has the `least` number of tokens; `why`, behind them, says what for."""
    if length < least:
        raise TooShortError(
            f"recall: {task} needs {least} tokens or more{why}, {length} is given. Give longer lengths."
        )


def short_of(filled: int, length: int, why: str) -> str:
    """`why`, where less than 98 % of a length is filled; else nothing."""
    return why if filled < 0.98 * length else ""


def share(samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
    """Of each sample, the share of its answer's ids that are right at their place."""
    return [
        sum(int(given) == int(gold) for given, gold in zip(output, sample.answer, strict=False)) / len(sample.answer)
        for sample, output in zip(samples, outputs, strict=True)
    ]


def exact(samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
    """1 for each sample whose output begins with the whole answer, else 0."""
    return [
        float([int(token) for token in output[: len(sample.answer)]] == sample.answer.tolist())
        for sample, output in zip(samples, outputs, strict=True)
    ]
