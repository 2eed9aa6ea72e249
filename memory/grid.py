"""The segments of a call side by side: what works on all of them at once goes through them by.

    positions   5  6  7  8  9  0  1  2       segments of 4; a document goes on at 5, another one begins
    grid       [5  6  7  .] [8  9  .  .] [0  1  2  .]
    begins          no           no          yes         the document starts with the segment's first token
    ends            yes          no          no          the segment is complete behind its last token

`segments` has the same, one step after another. The slots of rows that have fewer segments, or shorter ones, are empty.

Shapes: B batch, H heads, T time, S segments, L slots of a segment, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from farfield.architectures.rows import Rows

__all__ = ["Flag", "Grid", "chosen", "grid"]

Flag = bool | Tensor
"""The same for all rows, or (B,) bool."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the tokens of a call stand in its segments.

    `real` (B or 1, S, L) bool says which slots hold a token, None: all. `begins` and `ends` have a flag a segment. Runs
    of columns have `margin` empty slots before and behind them; other rows name the column of each slot in `source`
    (B, S L), T for none, and the slot of each column in `place` (B, T).
    """

    segments: int
    real: Tensor | None
    begins: tuple[Flag, ...]
    ends: tuple[Flag, ...]
    margin: tuple[int, int] = (0, 0)
    source: Tensor | None = None
    place: Tensor | None = None

    def cut(self, x: Tensor) -> Tensor:
        """(B, H, S, L, W) of x (B, H, T, W); zeros in empty slots."""
        if self.source is None:
            x = pad(x, (0, 0, *self.margin)) if any(self.margin) else x
            runs: Tensor = x.unflatten(2, (self.segments, -1))
            return runs
        index = self.source[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])
        found: Tensor = pad(x, (0, 0, 0, 1)).gather(2, index).unflatten(2, (self.segments, -1))
        return found

    def join(self, x: Tensor) -> Tensor:
        """(B, H, T, W) of x (B, H, S, L, W); anything at padding."""
        flat = x.flatten(2, 3)
        if self.place is None:
            return flat[:, :, self.margin[0] : flat.shape[2] - self.margin[1]]
        return flat.gather(2, self.place[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[4]))


def chosen(flag: Flag, yes: Tensor, no: Tensor) -> Tensor:
    """`yes` (B or 1, ...) for the rows with the flag, `no` (B, ...) for the others."""
    if isinstance(flag, bool):
        return yes.expand_as(no) if flag else no
    return torch.where(flag.view(-1, *([1] * (no.ndim - 1))), yes, no)


def grid(rows: Rows, segment: int) -> Grid:
    """The grid of a call whose documents are cut at multiples of `segment`."""
    return rows.once(("grid", segment), lambda: _run(rows, segment) or _scattered(rows, segment))


def _run(rows: Rows, segment: int) -> Grid | None:
    """Where all rows are the same run of one document, or one token; else None."""
    begin, time = rows.begin, rows.time
    if begin is None:
        if time > 1 or rows.padded:
            return None
        position = rows.positions[:, 0]
        return Grid(1, None, (_flag(position == 0),), (_flag((position + 1) % segment == 0),))
    before = begin % segment
    count = -(-(before + time) // segment)
    margin = (before, count * segment - before - time) if count > 1 else (0, 0)
    real = None
    if any(margin):
        slot = torch.arange(count * segment, device=rows.device)
        real = ((slot >= before) & (slot < before + time)).view(1, count, segment)
    begins = (begin == 0, *[False] * (count - 1))
    ends = (*[True] * (count - 1), (begin + time) % segment == 0)
    return Grid(count, real, begins, ends, margin)


def _scattered(rows: Rows, segment: int) -> Grid:
    """Any rows: the n-th segment of each row's tokens is the n-th of the grid."""
    real, position = rows.real, rows.positions
    opens = real & torch.cat((torch.ones_like(real[:, :1]), ~real[:, :-1] | (position[:, 1:] % segment == 0)), 1)
    number, rank = opens.cumsum(1) - 1, real.cumsum(1) - 1
    slot = rank - torch.where(opens, rank, 0).cummax(1).values
    length = int(torch.where(real, slot, 0).amax()) + 1
    count = max(int(number.amax()) + 1, 1)
    place = torch.where(real, number * length + slot, count * length)
    column = torch.arange(rows.time, device=rows.device).expand(rows.batch, -1)
    source = torch.full((rows.batch, count * length + 1), rows.time, device=rows.device).scatter(1, place, column)
    source[:, -1] = rows.time
    stands = pad(position, (0, 1), value=-1).gather(1, source[:, :-1]).unflatten(1, (count, length))
    last = stands.amax(2)
    begins = tuple(map(_flag, (stands[:, :, 0] == 0).unbind(1)))
    ends = tuple(map(_flag, ((last >= 0) & ((last + 1) % segment == 0)).unbind(1)))
    place = torch.where(real, place, 0)
    return Grid(count, stands >= 0, begins, ends, source=source[:, :-1], place=place)


def _flag(rows: Tensor) -> Flag:
    """Of rows (B,) bool: one value where all agree."""
    count = int(rows.sum())
    return rows if 0 < count < len(rows) else count > 0
