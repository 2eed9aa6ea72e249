"""Longformer, causal: a sliding window for every token, and a prefix of global tokens that every token sees.

    local token n    one softmax over {m : 0 <= n - m <= w d, (n - m) mod d = 0, m >= G} and {g < G : g <= n}
    global token n   (n < G) one softmax over m <= n, with projections of its own for queries, keys and values

w is the window of the layer, d the dilation of the head, G the number of global positions at the start of a document.
A global key is taken out of the window, so that it counts once. Beltagy et al., https://arxiv.org/abs/2004.05150; the
published code is bidirectional only, this is its causal form: globals are restricted to the prefix.

With an `extension`, the global keys are those that are seen from far: they alone are moved.

State: a ring of the last w d tokens, the G global keys and values in both projections: constant in time.
Work a token: that of the projections, 4 H W (w + 1 + G) for attention; a dilated head computes the w d + 1 scores of
its band and masks the others. Linear in length, forward and backward.
Shapes: B batch, T time, D width, H heads, K heads of keys and values, W width of a head, G global positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from farfield.architectures.attention import MOVES, XPOS
from farfield.architectures.columns import banded, spanned
from farfield.architectures.fixed import FixedBuffer, Seen, one_query
from farfield.architectures.keyed import LendingMixer, LendingSettings
from farfield.architectures.mixer import Attended, Heads, Kept, KeyValue, join, reference_bytes
from farfield.architectures.ops.alibi import EVERY, Alibi, Slopes, alike, slopes_of
from farfield.architectures.ops.attention import Part, attention
from farfield.architectures.ops.backend import Backend
from farfield.architectures.ops.layouts import Full, Labelled
from farfield.architectures.ops.short_convolution import ConvolutionState
from farfield.architectures.ops.spans import Spans
from farfield.architectures.projection import Projection, Rotation, Turned
from farfield.architectures.rows import Rows
from farfield.architectures.state import KeyValueBuffer, State
from farfield.config import ModelError

__all__ = ["Longformer", "LongformerConfig", "LongformerState", "WindowField", "check_bands", "spread"]


class LongformerConfig(LendingSettings):
    """Sliding window and global prefix tokens; constant state, linear time."""

    form = "softmax in bands, linear"
    source = "arxiv.org/abs/2004.05150"

    kind: Literal["longformer"] = "longformer"
    window: int | tuple[int, ...] = Field(
        64, description="tokens before its own that a token sees; a list from bottom to top"
    )
    dilation: int | tuple[int, ...] = Field(1, description="every how many-th token of the window; a list: by heads")
    globals: int = Field(0, ge=0, description="positions at the start of a document that every token sees")

    def reach(self, layer: int, depth: int) -> int | None:
        return self.layer_window(layer, depth)

    def layer_window(self, layer: int, depth: int) -> int:
        """The window of a layer: a list is spread over the depth from bottom to top."""
        return spread(self.window, layer, depth)

    def head_dilations(self, heads: int) -> list[int]:
        """The dilation of each head: a list is spread over the heads."""
        return [spread(self.dilation, head, heads) for head in range(heads)]

    def bounded(self) -> str | None:
        return None if self.globals else "globals: 0 given, and a window has a longest distance."

    def check(self, width: int) -> None:
        heads, _, _ = self.sizes(width)
        check_bands(self.window, self.dilation, heads)
        if self.globals and self.qk_norm is not None:
            raise ValueError("qk_norm: global tokens have projections of their own, without norms. Take globals: 0.")

    def ring(self, heads: int, layer: int, depth: int) -> int:
        """Tokens that the ring holds."""
        return self.layer_window(layer, depth) * max(self.head_dilations(heads))

    def build(self, width: int, layer: int, depth: int) -> Longformer:
        return Longformer(self, width, layer, depth)

    def parameters(self, width: int, layer: int, depth: int) -> int:
        heads, kv_heads, head_width = self.sizes(width)
        extra = (width + (self.bias != "none")) * (heads + 2 * kv_heads) * head_width if self.globals else 0
        return Projection.weights(self, width) + extra

    def state_bytes(self, width: int, tokens: int, layer: int, depth: int, element: int = 4) -> int:
        heads, kv_heads, head_width = self.sizes(width)
        kept = min(tokens, self.ring(heads, layer, depth)) + 2 * self.globals
        buffer = kept * 2 * kv_heads * head_width * element + reference_bytes(self.position)
        return buffer + Projection.state_bytes(heads, kv_heads, head_width, self.conv, element)

    def flops(self, width: int, tokens: int, layer: int, depth: int) -> int:
        heads, _, head_width = self.sizes(width)
        seen = self.pairs(width, tokens, layer, depth) + heads
        return 2 * Projection.weights(self, width) + 4 * head_width * seen

    def near_field(self, width: int, layer: int, depth: int) -> WindowField:
        heads, kv_heads, head_width = self.sizes(width)
        slopes = slopes_of(heads) if self.position == "alibi" else None
        shape = self.layer_window(layer, depth), self.head_dilations(heads), self.globals
        rotation = Rotation.of(self, head_width)
        return WindowField(rotation, self.scale(width), self.backend, slopes, kv_heads, *shape)

    def pairs(self, width: int, tokens: int, layer: int, depth: int) -> int:
        window, heads = self.layer_window(layer, depth), self.sizes(width)[0]
        return sum(min(tokens, window * d) // d + min(tokens, self.globals) for d in self.head_dilations(heads))

    def uncaptured(self) -> str | None:
        if self.position == "xpos":
            return MOVES
        return None if self.extension is None else f"extension: {self.extension.kind} looks up how far a document goes"

    def captured_from(self) -> int:
        return max(1, self.globals)

    def lends(self) -> str | None:
        if self.globals:
            return f"globals: {self.globals} given; global tokens have projections of their own. At most 0."
        return XPOS if self.position == "xpos" else None


@dataclass(frozen=True, eq=False)
class LongformerState(State):
    """The convolution's inputs, the ring of rotated keys and values, and what the global positions left.

    `prefix` holds four tensors (B, K, G, W), slot = position: keys and values in the local projections, then in the
    global ones. A slot at or before a token's position in its document has been written by that document.
    `reference` (B,) is xPos's, of all keys.
    """

    conv: ConvolutionState | None
    near: KeyValueBuffer
    prefix: tuple[Tensor, ...]
    reference: Tensor | None = None


@dataclass(frozen=True, eq=False)
class LongformerHeads(Heads):
    """With queries, keys and values of the call's global tokens, in the global projections."""

    prefix: Heads | None


