"""Sparse attention in fixed patterns: Sparse Transformer's local, strided and fixed ones, and BigBird's random blocks.

    stride s, block i of position n: i = floor(n / s); m <= n always; a key counts once

    local    n - m < s                                                     a band
    strided  n - m < s,  or  (n - m) mod s = 0                             a band and a comb
    fixed    m in block i,  or  m in an earlier block with m mod s >= s - c    own block, summaries of c columns
    bigbird  n - m <= s,  or  m < g,  or  m in one of r blocks before i - 1    a band, a prefix, random blocks

Slot j of the r random blocks draws among the blocks z + j, z + j + r, z + j + 2 r, ... up to i - 2, with z the first
block that begins behind the prefix, by a hash of (seed, layer, head, i, j): no block is drawn twice, a document sees
the same blocks wherever it stands, and early blocks have fewer. Child et al., https://arxiv.org/abs/1904.10509 (GPT-3
alternates `local` with dense layers: a pattern of layers); Zaheer et al., https://arxiv.org/abs/2007.14062, as a
causal form.

State: local keeps s tokens. The others grow: strided and bigbird keep every token, since the comb and the draws of
later blocks may meet any; fixed keeps the open block and c of every s tokens.
Work a token at position n: 4 H W times the keys seen: s; s + n / s; s + c n / s; (1 + r) s + g. local and bigbird are
linear in length; strided and fixed are quadratic with a factor of 1 / s and c / s.
Shapes: B batch, T time, H heads, G heads of keys and values, W width of a head, S keys, R slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from farfield.architectures.block_keys import BlockKeys
from farfield.architectures.columns import banded, columns, located
from farfield.architectures.derived import DerivedSettings, Group, Pattern
from farfield.architectures.ops.alibi import Alibi, Slopes
from farfield.architectures.ops.attention import Part
from farfield.architectures.ops.layouts import Full, Labelled, Layout, Selected
from farfield.architectures.ops.place import Place
from farfield.architectures.ops.runs import Aligned, Strided
from farfield.architectures.ops.uncompiled import uncompiled
from farfield.architectures.rows import Rows
from farfield.architectures.state import KeyValueBuffer

__all__ = ["SparseConfig", "draw"]

Found = tuple[list[Part], KeyValueBuffer]


class SparseConfig(DerivedSettings):
    """Sparse Transformer's local, strided and fixed patterns, and BigBird's random blocks."""

    form = "softmax in sparse patterns"
    source = "arxiv.org/abs/1904.10509"

    kind: Literal["sparse"] = "sparse"
    pattern: Literal["local", "strided", "fixed", "bigbird"] = Field(
        "local", description="local: a band; strided: band and comb; fixed: block and summaries; bigbird: random blocks"
    )
    stride: int = Field(16, ge=2, description="tokens of the band, of a block, and between the teeth of the comb")
    summary: int = Field(2, ge=1, description="fixed: columns at the end of a block that later blocks see")
    globals: int = Field(2, ge=0, description="bigbird: positions at the start of a document that every token sees")
    random: int = Field(2, ge=1, description="bigbird: earlier blocks that are drawn for each block")
    seed: int = Field(0, ge=0, lt=2**31, description="bigbird: what the draws depend on, with layer, head and block")

    @property
    def computed(self) -> str:
        """BigBird keeps all keys, and xPos cuts long calls, at each of whose cuts they are copied."""
        cut = self.position == "xpos"
        return {
            "local": "softmax in a band, linear",
            "strided": "softmax in a band and a comb, quadratic / stride",
            "fixed": "softmax in blocks and summaries, quadratic / stride",
            "bigbird": f"softmax in bands and random blocks{'' if cut else ', linear'}",
        }[self.pattern]

    @property
    def published(self) -> str:
        return "arxiv.org/abs/2007.14062" if self.pattern == "bigbird" else self.source

    def reach(self, layer: int, depth: int) -> int | None:
        return {"local": self.stride - 1, "strided": self.stride, "fixed": 0, "bigbird": self.stride}[self.pattern]

    def bounded(self) -> str | None:
        return f"pattern: local sees {self.stride} tokens." if self.pattern == "local" else None

    def check(self, width: int) -> None:
        self.sizes(width)
        if self.pattern == "fixed" and self.summary > self.stride:
            raise ValueError(
                f"summary: {self.summary} columns of blocks of {self.stride} tokens. At most {self.stride}."
            )

    def patterns(self, heads: int, layer: int) -> Sequence[Pattern]:
        every = range(heads)
        if self.pattern == "local":
            return [Local(every, self.stride)]
        if self.pattern == "strided":
            return [Comb(every, self.stride)]
        if self.pattern == "fixed":
            return [Group(every, self.stride), Summaries(every, self.stride, self.summary)]
        return [RandomBlocks(every, self.stride, self.globals, self.random, self.seed, layer)]


def window(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Rows,
    before: KeyValueBuffer,
    reach: int,
    first: int = 0,
    slopes: Slopes | None = None,
) -> Part:
    """The tokens at most `reach` before each query's own and from position `first` on."""
    past_k, past_v, valid = before.read()
    low = 0 if rows.fresh else max(0, past_k.shape[2] - reach)
    if rows.fresh:
        past_k, past_v, valid = past_k[:, :, :0], past_v[:, :, :0], None
    past_k, past_v = past_k[:, :, low:], past_v[:, :, low:]
    layout = banded(rows, past_k.shape[2], None if valid is None else valid[:, low:], reach, first=first, slopes=slopes)
    if past_k.shape[2]:  # without a past, this would be a copy of all
        k, v = torch.cat((past_k, k), 2), torch.cat((past_v, v), 2)
    return Part(q, k, v, layout)


