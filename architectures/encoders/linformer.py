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
        if self.backend != "auto" or not worth_pieces(x, 4 * PIECE, self.projection.qkv, self.projection.out):
            return super()._mix(x, rows)
        angles = self.rotation.angles(rows, x.dtype)
        q_map, k_map, v_map = self.projection.qkv.weight.split(self.projection.sizes)
        keys, values = self._rows(x, self.key_rows, k_map, rows, angles), self._rows(x, self.value_rows, v_map, rows)

        def attended(document: Tensor, row: int, turns: tuple[Tensor, Tensor] | None) -> Tensor:
            return rows_attention(document, keys[row], values[row], q_map, self.projection.out.weight, turns)

        return one_by_one(x, rows, angles, attended)

    def _rows(
        self, x: Tensor, weight: Tensor, inputs: Tensor, rows: Rows, angles: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """(H, R, W) of keys or values for each of x (N, S, D), by weight (G or 1, L, R) and inputs (G W, D).

        What is not turned and weighs alike in all heads is E^T (x I^T) = (E^T x) I^T: a few rows are mapped in place
        of all tokens.
        """
        if angles is None and len(weight) == 1:
            mapped = linear(self._projected(x.unsqueeze(1), weight, rows).squeeze(1), inputs)
            found = rearrange(mapped, "n r (g w) -> n g r w", w=self.head_width)
        else:
            parts = rearrange(linear(x, inputs), "n s (g w) -> n g s w", w=self.head_width)
            found = self._projected(parts if angles is None else rotate(parts, *angles, "halves"), weight, rows)
        return found.repeat_interleave(self.heads // self.kv_heads, 1).unbind()

    def _projected(self, x: Tensor, weight: Tensor, rows: Rows) -> Tensor:
        """(N, G, R, W) of keys or values x (N, G, S, W) with weight (G or 1, L, R)."""
        used = min(x.shape[2], self.length)  # a bucket of documents may be wider than they are
        weight = weight if used == self.length else weight[:, :used]  # a part's gradient is a copy
        if rows.padded:
            x = torch.where(rows.real[:, None, :, None], x, torch.zeros((), dtype=x.dtype, device=x.device))
        return weight.to(x.dtype).transpose(1, 2) @ (x if used == x.shape[2] else x[:, :, :used])
