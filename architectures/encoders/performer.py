"""Performer in both directions: softmax attention by random features (FAVOR+), which is linear attention.

    o_n = phi(q_n) sum_m phi(k_m) v_m / phi(q_n) sum_m phi(k_m),    y = W_o o,   m in the same document
    favor   phi(x) = exp(A x' - |x'|^2 / 2)        x' = x W^(-1/4): phi(q) phi(k) is exp(q k / sqrt(W)) on average
    relu    phi(x) = relu(A x') + 0.001            the generalised kernel: no softmax, but positive

Exponents are taken from their maximum, of a query over its features, of keys over all features and tokens of the
document: it cancels. All else is as in the causal form, `farfield.architectures.performer`. Choromanski et al.,
https://arxiv.org/abs/2009.14794.

Work a token: that of the projections, of the features (4 H M W), and 4 H M (W + 1): linear in length.
Shapes: N documents, S tokens of the longest of them, D width, H heads, W width of a head, M features.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from farfield.architectures.encoders.documents import each_document, one_by_one
from farfield.architectures.encoders.encoder import Encoder, EncoderSettings
from farfield.architectures.ops.favor import PIECE, favor
from farfield.architectures.ops.pieces import worth_pieces
from farfield.architectures.ops.random_features import Scaling
from farfield.architectures.performer import FeatureKind, RandomFeatures, normalized, performer_sizes
from farfield.architectures.projection import Projection, Rotation
from farfield.architectures.rows import Rows

__all__ = ["PerformerEncoder", "PerformerEncoderConfig"]


class PerformerEncoderConfig(EncoderSettings):
    """FAVOR+ in both directions: softmax attention by positive orthogonal random features, linear in time."""

    form = "products of features, linear"
    source = "arxiv.org/abs/2009.14794"

    kind: Literal["performer"] = "performer"
    heads: int | None = Field(None, ge=1, description="number of heads; null: width / head_width")
    head_width: int = Field(32, ge=2, description="width of a head where heads is null")
    features: FeatureKind = Field("favor", description="the softmax kernel, or a generalised one")
    count: int | None = Field(None, ge=1, description="random features a head; null: int(W ln W), W width of a head")
    scaling: Scaling = Field("gaussian", description="lengths of the random rows: as of Gaussian ones, or constant")
    redraw: int = Field(0, ge=0, description="training steps after which the features are drawn anew; 0: never")
    position: Literal["rope", "none"] = "rope"
    base: float = Field(10000.0, gt=0, description="base of the rotary frequencies")

    def sizes(self, width: int) -> tuple[int, int, int]:
        """Heads, width of a head, features."""
        return performer_sizes(width, self.heads, self.head_width, self.count, self.position == "rope")

    def check(self, width: int) -> None:
        self.sizes(width)

    def build(self, width: int, layer: int, depth: int) -> PerformerEncoder:
        return PerformerEncoder(self, width)

    def parameters(self, width: int, layer: int, depth: int) -> int:
        heads, head_width, _ = self.sizes(width)
        return Projection.count(width, heads, heads, head_width, conv=0)

    def flops(self, width: int, tokens: int, layer: int, depth: int) -> int:
        heads, head_width, count = self.sizes(width)
        return 2 * self.parameters(width, layer, depth) + 4 * heads * count * (2 * head_width + 1)


class PerformerEncoder(Encoder):
    """See the file's head."""

    def __init__(self, config: PerformerEncoderConfig, width: int) -> None:
        super().__init__()
        heads, head_width, count = config.sizes(width)
        self.features = config.features
        self.projection = Projection(width, heads, heads, head_width, conv=0)
        self.rotation = Rotation(head_width, config.base if config.position == "rope" else None)
        self.random = RandomFeatures(count, head_width, config.features, config.scaling, config.redraw)

    def encode(self, x: Tensor, rows: Rows) -> Tensor:
        found: Tensor = each_document(x, rows, self._mix)
        return found

    def _mix(self, x: Tensor, rows: Rows) -> Tensor:
        if self.features == "favor" and worth_pieces(x, 2 * PIECE, self.projection.qkv, self.projection.out):
            return one_by_one(x, rows, self.rotation.angles(rows, x.dtype), self._favor)
        heads, _ = self.projection.split(x, rows, None)
        q, k = (self.random.exponents(self.rotation.rows(part, rows)) for part in (heads.queries, heads.keys))
        real, v = rows.real[:, None, :, None], heads.values
        if self.features == "relu":
            q, k = self.random.rectified(q), torch.where(real, self.random.rectified(k), 0.0)
        else:
            k = torch.where(real, k, -math.inf)
            q = (q - q.detach().amax(-1, keepdim=True)).exp()
            k = (k - k.detach().amax((-2, -1), keepdim=True)).exp()
        v = torch.cat((v, torch.ones_like(v[..., :1])), -1)
        memory = k.to(v.dtype).transpose(-1, -2) @ v
        return self.projection.join(normalized(q.to(v.dtype) @ memory), rows)

    def _favor(self, x: Tensor, _: int, angles: tuple[Tensor, Tensor] | None) -> Tensor:
        """(S, D) of one long document x (S, D)."""
        weights = (self.projection.qkv.weight, self.projection.out.weight, self.random.matrix.to(x.dtype))
        return favor(x, *weights, angles)
