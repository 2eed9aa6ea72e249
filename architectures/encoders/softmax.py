"""Softmax attention in both directions: all but which keys a query sees.

    o_n = softmax_m(q_n . k_m / sqrt(W)) v_m,    y = W_o o

Grouped heads of keys and values. A kind of it says what is attended to. Positions are rotations, ALiBi, by which a
score falls by s_h |n - m|, or none. There is no xPos: its scale zeta^(n - m) fades what stands before a token, and
grows without bound on what stands behind it.

Shapes: B batch, T time, D width, H heads, G heads of keys and values, W width of a head, N documents, S tokens of the
longest of them.
"""

from __future__ import annotations

import abc
from typing import Literal

from pydantic import Field
from torch import Tensor

from farfield.architectures.encoders.documents import each_document
from farfield.architectures.encoders.encoder import Encoder, EncoderSettings
from farfield.architectures.mixer import Heads, softmax_sizes
from farfield.architectures.ops.alibi import slopes_of
from farfield.architectures.ops.backend import Backend
from farfield.architectures.projection import Projection, Rotation
from farfield.architectures.rows import Rows

__all__ = ["SoftmaxEncoder", "SoftmaxEncoderSettings"]


class SoftmaxEncoderSettings(EncoderSettings):
    """What the settings of every bidirectional softmax mixer have."""

    heads: int | None = Field(None, ge=1, description="heads of queries; null: width / head_width")
    head_width: int = Field(32, ge=2, description="width of a head where heads is null")
    kv_heads: int | None = Field(None, ge=1, description="heads of keys and values; null: as many as heads")
    position: Literal["rope", "alibi", "none"] = Field(
        "rope", description="rope: rotations; alibi: a slope a head, to both sides; none"
    )
    base: float = Field(10000.0, gt=0, description="base of the rotary frequencies")
    backend: Backend = "auto"

    def sizes(self, width: int) -> tuple[int, int, int]:
        """Heads, heads of keys and values, width of a head.

        Raises:
            ValueError: they do not divide.
        """
        return softmax_sizes(width, self.heads, self.head_width, self.kv_heads, self.position == "rope")

    def check(self, width: int) -> None:
        self.sizes(width)

    def parameters(self, width: int, layer: int, depth: int) -> int:
        return Projection.count(width, *self.sizes(width), conv=0)

    def flops(self, width: int, tokens: int, layer: int, depth: int) -> int:
        heads, _, head_width = self.sizes(width)
        seen = self.seen(heads, tokens, layer, depth)
        return 2 * Projection.count(width, *self.sizes(width), conv=0) + round(4 * head_width * seen)

    @abc.abstractmethod
    def seen(self, heads: int, tokens: int, layer: int, depth: int) -> float:
        """Keys that a token of a document of `tokens` tokens sees in all heads together, on average."""


class SoftmaxEncoder(Encoder):
    """See the file's head."""

    def __init__(self, config: SoftmaxEncoderSettings, width: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = config.sizes(width)
        self.scale, self.backend = self.head_width**-0.5, config.backend
        self.projection = Projection(width, self.heads, self.kv_heads, self.head_width, conv=0)
        self.rotation = Rotation(self.head_width, config.base if config.position == "rope" else None)
        self.slopes = slopes_of(self.heads) if config.position == "alibi" else None

    @abc.abstractmethod
    def attend(self, heads: Heads, x: Tensor, rows: Rows) -> Tensor:
        """Attention's output (N, H, S, W), anything at padding.

        Args:
            heads: queries and keys turned to where they stand, and values, of documents that are rows of their own.
            x: what they were made of, (N, S, D).
        """

    def encode(self, x: Tensor, rows: Rows) -> Tensor:
        found: Tensor = each_document(x, rows, self._mix)
        return found

    def _mix(self, x: Tensor, rows: Rows) -> Tensor:
        heads, _ = self.projection.split(x, rows, None)
        q, k = (self.rotation.rows(part, rows) for part in (heads.queries, heads.keys))
        return self.projection.join(self.attend(Heads(q, k, heads.values), x, rows), rows)
