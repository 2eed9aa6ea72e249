"""Reformer: attention among tokens that hash to the same bucket, causal by the newest tokens of each.

    k_m = q_m / |q_m|        bucket_r(m) = argmax([q_m R_r; -q_m R_r])        R_r random, of W by buckets / 2
    S_r(n) = the last c of the m < n with bucket_r(m) = bucket_r(n)           c = window
    o_n = one softmax of q_n k_m over the m in S_1(n), ..., S_R(n), each as often as it is in them; v_n if there is none

Kitaev et al., https://arxiv.org/abs/2001.04451, sort all tokens by bucket and cut the result into chunks: what is in a
query's chunk depends on tokens behind it. Here it depends on the tokens before it only, so that decoding is the same
function. Queries are their own keys, and a token would look at itself more than at all others: it sees itself only
where it sees nothing else, as published. Keys are hashed as they are and then turned to their positions. Positions are
of the kinds of `farfield.architectures.attention`; ALiBi and xPos fade by the tokens in between, not by those of the
bucket, and an `extension` moves keys by them.

State: rings of the last c keys and values of each bucket, 2 H R c W N numbers, full or not: constant in time; with
ALiBi or an `extension` 4 numbers for each key more, which say where it stands. Work a token: that of the projections,
H W R N to hash, and 4 H W R c.
Shapes: B batch, T time, P + T columns with those of the past, D width, H heads, W width of a head, R rounds, N buckets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from farfield.architectures.keyed import PositionedSettings
from farfield.architectures.mixer import Mixer, in_steps, reference_bytes
from farfield.architectures.ops.alibi import EVERY, Alibi, Slopes, alike, slopes_of
from farfield.architectures.ops.attention import Part, attention
from farfield.architectures.ops.backend import Backend
from farfield.architectures.ops.hashed import NOBODY, Hashed
from farfield.architectures.ops.layouts import Layout, Selected
from farfield.architectures.ops.short_convolution import ConvolutionState
from farfield.architectures.ops.uncompiled import uncompiled
from farfield.architectures.projection import Rotation, Turned
from farfield.architectures.rings import DIGITS, Rings, digits, number
from farfield.architectures.rows import Rows
from farfield.architectures.shared_heads import SharedHeads, shared_sizes
from farfield.architectures.state import State

__all__ = ["Reformer", "ReformerConfig", "ReformerState"]


class ReformerConfig(PositionedSettings):
    """Attention among the newest tokens that hash to the same bucket; constant state, linear in time."""

    form = "softmax within buckets, linear"
    source = "arxiv.org/abs/2001.04451"

    kind: Literal["reformer"] = "reformer"
    heads: int | None = Field(None, ge=1, description="number of heads; null: width / head_width")
    head_width: int = Field(32, ge=2, description="width of a head where heads is null")
    buckets: int = Field(16, ge=2, multiple_of=2, description="buckets of a round, an even number")
    rounds: int = Field(2, ge=1, description="rounds of hashing: the more, the fewer near tokens are missed")
    window: int = Field(32, ge=1, description="how many of the last tokens of its bucket a token sees in a round")
    conv: int = Field(0, ge=0, le=16, description="taps of a short convolution on queries and values; 0: none")
    backend: Backend = "auto"

    def sizes(self, width: int) -> tuple[int, int]:
        """Number of heads and width of a head."""
        return shared_sizes(width, self.heads, self.head_width, self.position)

    def kept(self, width: int) -> int:
        """Numbers that are kept of a token in a head and round."""
        return 2 * self.sizes(width)[1] + (DIGITS if self.tells() else 0)

    def tells(self) -> bool:
        """Whether what is kept of a token says where it stands."""
        return self.position == "alibi" or self.extension is not None

    def check(self, width: int) -> None:
        self.check_positions()
        self.sizes(width)

    def build(self, width: int, layer: int, depth: int) -> Reformer:
        return Reformer(self, width)

    def parameters(self, width: int, layer: int, depth: int) -> int:
        return SharedHeads.count(width, *self.sizes(width), self.conv)

    def state_bytes(self, width: int, tokens: int, layer: int, depth: int, element: int = 4) -> int:
        heads, head_width = self.sizes(width)
        rings = heads * self.rounds * self.buckets * (self.window * self.kept(width) * element + 8)
        inputs = SharedHeads.state_bytes(heads, head_width, self.conv, element)
        return rings + inputs + reference_bytes(self.position)

    def flops(self, width: int, tokens: int, layer: int, depth: int) -> int:
        heads, head_width = self.sizes(width)
        mapped = SharedHeads.work(width, heads, head_width, self.conv, self.buckets, self.rounds)
        return mapped + 4 * heads * head_width * self.rounds * max(1, min(tokens, self.window))


@dataclass(frozen=True, eq=False)
class ReformerState(State):
    """The convolution's inputs, rings of turned keys beside values and ALiBi's digits, and xPos's reference (B,)."""

    conv: ConvolutionState | None
    rings: Rings
    reference: Tensor | None = None


