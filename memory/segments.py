"""The segments of documents, one after another: what memories that write at segment ends go through time by.

    positions   5  6  7  8  9  0  1  2       segments of 4; a document goes on at 5, another one begins
    steps       |--0---|--1--|----2---|
    begins         no    no      yes          the document starts with the step's first token
    ends           yes   no      no           the segment is complete behind the step's last token

A step holds of every row the tokens of one segment of one document, padded on the right where rows differ. Segments are
cut at multiples of `segment` in the document, or by `Lengths`, wherever calls end, so that any split into calls goes
the same way.

Shapes: B batch, T time of the call, L time of a step.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from farfield.architectures.rows import Rows

__all__ = ["Lengths", "Step", "joined", "parted", "steps"]


@dataclass(frozen=True)
class Lengths:
    """Segments of so many `tokens`, one after another from a document's start, and over again."""

    tokens: tuple[int, ...]

    def number(self, position: Tensor) -> Tensor:
        """How many segments of the document lie before that of each position (...)."""
        around, index, _ = self._found(position)
        return around * len(self.tokens) + index

    def within(self, position: Tensor) -> Tensor:
        """The place of each position (...) in its segment."""
        return self._found(position)[2]

    def place(self, position: int) -> tuple[int, int]:
        """The number of the position's segment, and the place in it."""
        around, rest = divmod(position, sum(self.tokens))
        ends = list(accumulate(self.tokens))
        index = bisect_right(ends, rest)
        return around * len(self.tokens) + index, rest - ends[index] + self.tokens[index]

    def end(self, position: int) -> int:
        """The position behind the last one of the position's segment."""
        number, within = self.place(position)
        return position - within + self.tokens[number % len(self.tokens)]

    def _found(self, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How often all segments lie before, which of them it is, and the place in it."""
        around = position.div(sum(self.tokens), rounding_mode="floor")
        rest = position - around * sum(self.tokens)
        if len(self.tokens) == 1:
            return around, torch.zeros_like(around), rest
        ends = torch.tensor(list(accumulate(self.tokens)), device=position.device)
        index = torch.searchsorted(ends, rest.contiguous(), right=True)
        return around, index, rest - (ends - torch.tensor(self.tokens, device=position.device))[index]


@dataclass(frozen=True, eq=False)
class Step:
    """Of every row the tokens of one segment, or a part of them, or none.

    `rows` says where they stand. `begins` (B,) bool: a document starts here. `ends` (B,) bool: the segment is complete
    behind them. `whole` says whether all rows are alike: then `begins` and `ends` are the same for all, and nothing is
    padding. `at` are the columns of the call where the step is a slice of it, else `column` (B, L) int64 names them.
    """

    rows: Rows
    begins: Tensor
    ends: Tensor
    whole: bool
    at: slice | None = None
    column: Tensor | None = None

    def take(self, x: Tensor) -> Tensor:
        """The step's tokens (B, L, ...) of x (B, T, ...)."""
        if self.at is not None:
            return x[:, self.at]
        assert self.column is not None
        index = self.column.view(*self.column.shape, *([1] * (x.ndim - 2))).expand(-1, -1, *x.shape[2:])
        return x.gather(1, index)


def steps(rows: Rows, segment: int | Lengths) -> list[Step]:
    """The steps of a call, in the order of time."""
    lengths = segment if isinstance(segment, Lengths) else Lengths((segment,))
    return rows.once(("steps", lengths), lambda: _sliced(rows, lengths) or _gathered(rows, lengths))


def parted(x: Tensor, taken: Sequence[Step]) -> Sequence[Tensor]:
    """What `Step.take` gives of x (B, T, ...) for every step, by one operation: its backward pass is as long as x."""
    if not all(step.at is not None for step in taken):
        every = torch.arange(x.shape[1], device=x.device)
        column = [every[step.at].expand(len(x), -1) if step.column is None else step.column for step in taken]
        index = torch.cat(column, 1)
        x = x.gather(1, index.view(*index.shape, *([1] * (x.ndim - 2))).expand(-1, -1, *x.shape[2:]))
    parts: tuple[Tensor, ...] = x.split([step.rows.time for step in taken], 1)
    return parts


def joined(pieces: Sequence[Tensor], taken: Sequence[Step], rows: Rows) -> Tensor:
    """(B, T, ...) of what the steps gave (B, L, ...); zero at the call's padding."""
    if all(step.at is not None for step in taken):
        return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces), 1)
    width = pieces[0].shape[2:]
    out = pieces[0].new_zeros(rows.batch * rows.time, *width)
    first = torch.arange(rows.batch, device=rows.device)[:, None] * rows.time
    index, values = [], []
    for step, piece in zip(taken, pieces, strict=True):
        column = torch.arange(rows.time, device=rows.device)[step.at].expand(rows.batch, -1)
        column = step.column if step.column is not None else column
        index.append((first + column)[step.rows.real])
        values.append(piece[step.rows.real])
    filled: Tensor = out.index_put((torch.cat(index),), torch.cat(values))
    return filled.reshape(rows.batch, rows.time, *width)


def _sliced(rows: Rows, lengths: Lengths) -> list[Step] | None:
    """Slices of the call, where all rows are the same run of one document, or of one token; else None."""
    begin = rows.begin
    if begin is None:
        if rows.time > 1 or rows.padded:
            return None
        at = rows.positions[:, 0]
        return [_step(rows, slice(0, 1), at == 0, lengths.within(at + 1) == 0)]
    found, done = [], 0
    every = torch.ones(rows.batch, dtype=torch.bool, device=rows.device)
    while done < rows.time:
        complete = lengths.end(begin + done) - begin
        end = min(rows.time, complete)
        starts, closes = (every if it else ~every for it in (begin + done == 0, end == complete))
        found.append(Step(rows.part(done, end), starts, closes, True, slice(done, end)))
        done = end
    return found


def _step(rows: Rows, at: slice, begins: Tensor, ends: Tensor) -> Step:
    """A slice whose rows stand at different places."""
    alike = bool((begins == begins[0]).all() and (ends == ends[0]).all()) if len(begins) else True
    return Step(rows.part(at.start, at.stop), begins, ends, alike, at)


def _gathered(rows: Rows, lengths: Lengths) -> list[Step]:
    """Any rows: the n-th segment of each row's tokens is in step n."""
    real, position = rows.real, rows.positions
    within = lengths.within(position)
    after = torch.cat((torch.ones_like(real[:, :1]), ~real[:, :-1] | (within[:, 1:] == 0)), 1)
    number = (real & after).cumsum(1) - 1
    count = int(number.amax()) + 1 if number.numel() else 0
    found = []
    for n in range(count):
        inside = real & (number == n)
        length = inside.sum(1)
        column = (~inside).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(length.max())]
        here = torch.arange(column.shape[1], device=rows.device) < length[:, None]
        placed = torch.where(here, position.gather(1, column), -1)
        phase = rows.phase.gather(1, column)
        last = placed.gather(1, (length - 1).clamp(min=0)[:, None])[:, 0]
        begins, ends = placed[:, 0] == 0, (length > 0) & (lengths.within(last + 1) == 0)
        alike = bool(here.all() and (begins == begins[0]).all() and (ends == ends[0]).all())
        found.append(Step(Rows(placed, phase, rows.longest), begins, ends, alike, None, column))
    return found