def distance(query: Tensor, key: Tensor) -> Tensor:
    """(B, 1, T, S)."""
    return (query[:, :, None] - key[:, None])[:, None]


@dataclass(frozen=True)
class Local:
    """The last `stride` tokens, the query's own among them."""

    relative: ClassVar[bool] = True
    far: ClassVar[bool] = False
    heads: range
    stride: int

    @property
    def limit(self) -> int:
        return self.stride

    def held(self, tokens: int) -> int:
        return min(tokens, self.stride)

    def seen(self, position: int) -> int:
        return min(position + 1, self.stride)

    def sees(self, query: Tensor, key: Tensor) -> Tensor:
        apart = distance(query, key)
        return (apart >= 0) & (apart < self.stride)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, rows: Rows, before: KeyValueBuffer, slopes: Slopes | None = None
    ) -> Found:
        after = before.append(k, v, rows)
        if rows.time == 1 and rows.begin is not None:
            keys, values, _ = after.read()
            position, _ = columns(rows, keys.shape[2] - 1, None)
            return [Part(q, keys, values, Full(Alibi.of(slopes, rows.positions[:1], position[:1])))], after
        return [window(q, k, v, rows, before, self.stride - 1, slopes=slopes)], after


@dataclass(frozen=True)
class Comb:
    """The last `stride` tokens, and every `stride`-th before them."""

    relative: ClassVar[bool] = True
    far: ClassVar[bool] = True
    heads: range
    stride: int
    limit: None = None

    def held(self, tokens: int) -> int:
        return tokens

    def seen(self, position: int) -> int:
        return min(position + 1, self.stride) + position // self.stride

    def sees(self, query: Tensor, key: Tensor) -> Tensor:
        apart = distance(query, key)
        return (apart >= 0) & ((apart < self.stride) | (apart % self.stride == 0))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, rows: Rows, before: KeyValueBuffer, slopes: Slopes | None = None
    ) -> Found:
        after, begin, stride = before.append(k, v, rows), rows.begin, self.stride
        if begin is not None and rows.time == 1:
            return self._one(q, after, begin, slopes), after
        parts = [window(q, k, v, rows, before, stride - 1, slopes=slopes)]
        if begin == 0:
            if rows.time > stride:
                stand, place = rows.positions[:1], Place(slice(None), slice(stride, None))
                teeth = Strided(stride, Alibi.of(slopes, stand[:, stride:], stand[:, :-stride]))
                parts.append(Part(q, k[:, :, :-stride], v[:, :, :-stride], teeth, place))
            return parts, after
        past_k, past_v, valid = before.read()
        comb = banded(rows, past_k.shape[2], valid, None, stride, ahead=-stride, slopes=slopes)
        parts.append(Part(q, torch.cat((past_k, k), 2), torch.cat((past_v, v), 2), comb))
        return parts, after

    def _one(self, q: Tensor, after: KeyValueBuffer, position: int, slopes: Slopes | None) -> list[Part]:
        """All rows are one token at `position`, the last of the buffer: the band, then the comb."""
        keys, values, _ = after.read()
        stand = torch.arange(position + 1, device=q.device)[None]
        some = [slice(max(0, position + 1 - self.stride), None)]
        if position >= self.stride:
            some.append(slice(position % self.stride, position + 1 - self.stride, self.stride))
        falls = [Alibi.of(slopes, stand[:, -1:], stand[:, at]) for at in some]
        return [Part(q, keys[:, :, at], values[:, :, at], Full(its)) for at, its in zip(some, falls, strict=True)]


