"""Sparse attention as full attention over derived rows: the tokens that a group of heads keeps, cut into segments.

    position   0 1 2 3 4 5 6 7 8 9      segment 4, rate 2, offset 1
    kept         x   x   x   x   x
    derived      0   1   0   1   0      the position in the segment: 0 starts one, as it starts a document in `Rows`

Each group is causal softmax attention inside its segments. Groups may overlap in heads: all of a head's groups are
parts of one softmax over the multiset of their keys. A head sees itself through some group of rate 1.

Other patterns of attention stand beside groups, each with a buffer of its own: see `sparse`.

State: of each group the keys and values that it kept of the open segment, none before it has kept one.
Work a token: 4 W times the keys that its heads see. Linear in length, forward and backward.
Shapes: B batch, T time, N kept, D width, H heads, G heads of keys and values, W width of a head.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from farfield.architectures.columns import banded
from farfield.architectures.keyed import KeyedMixer, KeyedSettings
from farfield.architectures.mixer import Attended, Heads, KeyValue, join, reference_bytes
from farfield.architectures.ops.alibi import EVERY, Alibi, Slopes, alike, slopes_of
from farfield.architectures.ops.attention import Part
from farfield.architectures.ops.layouts import Causal, Full
from farfield.architectures.ops.place import Place
from farfield.architectures.ops.runs import Runs
from farfield.architectures.ops.short_convolution import ConvolutionState
from farfield.architectures.ops.uncompiled import uncompiled
from farfield.architectures.projection import Projection, Rotation
from farfield.architectures.rows import Rows
from farfield.architectures.state import KeyValueBuffer, State
from farfield.config import ModelError

__all__ = ["DerivedAttention", "DerivedSettings", "DerivedState", "Group", "Pattern", "cut", "serving", "taken"]


class Pattern(Protocol):
    """Which tokens some heads see, and how that is computed from one buffer of keys and values."""

    @property
    def heads(self) -> range:
        """The heads of queries."""

    @property
    def relative(self) -> bool:
        """Whether what is seen follows from distances alone, and the buffer holds every token up to its limit."""

    @property
    def far(self) -> bool:
        """Whether distances grow with the document, so that there is something to extend."""

    @property
    def limit(self) -> int | None:
        """The most tokens that the buffer holds; None: as many as there are."""

    def held(self, tokens: int) -> int:
        """Tokens in the buffer after `tokens` tokens."""

    def seen(self, position: int) -> int:
        """Keys that a query at `position` sees."""

    def sees(self, query: Tensor, key: Tensor) -> Tensor:
        """Bool (B, heads or 1, T, S) of positions (B, T) and (B, S) in one document."""

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, rows: Rows, before: KeyValueBuffer, slopes: Slopes | None = None
    ) -> tuple[list[Part], KeyValueBuffer]:
        """The parts of the softmax, placed among the queries (B, H, T, W) of all heads, and the buffer behind the call.

        Args:
            k, v: the heads (B, G, T, W) that serve the pattern's.
            slopes: of all heads (H,), with which scores fall with distance; or a relation, where the pattern is `far`.
        """


@dataclass(frozen=True)
class Group:
    """Heads, and the tokens that they keep: those at `offset` modulo `rate` in segments of `segment` tokens.

    `rate` divides `segment`; a document's first segment has `first` tokens where that is not 0, and then the rate is 1.
    """

    heads: range
    segment: int
    rate: int = 1
    offset: int = 0
    first: int = 0
    relative: ClassVar[bool] = False
    far: ClassVar[bool] = False

    @property
    def limit(self) -> int:
        return self.length

    @property
    def length(self) -> int:
        """Tokens kept of a whole segment."""
        return self.segment // self.rate

    def within(self, position: int) -> int:
        """The place of a position in its segment."""
        return position if position < self.first else (position - self.first) % self.segment

    def held(self, tokens: int) -> int:
        """Tokens kept of the open segment after `tokens` tokens."""
        return (self.within(tokens - 1) - self.offset) // self.rate + 1 if tokens else 0

    def seen(self, position: int) -> int:
        return self.held(position + 1) if self.within(position) % self.rate == self.offset else 0

    def sees(self, query: Tensor, key: Tensor) -> Tensor:
        (block, within), (key_block, key_within) = self.segments(query), self.segments(key)
        kept = (within % self.rate == self.offset)[:, :, None] & (key_within % self.rate == self.offset)[:, None]
        return (kept & (block[:, :, None] == key_block[:, None]) & (key[:, None] <= query[:, :, None]))[:, None]

    def left(self, position: int) -> int:
        """Tokens kept from the one at `position`, itself kept, to the end of its segment."""
        whole = self.first if position < self.first else self.length
        return whole - self.within(position) // self.rate

    def segments(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """The number of the segment of each position, and the place in it."""
        early = position < self.first
        later = position - self.first
        number = torch.where(early, -1, later.div(self.segment, rounding_mode="floor"))
        return number, torch.where(early, position, later % self.segment)

    def compress(self, rows: Rows) -> tuple[Tensor, Rows]:
        """Columns (B, N) of the kept tokens of each row, and the derived rows; padding where a row has fewer."""

        def make() -> tuple[Tensor, Rows]:
            _, within = self.segments(rows.positions)
            kept = rows.real & (within % self.rate == self.offset)
            count = max(1, int(kept.sum(1).max()))
            columns = (~kept).to(torch.uint8).argsort(dim=1, stable=True)[:, :count]
            derived = torch.where(kept, within // self.rate, -1).gather(1, columns)
            return columns, Rows(derived, derived, self.length)

        return rows.once(("derived", self.segment, self.rate, self.offset, self.first), make)

    def left_behind(self, rows: Rows) -> Tensor:
        """(B,) bool: rows whose call ends in a segment of which nothing has been kept yet."""

        def make() -> Tensor:
            _, within = self.segments(rows.last_position)
            return (rows.last_position >= 0) & (within < self.offset)

        return rows.once(("left behind", self.segment, self.rate, self.offset, self.first), make)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, rows: Rows, before: KeyValueBuffer, slopes: Slopes | None = None
    ) -> tuple[list[Part], KeyValueBuffer]:
        assert slopes is None or isinstance(slopes, Tensor)
        if slopes is not None:  # derived positions count every `rate`-th token
            slopes = slopes[cut(self.heads)] * self.rate
        begin = rows.begin
        if begin is not None:
            first = begin + (self.offset - begin) % self.rate  # the first position that is kept
            past = self.within(first) // self.rate
            if first >= begin + rows.time:
                return [], before if self.held(begin + rows.time) else before.emptied(rows.real[:, 0])
            if not past or before.extent() == (past, past):
                return self._attend_run(q, k, v, begin, first, before, slopes)
        columns, derived = self.compress(rows)
        every = Place(slice(None), columns)
        k, v = every.take(k), every.take(v)
        past_k, past_v, valid = before.read()
        layout = banded(derived, past_k.shape[2], valid, self.length - 1, slopes=slopes)
        place = Place(cut(self.heads), columns)
        part = Part(q, torch.cat((past_k, k), 2), torch.cat((past_v, v), 2), layout, place)
        return [part], before.append(k, v, derived).emptied(self.left_behind(rows))

    def _attend_run(
        self, q: Tensor, k: Tensor, v: Tensor, begin: int, first: int, before: KeyValueBuffer, slopes: Tensor | None
    ) -> tuple[list[Part], KeyValueBuffer]:
        """All rows are the same run of positions from `begin`, of which `first` is the first kept: by columns alone."""
        heads, columns = cut(self.heads), slice(first - begin, None, self.rate)
        k, v = k[:, :, columns], v[:, :, columns]
        count, past, left = k.shape[2], self.within(first) // self.rate, self.left(first)
        fresh = left + (count - left - 1) // self.length * self.length if count > left else 0  # the last one's start
        at = torch.arange(count - fresh, device=q.device) + (0 if fresh else past)
        after = before.append(k[:, :, fresh:], v[:, :, fresh:], Rows.at(at.expand(q.shape[0], -1)))
        if count == 1 and past:
            keys, values, _ = after.read()
            parts = [Part(q, keys, values, Full(Alibi.run(slopes, 1, past + 1, past)), Place(heads, columns))]
        else:
            layout = Causal(Alibi.run(slopes, count, count)) if count <= left else Runs(self.length, left, slopes)
            parts = [Part(q, k, v, layout, Place(heads, columns))]
            if past:
                keys, values, _ = before.read()
                some = min(count, left)
                reading = slice(columns.start, columns.start + (some - 1) * self.rate + 1, self.rate)
                parts.append(Part(q, keys, values, Full(Alibi.run(slopes, some, past, past)), Place(heads, reading)))
        if not self.held(begin + q.shape[2]):
            after = after.emptied(torch.ones_like(after.length, dtype=torch.bool))
        return parts, after


class DerivedSettings(KeyedSettings):
    """Settings of attention over derived rows: they name the groups."""

    @abc.abstractmethod
    def patterns(self, heads: int, layer: int) -> Sequence[Pattern]:
        """What the heads see; one of them for each token at least itself."""

    def build(self, width: int, layer: int, depth: int) -> DerivedAttention:
        return DerivedAttention(self, width, layer, depth)

    def parameters(self, width: int, layer: int, depth: int) -> int:
        return Projection.weights(self, width)

    def state_bytes(self, width: int, tokens: int, layer: int, depth: int, element: int = 4) -> int:
        heads, kv_heads, head_width = self.sizes(width)
        buffers = sum(
            pattern.held(tokens) * 2 * len(serving(pattern.heads, heads, kv_heads)) * head_width * element
            for pattern in self.patterns(heads, layer)
        )
        inputs = Projection.state_bytes(heads, kv_heads, head_width, self.conv, element)
        return buffers + inputs + reference_bytes(self.position)

    def flops(self, width: int, tokens: int, layer: int, depth: int) -> int:
        heads, _, head_width = self.sizes(width)
        seen = sum(pattern.seen(tokens) * len(pattern.heads) for pattern in self.patterns(heads, layer))
        return 2 * self.parameters(width, layer, depth) + 4 * head_width * seen


@dataclass(frozen=True, eq=False)
class DerivedState(State):
    """The convolution's inputs, each pattern's rotated keys and values that it keeps, and xPos's reference (B,)."""

    conv: ConvolutionState | None
    near: tuple[KeyValueBuffer, ...]
    reference: Tensor | None = None


