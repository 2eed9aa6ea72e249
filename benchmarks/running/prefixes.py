"""Prompts that begin alike are prefilled once: a walk over the tree of their common beginnings.

Rows are samples; each has a prompt for every member of a batch, which are the places of its needle, or its questions.

    one row at four depths                three rows, two of them about one document
    N h h h h h ?                         d d d d d d ┬ q q ?          the document once, for one row
    h h ┬ N h h h ?                                   └ q q ?          then both side by side
        └ h h N h ?                       e e e e e e q q ?            rows that share little go with their like

Rows that share at least half of what is left of their prompts go together: their common beginning is read once, as one
row, and its state repeated. All other rows are read side by side, and two of their members are alike as far as all of
these rows are. A subject that keeps no state reads every prompt whole.

Shapes: R rows, M members, T tokens of a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.subjects.subject import Prefilled, Subject
from farfield.benchmarks.tasks.sample import Ids

__all__ = ["Leaf", "Walk", "alike", "grouped"]

BLOCK = 1 << 16  # tokens compared at once: long prompts that part early are not compared to their ends
LEAST = 32  # tokens that are worth a call of their own
SPOKEN = 1 << 16  # tokens of a row that are prefilled in one call, between two words on how far it is

Leaf = Callable[[Sequence[int], int, Prefilled, int], None]


@dataclass
class Walk:
    """Reads prompts, and calls `leaf` for each once.

    leaf:   (rows, member, prefilled, fresh): what the subject knows after the prompts of these rows for this member;
            fresh tokens (rows times columns) were prefilled since the last call, which add up to all there were
    abreast: rows that are read side by side at most
    read:   called with the tokens of each prefill
    """

    subject: Subject
    leaf: Leaf
    abreast: int
    read: Callable[[int], None]
    fresh: int = 0

    def __call__(self, prompts: Sequence[Sequence[Ids]]) -> None:
        """`prompts[row][member]` are (T,) ids, at least one; rows have the same number of members."""
        self.prompts, self.members = prompts, range(len(prompts[0]))
        rows = list(range(len(prompts)))
        if "state" in self.subject.capabilities:
            self._branch(rows, 0, None)
            return
        for member in self.members:
            lengths = [len(several[member]) for several in prompts]
            for some in grouped(rows, lengths.__getitem__, self.abreast):
                known = self._prefill(np.stack([prompts[row][member] for row in some]), None)
                self._leave(some, member, known)

    def _branch(self, rows: list[int], start: int, known: Prefilled | None) -> None:
        """Rows that are alike up to `start`, where `known` is of one row; None at the start of all."""
        prompts = [self.prompts[row][member] for row in rows for member in self.members]
        stop = _shared(prompts, start) if len(rows) > 1 else start
        if stop - start >= LEAST:
            known = self._prefill(prompts[0][None, start:stop], known)
        else:
            stop = start
        alone = []
        for some in self._alike(rows, stop):
            if len(some) > 1 and self._worth(some, stop):
                self._branch(some, stop, known)
            else:
                alone += some
        for some in grouped(alone, self._lengths, self.abreast):
            self._abreast(some, stop, None if known is None else self.subject.select(known, [0] * len(some)))

    def _lengths(self, row: int) -> tuple[int, ...]:
        return tuple(len(prompt) for prompt in self.prompts[row])

    def _alike(self, rows: list[int], start: int) -> list[list[int]]:
        """Rows whose prompts, of all members, go on alike for some tokens."""
        found: dict[bytes, list[int]] = {}
        for row in rows:
            pieces = {prompt[start : start + LEAST].tobytes() for prompt in self.prompts[row]}
            whole = len(pieces) == 1 and min(map(len, self.prompts[row])) >= start + LEAST
            found.setdefault(pieces.pop() if whole else row.to_bytes(8, "big"), []).append(row)
        return list(found.values())

    def _worth(self, rows: list[int], start: int) -> bool:
        """Whether these rows share so much that it makes up for not being read beside others."""
        return alike(*(prompt[start:] for row in rows for prompt in self.prompts[row]))

    def _abreast(self, rows: Sequence[int], start: int, known: Prefilled | None) -> None:
        """Rows side by side, whose prompts have the same length for each member: the tree of the members."""
        prompts = [np.stack([self.prompts[row][member] for row in rows]) for member in self.members]
        waiting: list[tuple[list[int], int, Prefilled | None]] = [(list(self.members), start, known)]
        while waiting:
            members, start, known = waiting.pop()
            stop = _shared([prompts[member] for member in members], start)
            if stop > start:
                known = self._prefill(prompts[members[0]][:, start:stop], known)
            branches: dict[bytes, list[int]] = {}
            for member in members:
                if prompts[member].shape[1] == stop:
                    self._leave(rows, member, known)
                else:
                    branches.setdefault(prompts[member][:, stop].tobytes(), []).append(member)
            # The last one pushed goes first: small branches before large ones, so that few states are alive at a time.
            waiting += [(branch, stop, known) for branch in sorted(branches.values(), key=len)[::-1]]

    def _prefill(self, tokens: Ids, known: Prefilled | None) -> Prefilled:
        """What is known after `tokens` (R, T), behind what is known already."""
        step = SPOKEN if "state" in self.subject.capabilities else tokens.shape[1]
        for first in range(0, tokens.shape[1], step):
            piece = tokens[:, first : first + step]
            known = self.subject.prefill(piece.astype(np.int64), known)
            self.fresh += piece.size
            self.read(piece.size)
        return known

    def _leave(self, rows: Sequence[int], member: int, known: Prefilled) -> None:
        fresh, self.fresh = self.fresh, 0
        self.leaf(rows, member, known, fresh)


def alike(*prompts: Ids) -> bool:
    """Whether prompts (T,) share at least half of the shortest of them."""
    return 2 * _shared(prompts, 0) >= min(map(len, prompts))


def grouped(rows: Sequence[int], key: Callable[[int], object], most: int) -> Iterator[list[int]]:
    """The rows of each key, in the order of first appearance, at most `most` at a time."""
    groups: dict[object, list[int]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    for group in groups.values():
        yield from (group[first : first + most] for first in range(0, len(group), most))


def _shared(prompts: Sequence[Ids], start: int) -> int:
    """The first column at or after `start` in which the prompts (..., T) differ, or where the shortest ends."""
    shortest: int = min(prompt.shape[-1] for prompt in prompts)
    for low in range(start, shortest, BLOCK):
        high = min(low + BLOCK, shortest)
        differ: NDArray[np.bool_] = np.zeros(high - low, dtype=np.bool_)
        for prompt in prompts[1:]:
            unlike = prompt[..., low:high] != prompts[0][..., low:high]
            differ |= unlike if unlike.ndim == 1 else unlike.any(axis=0)
        if differ.any():
            return low + int(differ.argmax())
    return shortest