class Reformer(Mixer):
    """See the file's head."""

    def __init__(self, config: ReformerConfig, width: int) -> None:
        super().__init__()
        self.heads, self.head_width = config.sizes(width)
        self.config, self.buckets, self.rounds, self.window = config, config.buckets, config.rounds, config.window
        self.scale, self.backend = self.head_width**-0.5 * config.sharpness(), config.backend
        sizes = self.heads, self.head_width, config.buckets, config.rounds, config.conv
        self.projection = SharedHeads(width, *sizes)
        self.kept, self.rotation = config.kept(width), Rotation.of(config, self.head_width)
        self.slopes = slopes_of(self.heads) if config.position == "alibi" else None
        extension = config.extension
        self.field = None if extension is None else extension.field(self.rotation, self.scale, self.backend)

    def start(self, batch: int) -> ReformerState:
        shape, weight = (batch, self.heads, self.rounds, self.buckets), self.projection.qv.weight
        rings = Rings.empty(shape, self.kept, weight, self.window)
        return ReformerState(self.projection.start(batch), rings, self.rotation.start(batch, weight))

    def forward(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        return in_steps(self._mix, x, rows, state, self.rotation.span)

    @uncompiled  # what is seen depends on the hashes
    def _mix(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, ReformerState)
        queries, v, conv = self.projection.split(x, rows, state.conv)
        bucket = self.projection.buckets(queries)
        turned = self._turned(queries, rows, state.reference)
        kept = self._kept(turned.keys, v, rows)
        rings = turned.moved(state.rings.cast(v.dtype))
        attend = self._step if rows.time == 1 else self._run
        out, rings = attend(turned.queries, kept, bucket, rows, rings)
        return self.projection.join(out, rows), replace(state, conv=conv, rings=rings, reference=turned.reference)

    def _turned(self, queries: Tensor, rows: Rows, reference: Tensor | None) -> Turned:
        """Queries and keys where they stand. A rotation keeps lengths, so that without xPos's scales one will do.

        With an extension queries are not turned yet.
        """
        if self.field is not None:
            return Turned(queries, self.field.turn(self.projection.keys(queries), rows))
        if reference is not None:
            return self.rotation.turned(queries, self.projection.keys(queries), rows, reference)
        queries = self.rotation.rows(queries, rows)
        return Turned(queries, self.projection.keys(queries))

    def _kept(self, k: Tensor, v: Tensor, rows: Rows) -> list[Tensor]:
        """What rings keep of tokens: keys, values (B, H, T, W) and, with ALiBi, where they stand."""
        if not self.config.tells():
            return [k, v]
        return [k, v, digits(rows.positions, k.dtype)[:, None].expand(-1, self.heads, -1, -1)]

    def _attention(
        self, q: Tensor, kept: Sequence[Tensor], rows: Rows, layout: Callable[[Alibi | None], Layout]
    ) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp over what is kept, in a layout that is told how far from it queries stand."""
        slopes: Slopes | None = alike(self.slopes, q) if self.field is None else EVERY
        alibi = None if slopes is None else Alibi(slopes, rows.positions, number(kept[2]))
        parts = [Part(q, kept[0], kept[1], layout(alibi))]
        if self.field is not None:
            parts = self.field.split(parts, q, rows)
        return attention(parts, self.scale, self.backend)

    def _parted(self, tokens: Tensor) -> list[Tensor]:
        """As `_kept`, of vectors (..., V) of rings."""
        sizes = [self.head_width, self.head_width, self.kept - 2 * self.head_width]
        return list(tokens.split(sizes if sizes[2] else sizes[:2], -1))

    def _step(self, q: Tensor, kept: list[Tensor], bucket: Tensor, rows: Rows, rings: Rings) -> tuple[Tensor, Rings]:
        """One token a row: of each round the ring of its bucket, and the rings with it written behind."""
        rings, bucket = rings.emptied(rows.positions[:, 0] == 0), bucket[..., 0]
        after = rings.write(torch.cat(kept, -1)[:, :, 0], bucket, rows.real[:, 0])
        past, real = (found.flatten(2, 3) for found in rings.of(bucket))
        if not past.shape[2]:
            return kept[1], after
        index = torch.arange(past.shape[2], device=past.device).expand_as(real)
        chosen = functools.partial(Selected, index[:, :, None], real[:, :, None])
        out, lse = self._attention(q, self._parted(past), rows, chosen)
        return torch.where(lse.isneginf()[..., None], kept[1], out), after

    def _run(self, q: Tensor, kept: list[Tensor], bucket: Tensor, rows: Rows, rings: Rings) -> tuple[Tensor, Rings]:
        """Any number of tokens, any documents: over the past of all buckets and rounds, and the call."""
        document = rows.document[:, None, None]
        label = torch.where(rows.real[:, None, None], document * self.buckets + bucket, NOBODY)
        if not rows.fresh:
            tokens, real = rings.read()
            names = torch.arange(self.buckets, device=q.device)[:, None]
            past = torch.where(real, names, NOBODY).flatten(3)
            own = torch.eye(self.rounds, dtype=torch.bool, device=q.device)[:, :, None]
            past = torch.where(own, past[:, :, None], NOBODY).flatten(3)  # each round sees its own rings
            label = torch.cat((past, label), 3)
            parts = self._parted(tokens.flatten(2, 4))
            kept = [torch.cat((old, new), 2) for old, new in zip(parts, kept, strict=True)]
        order = label.argsort(dim=3, stable=True)
        layout = functools.partial(Hashed, label, order, self.window, rows.time)
        out, _ = self._attention(q, kept, rows, layout)
        return out, rings.renewed(kept, label, order, rows.last_document)
