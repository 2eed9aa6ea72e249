"""Where the segments of a step stand, and what is put around their tokens before the layers read them.

    row 0   [ p p p | t t t t | w w ]      the segment begins and ends in the step
    row 1   [ t t t | w w ]                it goes on, and ends
    row 2   [ p | t t ]                    it begins; an earlier segment of its document left fewer vectors

Rows are closed up to the left, so that one call of the layers serves all of them; positions count from 0 in each row's
segment, vectors before it included.

Shapes: B batch, L time of a step, P vectors before, W vectors behind, N columns of the call, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from farfield.architectures.rows import Rows
from farfield.memory.segments import Lengths, Step

__all__ = ["Frame", "Inner", "Place", "Which", "ragged", "run"]


@dataclass(frozen=True)
class Frame:
    """How many vectors stand around a segment.

    Before it `more` for each of the segments before it, at least `least` and at most `most`; behind it `behind`.
    """

    more: int
    least: int
    most: int
    behind: int

    def before(self, number: int) -> int:
        """Vectors before segment `number`, counted from 0."""
        return min(max(self.more * number, self.least), self.most)

    def before_each(self, number: Tensor) -> Tensor:
        """The same of each row's segment (B,)."""
        return (self.more * number).clamp(self.least, self.most)


@dataclass(frozen=True, eq=False)
class Which:
    """Some rows of a batch: `rows` (B,) bool; `every` says True where those are all, False where none, None else."""

    rows: Tensor
    every: bool | None

    @staticmethod
    def of(rows: Tensor) -> Which:
        count = int(rows.sum())
        return Which(rows, None if 0 < count < len(rows) else count > 0)

    @property
    def any(self) -> bool:
        return self.every is not False

    def choose(self, yes: Tensor, no: Tensor) -> Tensor:
        """`yes` (B or 1, ...) in these rows, `no` (B, ...) in the others."""
        if self.every is None:
            return torch.where(self.rows.view(-1, *([1] * (no.ndim - 1))), yes, no)
        return yes.expand_as(no) if self.every else no


@dataclass(frozen=True, eq=False)
class Place:
    """Where the rows of a step stand.

    `begins`: a document starts, `opens`: a segment starts, `ends`: it is complete behind the step. `number` (B,) is the
    segment's, `known` the same where all rows are one run. `within` are the tokens with their places in the segment.
    """

    begins: Which
    opens: Which
    ends: Which
    number: Tensor
    known: int | None
    within: Rows

    @staticmethod
    def of(step: Step, lengths: Lengths) -> Place:
        rows, begin = step.rows, step.rows.begin
        places = torch.where(rows.real, lengths.within(rows.positions), -1)
        number, opens = lengths.number(rows.positions[:, 0].clamp(min=0)), places[:, 0] == 0
        known = every = None
        if begin is not None:
            known, within = lengths.place(begin)
            every = (begin == 0, within == 0, lengths.end(begin) == begin + rows.time)
        flags = (step.begins, opens, step.ends)
        which = [Which.of(flag) if every is None else Which(flag, every[index]) for index, flag in enumerate(flags)]
        return Place(which[0], which[1], which[2], number, known, Rows(places, places, rows.longest))

    def each(self, period: int) -> Which:
        """The rows whose segment opens and has a number that `period` divides."""
        rows = self.opens.rows & (self.number % period == 0)
        if self.known is None:
            return Which.of(rows)
        return Which(rows, bool(self.opens.every) and self.known % period == 0)


@dataclass(frozen=True, eq=False)
class Inner:
    """What the layers are called with: x (B, N, D) and where it stands.

    `before` and `time` count the columns of vectors before the tokens and of tokens, as they were laid out; `column`
    (B, P + L + W) is where each of the laid out columns stands in the call, None: where it was.
    """

    x: Tensor
    rows: Rows
    before: int
    time: int
    column: Tensor | None = None

    def split(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Of the layers' output (B, N, D) that of the tokens (B, L, D) and of the vectors behind them (B, W, D).

        What stands at columns that a row does not have means nothing.
        """
        if self.column is not None:
            hidden = _taken(hidden, self.column)
        end = self.before + self.time
        return hidden[:, self.before : end], hidden[:, end:]


def run(before: Tensor | None, x: Tensor, behind: Tensor | None, begin: int, longest: int, outer: Rows) -> Inner:
    """All rows alike: vectors before (B, P, D) or none, tokens (B, L, D), vectors behind (B, W, D) or none.

    Args:
        begin: the position of the first of them. longest: a bound on the length of the segment with what is around it.
        outer: rows of the whole call, which keep those of alike segments.
    """
    parts = [part for part in (before, x, behind) if part is not None]
    count = sum(part.shape[1] for part in parts)

    def make() -> Rows:
        positions = torch.arange(begin, begin + count, device=x.device).expand(x.shape[0], -1)
        return Rows(positions, positions, longest)

    rows = outer.once(("framed", begin, count), make)
    joined = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    return Inner(joined, rows, 0 if before is None else before.shape[1], x.shape[1])


def ragged(before: Tensor | None, x: Tensor, behind: Tensor | None, base: Tensor, place: Place, longest: int) -> Inner:
    """Rows that differ: `base` (B,) of the vectors `before`, the last ones, stand before a row's segment."""
    within = place.within
    parts, stands = [x], [torch.where(within.real, base[:, None] + within.positions, -1)]
    if before is not None:
        at = torch.arange(before.shape[1], device=x.device) - (before.shape[1] - base[:, None])
        parts.insert(0, before)
        stands.insert(0, torch.where(place.opens.rows[:, None], at.clamp(min=-1), -1))
    if behind is not None:
        at = (base + within.positions.amax(1) + 1)[:, None] + torch.arange(behind.shape[1], device=x.device)
        parts.append(behind)
        stands.append(torch.where(place.ends.rows[:, None], at, -1))
    joined, positions = torch.cat(parts, 1), torch.cat(stands, 1)
    columns = 0 if before is None else before.shape[1]
    rows = Rows(positions, positions, longest)
    order = rows.padding_last()
    if order is None:
        return Inner(joined, rows, columns, x.shape[1])
    order = order[:, : int(rows.real.sum(1).max())]
    column = (rows.real.cumsum(1) - 1).clamp(min=0)
    positions = positions.gather(1, order)
    return Inner(_taken(joined, order), Rows(positions, positions, longest), columns, x.shape[1], column)


def _taken(x: Tensor, column: Tensor) -> Tensor:
    """Columns (B, N) of x (B, T, D)."""
    return x.gather(1, column[..., None].expand(-1, -1, x.shape[2]))
