"""Slots: the bounded bank of keys and values of which a policy says what stays, as a state.

    slot       0    1    2    3    4         position   0    1    7   12   13     a row that has written more
    fill 5     k v  k v  k v  k v  k v                  0    1    2   -1   -1     a row of fill 3

Slots stand in the order of their positions; those from `fill` on are nothing. Writing is rare, once a segment, and
gives a new bank; reading never copies it. What a policy needs beside keys and values stands with each slot.

Shapes: B batch, G heads of keys and values, P heads of positions (1 where all heads keep the same, else G), N slots,
S tokens of a segment, W width of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from farfield.architectures.state import State
from farfield.memory.forgetting import cycles

__all__ = ["Slots"]


@dataclass(frozen=True, eq=False)
class Slots(State):
    """Keys and values (B, G, N, W) before rotation, of which row b uses [0, fill[b]).

    `position` (B, P, N) int64: where a slot's token stands, of merged ones the newest; -1 where there is none. `score`
    (B, G, N): the attention that a slot has received. `count` (B, G, N) int64: the tokens that are merged in it.
    `waiting` (B, G, S) is of the tokens of the open segment, at their place in it: the attention received so far, or
    the slot that each has found. `turned` (B, G, N, W) are the keys as the open segment's queries see them: it follows
    from the rest, spares decoding a rotation of the bank for each token, and is not saved.
    """

    keys: Tensor
    values: Tensor
    position: Tensor
    fill: Tensor
    score: Tensor | None = None
    count: Tensor | None = None
    waiting: Tensor | None = None
    turned: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Bytes of the slots in use, and of what is kept of the open segment."""
        slot = sum(
            part.shape[1] * math.prod(part.shape[3:]) * part.element_size()
            for part in (self.keys, self.values, self.position, self.score, self.count)
            if part is not None
        )
        return int(self.fill.sum()) * slot + self.fill.nbytes + (0 if self.waiting is None else self.waiting.nbytes)

    @property
    def allocated(self) -> int:
        """Bytes held, slots that not all rows use and turned keys included."""
        return super().allocated + (0 if self.turned is None else self.turned.nbytes)

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """All tensors but the turned keys."""
        found = super().tensors(prefix)
        found.pop(f"{prefix}turned", None)
        return found

    def compact(self) -> Slots:
        """Without what no row uses."""
        most = int(self.fill.max()) if self.fill.numel() else 0
        return super(Slots, replace(self.first(most), turned=None)).compact()

    def first(self, count: int) -> Slots:
        """The first `count` slots of each row: views."""
        if count == self.keys.shape[2]:
            return self
        return replace(
            self,
            keys=self.keys[:, :, :count],
            values=self.values[:, :, :count],
            position=self.position[:, :, :count],
            score=None if self.score is None else self.score[:, :, :count],
            count=None if self.count is None else self.count[:, :, :count],
            turned=None if self.turned is None else self.turned[:, :, :count],
        )

    def cast(self, dtype: torch.dtype) -> Slots:
        """Keys and values as numbers of `dtype`: under autocast keys are narrower than the weights they come from."""
        if self.keys.dtype == dtype:
            return self
        return replace(self, keys=self.keys.to(dtype), values=self.values.to(dtype), turned=None)

    def exchanged(self, seed: int) -> Slots:
        """Each key with the value of another slot of its row and head."""
        heads = self.position.shape[1]
        order = cycles((self.position >= 0).flatten(0, 1), seed).unflatten(0, (-1, heads))
        order = order.expand(-1, self.values.shape[1], -1)[..., None]
        return replace(self, values=self.values.gather(2, order.expand_as(self.values)))

    def emptied(self, rows: Tensor, nothing: float = 0.0) -> Slots:
        """Without the slots of the rows (B,) bool; what waits there is `nothing`."""
        waiting = None if self.waiting is None else self.waiting.masked_fill(rows[:, None, None], nothing)
        if not self.keys.shape[2] or bool(rows.all()):
            return replace(self.first(0), fill=torch.zeros_like(self.fill), waiting=waiting, turned=None)
        each = rows[:, None, None]
        return Slots(
            self.keys.masked_fill(each[..., None], 0.0),
            self.values.masked_fill(each[..., None], 0.0),
            self.position.masked_fill(each, -1),
            self.fill.masked_fill(rows, 0),
            None if self.score is None else self.score.masked_fill(each, 0.0),
            None if self.count is None else self.count.masked_fill(each, 0),
            waiting,
        )