@dataclass(frozen=True, eq=False)
class _Prefix:
    """Where the call's global tokens stand: columns (B, M), with position and document, -1 where there are fewer."""

    column: Tensor
    position: Tensor
    document: Tensor

    def take(self, x: Tensor) -> Tensor:
        """The global tokens (B, H, M, W) of x (B, H, T, W)."""
        return x.gather(2, self.column[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))


@dataclass(frozen=True, eq=False)
class WindowField:
    """A near field of a window, dilated by heads, without the first `globals` tokens: they are parts of their own."""

    rotation: Rotation
    scale: float
    backend: Backend
    slopes: Tensor | None
    kv_heads: int
    window: int
    dilations: list[int]
    globals: int = 0

    def queries(self, x: Tensor, rows: Rows) -> Tensor:
        return self.rotation.rows(x, rows)

    def turn(self, x: Tensor, rows: Rows) -> Tensor:
        return self.rotation.rows(x, rows)

    def attend(
        self,
        queries: Tensor,
        kept: Kept,
        rows: Rows,
        reads: Sequence[KeyValue] = (),
        common: Sequence[Part] = (),
    ) -> Attended:
        """Window and `common` parts of all heads, one softmax for each group of heads of one dilation."""
        if isinstance(kept.after, FixedBuffer):
            return self._one(queries, kept.after, kept.own, rows, common)
        seen = None if common else self._decoded(kept, rows)
        if seen is not None:
            return join([Part(queries, *seen)], reads, self.scale, self.backend)
        past_k, past_v, valid = kept.before.read()
        if rows.fresh:
            past_k, past_v, valid = past_k[:, :, :0], past_v[:, :, :0], None
        keys, values = kept.keys, kept.values
        if past_k.shape[2]:  # without a past, this would be a copy of all
            keys, values = torch.cat((past_k, keys), 2), torch.cat((past_v, values), 2)
        groups, past, slopes = sorted(set(self.dilations)), past_k.shape[2], alike(self.slopes, queries)
        found, ahead = [], 0 if kept.own else -1
        for dilation in groups:
            reach = self.window * dilation
            window = banded(rows, past, valid, reach, dilation, self.globals, ahead, slopes)
            near = [Part(queries, keys, values, window), *common]
            if len(groups) == 1:
                return join(near, reads, self.scale, self.backend)
            chosen = [head for head, other in enumerate(self.dilations) if other == dilation]
            heads = torch.tensor(chosen, device=queries.device)
            near = [self._heads(part, heads) for part in near]
            found.append((heads, join(near, [self._read(read, heads) for read in reads], self.scale, self.backend)))
        order = torch.cat([heads for heads, _ in found]).argsort()
        out = torch.cat([part.out for _, part in found], 1).index_select(1, order)
        return Attended(out, torch.cat([part.lse for _, part in found], 1).index_select(1, order))

    def _one(self, queries: Tensor, near: FixedBuffer, own: bool, rows: Rows, common: Sequence[Part]) -> Attended:
        """Of one more token; global positions are all before it."""
        window = near.seen(own)
        assert window.visible is not None
        far, by = window.distance, {}
        for dilation in set(self.dilations):
            by[dilation] = window.visible[:, 0] & (far <= self.window * dilation) & (far % dilation == 0)
            if self.globals:
                by[dilation] &= rows.positions - far >= self.globals
        visible = torch.stack([by[dilation] for dilation in self.dilations], 1)
        window = replace(window, visible=visible if len(by) > 1 else visible[:, :1])
        prefix = rows.positions - torch.arange(self.globals, device=rows.device)
        seen = [window, *(Seen(part.keys, part.values, prefix, None) for part in common)]
        slopes = alike(rows.here(self.slopes), queries)
        return one_query(queries, seen, self.scale, self.backend, slopes)

    def _decoded(self, kept: Kept, rows: Rows) -> tuple[Tensor, Tensor, Full | Spans] | None:
        """All that a decoded token sees, where each row has it side by side and nothing but it: keys and values."""
        if rows.time > 1 or kept.after is None or not kept.own or not rows.plain or rows.fresh:
            return None
        if self.slopes is not None or self.globals or set(self.dilations) != {1}:
            return None
        (low, high), limit = kept.before.extent(), kept.before.limit
        most = self.window if limit is None else min(self.window, limit)
        if low != high:
            return spanned(kept.after, kept.before.length.clamp(max=most) + 1)
        tail = kept.after.tail(min(high, most) + 1)
        return None if tail is None else (*tail, Full())

    def _heads(self, part: Part, heads: Tensor) -> Part:
        """The part of some heads, with a head of keys for each."""
        shared = heads // (len(self.dilations) // self.kv_heads) if part.keys.shape[1] == self.kv_heads else heads
        keys, values = part.keys.index_select(1, shared), part.values.index_select(1, shared)
        return Part(part.queries.index_select(1, heads), keys, values, part.layout.select(heads))

    def _read(self, read: KeyValue, heads: Tensor) -> KeyValue:
        gate = None if read.gate is None else read.gate.index_select(0, heads)
        return KeyValue(self._heads(read.part, heads), gate)