class DerivedAttention(KeyedMixer):
    """See the file's head."""

    def __init__(self, config: DerivedSettings, width: int, layer: int, depth: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = config.sizes(width)
        self.scale, self.backend, self.reach = config.scale(width), config.backend, config.reach(layer, depth)
        self.patterns = config.patterns(self.heads, layer)
        self.projection = Projection.of(config, width)
        self.rotation = Rotation.of(config, self.head_width)
        self.span, self.slopes = self.rotation.span, slopes_of(self.heads) if config.position == "alibi" else None
        extension = config.extension
        self.field = None if extension is None else extension.field(self.rotation, self.scale, self.backend)

    def start(self, batch: int) -> DerivedState:
        weight = self.projection.qkv.weight
        near = (
            KeyValueBuffer.empty(batch, len(self._serving(pattern)), self.head_width, weight, pattern.limit)
            for pattern in self.patterns
        )
        return DerivedState(self.projection.start(batch), tuple(near), self.rotation.start(batch, weight))

    def project(self, x: Tensor, rows: Rows, state: State) -> tuple[Heads, State]:
        assert isinstance(state, DerivedState)
        heads, conv = self.projection.split(x, rows, state.conv)
        return heads, replace(state, conv=conv)

    def attend(self, heads: Heads, rows: Rows, state: State, reads: Sequence[KeyValue] = ()) -> tuple[Attended, State]:
        assert isinstance(state, DerivedState)
        found = self._attend if self.field is None else self._attend_extended
        return found(heads, rows, state, reads)

    @uncompiled  # where chunks begin is no matter of shapes
    def _attend_extended(
        self, heads: Heads, rows: Rows, state: DerivedState, reads: Sequence[KeyValue]
    ) -> tuple[Attended, State]:
        return self._attend(heads, rows, state, reads)

    def _attend(
        self, heads: Heads, rows: Rows, state: DerivedState, reads: Sequence[KeyValue]
    ) -> tuple[Attended, State]:
        turned = self.rotation.turned(heads.queries, heads.keys, rows, state.reference)
        q, k, slopes = turned.queries, turned.keys, alike(self.slopes, turned.queries)
        placed = k if self.field is None else self.field.turn(heads.keys, rows)
        parts: list[Part] = []
        after = []
        for pattern, buffer in zip(self.patterns, state.near, strict=True):
            some, field = self._serving(pattern), self.field if pattern.far else None
            keys, values = taken(k if field is None else placed, some), taken(heads.values, some)
            falls, buffer = slopes if field is None else EVERY, turned.moved(buffer.cast(k.dtype))
            found, buffer = pattern.attend(q, keys, values, rows, buffer, falls)
            parts += found if field is None else field.split(found, heads.queries, rows)
            after.append(buffer)
        state = replace(state, near=tuple(after), reference=turned.reference)
        return join(parts, reads, self.scale, self.backend), state

    def _serving(self, pattern: Pattern) -> list[int]:
        return serving(pattern.heads, self.heads, self.kv_heads)

    def finish(self, out: Tensor, x: Tensor, rows: Rows) -> Tensor:
        return self.projection.join(out, rows)

    def newest(self, state: State, count: int, dropped: Tensor) -> DerivedState:
        assert isinstance(state, DerivedState)
        if not all(pattern.relative for pattern in self.patterns):
            raise ModelError(
                "its segments are cut at fixed positions, so that the oldest tokens cannot be dropped and the others "
                "numbered anew."
            )
        near = tuple(
            (self.rotation if self.field is None or not pattern.far else self.field).renumbered(kept, dropped)
            for pattern, kept in zip(self.patterns, (kept.newest(count) for kept in state.near), strict=True)
        )
        return replace(state, near=near, reference=None if state.reference is None else state.reference - dropped)

    def rotate(self, x: Tensor, phase: Tensor, power: Tensor | None = None) -> Tensor:
        return self.rotation.at(x, phase, power)

    def near(self, query_position: Tensor, key_position: Tensor) -> Tensor:
        batch, time = query_position.shape
        shape = (batch, self.heads, time, key_position.shape[1])
        seen = torch.zeros(shape, dtype=torch.bool, device=query_position.device)
        for pattern in self.patterns:
            seen[:, cut(pattern.heads)] |= pattern.sees(query_position, key_position)
        return seen & (key_position >= 0)[:, None, None, :]


def cut(heads: range) -> slice:
    """The heads as a slice."""
    return slice(heads.start, heads.stop, heads.step)


def serving(some: range, heads: int, kv_heads: int) -> list[int]:
    """The heads of keys that serve `some` of the queries': each once where they serve equally many, in order."""
    share = heads // kv_heads
    each = [head // share for head in some]
    once = sorted(set(each))
    count = len(each) // len(once)
    return once if [head for head in once for _ in range(count)] == each else each


def taken(x: Tensor, heads: list[int]) -> Tensor:
    """The heads of x (B, G, T, W), a view where they are evenly spaced."""
    step = heads[1] - heads[0] if len(heads) > 1 else 1
    if step > 0 and heads == list(range(heads[0], heads[-1] + 1, step)):
        return x[:, heads[0] : heads[-1] + 1 : step]
    return x.index_select(1, torch.tensor(heads, device=x.device))
