"""Reformer as published: tokens sorted by hash bucket and cut into chunks, each chunk read with the one before it.

    k_m = q_m / |q_m|        bucket_r(m) = argmax([q_m R_r; -q_m R_r])        R_r random, of W by buckets / 2
    c_r(m) = floor(rank of m by (bucket_r(m), m) in its document / chunk)
    S_r(n) = the m other than n with c_r(n) - 1 <= c_r(m) <= c_r(n) and bucket_r(m) = bucket_r(n)
    o_n = one softmax of q_n k_m over the m in S_1(n), ..., S_R(n), each as often as it is in them; v_n if there is none

Kitaev et al., https://arxiv.org/abs/2001.04451. With `across`, buckets only sort: a token sees all of the two chunks,
and the first chunk of several is read with the last one, as in the code that was released with the paper. Positions are
those of `farfield.architectures.encoders.softmax`; with ALiBi a score falls with the tokens of the document in between.
The causal form is `farfield.architectures.reformer`.

Work a token: that of the projections, H W R buckets to hash, and at most 8 H W R chunk: linear in length.
Shapes: B batch, T time, D width, H heads, W width of a head, R rounds.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from farfield.architectures.encoders.encoder import Encoder, EncoderSettings
from farfield.architectures.ops.alibi import Alibi, alike, slopes_of
from farfield.architectures.ops.attention import Part, attention
from farfield.architectures.ops.backend import Backend
from farfield.architectures.ops.hashed import NOBODY, Adjacent
from farfield.architectures.ops.uncompiled import uncompiled
from farfield.architectures.projection import Rotation
from farfield.architectures.rows import Rows
from farfield.architectures.shared_heads import SharedHeads, shared_sizes

__all__ = ["ReformerEncoder", "ReformerEncoderConfig"]


class ReformerEncoderConfig(EncoderSettings):
    """Attention in chunks of tokens sorted by hash bucket, in both directions, linear in time."""

    form = "softmax in chunks by bucket, linear"
    source = "arxiv.org/abs/2001.04451"

    kind: Literal["reformer"] = "reformer"
    heads: int | None = Field(None, ge=1, description="number of heads; null: width / head_width")
    head_width: int = Field(32, ge=2, description="width of a head where heads is null")
    buckets: int = Field(16, ge=2, multiple_of=2, description="buckets of a round, an even number")
    rounds: int = Field(2, ge=1, description="rounds of hashing: the more, the fewer near tokens are missed")
    chunk: int = Field(64, ge=1, description="tokens in a chunk; a token sees its own and the one before")
    across: bool = Field(False, description="whether a token sees other buckets of its chunks, as in the released code")
    position: Literal["rope", "alibi", "none"] = Field(
        "rope", description="rope: rotations; alibi: a slope a head, to both sides; none"
    )
    base: float = Field(10000.0, gt=0, description="base of the rotary frequencies")
    backend: Backend = "auto"

    def sizes(self, width: int) -> tuple[int, int]:
        """Number of heads and width of a head."""
        return shared_sizes(width, self.heads, self.head_width, self.position)

    def check(self, width: int) -> None:
        self.sizes(width)

    def build(self, width: int, layer: int, depth: int) -> ReformerEncoder:
        return ReformerEncoder(self, width)

    def parameters(self, width: int, layer: int, depth: int) -> int:
        return SharedHeads.count(width, *self.sizes(width), conv=0)

    def flops(self, width: int, tokens: int, layer: int, depth: int) -> int:
        heads, head_width = self.sizes(width)
        mapped = SharedHeads.work(width, heads, head_width, 0, self.buckets, self.rounds)
        return mapped + 4 * heads * head_width * self.rounds * min(tokens, 2 * self.chunk)


class ReformerEncoder(Encoder):
    """See the file's head."""

    def __init__(self, config: ReformerEncoderConfig, width: int) -> None:
        super().__init__()
        heads, head_width = config.sizes(width)
        self.chunk, self.across, self.rounds = config.chunk, config.across, config.rounds
        self.scale, self.backend = head_width**-0.5, config.backend
        self.projection = SharedHeads(width, heads, head_width, config.buckets, config.rounds, conv=0)
        self.rotation = Rotation(head_width, config.base if config.position == "rope" else None)
        self.slopes = slopes_of(heads) if config.position == "alibi" else None

    @uncompiled  # what is seen depends on the hashes
    def encode(self, x: Tensor, rows: Rows) -> Tensor:
        queries, v, _ = self.projection.split(x, rows, None)
        bucket = self.projection.buckets(queries)
        q = self.rotation.rows(queries, rows)
        k = self.projection.keys(q)
        document = torch.where(rows.real, rows.document, NOBODY)
        slopes = alike(self.slopes, q)
        alibi = None if slopes is None else Alibi(slopes, rows.positions, rows.positions)
        layout = Adjacent(document, bucket, self.chunk, self.across, alibi)
        return self.projection.join(attention([Part(q, k, v, layout)], self.scale, self.backend)[0], rows)
