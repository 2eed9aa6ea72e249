"""Linformer, causal by segments: finished segments are read through a few learned rows, the open one token by token.

    K~_j = E^T K_j,  V~_j = F^T V_j      segment j of c tokens, E and F of c by r: r rows stand for c tokens
    o_n = one softmax of q_n over K~_j of the segments j < floor(n / c), and k_m with m <= n of segment floor(n / c)

Wang et al., https://arxiv.org/abs/2006.04768, projects a whole sequence of fixed length, which no decoder can do; this
form has any length and does not see the future. Keys are rotated before they are projected, so that a row is a mixture
of keys, each where it stood; with ALiBi a row stands where its segment ends. An `extension` moves finished segments as
wholes, by where they end: inside of one, and in the open one, distances stay as they are.

State: r rows for every c tokens, and the keys and values of the open segment: it grows, c / r times more slowly than
that of attention. Work a token at position n: 4 H W (r n / c + c), and 4 G W r to project: quadratic divided by c / r.
Shapes: B batch, T time, N segments, C tokens of one, R rows of one, H heads, G heads of keys and values, W width of a
head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from farfield.architectures.block_keys import BlockKeys
from farfield.architectures.columns import located
from farfield.architectures.derived import Group
from farfield.architectures.keyed import PositionedSettings
from farfield.architectures.mixer import Mixer, in_steps, reference_bytes, softmax_sizes
from farfield.architectures.ops.alibi import EVERY, alike, slopes_of
from farfield.architectures.ops.attention import attention
from farfield.architectures.ops.backend import Backend
from farfield.architectures.ops.short_convolution import ConvolutionState
from farfield.architectures.projection import Projection, Rotation
from farfield.architectures.rows import Rows
from farfield.architectures.state import KeyValueBuffer, State

__all__ = ["Linformer", "LinformerConfig", "LinformerState"]


class LinformerConfig(PositionedSettings):
    """Finished segments through a few learned rows, the open one token by token; state grows slowly."""

    form = "softmax over projected segments"
    source = "arxiv.org/abs/2006.04768"

    kind: Literal["linformer"] = "linformer"
    heads: int | None = Field(None, ge=1, description="heads of queries; null: width / head_width")
    head_width: int = Field(32, ge=2, description="width of a head where heads is null")
    kv_heads: int | None = Field(None, ge=1, description="heads of keys and values; null: as many as heads")
    segment: int = Field(16, ge=1, description="tokens in a segment")
    rows: int = Field(4, ge=1, description="rows that stand for a finished segment")
    share: bool = Field(True, description="whether all heads share one projection of keys and one of values")
    conv: int = Field(0, ge=0, le=16, description="taps of a short convolution on queries, keys and values; 0: none")
    backend: Backend = "auto"

    def sizes(self, width: int) -> tuple[int, int, int]:
        """Heads, heads of keys and values, width of a head."""
        rotated = self.position in ("rope", "xpos")
        return softmax_sizes(width, self.heads, self.head_width, self.kv_heads, rotated, self.position)

    def check(self, width: int) -> None:
        self.check_positions()
        self.sizes(width)
        if self.rows > self.segment:
            raise ValueError(
                f"rows: {self.rows} rows of segments of {self.segment} tokens save nothing. At most {self.segment}."
            )

    def build(self, width: int, layer: int, depth: int) -> Linformer:
        return Linformer(self, width)

    def parameters(self, width: int, layer: int, depth: int) -> int:
        heads, kv_heads, head_width = self.sizes(width)
        maps = 2 * (1 if self.share else kv_heads) * self.segment * self.rows
        return Projection.count(width, heads, kv_heads, head_width, self.conv) + maps

    def state_bytes(self, width: int, tokens: int, layer: int, depth: int, element: int = 4) -> int:
        heads, kv_heads, head_width = self.sizes(width)
        kept = tokens // self.segment * self.rows + Group(range(heads), self.segment).held(tokens)
        buffers = kept * 2 * kv_heads * head_width * element
        inputs = Projection.state_bytes(heads, kv_heads, head_width, self.conv, element)
        return buffers + inputs + reference_bytes(self.position)

    def flops(self, width: int, tokens: int, layer: int, depth: int) -> int:
        heads, kv_heads, head_width = self.sizes(width)
        seen = tokens // self.segment * self.rows + tokens % self.segment + 1
        projections = Projection.count(width, heads, kv_heads, head_width, self.conv)
        return 2 * projections + 4 * head_width * (heads * seen + kv_heads * self.rows)


@dataclass(frozen=True, eq=False)
class LinformerState(State):
    """The convolution's inputs, the rows of finished segments, the open segment's rotated keys and values, and xPos's
    reference (B,).
    """

    conv: ConvolutionState | None
    rows: KeyValueBuffer
    open: KeyValueBuffer
    reference: Tensor | None = None


@dataclass(frozen=True, eq=False)
class _Finished:
    """The segments that a call completes, N a row: where their tokens stand, and what is known of their rows.

    Columns (B, N, C) are among [past, call]; numbers and documents are (B, N R), -1 where a row of the batch has fewer.
    """

    column: Tensor
    number: Tensor
    document: Tensor


class Linformer(Mixer):
    """See the file's head."""

    def __init__(self, config: LinformerConfig, width: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = config.sizes(width)
        self.scale, self.backend = self.head_width**-0.5 * config.sharpness(), config.backend
        self.segment, self.rows = config.segment, config.rows
        self.group = Group(range(self.heads), config.segment)
        self.blocks = BlockKeys(config.segment, config.rows, config.segment - 1)
        self.projection = Projection(width, self.heads, self.kv_heads, self.head_width, config.conv)
        self.rotation = Rotation.of(config, self.head_width)
        self.slopes = slopes_of(self.heads) if config.position == "alibi" else None
        extension = config.extension
        self.field = None if extension is None else extension.field(self.rotation, self.scale, self.backend)
        shape = (1 if config.share else self.kv_heads, config.segment, config.rows)
        self.key_rows, self.value_rows = nn.Parameter(torch.empty(shape)), nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Rows are as large as tokens, if tokens are independent."""
        for weight in (self.key_rows, self.value_rows):
            nn.init.normal_(weight, std=self.segment**-0.5)

    def start(self, batch: int) -> LinformerState:
        weight = self.projection.qkv.weight
        rows = KeyValueBuffer.empty(batch, self.kv_heads, self.head_width, weight)
        near = KeyValueBuffer.empty(batch, self.kv_heads, self.head_width, weight, self.segment)
        return LinformerState(self.projection.start(batch), rows, near, self.rotation.start(batch, weight))

    def forward(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        return in_steps(self._step, x, rows, state, self.rotation.span)

    def _step(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, LinformerState)
        heads, conv = self.projection.split(x, rows, state.conv)
        stand = rows if self.field is None else rows.once("positions", lambda: Rows.at(rows.positions))
        turned = self.rotation.turned(heads.queries, heads.keys, stand, state.reference)
        q, k, v, slopes = turned.queries, turned.keys, heads.values, alike(self.slopes, turned.queries)
        before, near = (turned.moved(kept.cast(k.dtype)) for kept in (state.rows, state.open))
        parts, after = self.group.attend(q, k, v, rows, near, slopes)
        falls = slopes if self.field is None else EVERY
        more, before = self.blocks.attend(q, *self._project(k, v, rows, near), rows, before, falls)
        if self.field is not None:
            more = self.field.split(more, heads.queries, rows)
        out, _ = attention([*parts, *more], self.scale, self.backend)
        return self.projection.join(out, rows), LinformerState(conv, before, after, turned.reference)

    def _project(self, k: Tensor, v: Tensor, rows: Rows, near: KeyValueBuffer) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Keys and values (B, G, N R, W) of the segments that the call completes, their numbers and documents."""
        past_k, past_v, _ = near.read()
        if rows.begin is not None:
            past = rows.begin % self.segment
            past_k, past_v = past_k[:, :, past_k.shape[2] - past :], past_v[:, :, past_v.shape[2] - past :]
            whole = (past + rows.time) // self.segment * self.segment
            number = torch.arange(whole // self.segment * self.rows, device=k.device)
            number = (number + rows.begin // self.segment * self.rows).expand(rows.batch, -1)
            document = torch.full_like(number, int(rows.begin == 0))
            found = [torch.cat(pair, 2)[:, :, :whole] for pair in ((past_k, k), (past_v, v))]
        else:
            where = self._finished(rows, past_k.shape[2])
            number, document = where.number, where.document
            index = where.column.flatten(1)[:, None, :, None].expand(-1, self.kv_heads, -1, self.head_width)
            found = [torch.cat(pair, 2).gather(2, index) for pair in ((past_k, k), (past_v, v))]
        keys, values = (
            self._mixed(x, weight) for x, weight in zip(found, (self.key_rows, self.value_rows), strict=True)
        )
        if self.field is not None and keys.shape[2]:
            ends = self.blocks.position(number)
            keys = self.rotation.at(keys, self.field.placed(ends) - ends)
        return keys, values, number, document

    def _mixed(self, x: Tensor, weight: Tensor) -> Tensor:
        """(B, G, N R, W) of segments x (B, G, N C, W) with weight (G or 1, C, R)."""
        sizes = {"b": x.shape[0], "s": x.shape[1] // weight.shape[0], "n": x.shape[2] // self.segment}
        tokens = rearrange(x, "b (g s) (n c) w -> g (b s n w) c", c=self.segment, g=weight.shape[0], **sizes)
        mixed = tokens @ weight.to(x.dtype)  # one product a map, whose sums are of full precision, backward too
        return rearrange(mixed, "g (b s n w) r -> b (g s) (n r) w", w=self.head_width, **sizes).contiguous()

    def _finished(self, rows: Rows, past: int) -> _Finished:
        def make() -> _Finished:
            last = rows.real & (rows.positions % self.segment == self.segment - 1)
            column = (~last).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(last.sum(1).max())]
            real, end = last.gather(1, column), rows.positions.gather(1, column)
            tokens = end[..., None] - self.segment + 1 + torch.arange(self.segment, device=rows.device)
            at = located(tokens, column, rows, past).clamp(0, past + rows.time - 1)
            row = torch.arange(self.rows, device=rows.device)
            number = torch.where(real, end.div(self.segment, rounding_mode="floor") * self.rows, -1)[..., None]
            number = torch.where(number < 0, -1, number + row)
            document = torch.where(real, rows.document.gather(1, column), -1)[..., None].expand_as(number)
            return _Finished(at, number.flatten(1), document.flatten(1))

        return rows.once(("finished", self.segment, self.rows, past), make)
