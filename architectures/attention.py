"""Softmax attention over the whole document: grouped queries, positions of four kinds, optional short convolution.

    o_n = softmax_m(q_n . k_m / sqrt(W)) v_m,  m <= n in the same document

    rope    queries and keys turned by their positions                         https://arxiv.org/abs/2104.09864
    xpos    turned, and scaled so that far tokens fade                         https://arxiv.org/abs/2212.10554
    alibi   neither; a score falls by the head's slope a token of distance     https://arxiv.org/abs/2108.12409
    none    neither

With an `extension` it reads farther than it was trained, by where queries and keys stand: see that file.
Vaswani et al., https://arxiv.org/abs/1706.03762; grouped queries https://arxiv.org/abs/2305.13245; a short convolution
on queries, keys and values is what lets two layers learn recall in a few hundred steps (https://arxiv.org/abs/2402.18668).

State: keys and values of every token so far, 2 G W numbers a token, in buffers that grow by doubling.
Work a token: 2 D (2 H + 2 G) W for the projections, 4 H W n at position n.
Shapes: B batch, T time, D width, H heads, G heads of keys and values, W width of a head, K taps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from farfield.architectures.columns import banded, spanned
from farfield.architectures.extension import ExtendedField
from farfield.architectures.fixed import FixedBuffer, one_query
from farfield.architectures.keyed import LendingMixer, LendingSettings
from farfield.architectures.mixer import Attended, Heads, Kept, KeyValue, join, reference_bytes
from farfield.architectures.ops.alibi import Alibi, alike, slopes_of
from farfield.architectures.ops.attention import Part
from farfield.architectures.ops.backend import Backend
from farfield.architectures.ops.layouts import Causal, Full
from farfield.architectures.ops.place import Place
from farfield.architectures.ops.short_convolution import ConvolutionState
from farfield.architectures.ops.spans import Spans
from farfield.architectures.projection import Projection, Rotation, Turned
from farfield.architectures.rows import Rows
from farfield.architectures.state import KeyValueBuffer, State

__all__ = [
    "MOVES",
    "XPOS",
    "Attention",
    "AttentionConfig",
    "AttentionState",
    "DocumentField",
]

XPOS = "position: xpos scales keys from a reference that moves. Positions whose keys can be taken: rope, alibi, none."
"""Why keys with xPos stay with their layer."""

MOVES = "position: xpos looks up whether its reference has to move"
"""Why no step with xPos can be captured."""


class AttentionConfig(LendingSettings):
    """Softmax attention over the whole document; state grows with length."""

    form = "softmax in blocks, quadratic"
    source = "arxiv.org/abs/1706.03762"

    kind: Literal["attention"] = "attention"

    def reach(self, layer: int, depth: int) -> int | None:
        return None

    def check(self, width: int) -> None:
        self.sizes(width)

    def build(self, width: int, layer: int, depth: int) -> Attention:
        return Attention(self, width)

    def parameters(self, width: int, layer: int, depth: int) -> int:
        return Projection.weights(self, width)

    def state_bytes(self, width: int, tokens: int, layer: int, depth: int, element: int = 4) -> int:
        heads, kv_heads, head_width = self.sizes(width)
        buffer = tokens * 2 * kv_heads * head_width * element + reference_bytes(self.position)
        return buffer + Projection.state_bytes(heads, kv_heads, head_width, self.conv, element)

    def flops(self, width: int, tokens: int, layer: int, depth: int) -> int:
        heads, _, head_width = self.sizes(width)
        return 2 * self.parameters(width, layer, depth) + 4 * heads * head_width * (tokens + 1)

    def near_field(self, width: int, layer: int, depth: int) -> DocumentField | ExtendedField:
        heads, _, head_width = self.sizes(width)
        if self.extension is not None:
            return self.extension.field(Rotation.of(self, head_width), self.scale(width), self.backend)
        slopes = slopes_of(heads) if self.position == "alibi" else None
        return DocumentField(Rotation.of(self, head_width), self.scale(width), self.backend, slopes)

    def pairs(self, width: int, tokens: int, layer: int, depth: int) -> int:
        return self.sizes(width)[0] * tokens

    def lends(self) -> str | None:
        return XPOS if self.position == "xpos" else None

    def joins(self) -> str | None:
        if self.position not in ("rope", "none"):
            return f"'attention' with position: {self.position} counts distances along one text"
        if self.conv:
            return f"'attention' with conv: {self.conv} goes on with the last tokens of one text"
        return None if self.extension is None else f"'attention' with {self.extension.kind} counts along one text"

    def uncaptured(self) -> str | None:
        if self.position == "xpos":
            return MOVES
        return None if self.extension is None else f"extension: {self.extension.kind} looks up how far a document goes"


@dataclass(frozen=True, eq=False)
class AttentionState(State):
    """The convolution's inputs, the rotated keys and the values of the near field, and xPos's reference (B,)."""

    conv: ConvolutionState | None
    near: KeyValueBuffer
    reference: Tensor | None = None

    def first(self, count: int) -> AttentionState | None:
        """Without a convolution, whose inputs are those of the last tokens, and without xPos, whose old keys fade."""
        near = self.near.first(count)
        return None if near is None or self.conv is not None or self.reference is not None else replace(self, near=near)


@dataclass(frozen=True, eq=False)
class DocumentField:
    """A near field of the whole document so far."""

    rotation: Rotation
    scale: float
    backend: Backend
    slopes: Tensor | None

    def queries(self, x: Tensor, rows: Rows) -> Tensor:
        return self.rotation.rows(x, rows)

    def turn(self, x: Tensor, rows: Rows) -> Tensor:
        return self.rotation.rows(x, rows)

    def turned(self, queries: Tensor, keys: Tensor, rows: Rows, reference: Tensor | None) -> Turned:
        """See `Rotation.turned`."""
        return self.rotation.turned(queries, keys, rows, reference)

    def renumbered(self, kept: KeyValueBuffer, dropped: Tensor) -> KeyValueBuffer:
        """See `Rotation.renumbered`."""
        return self.rotation.renumbered(kept, dropped)

    def attend(self, queries: Tensor, kept: Kept, rows: Rows, reads: Sequence[KeyValue] = ()) -> Attended:
        if isinstance(kept.after, FixedBuffer):
            slopes = alike(rows.here(self.slopes), queries)
            return one_query(queries, [kept.after.seen(kept.own)], self.scale, self.backend, slopes)
        parts = self._parts(queries, kept, rows) if kept.own else self._earlier(queries, kept, rows)
        return join(parts, reads, self.scale, self.backend) if parts else Attended.nothing(queries)

    def _parts(self, q: Tensor, kept: Kept, rows: Rows) -> list[Part]:
        """The parts of the near field: by columns alone wherever rows are single runs."""
        runs, slopes, time = rows.single and rows.right_padded, alike(self.slopes, q), rows.time
        k, v = kept.keys, kept.values
        if runs and rows.fresh:
            return [Part(q, k, v, Causal(Alibi.run(slopes, time, time)))]
        standing = self._unequal(kept, rows)
        if standing is not None:
            return [Part(q, *standing)]
        past_k, past_v, valid = kept.before.read()
        past = past_k.shape[2]
        if runs and valid is None:
            if time == 1 and not rows.padded and kept.after is not None:
                keys, values, _ = kept.after.read()
                return [Part(q, keys, values, Full(Alibi.run(slopes, 1, past + 1, past)))]
            parts = [Part(q, past_k, past_v, Full(Alibi.run(slopes, time, past, past)))] if past else []
            return [*parts, Part(q, k, v, Causal(Alibi.run(slopes, time, time)))]
        layout = banded(rows, past, valid, None if rows.longest is None else rows.longest - 1, slopes=slopes)
        return [Part(q, torch.cat((past_k, k), 2), torch.cat((past_v, v), 2), layout)]

    def _unequal(self, kept: Kept, rows: Rows) -> tuple[Tensor, Tensor, Spans] | None:
        """All that a decoded token sees where rows are of unequal length; None in other calls."""
        after = kept.after
        if rows.time > 1 or after is None or after.limit is not None or not rows.plain or self.slopes is not None:
            return None
        low, high = after.extent()
        return None if low == high else spanned(after, after.length)

    def _earlier(self, q: Tensor, kept: Kept, rows: Rows) -> list[Part]:
        """The same without the key of each query's own token; none where no query sees any."""
        runs, slopes, time = rows.single and rows.right_padded, alike(self.slopes, q), rows.time
        past_k, past_v, valid = kept.before.read()
        if rows.fresh:
            past_k, past_v, valid = past_k[:, :, :0], past_v[:, :, :0], None
        past = past_k.shape[2]
        if runs and valid is None:
            parts = [Part(q, past_k, past_v, Full(Alibi.run(slopes, time, past, past)))] if past else []
            if time == 1:
                return parts
            rest, k, v = Place(slice(None), slice(1, None)), kept.keys[:, :, :-1], kept.values[:, :, :-1]
            return [*parts, Part(q, k, v, Causal(Alibi.run(slopes, time - 1, time - 1, 1)), rest)]
        reach = None if rows.longest is None else rows.longest - 1
        layout = banded(rows, past, valid, reach, ahead=-1, slopes=slopes)
        return [Part(q, torch.cat((past_k, kept.keys), 2), torch.cat((past_v, kept.values), 2), layout)]


