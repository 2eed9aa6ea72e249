"""States whose memory never moves or grows, for a step of decoding that is captured once and replayed for every token.

    held = fixed(state, room=256)       on memory of its own, with room for so many tokens more
    write_over(held, after)             what a step has left, in the memory that it began from
    state = grown(held)                 an ordinary state again

A graph holds addresses and shapes, so that nothing in it may be cut at a length that Python reads. Keys and values go
to a ring of S slots, and the length stays on the device; each slot's distance follows from it, and a mask from that:

    length 6, S 4      slot       0  1  2  3
                       token      4  5  2  3
                       distance   1  0  3  2        (length - 1 - slot) mod S

A slot whose distance is the length or more is empty. All S slots are read for every token. Recurrences are of a fixed
size as they are.

Shapes: B batch, H heads, G heads of keys and values, R = H / G, S slots, D width of a key, V width of a value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from einops import rearrange
from torch import Tensor
from torch.utils import _pytree as pytree

from farfield.architectures.mixer import Attended
from farfield.architectures.ops.attention import Part, attention
from farfield.architectures.ops.backend import Backend
from farfield.architectures.ops.layouts import Full, Given
from farfield.architectures.rows import Rows
from farfield.architectures.state import KeyValueBuffer, State

__all__ = ["FixedBuffer", "Seen", "fixed", "grown", "one_query", "write_over"]

S = TypeVar("S", bound=State)

MULTIPLE = 64  # slots are a multiple of it: rows of scores are aligned for any kernel


@dataclass(frozen=True, eq=False)
class FixedBuffer(KeyValueBuffer):
    """A ring of S slots: keys (B, G, S, D) and values (B, G, S, V); the token behind n others stands in slot n mod S.

    `length` (B,) counts the tokens, those that others have been written over included. With a `limit` there is at least
    one slot more than it, so that a query finds as many tokens before its own.
    """

    @staticmethod
    def of(buffer: KeyValueBuffer, room: int) -> FixedBuffer:
        """The tokens of `buffer`, with room for `room` more, or for as many as count, in memory of its own."""
        kept = buffer.compact()
        slots = kept.extent()[1] + room
        slots = -(-(slots if kept.limit is None else min(slots, kept.limit + 1)) // MULTIPLE) * MULTIPLE
        keys, values = (x.new_zeros(*x.shape[:2], slots, x.shape[3]) for x in (kept.keys, kept.values))
        keys[:, :, : kept.keys.shape[2]] = kept.keys
        values[:, :, : kept.keys.shape[2]] = kept.values
        return FixedBuffer(keys, values, kept.length.clone(), kept.length.clone(), kept.limit)

    def grown(self) -> KeyValueBuffer:
        """The tokens that count, oldest first, in an ordinary buffer."""
        slots = self.keys.shape[2]
        length = self.length.clamp(max=slots if self.limit is None else self.limit)
        column = torch.arange(int(length.max()) if length.numel() else 0, device=length.device)
        index = ((self.length - length)[:, None] + column).remainder(slots)[:, None, :, None]
        keys, values = (x.gather(2, index.expand(-1, x.shape[1], -1, x.shape[3])) for x in (self.keys, self.values))
        return KeyValueBuffer(keys, values, length, length.clone(), self.limit)

    def append(self, keys: Tensor, values: Tensor, rows: Rows) -> FixedBuffer:
        """With one token more, keys (B, G, 1, D) and values (B, G, 1, V), in the slot of the oldest; in place."""
        slot = self.length.remainder(self.keys.shape[2])[:, None, None, None]
        for held, new in ((self.keys, keys), (self.values, values)):
            held.scatter_(2, slot.expand(-1, held.shape[1], -1, held.shape[3]), new.to(held.dtype))
        return FixedBuffer(self.keys, self.values, self.length + 1, self.mark, self.limit)

    def seen(self, own: bool) -> Seen:
        """What the query of the newest token sees of all that is here; without its own token, if not `own`."""
        slots = self.keys.shape[2]
        distance = (self.length[:, None] - 1 - torch.arange(slots, device=self.length.device)).remainder(slots)
        visible = distance < self.length[:, None]
        return Seen(self.keys, self.values, distance, (visible if own else visible & (distance > 0))[:, None])


@dataclass(frozen=True, eq=False)
class Seen:
    """Keys (B, G, S, D) and values (B, G, S, V), how many tokens each stands before a query, and which are seen.

    `distance` (B, S); `visible` (B, 1 or H, S), or None where all are.
    """

    keys: Tensor
    values: Tensor
    distance: Tensor
    visible: Tensor | None

    def part(self, queries: Tensor, slopes: Tensor | None) -> Part:
        """Of queries (B, G, R, D): the heads of a group beside each other, so that no key is copied for them."""
        if self.visible is None and slopes is None:
            return Part(queries, self.keys, self.values, Full())
        groups, visible = queries.shape[1], self.visible
        mask = torch.ones_like(self.distance, dtype=torch.bool)[:, None] if visible is None else visible
        if slopes is not None:
            apart = torch.where(mask, self.distance[:, None].to(slopes.dtype), math.inf)
            mask = -slopes[:, None] * apart
        mask = rearrange(mask, "b (g r) s -> b g r s", g=groups) if mask.shape[1] > 1 else mask[:, None]
        return Part(queries, self.keys, self.values, Given(mask))


def one_query(
    queries: Tensor, seen: Sequence[Seen], scale: float, backend: Backend, slopes: Tensor | None = None
) -> Attended:
    """One softmax of queries (B, H, 1, D) over all that is seen; scores fall with distance by slopes (H,)."""
    groups = seen[0].keys.shape[1]
    beside = rearrange(queries, "b (g r) 1 d -> b g r d", g=groups)
    out, lse = attention([one.part(beside, slopes) for one in seen], scale, backend)
    return Attended(rearrange(out, "b g r d -> b (g r) 1 d"), rearrange(lse, "b g r -> b (g r) 1"))


def fixed(state: S, room: int) -> S:
    """`state` on memory of its own of a fixed size, with room for `room` tokens more."""

    def held(part: object) -> object:
        if isinstance(part, KeyValueBuffer):
            return FixedBuffer.of(part, room)
        return part.clone(memory_format=torch.contiguous_format) if isinstance(part, Tensor) else part

    found: S = pytree.tree_map(held, state, is_leaf=lambda part: isinstance(part, KeyValueBuffer))
    return found


def grown(state: S) -> S:
    """An ordinary state of what `fixed` made, on memory of its own."""

    def free(part: object) -> object:
        if isinstance(part, FixedBuffer):
            return part.grown()
        return part.clone() if isinstance(part, Tensor) else part

    found: S = pytree.tree_map(free, state, is_leaf=lambda part: isinstance(part, FixedBuffer))
    return found


def write_over(held: State, after: State) -> None:
    """What a step has left, in the memory of the state that it began from."""
    for old, new in zip(pytree.tree_leaves(held), pytree.tree_leaves(after), strict=True):
        if isinstance(old, Tensor) and old is not new:
            old.copy_(new)
