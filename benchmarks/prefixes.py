"""Prompts that begin alike are prefilled once: a walk over the tree of their common prefixes.

    four cells of a row, needle N at four depths        what is prefilled
    N h h h h h h ?                                     N h h h h h h ?
    h h N h h h h ?                                     h h ┬ N h h h h ?
    h h h h N h h ?                                         └ h h ┬ N h h ?
    h h h h h h N ?                                               └ h h N ?

Several rows go through the tree side by side: two prompts are alike as far as all their rows are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.subjects import Prefilled, Subject
from farfield.benchmarks.tasks.sample import Ids

__all__ = ["walk"]

BLOCK = 1 << 16  # columns compared at once: long prompts that part early are not compared to their ends


def walk(subject: Subject, prompts: Sequence[Ids], leaf: Callable[[int, Prefilled, int], None]) -> None:
    """Calls `leaf(index, prefilled, fresh)` once for each prompt, with what the subject knows after it.

    prompts: (batch, time) each, with one batch and at least one token
    fresh:   tokens (rows times columns) that were prefilled since the last call; they add up to all there were
    """
    fresh = 0
    waiting: list[tuple[list[int], int, Prefilled | None]] = [(list(range(len(prompts))), 0, None)]
    while waiting:
        members, start, state = waiting.pop()
        stop = _shared([prompts[member] for member in members], start)
        if stop > start:
            piece = prompts[members[0]][:, start:stop]
            state = subject.prefill(piece.astype(np.int64), state)
            fresh += piece.size
        branches: dict[bytes, list[int]] = {}
        for member in members:
            if prompts[member].shape[1] == stop:
                leaf(member, state, fresh)
                fresh = 0
            else:
                branches.setdefault(prompts[member][:, stop].tobytes(), []).append(member)
        # The last one pushed goes first: small branches before large ones, so that few states are alive at a time.
        waiting += [(branch, stop, state) for branch in sorted(branches.values(), key=len)[::-1]]


def _shared(prompts: Sequence[Ids], start: int) -> int:
    """The first column at or after `start` in which the prompts differ, or where the shortest ends."""
    shortest: int = min(prompt.shape[1] for prompt in prompts)
    for low in range(start, shortest, BLOCK):
        high = min(low + BLOCK, shortest)
        differ: NDArray[np.bool_] = np.zeros(high - low, dtype=np.bool_)
        for prompt in prompts[1:]:
            differ |= np.any(prompt[:, low:high] != prompts[0][:, low:high], axis=0)
        if differ.any():
            return low + int(differ.argmax())
    return shortest
