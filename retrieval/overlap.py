"""How much of a passage is a copy: the longest run of tokens that two texts have in common.

A gain in perplexity by retrieval is worth what is left of it without passages that hold what is to be predicted. RETRO
filters its evaluation by the longest common run of a chunk and its neighbours, as a share of the chunk
(https://arxiv.org/abs/2112.04426, section 2.6).

Shapes: N pairs, A and B tokens of the two texts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["longest_runs"]

PAIRS = 4096  # that are compared at once


def longest_runs(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(N,) tokens of the longest run that texts `one` (N, A) and `other` (N, B) have in common.

    Padding must differ between the two, such as -1 in one and -2 in the other.
    """
    found = np.zeros(len(one), np.int64)
    for first in range(0, len(one), PAIRS):
        at = slice(first, first + PAIRS)
        found[at] = _longest(one[at], other[at])
    return found


def _longest(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> npt.NDArray[np.int16]:
    """run[a, b] = run[a - 1, b - 1] + 1 where one[a] == other[b], else 0; the largest of all."""
    run = np.zeros((len(one), other.shape[1] + 1), np.int16)
    most = np.zeros_like(run)
    for column in range(one.shape[1]):
        run[:, 1:] = np.where(one[:, column, None] == other, run[:, :-1] + 1, 0)
        np.maximum(most, run, out=most)
    longest: npt.NDArray[np.int16] = most.max(1)
    return longest