class Attention(LendingMixer):
    """See the file's head."""

    reach = None

    def __init__(self, config: AttentionConfig, width: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = config.sizes(width)
        self.projection = Projection.of(config, width)
        self.field: DocumentField | ExtendedField = config.near_field(width, 0, 1)
        self.rotation, self.scale, self.slopes = self.field.rotation, self.field.scale, self.field.slopes
        self.span = self.rotation.span

    def start(self, batch: int) -> AttentionState:
        weight = self.projection.qkv.weight
        near = KeyValueBuffer.empty(batch, self.kv_heads, self.head_width, weight)
        return AttentionState(self.projection.start(batch), near, self.rotation.start(batch, weight))

    def project(self, x: Tensor, rows: Rows, state: State) -> tuple[Heads, State]:
        assert isinstance(state, AttentionState)
        heads, conv = self.projection.split(x, rows, state.conv)
        return heads, replace(state, conv=conv)

    def attend(self, heads: Heads, rows: Rows, state: State, reads: Sequence[KeyValue] = ()) -> tuple[Attended, State]:
        assert isinstance(state, AttentionState)
        turned = self.field.turned(heads.queries, heads.keys, rows, state.reference)
        return self._attend(turned, heads.values, rows, state, reads)

    def attended(self, x: Tensor, rows: Rows, state: State) -> tuple[Attended, State]:
        assert isinstance(state, AttentionState)
        qkv, conv = self.projection.inputs(x, rows, state.conv)
        state = replace(state, conv=conv)
        plain = isinstance(self.field, DocumentField)
        made = self.projection.turned(qkv, self.rotation, rows) if plain else None
        if made is None:
            return self.attend(self.projection.heads(qkv), rows, state)
        return self._attend(*made, rows, state)

    def _attend(
        self, turned: Turned, values: Tensor, rows: Rows, state: AttentionState, reads: Sequence[KeyValue] = ()
    ) -> tuple[Attended, State]:
        before = turned.moved(state.near.cast(turned.keys.dtype))
        after = before.append(turned.keys, values, rows)
        kept = Kept(turned.keys, values, before, after)
        found = self.field.attend(turned.queries, kept, rows, reads)
        return replace(found, kept=kept), replace(state, near=after, reference=turned.reference)

    def before(self, state: State) -> KeyValueBuffer:
        assert isinstance(state, AttentionState)
        return state.near

    def finish(self, out: Tensor, x: Tensor, rows: Rows) -> Tensor:
        return self.projection.join(out, rows)

    def newest(self, state: State, count: int, dropped: Tensor) -> AttentionState:
        assert isinstance(state, AttentionState)
        near = self.field.renumbered(state.near.newest(count), dropped)
        return replace(state, near=near, reference=None if state.reference is None else state.reference - dropped)

    def joined(self, states: Sequence[State], owner: Tensor, dropped: Tensor, count: int) -> AttentionState:
        kept = [state.near for state in states if isinstance(state, AttentionState)]
        return AttentionState(None, KeyValueBuffer.joined(kept, owner, dropped, count))

    def rotate(self, x: Tensor, phase: Tensor, power: Tensor | None = None) -> Tensor:
        return self.rotation.at(x, phase, power)

    def near(self, query_position: Tensor, key_position: Tensor) -> Tensor:
        return (key_position[:, None, None, :] <= query_position[:, None, :, None]) & (key_position >= 0)[:, None, None]
