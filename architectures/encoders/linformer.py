"""Linformer: keys and values of the whole document through a few learned rows.

    K~ = E^T K,  V~ = F^T V      E and F of L by R; their first S rows for a document of S tokens, S <= L
    o_n = softmax_r(q_n . K~_r / sqrt(W)) V~_r

Wang et al., https://arxiv.org/abs/2006.04768. Keys are rotated before they are projected, so that a row is a mixture of
keys, each where it stood. It stands for the whole document, in no place of its own, so that no distance is there for
ALiBi. A document may have L tokens at most, since every position has weights of its own.

Work a token: that of the projections, 4 G W R to project and 4 H W R to attend: linear in length.
Shapes: N documents, S tokens of the longest of them, L tokens at most, R rows, H heads, G heads of keys and values, W
width of a head.
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import linear

from farfield.architectures.encoders.documents import one_by_one
from farfield.architectures.encoders.softmax import SoftmaxEncoder, SoftmaxEncoderSettings
from farfield.architectures.mixer import Heads
from farfield.architectures.ops.attention import Part, attention
from farfield.architectures.ops.layouts import Full
from farfield.architectures.ops.pieces import worth_pieces
from farfield.architectures.ops.rotary import rotate
from farfield.architectures.ops.rows_attention import PIECE, rows_attention
from farfield.architectures.rows import Rows
from farfield.config import ModelError

__all__ = ["LinformerEncoder", "LinformerEncoderConfig"]


class LinformerEncoderConfig(SoftmaxEncoderSettings):
    """The whole document through a few learned rows; documents of bounded length, linear time."""

    form = "softmax over projected rows, linear"
    source = "arxiv.org/abs/2006.04768"

    kind: Literal["linformer"] = "linformer"
    length: int = Field(512, ge=1, description="the most tokens that a document may have")
    rows: int = Field(64, ge=1, description="rows that stand for the tokens of a document")
    share: bool = Field(True, description="whether all heads share one projection of keys and one of values")
    position: Literal["rope", "none"] = "rope"

    @property
    def longest(self) -> int | None:
        return self.length

    def check(self, width: int) -> None:
        self.sizes(width)
        if self.rows > self.length:
            raise ValueError(
                f"rows: {self.rows} rows for documents of {self.length} tokens save nothing. At most {self.length}."
            )

    def build(self, width: int, layer: int, depth: int) -> LinformerEncoder:
        return LinformerEncoder(self, width)

    def parameters(self, width: int, layer: int, depth: int) -> int:
        _, kv_heads, _ = self.sizes(width)
        return super().parameters(width, layer, depth) + 2 * (1 if self.share else kv_heads) * self.length * self.rows

    def flops(self, width: int, tokens: int, layer: int, depth: int) -> int:
        _, kv_heads, head_width = self.sizes(width)
        return super().flops(width, tokens, layer, depth) + 4 * kv_heads * head_width * self.rows

    def seen(self, heads: int, tokens: int, layer: int, depth: int) -> float:
        return heads * self.rows


class LinformerEncoder(SoftmaxEncoder):
    """See the file's head."""

    def __init__(self, config: LinformerEncoderConfig, width: int) -> None:
        super().__init__(config, width)
        self.length = config.length
        shape = (1 if config.share else self.kv_heads, config.length, config.rows)
        self.key_rows, self.value_rows = nn.Parameter(torch.empty(shape)), nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Rows are as large as tokens, if the tokens of a longest document are independent."""
        for weight in (self.key_rows, self.value_rows):
            nn.init.normal_(weight, std=self.length**-0.5)

    def encode(self, x: Tensor, rows: Rows) -> Tensor:
        longest = rows.once("longest", lambda: int(rows.positions.max()) + 1) if rows.time > self.length else 0
        if longest > self.length:
            raise ModelError(f"a document of {longest} tokens; this linformer's length allows at most {self.length}.")
        return super().encode(x, rows)

    def attend(self, heads: Heads, x: Tensor, rows: Rows) -> Tensor:
        keys, values = (
            self._projected(part, weight, rows)
            for part, weight in ((heads.keys, self.key_rows), (heads.values, self.value_rows))
        )
        return attention([Part(heads.queries, keys, values, Full())], self.scale, self.backend)[0]

    def _mix(self, x: Tensor, rows: Rows) -> Tensor:
        if self.backend == "auto" and worth_pieces(x, PIECE, self.projection.qkv, self.projection.out):
            return one_by_one(x, rows, self.rotation.angles(rows, x.dtype), self._alone)
        return super()._mix(x, rows)

    def _alone(self, x: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
        """(S, D) of one long document x (S, D)."""
        q_map, k_map, v_map = self.projection.qkv.weight.split(self.projection.sizes)
        keys, values = self._rows(x, self.key_rows, k_map, angles), self._rows(x, self.value_rows, v_map, None)
        shared = self.heads // self.kv_heads
        keys, values = keys.repeat_interleave(shared, 0), values.repeat_interleave(shared, 0)
        return rows_attention(x, keys, values, q_map, self.projection.out.weight, angles)

    def _rows(self, x: Tensor, weight: Tensor, inputs: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
        """(G, R, W) of keys or values, of x (S, D), weight (G or 1, L, R) and inputs (G W, D), by the shorter way.

        What is not turned and weighs alike in all heads is E^T (x I^T) = (E^T x) I^T: a few rows are mapped in place
        of all tokens.
        """
        weight = (weight if len(x) == self.length else weight[:, : len(x)]).to(x.dtype)
        if angles is None and len(weight) == 1:
            return rearrange(linear(weight.squeeze(0).T @ x, inputs), "r (g w) -> g r w", w=self.head_width)
        parts = rearrange(linear(x, inputs), "s (g w) -> g s w", w=self.head_width)
        return weight.transpose(1, 2) @ (parts if angles is None else rotate(parts[None], *angles, "halves")[0])

    def _projected(self, x: Tensor, weight: Tensor, rows: Rows) -> Tensor:
        """(N, G, R, W) of keys or values x (N, G, S, W) with weight (G or 1, L, R)."""
        used = min(x.shape[2], self.length)  # a bucket of documents may be wider than they are
        if rows.padded:
            x = torch.where(rows.real[:, None, :, None], x, torch.zeros((), dtype=x.dtype, device=x.device))
        return weight[:, :used].to(x.dtype).transpose(1, 2) @ x[:, :, :used]
