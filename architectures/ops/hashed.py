"""Attention among tokens of one bucket: columns are sorted by bucket and cut into chunks, which are rows of one batch.

    Hashed      query t sees the last keys of its own label before it       causal
    Adjacent    query t sees the keys of its own chunk and the one before   both directions

Both in several rounds, each with buckets of its own: a key counts as often as it is seen, and a query sees its own key
where it sees none in any of them. With an `alibi`, scores fall
with the distance in tokens, wherever a chunk holds them.

    bucket of columns 0 .. 6    1 0 1 1 0 1 1       chunks of 2:   [1 4]  [0 2] [3 5] [6 .]

A chunk of `Hashed` holds tokens of one label, each in a slot that follows from how many of its label stand before it:
what comes later does not move it, so that the future does not change the past, not even in the last bit. Work and
memory are linear in S for a fixed window or chunk.

Shapes: B batch, H heads, T queries, which are the last of the S keys, D width of a head, R rounds, N chunks, C slots of
one, P chunks that one sees before its own.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from farfield.architectures.ops.alibi import Alibi
from farfield.architectures.ops.backend import Gradients, Kernel
from farfield.architectures.ops.layouts import Layout, biased
from farfield.architectures.ops.slots import NOBODY, Slots, fallen, masks, slotted_backward, slotted_forward

__all__ = ["NOBODY", "Adjacent", "Hashed", "hashed"]

LEAST = 16  # slots of a chunk at least: products of fewer rows cost as much


def hashed(x: Tensor, rotations: Tensor) -> Tensor:
    """The bucket argmax([x R; -x R]) (B, H, R, T) of x (B, H, T, D) in each round, rotations (H, R, D, buckets / 2).

    Angular hashing (Andoni et al., https://arxiv.org/abs/1509.02897): the smaller the angle of two, the likelier one
    bucket. It is a choice: no gradient goes through it.
    """
    kind = torch.promote_types(x.dtype, torch.float32)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        turned = torch.einsum("bhtd,hrdk->bhrtk", x.to(kind), rotations.to(kind))
        half, (least, most) = turned.shape[-1], turned.aminmax(dim=-1)
        ahead = most >= -least
        number = torch.arange(half, 0, -1, dtype=kind, device=x.device)
        # The first of the largest: an argmax over few numbers each costs three times as much as these passes.
        found = turned == torch.where(ahead, most, least)[..., None]
        first = half - torch.where(found, number, 0.0).amax(-1).long()
        return (first + torch.where(ahead, 0, half)).clamp(max=2 * half - 1)  # of what is no number, some bucket


def _counted(visible: Tensor, real: Tensor, alibi: Alibi | None) -> Tensor:
    """The mask of what is visible (B, H, R, T, S) in some rounds: bool of one, else logarithms of counts.

    Queries that are `real` (B, H or 1, T) and see no key see their own.
    """
    at, columns = slice(0, visible.shape[3]), slice(0, visible.shape[4])
    alone = (~visible.any(4).any(2) & real)[..., None]
    own = torch.ones(visible.shape[3:], dtype=torch.bool, device=visible.device).triu(columns.stop - at.stop)
    own = own.tril(columns.stop - at.stop) & alone
    if visible.shape[2] == 1:
        return biased(visible[:, :, 0] | own, alibi, at, columns)
    times = (visible.sum(2) + own).to(torch.float64).log()
    if alibi is None:
        return times
    added = alibi.added(at, columns)
    return times.masked_fill(~added, -torch.inf) if added.dtype == torch.bool else times + added


@dataclass(frozen=True, eq=False)
class Hashed:
    """Query t sees those of the keys before it that have its own label, the last `window` of them, and not itself.

    ```
    label   5 5 8 5 5      window 2      . . . . .
                                         x . . . .
                                         . . . . .
                                         x x . . .
                                         . x . x .
    ```

    Labels are (B, H, R, S), NOBODY for a column that neither sees nor is seen; `order` (B, H, R, S) sorts the columns
    by them, in order of time where they are equal. There are `time` queries. Chunks are half as large as the window, so
    that a query needs its own and two before: products with three quarters of these keys are not in vain.
    """

    label: Tensor
    order: Tensor
    window: int
    time: int
    alibi: Alibi | None = None

    def mask(self, time: int, keys: int) -> Tensor:
        same = (self.label[..., None, :] == self.label[..., None]) & (self.label < NOBODY)[..., None]
        before = same & torch.ones(keys, keys, dtype=torch.bool, device=same.device).tril(-1)
        later = before.sum(-1, keepdim=True) - before.cumsum(-1)  # how many of a query's keys stand behind a key
        real = self.label[:, :, 0, keys - time :] < NOBODY
        return _counted((before & (later < self.window))[..., keys - time :, :], real, self.alibi)

    def select(self, heads: Tensor) -> Layout:
        alibi = None if self.alibi is None else self.alibi.select(heads)
        label, order = (x.index_select(1, heads) for x in (self.label, self.order))
        return Hashed(label, order, self.window, self.time, alibi)

    def forward(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        return slotted_forward(self.rounds, kernel, q, k, v, scale)

    def backward(
        self, kernel: Kernel, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> Gradients:
        return slotted_backward(self.rounds, kernel, gradient, q, k, v, out, lse, scale)

    @functools.cached_property
    def rounds(self) -> Sequence[_Newest]:
        """Chunks of one label each."""
        window = min(self.window, self.label.shape[3])
        size = max(LEAST, -(-window // 2))
        before = -(-window // size)
        pairs = zip(self.label.unbind(2), self.order.unbind(2), strict=True)
        made = [Slots.of(order, label.gather(2, order), size, before, self.time) for label, order in pairs]
        return [_Newest(slots, window, self.alibi) for slots in made]


@dataclass(frozen=True, eq=False)
class _Newest:
    """A query sees the keys in the `window` slots before its own that are of its group."""

    slots: Slots
    window: int
    alibi: Alibi | None

    @functools.cached_property
    def blind(self) -> Tensor:
        """The first of each group."""
        first = torch.zeros_like(self.slots.real)
        first[:, 0] = self.slots.number == 0
        return first

    def masks(self) -> Iterator[tuple[slice, Tensor]]:
        every, number = self._masks, self.slots.number.clamp(max=self.slots.before)
        if self.alibi is not None:
            return fallen(self.slots, self.alibi, lambda chunk: every[number[chunk]] == 0)
        others = (number < self.slots.before).nonzero()[:, 0]
        return masks(self.slots, every[-1], others, lambda chunk: every[number[chunk]])

    @functools.cached_property
    def _masks(self) -> Tensor:
        """(P + 1, C, (P + 1) C): those of the first chunks of a group, and that of all others."""
        size, before, device = self.slots.size, self.slots.before, self.slots.column.device
        slot = torch.arange((before + 1) * size, device=device)
        distance = slot[before * size :, None] - slot
        band = (distance > 0) & (distance <= self.window)
        own = slot >= (before - torch.arange(before + 1, device=device)[:, None]) * size
        return torch.where(band & own[:, None], 0.0, -torch.inf)


@dataclass(frozen=True, eq=False)
class Adjacent:
    """Tokens of a document, sorted by bucket and cut into chunks of `size`: each sees its own chunk and the one before.

    ```
    sorted columns of one document, size 2        the same, of buckets 0 0 0 1 1, not across:
      . x . . .                                     . x . . .
      x . . . .                                     x . . . .
      x x . x .                                     x x . . .
      x x x . .                                     . . . . .
      . . x x .                                     . . . x .
    ```

    Not itself. `across` buckets, or those of its own bucket only. Across them, the first chunk of several sees the last
    one, as in the code that was released with the paper. `bucket` (B, H, R, T); `document` (B, T), NOBODY for padding.
    """

    document: Tensor
    bucket: Tensor
    size: int
    across: bool
    alibi: Alibi | None = None

    def mask(self, time: int, keys: int) -> Tensor:
        visible = torch.stack([self._definition(turn) for turn in self.bucket.unbind(2)], 2)
        return _counted(visible, (self.document < NOBODY)[:, None], self.alibi)

    def _definition(self, bucket: Tensor) -> Tensor:
        """Which of all keys (B, H, T, T) each query sees by buckets (B, H, T)."""
        document = self.document[:, None].expand_as(bucket)
        same = (document[..., None] == document[..., None, :]) & (document < NOBODY)[..., None]
        column = torch.arange(bucket.shape[2], device=same.device)
        place = bucket * bucket.shape[2] + column
        rank = (same & (place[..., None, :] < place[..., None])).sum(-1)
        chunk = rank.div(self.size, rounding_mode="floor")
        after = chunk[..., None] - chunk[..., None, :]
        near = (after == 0) | (after == 1)
        if self.across:
            last = torch.where(same, chunk[..., None, :], 0).amax(-1, keepdim=True)
            return same & (near | ((last > 0) & (after == -last))) & (column != column[:, None])
        return same & near & (bucket[..., None] == bucket[..., None, :]) & (column != column[:, None])

    def select(self, heads: Tensor) -> Layout:
        alibi = None if self.alibi is None else self.alibi.select(heads)
        return Adjacent(self.document, self.bucket.index_select(1, heads), self.size, self.across, alibi)

    def forward(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        return slotted_forward(self.rounds, kernel, q, k, v, scale)

    def backward(
        self, kernel: Kernel, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> Gradients:
        return slotted_backward(self.rounds, kernel, gradient, q, k, v, out, lse, scale)

    @functools.cached_property
    def rounds(self) -> Sequence[_Beside]:
        """Chunks of one document each."""
        return [self._round(bucket) for bucket in self.bucket.unbind(2)]

    def _round(self, bucket: Tensor) -> _Beside:
        document, time = self.document[:, None].expand_as(bucket), bucket.shape[2]
        order = torch.where(document < NOBODY, (document << 32) + bucket, NOBODY).argsort(dim=2, stable=True)
        slots = Slots.of(order, document.gather(2, order), min(self.size, time), 1, time, self.across)
        held = bucket.to(torch.int32).flatten(0, 1)[slots.row[:, None], slots.column]
        return _Beside(slots, torch.zeros_like(held) if self.across else held, self.alibi)


@dataclass(frozen=True, eq=False)
class _Beside:
    """A query sees the keys of its `bucket` (N, C) in its own chunk and the one before, and not its own."""

    slots: Slots
    bucket: Tensor
    alibi: Alibi | None

    @functools.cached_property
    def blind(self) -> Tensor:
        """Those beside whom in the sorted columns no other of their bucket stands."""
        real, bucket = self.slots.real, self.bucket
        sees = torch.zeros_like(real)
        beside = real[:, 1:] & real[:, :-1] & (bucket[:, 1:] == bucket[:, :-1])
        sees[:, 1:] |= beside
        sees[:, :-1] |= beside
        sees[1:, 0] |= real[1:, 0] & real[:-1, -1] & (bucket[1:, 0] == bucket[:-1, -1]) & self._follows[1:]
        return ~sees

    def masks(self) -> Iterator[tuple[slice, Tensor]]:
        if self.alibi is not None:
            return fallen(self.slots, self.alibi, self._visible)
        common = torch.where(self._other, 0.0, -torch.inf)
        nobody = common.new_full((), -torch.inf)
        return masks(self.slots, common, self._several, lambda chunk: torch.where(self._alike(chunk), common, nobody))

    @functools.cached_property
    def _other(self) -> Tensor:
        """(C, 2 C): all but the query's own."""
        slot = torch.arange(2 * self.slots.size, device=self.bucket.device)
        return slot[self.slots.size :, None] != slot

    @functools.cached_property
    def _several(self) -> Tensor:
        """The chunks (m,) that need a mask of their own: another bucket, document or an empty slot in what they see."""
        full, alike = self.slots.real.all(1), self.bucket[1:, -1] == self.bucket[:-1, 0]
        mixed = torch.ones_like(full)
        mixed[1:] = ~(full[1:] & full[:-1] & alike & self._follows[1:])
        return mixed.nonzero()[:, 0]

    @property
    def _follows(self) -> Tensor:
        """(N,) bool: the chunks that see the one before, where it holds anything."""
        return (self.slots.number > 0) | self.slots.ring

    def _visible(self, chunk: Tensor) -> Tensor:
        """(n, C, 2 C) of chunks (n,)."""
        return self._other & self._alike(chunk)

    def _alike(self, chunk: Tensor) -> Tensor:
        """(n, C, 2 C) of chunks (n,): which keys are of the query's bucket, its own among them."""
        held = torch.cat((self.slots.real[chunk - 1] & self._follows[chunk, None], self.slots.real[chunk]), 1)
        seen = torch.where(held, torch.cat((self.bucket[chunk - 1], self.bucket[chunk]), 1), -1)
        return self.bucket[chunk][:, :, None] == seen[:, None]
