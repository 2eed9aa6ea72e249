"""Longformer: a sliding window to both sides for every token, and global tokens that see all and are seen by all.

    local token n    one softmax over {m : |n - m| <= w d, (n - m) mod d = 0} and {m global}, a global key once
    global token n   one softmax over all m, with projections of its own for queries, keys and values

    w 1, token 0 global:   x x x x x
                           x x x . .
                           x x x x .
                           x . x x x
                           x . . x x

w is the window of the layer, to each side; d the dilation of the head. The global tokens of a document are its first
`globals` positions, or those that the caller marks in `Rows`. Beltagy et al., https://arxiv.org/abs/2004.05150.

Work a token of a document with g global tokens: that of the projections, global keys and values of all tokens among
them, and 4 H W (2 w + 1 + 2 g); a dilated head computes the 2 w d + 1 scores of its band and masks the others. Linear.
Shapes: N documents, S tokens of the longest of them, M global tokens, H heads, W width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from farfield.architectures.block_keys import labels
from farfield.architectures.derived import cut, serving, taken
from farfield.architectures.encoders.documents import all_tokens, count
from farfield.architectures.encoders.softmax import SoftmaxEncoder, SoftmaxEncoderSettings
from farfield.architectures.longformer import check_bands, spread
from farfield.architectures.mixer import Heads
from farfield.architectures.ops.alibi import Alibi, alike
from farfield.architectures.ops.attention import Part, attention
from farfield.architectures.ops.counted import Counted
from farfield.architectures.ops.layouts import Banded, Full, Layout
from farfield.architectures.ops.place import Place
from farfield.architectures.rows import Rows
from farfield.config import ModelError

__all__ = ["LongformerEncoder", "LongformerEncoderConfig"]


class LongformerEncoderConfig(SoftmaxEncoderSettings):
    """Sliding window to both sides and global tokens; linear time."""

    form = "softmax in bands, linear"
    source = "arxiv.org/abs/2004.05150"

    kind: Literal["longformer"] = "longformer"
    window: int | tuple[int, ...] = Field(
        64, description="tokens to each side of its own that a token sees; a list from bottom to top"
    )
    dilation: int | tuple[int, ...] = Field(1, description="every how many-th token of the window; a list: by heads")
    globals: int = Field(
        1, ge=0, description="positions at the start of a document that are global where none are marked; 0: none ever"
    )

    @property
    def marks(self) -> bool:
        return self.globals > 0

    def check(self, width: int) -> None:
        heads, _, _ = self.sizes(width)
        check_bands(self.window, self.dilation, heads)

    def build(self, width: int, layer: int, depth: int) -> LongformerEncoder:
        return LongformerEncoder(self, width, layer, depth)

    def parameters(self, width: int, layer: int, depth: int) -> int:
        heads, kv_heads, head_width = self.sizes(width)
        more = width * (heads + 2 * kv_heads) * head_width if self.globals else 0
        return super().parameters(width, layer, depth) + more

    def flops(self, width: int, tokens: int, layer: int, depth: int) -> int:
        _, kv_heads, head_width = self.sizes(width)
        more = 4 * width * kv_heads * head_width if self.globals else 0
        return super().flops(width, tokens, layer, depth) + more

    def seen(self, heads: int, tokens: int, layer: int, depth: int) -> float:
        prefix = min(self.globals, tokens)
        return heads * (min(tokens, 2 * spread(self.window, layer, depth) + 1 + prefix) + prefix)


@dataclass(frozen=True, eq=False)
class _Globals:
    """Where global tokens stand: M columns of each row, of which the first `count` (N,), or all, are global."""

    place: Place
    count: Tensor | None

    def layout(self, alibi: Alibi | None) -> Layout:
        """Of queries that see them all."""
        return Full(alibi) if self.count is None else Counted(self.count, alibi)

    def position(self, rows: Rows) -> Tensor:
        """Where they stand in their documents, (N, M)."""
        return self.place.take(rows.positions[:, None])[:, 0]

    def replaced(self, out: Tensor, found: Tensor) -> Tensor:
        """`out` (N, H, S, W) with `found` (N, H, M, W) at the global tokens."""
        columns = self.place.columns
        if isinstance(columns, slice):  # what is behind a shorter document is padding
            return torch.cat((found, out[:, :, found.shape[2] :]), 2)
        if self.count is not None:
            real = torch.arange(found.shape[2], device=out.device) < self.count[:, None]
            found = torch.where(real[:, None, :, None], found, self.place.take(out))
        return out.scatter(2, columns[:, None, :, None].expand_as(found), found)


class LongformerEncoder(SoftmaxEncoder):
    """See the file's head."""

    def __init__(self, config: LongformerEncoderConfig, width: int, layer: int, depth: int) -> None:
        super().__init__(config, width)
        self.globals, self.window = config.globals, spread(config.window, layer, depth)
        dilations = [spread(config.dilation, head, self.heads) for head in range(self.heads)]
        self.runs = _runs(dilations)
        self.global_qkv = nn.Linear(width, sum(self.projection.sizes), bias=False) if self.globals else None

    def attend(self, heads: Heads, x: Tensor, rows: Rows) -> Tensor:
        where = rows.once(("globals", self.globals), lambda: self._where(rows))
        parts = [self._window(some, dilation, heads, rows) for some, dilation in self.runs]
        if where is not None:
            keys, values = where.place.take(heads.keys), where.place.take(heads.values)
            slopes = alike(self.slopes, heads.queries)
            alibi = None if slopes is None else Alibi(slopes, rows.positions, where.position(rows))
            parts.append(Part(heads.queries, keys, values, where.layout(alibi)))
        out, _ = attention(parts, self.scale, self.backend)
        return out if where is None else where.replaced(out, self._global(x, rows, where))

    def _window(self, some: range, dilation: int, heads: Heads, rows: Rows) -> Part:
        """The window of some heads, without global keys."""
        document = labels(rows)
        keys = document if rows.marked is None else torch.where(rows.marked, -1, document)
        slopes = alike(None if self.slopes is None else self.slopes[cut(some)], heads.queries)
        layout = Banded(
            rows.positions,
            document,
            rows.positions,
            torch.where(rows.real, keys, -1),
            reach=self.window * dilation,
            ahead=self.window * dilation,
            dilation=dilation,
            first=self.globals if rows.marked is None else 0,
            regular=not rows.padded and rows.marked is None,
            alibi=Alibi.run(slopes, rows.time, rows.time),
        )
        if len(some) == self.heads:
            return Part(heads.queries, heads.keys, heads.values, layout)
        serve = serving(some, self.heads, self.kv_heads)
        place = Place(cut(some), slice(None))
        return Part(heads.queries, taken(heads.keys, serve), taken(heads.values, serve), layout, place)

    def _where(self, rows: Rows) -> _Globals | None:
        """The global tokens of documents that are rows of their own, or None where there is none."""
        if rows.marked is None:
            most, real = min(self.globals, rows.time), count(rows)
            place = Place(slice(None), slice(0, most))
            return _Globals(place, None if real is None else real.clamp(max=most)) if most else None
        found = rows.marked & rows.real
        many = found.sum(1)
        most = int(many.max())
        if most and not self.globals:
            raise ModelError("global tokens are marked, but this longformer has none: its setting globals is 0.")
        column = (~found).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        return _Globals(Place(slice(None), column), many) if most else None

    def _global(self, x: Tensor, rows: Rows, where: _Globals) -> Tensor:
        """What global tokens answer, (N, H, M, W): over all tokens, in the global projections."""
        assert self.global_qkv is not None
        tokens, phase = where.place.take(x[:, None])[:, 0], where.place.take(rows.phase[:, None])[:, 0]
        on_q, *on_kv = self.global_qkv.weight.split(self.projection.sizes)
        q, k, v = (
            rearrange(nn.functional.linear(of, weight), "n s (h w) -> n h s w", w=self.head_width)
            for of, weight in ((tokens, on_q), (x, on_kv[0]), (x, on_kv[1]))
        )
        q, slopes = self.rotation.at(q, phase), alike(self.slopes, q)
        alibi = None if slopes is None else Alibi(slopes, where.position(rows), rows.positions)
        part = Part(q, self.rotation.rows(k, rows), v, all_tokens(rows, alibi))
        return attention([part], self.scale, self.backend)[0]


def _runs(dilations: list[int]) -> list[tuple[range, int]]:
    """Neighbouring heads of one dilation, and that."""
    starts = [head for head, dilation in enumerate(dilations) if head == 0 or dilations[head - 1] != dilation]
    ends = [*starts[1:], len(dilations)]
    return [(range(start, end), dilations[start]) for start, end in zip(starts, ends, strict=True)]