class Longformer(LendingMixer):
    """See the file's head."""

    def __init__(self, config: LongformerConfig, width: int, layer: int, depth: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = config.sizes(width)
        self.field: WindowField = config.near_field(width, layer, depth)
        self.scale, self.backend, self.globals = self.field.scale, config.backend, config.globals
        self.window, self.dilations = self.field.window, self.field.dilations
        self.apart = config.globals
        self.reach = config.reach(layer, depth)
        self.ring = config.ring(self.heads, layer, depth)
        self.extent = self.globals, self.ring
        self.projection = Projection.of(config, width)
        self.prefix_qkv = nn.Linear(width, sum(self.projection.sizes), config.bias != "none") if self.globals else None
        self.rotation, self.slopes = self.field.rotation, self.field.slopes
        self.span = self.rotation.span
        extension = config.extension
        self.far = None if extension is None else extension.field(self.rotation, self.scale, self.backend)

    def start(self, batch: int) -> LongformerState:
        weight = self.projection.qkv.weight
        near = KeyValueBuffer.empty(batch, self.kv_heads, self.head_width, weight, self.ring)
        prefix = weight.new_zeros(batch, self.kv_heads, self.globals, self.head_width)
        kept = (prefix,) * (4 if self.globals else 0)
        return LongformerState(self.projection.start(batch), near, kept, self.rotation.start(batch, weight))

    def project(self, x: Tensor, rows: Rows, state: State) -> tuple[LongformerHeads, State]:
        assert isinstance(state, LongformerState)
        heads, conv = self.projection.split(x, rows, state.conv)
        where, prefix = self._where(rows), None
        if where is not None and self.prefix_qkv is not None:
            tokens = where.take(x[:, None])[:, 0]
            pieces = self.prefix_qkv(tokens).split(self.projection.sizes, dim=-1)
            prefix = Heads(*(piece.unflatten(-1, (-1, self.head_width)).transpose(1, 2) for piece in pieces))
        return LongformerHeads(heads.queries, heads.keys, heads.values, prefix), replace(state, conv=conv)

    def attend(self, heads: Heads, rows: Rows, state: State, reads: Sequence[KeyValue] = ()) -> tuple[Attended, State]:
        assert isinstance(state, LongformerState)
        assert isinstance(heads, LongformerHeads)
        turned = self.rotation.turned(heads.queries, heads.keys, rows, state.reference)
        q, k = turned.queries, turned.keys
        before = turned.moved(state.near.cast(k.dtype))
        held = self._held(turned, state.prefix)
        where = self._where(rows)
        own = self._own(heads.prefix, turned, where)
        far = k if self.far is None or where is None else self.far.turn(heads.keys, rows)
        prefix = self._written(held, far, heads.values, own, where, rows)
        common = self._common(q, far, heads.values, rows, held, prefix, where)
        if self.far is not None:
            common = self.far.split(common, heads.queries, rows)
        near = before.append(k, heads.values, rows)
        kept = Kept(k, heads.values, before, near)
        found = self.field.attend(q, kept, rows, reads, common)
        if where is not None and own is not None:
            found = self._global_rows(found, own, rows, held, where)
        state = replace(state, near=near, prefix=prefix, reference=turned.reference)
        return replace(found, kept=kept), state

    def _held(self, turned: Turned, prefix: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The state's slots as the call's queries need them."""
        kept = tuple(part.to(turned.keys.dtype) for part in prefix)
        if turned.factor is None:
            return kept
        return tuple(part if n % 2 else (part * turned.factor).to(part.dtype) for n, part in enumerate(kept))

    def _own(self, heads: Heads | None, turned: Turned, where: _Prefix | None) -> Heads | None:
        """Queries and keys of the call's global tokens, in the global projections, turned to where they stand."""
        if where is None or heads is None:
            return None
        power = None if turned.power is None else turned.power.gather(1, where.column)
        back = None if power is None else -power
        queries = self.rotation.at(heads.queries, where.position, power)
        return Heads(queries, self.rotation.at(heads.keys, where.position, back), heads.values)

    def _where(self, rows: Rows) -> _Prefix | None:
        """The call's global tokens, or None where there is none."""
        return rows.once(("prefix", self.globals), lambda: _find(rows, self.globals)) if self.globals else None

    def _common(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rows: Rows,
        before: tuple[Tensor, ...],
        after: tuple[Tensor, ...],
        where: _Prefix | None,
    ) -> list[Part]:
        """The global keys in the local projections: from the state, and among the call's own tokens."""
        if not self.globals:
            return []
        falls = alike(rows.here(self.slopes), q) if self.far is None else EVERY
        query_document = torch.where(rows.real, rows.document, -2)
        slots = torch.arange(self.globals, device=q.device).expand(rows.batch, -1)
        if where is None or rows.single:  # one document a row: all its global tokens so far are in the state
            owner = rows.last_document[:, None].expand_as(slots)
            layout = self._labelled(falls, rows.positions, query_document, slots, owner)
            return [Part(q, after[0], after[1], layout)]
        keys, values = (torch.cat((old, where.take(new)), 2) for old, new in ((before[0], k), (before[1], v)))
        position, document = self._labels(slots, where, rows)
        return [Part(q, keys, values, self._labelled(falls, rows.positions, query_document, position, document))]

    @staticmethod
    def _labelled(falls: Slopes | None, query: Tensor, document: Tensor, key: Tensor, owner: Tensor) -> Labelled:
        """Queries at positions (B, T) over keys at positions (B, S), with the documents of both."""
        return Labelled(query, document, key, owner, Alibi.of(falls, query, key))

    def _labels(self, slots: Tensor, where: _Prefix, rows: Rows) -> tuple[Tensor, Tensor]:
        """Positions and documents of [the state's slots, the call's global tokens]; a slot written anew is left out."""
        far = torch.iinfo(torch.int64).max
        first = torch.where(where.document == 0, where.position, far).amin(1, keepdim=True)
        held = torch.where(slots < first, 0, -1)
        return torch.cat((slots, where.position), 1), torch.cat((held, where.document), 1)

    def _global_rows(
        self, found: Attended, heads: Heads, rows: Rows, before: tuple[Tensor, ...], where: _Prefix
    ) -> Attended:
        """Global tokens anew: over the global tokens up to their own, in the global projections."""
        q = heads.queries
        slots = torch.arange(self.globals, device=q.device).expand(rows.batch, -1)
        position, document = self._labels(slots, where, rows)
        slopes = alike(rows.here(self.slopes), q)
        layout = self._labelled(slopes, where.position, where.document, position, document)
        part = Part(q, torch.cat((before[2], heads.keys), 2), torch.cat((before[3], heads.values), 2), layout)
        out, lse = attention([part], self.scale, self.backend)
        real = (where.document >= 0)[:, None, :]
        column = where.column[:, None].expand(-1, self.heads, -1)
        out = torch.where(real[..., None], out, where.take(found.out))
        lse = torch.where(real, lse, found.lse.gather(2, column))
        wide = column[..., None].expand(-1, -1, -1, out.shape[3])
        return Attended(found.out.scatter(2, wide, out.to(found.out.dtype)), found.lse.scatter(2, column, lse))

    def _written(
        self,
        before: tuple[Tensor, ...],
        k: Tensor,
        v: Tensor,
        own: Heads | None,
        where: _Prefix | None,
        rows: Rows,
    ) -> tuple[Tensor, ...]:
        """The slots with the call's global tokens of each row's last document in them."""
        if where is None or own is None:
            return before
        kept = (where.document == rows.last_document[:, None]) & (where.document >= 0)
        slot = torch.where(kept, where.position, self.globals)
        slot = slot[:, None, :, None].expand(-1, self.kv_heads, -1, self.head_width)
        fresh = (where.take(k), where.take(v), own.keys, own.values)
        after = []
        for old, new in zip(before, fresh, strict=True):
            roomy = torch.cat((old.to(new.dtype), old.new_zeros(old[:, :, :1].shape, dtype=new.dtype)), 2)
            after.append(roomy.scatter(2, slot, new)[:, :, : self.globals])
        return tuple(after)

    def before(self, state: State) -> KeyValueBuffer:
        assert isinstance(state, LongformerState)
        return state.near

    def finish(self, out: Tensor, x: Tensor, rows: Rows) -> Tensor:
        return self.projection.join(out, rows)

    def newest(self, state: State, count: int, dropped: Tensor) -> LongformerState:
        assert isinstance(state, LongformerState)
        if self.globals:
            raise ModelError(
                f"the {self.globals} global positions at a document's start would be dropped with its "
                "oldest tokens, and every token sees them. Only globals=0 goes on without them."
            )
        near = self.rotation.renumbered(state.near.newest(count), dropped)
        return replace(state, near=near, reference=None if state.reference is None else state.reference - dropped)

    def rotate(self, x: Tensor, phase: Tensor, power: Tensor | None = None) -> Tensor:
        return self.rotation.at(x, phase, power)

    def near(self, query_position: Tensor, key_position: Tensor) -> Tensor:
        distance = query_position[:, None, :, None] - key_position[:, None, None, :]
        dilation = torch.tensor(self.dilations, device=distance.device)[None, :, None, None]
        if len(set(self.dilations)) == 1:
            dilation = dilation[:, :1]
        window = (distance >= 0) & (distance <= self.window * dilation) & (distance % dilation == 0)
        prefix = (key_position < self.globals)[:, None, None, :] & (distance >= 0)
        return (window | prefix) & (key_position >= 0)[:, None, None, :]


def spread(values: int | tuple[int, ...], place: int, count: int) -> int:
    """The value of `place` among `count` places, over which a list is spread evenly."""
    return values if isinstance(values, int) else values[place * len(values) // count]


def check_bands(window: int | tuple[int, ...], dilation: int | tuple[int, ...], heads: int) -> None:
    """Raise ValueError, in one line, where a window or a dilation is not positive, or dilations outnumber heads."""
    for name, value in (("window", window), ("dilation", dilation)):
        values = (value,) if isinstance(value, int) else value
        if not values or min(values) < 1:
            raise ValueError(f"{name}: {value} given; at least 1 is needed.")
    if not isinstance(dilation, int) and len(dilation) > heads:
        raise ValueError(f"dilation: {len(dilation)} values for {heads} heads.")


def _find(rows: Rows, count: int) -> _Prefix | None:
    """The columns of the call's tokens at positions below `count`."""
    if rows.least >= count:
        return None
    found = rows.real & (rows.positions < count)
    most = int(found.sum(1).max()) if found.numel() and count else 0
    if not most:
        return None
    column = (~found).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
    real = found.gather(1, column)
    document = torch.where(real, rows.document.gather(1, column), -1)
    return _Prefix(column, rows.positions.gather(1, column), document)