@dataclass(frozen=True)
class Summaries:
    """The last `count` columns of every block of `stride` tokens that is before the query's."""

    relative: ClassVar[bool] = False
    far: ClassVar[bool] = True
    heads: range
    stride: int
    count: int
    limit: None = None

    def held(self, tokens: int) -> int:
        return tokens // self.stride * self.count + max(0, tokens % self.stride - self.stride + self.count)

    def seen(self, position: int) -> int:
        return position // self.stride * self.count

    def sees(self, query: Tensor, key: Tensor) -> Tensor:
        block, own = (x.div(self.stride, rounding_mode="floor") for x in (key, query))
        kept = key % self.stride >= self.stride - self.count
        return (kept[:, None] & (block[:, None] < own[:, :, None]))[:, None]

    def compress(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Columns (B, N) of the kept tokens, their numbers in the document, and the documents; -1 for none."""

        def make() -> tuple[Tensor, Tensor, Tensor]:
            within = rows.positions % self.stride - (self.stride - self.count)
            kept = rows.real & (within >= 0)
            column = (~kept).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(kept.sum(1).max())]
            number = torch.where(kept, rows.positions // self.stride * self.count + within, -1).gather(1, column)
            document = torch.where(number >= 0, rows.document.gather(1, column), -1)
            return column, number, document

        return rows.once(("summaries", self.stride, self.count), make)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, rows: Rows, before: KeyValueBuffer, slopes: Slopes | None = None
    ) -> Found:
        column, number, document = self.compress(rows)
        every, blocks = Place(slice(None), column), BlockKeys(self.stride, self.count, self.stride - self.count)
        return blocks.attend(q, every.take(k), every.take(v), number, document, rows, before, slopes)


@dataclass(frozen=True)
class RandomBlocks:
    """A band of `stride` tokens before the query's own, a prefix, and `random` blocks further back."""

    relative: ClassVar[bool] = False
    far: ClassVar[bool] = True
    heads: range
    stride: int
    globals: int
    random: int
    seed: int
    layer: int
    limit: None = None

    @property
    def first(self) -> int:
        """The first block that begins behind the prefix."""
        return -(-self.globals // self.stride)

    def held(self, tokens: int) -> int:
        return tokens

    def seen(self, position: int) -> int:
        low = max(0, position - self.stride)
        drawn = min(self.random, max(0, position // self.stride - 1 - self.first))
        return position + 1 - low + min(low, self.globals) + drawn * self.stride

    def drawn(self, block: Tensor) -> Tensor:
        """The blocks (..., H, R) that blocks `block` (...) draw, -1 where there is none."""
        head = torch.arange(len(self.heads), device=block.device)[:, None]
        slot = torch.arange(self.random, device=block.device)
        block = block[..., None, None]
        count = (block - 1 - self.first - slot + self.random - 1).div(self.random, rounding_mode="floor")
        chosen = self.first + slot + self.random * (draw(self.seed, self.layer, head, block, slot) % count.clamp(min=1))
        return torch.where(count > 0, chosen, -1)

    def sees(self, query: Tensor, key: Tensor) -> Tensor:
        apart = distance(query, key)
        seen = (apart >= 0) & ((apart <= self.stride) | (key < self.globals)[:, None, None])
        block = key.div(self.stride, rounding_mode="floor")[:, None, None]
        for chosen in self.drawn(query.div(self.stride, rounding_mode="floor")).transpose(1, 2).unbind(-1):
            seen = seen | (chosen[..., None] == block) & (chosen[..., None] >= 0)
        return seen

    @uncompiled  # blocks are drawn by numbers
    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, rows: Rows, before: KeyValueBuffer, slopes: Slopes | None = None
    ) -> Found:
        after = before.append(k, v, rows)
        parts = [window(q, k, v, rows, before, self.stride, self.globals, slopes)]
        if rows.begin == 0:
            return parts + self._prefix(q, k, v, rows, slopes) + self._whole(q, k, v, slopes), after
        keys, values, _ = (after if rows.time == 1 else before).read()
        past = keys.shape[2]
        if rows.time > 1:
            keys, values = torch.cat((keys, k), 2), torch.cat((values, v), 2)
        if keys.shape[2]:  # else a single column of padding, before anything
            parts.append(Part(q, keys, values, self._selected(rows, past, keys.shape[2], slopes)))
        return parts, after

    def _prefix(self, q: Tensor, k: Tensor, v: Tensor, rows: Rows, slopes: Slopes | None) -> list[Part]:
        count = min(self.globals, q.shape[2])
        slots, alibi = rows.positions[:, :count], Alibi.of(slopes, rows.positions[:1], rows.positions[:1, :count])
        layout = Labelled(rows.positions, rows.document, slots, rows.document[:, :count], alibi)
        return [Part(q, k[:, :, :count], v[:, :, :count], layout)] if count else []

    def _whole(self, q: Tensor, k: Tensor, v: Tensor, slopes: Slopes | None) -> list[Part]:
        """Rows are whole documents: each slot's blocks of keys are put beside the blocks of queries."""
        time, stride, parts = q.shape[2], self.stride, []
        blocks = -(-time // stride)
        full = time // stride * stride
        serve = torch.arange(q.shape[1], device=q.device) // (q.shape[1] // k.shape[1])
        by_block = [x[:, :, :full].unflatten(2, (-1, stride)) for x in (k, v)]
        chosen = self.drawn(torch.arange(blocks, device=q.device))
        for slot in range(self.random):
            first = self.first + 2 + slot  # the first block that has something to draw
            if first < blocks:
                index = chosen[first:, :, slot].T
                keys, values = (x[:, serve[:, None], index].flatten(2, 3) for x in by_block)
                place = Place(slice(None), slice(first * stride, None))
                layout = self._beside(index, torch.arange(first, blocks, device=q.device), time, slopes)
                parts.append(Part(q, keys, values, layout, place))
        return parts

    def _beside(self, drawn: Tensor, block: Tensor, time: int, slopes: Slopes | None) -> Aligned:
        """Blocks `drawn` (H, N) beside the last `block` (N,) of a document of `time` tokens."""
        stride = self.stride
        if slopes is None:
            return Aligned(stride)
        if isinstance(slopes, Tensor):
            return Aligned(stride, slopes=slopes, apart=(block - drawn) * stride)
        key = (drawn[..., None] * stride + torch.arange(stride, device=drawn.device)).flatten(1)
        query = torch.arange(-(-time // stride) * stride - len(block) * stride, time, device=drawn.device)
        return Aligned(stride, alibi=Alibi(slopes, query[None], key[None]))

    def _selected(self, rows: Rows, past: int, keys: int, slopes: Slopes | None) -> Layout:
        """Each query names the columns of its prefix and of its blocks, among [past, call].

        The past ends before the first of the call's tokens that go on with it; of as many keys, with the only token.
        """
        own = rows.positions[:, :, None, None]
        drawn = self.drawn(rows.positions.clamp(min=0) // self.stride)
        inside = torch.arange(self.stride, device=rows.device)
        blocks = torch.where(drawn[..., None] >= 0, drawn[..., None] * self.stride + inside, -1).flatten(3)
        prefix = torch.arange(self.globals, device=rows.device).expand(*blocks.shape[:3], -1)
        position = torch.cat((torch.where(prefix <= own, prefix, -1), blocks), -1)
        visible = (position >= 0) & rows.real[:, :, None, None]
        if keys == past:
            column, stands = past - 1 - own + position, rows.positions + torch.arange(1 - past, 1, device=rows.device)
        else:
            at = torch.arange(rows.time, device=rows.device).expand(rows.batch, -1)
            column, stands = located(position, at, rows, past), columns(rows, past, None)[0]
        alibi = Alibi.of(slopes, rows.positions, stands)
        return Selected(column.clamp(0, keys - 1).transpose(1, 2), visible.transpose(1, 2), alibi)


def draw(seed: int, layer: int, head: Tensor, block: Tensor, slot: Tensor) -> Tensor:
    """A number in [0, 2^32) for each head, block and slot (broadcast, int64): an avalanche of multiplications."""
    found = torch.full_like(block, seed)
    for part in (torch.full_like(block, layer), head, block, slot):
        found = ((found ^ part) * 2654435761 + 974711) & 0xFFFFFFFF
        found = found ^ (found >> 15)
    return found
