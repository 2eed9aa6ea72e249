"""Reformer: attention among tokens that hash to the same bucket, causal by the newest tokens of each.

    k_m = q_m / |q_m|        bucket_r(m) = argmax([q_m R_r; -q_m R_r])        R_r random, of W by buckets / 2
    S_r(n) = the last c of the m < n with bucket_r(m) = bucket_r(n)           c = window
    o_n = one softmax of q_n k_m over the m in S_1(n), ..., S_R(n), each as often as it is in them; v_n if there is none

Kitaev et al., https://arxiv.org/abs/2001.04451, sort all tokens by bucket and cut the result into chunks: what is in a
query's chunk depends on tokens behind it. Here it depends on the tokens before it only, so that decoding is the same
function. Queries are their own keys, and a token would look at itself more than at all others: it sees itself only
where it sees nothing else, as published. Keys are hashed as they are and then turned to their positions. Positions are
of the kinds of `farfield.architectures.attention`; ALiBi and xPos fade by the tokens in between, not by those of the
bucket.

State: rings of the last c keys and values of each bucket, 2 H R c W N numbers, full or not: constant in time; with
ALiBi 4 numbers for each key more, which say where it stands. Work a token: that of the projections, H W R N to hash,
and 4 H W R c.
Shapes: B batch, T time, P + T columns with those of the past, D width, H heads, W width of a head, R rounds, N buckets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from farfield.architectures.mixer import Mixer, MixerSettings, in_steps, reference_bytes
from farfield.architectures.ops.alibi import Alibi, alike, slopes_of
from farfield.architectures.ops.attention import Part, attention
from farfield.architectures.ops.backend import Backend
from farfield.architectures.ops.hashed import NOBODY, Hashed
from farfield.architectures.ops.layouts import Selected
from farfield.architectures.ops.short_convolution import ConvolutionState
from farfield.architectures.ops.uncompiled import uncompiled
from farfield.architectures.projection import Rotation
from farfield.architectures.rings import DIGITS, Rings, digits, number
from farfield.architectures.rows import Rows
from farfield.architectures.shared_heads import SharedHeads, shared_sizes
from farfield.architectures.state import State

__all__ = ["Reformer", "ReformerConfig", "ReformerState"]


class ReformerConfig(MixerSettings):
    """Attention among the newest tokens that hash to the same bucket; constant state, linear in time."""

    form = "softmax within buckets, linear"
    source = "arxiv.org/abs/2001.04451"

    kind: Literal["reformer"] = "reformer"
    heads: int | None = Field(None, ge=1, description="number of heads; null: width / head_width")
    head_width: int = Field(32, ge=2, description="width of a head where heads is null")
    buckets: int = Field(16, ge=2, multiple_of=2, description="buckets of a round, an even number")
    rounds: int = Field(2, ge=1, description="rounds of hashing: the more, the fewer near tokens are missed")
    window: int = Field(32, ge=1, description="how many of the last tokens of its bucket a token sees in a round")
    position: Literal["rope", "xpos", "alibi", "none"] = Field(
        "rope", description="rope: rotations; xpos: those, and far tokens fade; alibi: a slope a head; none"
    )
    base: float = Field(10000.0, gt=0, description="base of the rotary frequencies")
    scale_base: float = Field(512.0, ge=1, description="xpos: tokens in which the fastest pair fades to 0.29")
    conv: int = Field(0, ge=0, le=16, description="taps of a short convolution on queries and values; 0: none")
    backend: Backend = "auto"

    def sizes(self, width: int) -> tuple[int, int]:
        """Number of heads and width of a head."""
        return shared_sizes(width, self.heads, self.head_width, self.position)

    def kept(self, width: int) -> int:
        """Numbers that are kept of a token in a head and round."""
        return 2 * self.sizes(width)[1] + (DIGITS if self.position == "alibi" else 0)

    def check(self, width: int) -> None:
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
        self.scale, self.backend = self.head_width**-0.5, config.backend
        sizes = self.heads, self.head_width, config.buckets, config.rounds, config.conv
        self.projection = SharedHeads(width, *sizes)
        self.kept, self.rotation = config.kept(width), Rotation.of(config, self.head_width)
        self.slopes = slopes_of(self.heads) if config.position == "alibi" else None

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
        turned = self.rotation.turned(queries, self.projection.keys(queries), rows, state.reference)
        kept = self._beside(turned.keys, v, rows)
        rings = turned.moved(state.rings.cast(kept.dtype))
        attend = self._step if rows.time == 1 else self._run
        parts, rings = attend(turned.queries, kept, bucket, rows, rings)
        out = v
        if parts:
            found, lse = attention(parts, self.scale, self.backend)
            out = torch.where(lse.isneginf()[..., None], v, found)
        return self.projection.join(out, rows), replace(state, conv=conv, rings=rings, reference=turned.reference)

    def _beside(self, k: Tensor, v: Tensor, rows: Rows) -> Tensor:
        """What rings keep (B, H, T, V) of tokens: keys, values (B, H, T, W) and, with ALiBi, where they stand."""
        if self.slopes is None:
            return torch.cat((k, v), -1)
        return torch.cat((k, v, digits(rows.positions, k.dtype)[:, None].expand(-1, self.heads, -1, -1)), -1)

    def _apart(self, kept: Tensor, rows: Rows) -> tuple[Tensor, Tensor, Alibi | None]:
        """Keys and values (B, H, S, W) of what is kept (B, H, S, V), and how far from them the call's queries stand."""
        keys, values, spelled = kept.split((self.head_width, self.head_width, self.kept - 2 * self.head_width), -1)
        slopes = alike(self.slopes, kept)
        return keys, values, None if slopes is None else Alibi(slopes, rows.positions, number(spelled))

    def _step(self, q: Tensor, kept: Tensor, bucket: Tensor, rows: Rows, rings: Rings) -> tuple[list[Part], Rings]:
        """One token a row: of each round the ring of its bucket, and the rings with it written behind."""
        rings, bucket = rings.emptied(rows.positions[:, 0] == 0), bucket[..., 0]
        after = rings.write(kept[:, :, 0], bucket, rows.real[:, 0])
        past, real = (found.flatten(2, 3) for found in rings.of(bucket))
        if not past.shape[2]:
            return [], after
        keys, values, alibi = self._apart(past, rows)
        index = torch.arange(past.shape[2], device=past.device).expand_as(real)
        return [Part(q, keys, values, Selected(index[:, :, None], real[:, :, None], alibi))], after

    def _run(self, q: Tensor, kept: Tensor, bucket: Tensor, rows: Rows, rings: Rings) -> tuple[list[Part], Rings]:
        """Any number of tokens, any documents: a part for each round, over the past of all buckets and the call."""
        document = rows.document[:, None, None]
        label = torch.where(rows.real[:, None, None], document * self.buckets + bucket, NOBODY)
        every = kept[:, :, None].expand(-1, -1, self.rounds, -1, -1)
        if not rows.fresh:
            past, real = rings.read()
            names = torch.arange(self.buckets, device=q.device)[:, None]
            label = torch.cat((torch.where(real, names, NOBODY).flatten(3), label), 3)
            every = torch.cat((past.flatten(3, 4), every), 3)
        order = label.argsort(dim=3, stable=True)
        parts = []
        for turn in range(self.rounds):
            keys, values, alibi = self._apart(kept if rows.fresh else every[:, :, turn], rows)
            layout = Hashed(label[:, :, turn], order[:, :, turn], self.window, alibi)
            parts.append(Part(q, keys, values, layout))
        return parts, rings.renewed(every, label, order, rows.last_document)
