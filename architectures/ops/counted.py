"""Layouts of rows of unlike lengths: of the keys of a row, only the first so many are there.

    Counted    every query sees the keys that are there             right-padded documents, in both directions
    Blocks     a block of queries sees the blocks that it names     windows and random blocks

Shapes: B batch, H heads, T queries, S keys, D width of a head, L columns of a block, N blocks, C blocks that one names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad

from farfield.architectures.ops.alibi import Alibi
from farfield.architectures.ops.backend import Gradients, Kernel
from farfield.architectures.ops.layouts import BLOCK, Block, Layout, biased, masked_backward, masked_forward

__all__ = ["Blocks", "Counted"]

PIECE = 2048  # queries beside which the blocks that they name are copied at once


@dataclass(frozen=True, eq=False)
class Counted:
    """Every query of a row sees the first `count` (B,) of its keys.

    ```
    count 2:   x x .
               x x .
    ```
    """

    count: Tensor
    alibi: Alibi | None = None

    def mask(self, time: int, keys: int) -> Tensor:
        return biased(self._visible(keys), self.alibi, slice(0, time), slice(0, keys))

    def select(self, heads: Tensor) -> Layout:
        return self if self.alibi is None else replace(self, alibi=self.alibi.select(heads))

    def forward(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        return masked_forward(self._blocks(q.shape[2], k.shape[2]), kernel, q, k, v, scale)

    def backward(
        self, kernel: Kernel, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> Gradients:
        return masked_backward(self._blocks(q.shape[2], k.shape[2]), kernel, gradient, q, k, v, out, lse, scale)

    def _blocks(self, time: int, keys: int) -> Iterator[Block]:
        visible = self._visible(keys)
        for begin in range(0, time, BLOCK):
            at = slice(begin, min(begin + BLOCK, time))
            yield at, slice(None), biased(visible, self.alibi, at, slice(None))

    def _visible(self, keys: int) -> Tensor:
        return (torch.arange(keys, device=self.count.device) < self.count[:, None])[:, None, None]


@dataclass(frozen=True, eq=False)
class Blocks:
    """A query sees the keys of the blocks that its own block names: those from column `first` on, of the first `count`
    (B,) of its row where that is not None. With slopes (H,), scores fall with the distance of columns.

    ```
    length 2, index [[0, 1], [1, -1], [2, 0]], first 1, count 5:   . x x x . .
                                                                   . x x x . .
                                                                   . . x x . .
                                                                   . . x x . .
                                                                   . x . . x .
    ```

    Blocks are of `length` columns; `index` (B or 1, H or 1, N, C) is -1 for none and names no block twice. Blocks of
    keys are copied beside those of queries, a piece of the queries at a time: work is T C L and memory T + S.
    """

    length: int
    index: Tensor
    first: int = 0
    count: Tensor | None = None
    slopes: Tensor | None = None

    def mask(self, time: int, keys: int) -> Tensor:
        return biased(self._seen(time, keys), Alibi.run(self.slopes, time, keys), slice(0, time), slice(0, keys))

    def _seen(self, time: int, keys: int) -> Tensor:
        """The definition of which keys (B or 1, H or 1, T, S) are seen."""
        column = torch.arange(keys, device=self.index.device)
        named = (self.index[..., None] == column // self.length).any(-2)
        seen = named.repeat_interleave(self.length, 2)[:, :, :time] & (column >= self.first)
        return seen if self.count is None else seen & Counted(self.count).mask(time, keys)

    def select(self, heads: Tensor) -> Layout:
        index = self.index if self.index.shape[1] == 1 else self.index.index_select(1, heads)
        slopes = None if self.slopes is None else self.slopes.index_select(0, heads)
        return Blocks(self.length, index, self.first, self.count, slopes)

    def forward(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))
        table_k, table_v = self._table(k), self._table(v)
        for at, blocks in self._pieces(q.shape[2]):
            line, mask = self._named(k, at, blocks)
            keys, values = (self._beside(table, line, k.shape[3]) for table in (table_k, table_v))
            found, its = kernel.forward(self._rows(q, at), keys, values, mask, False, scale)
            out[:, :, at], lse[:, :, at] = self._columns(found, q), self._columns(its, q)
        return out, lse

    def backward(
        self, kernel: Kernel, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> Gradients:
        on_q, tables = torch.empty_like(q), (self._table(k), self._table(v))
        wide = torch.promote_types(k.dtype, torch.float32)
        sums = [torch.zeros(table.shape, dtype=wide, device=k.device) for table in tables]
        for at, blocks in self._pieces(q.shape[2]):
            line, mask = self._named(k, at, blocks)
            keys, values = (self._beside(table, line, k.shape[3]) for table in tables)
            above, queries, result, its = (self._rows(x, at) for x in (gradient, q, out, lse))
            found = kernel.backward(above, queries, keys, values, result, its, mask, False, scale)
            on_q[:, :, at] = self._columns(found[0], q)
            for total, piece in zip(sums, found[1:], strict=True):
                total.index_add_(0, line.flatten(), piece.reshape(line.numel(), -1).to(wide))
        on_k, on_v = (x.view(*k.shape[:2], -1, k.shape[3])[:, :, : k.shape[2]] for x in sums)
        return on_q, on_k, on_v

    def _pieces(self, time: int) -> Iterator[tuple[slice, slice]]:
        """Columns of queries and the blocks that they are: whole ones, a few at a time, then the ragged last one."""
        whole, step = time // self.length, max(1, PIECE // self.length)
        for begin in range(0, whole, step):
            end = min(begin + step, whole)
            yield slice(begin * self.length, end * self.length), slice(begin, end)
        if time > whole * self.length:
            yield slice(whole * self.length, time), slice(whole, whole + 1)

    def _table(self, x: Tensor) -> Tensor:
        """The blocks of x (B, H, S, D) as lines (B H N, L D), with zeros behind the last key."""
        return rearrange(pad(x, (0, 0, 0, -x.shape[2] % self.length)), "b h (n l) d -> (b h n) (l d)", l=self.length)

    def _named(self, k: Tensor, at: slice, blocks: slice) -> tuple[Tensor, Tensor]:
        """Lines (B, n, H, C) of the table that the blocks of the queries `at` columns name, and the mask of their keys,
        (B n, H or 1, L or 1, C L).
        """
        index = self.index[:, :, blocks]
        column = index[..., None] * self.length + torch.arange(self.length, device=index.device)
        end = k.shape[2] if self.count is None else self.count.clamp(max=k.shape[2]).view(-1, 1, 1, 1, 1)
        seen = (column >= self.first) & (column >= 0) & (column < end)
        batch, heads = k.shape[:2]
        mask = self._fallen(seen.expand(batch, -1, -1, -1, -1), column, at, blocks)
        base = torch.arange(batch * heads, device=index.device).view(batch, heads, 1, 1)
        line = base * -(-k.shape[2] // self.length) + index.clamp(min=0)
        return rearrange(line, "b h n c -> b n h c"), mask

    def _fallen(self, seen: Tensor, column: Tensor, at: slice, blocks: slice) -> Tensor:
        """Of keys at `column` that are `seen` (B, H or 1, n, C, L), the mask beside the queries `at` their blocks."""
        visible = rearrange(seen, "b h n c l -> (b n) h 1 (c l)")
        if self.slopes is None:
            return visible
        query = torch.arange(at.start, at.stop, device=column.device).view(blocks.stop - blocks.start, -1, 1)
        apart = (query - rearrange(column, "b h n c l -> b h n 1 (c l)")).abs().expand(*seen.shape[:3], -1, -1)
        distance = rearrange(apart, "b h n t s -> (b n) h t s").to(self.slopes.dtype)
        return -self.slopes[:, None, None] * torch.where(visible, distance, torch.inf)

    @staticmethod
    def _beside(table: Tensor, line: Tensor, width: int) -> Tensor:
        """Keys or values (B n, H, C L, D) of the lines (B, n, H, C)."""
        return table.index_select(0, line.flatten()).view(
            -1, line.shape[2], line.shape[3] * table.shape[1] // width, width
        )

    def _rows(self, x: Tensor, at: slice) -> Tensor:
        """The blocks of x (B, H, T, ...) at some columns as rows (B n, H, L, ...)."""
        x = x[:, :, at]
        length = min(self.length, x.shape[2])
        return rearrange(x, "b h (n l) ... -> (b n) h l ...", l=length)

    @staticmethod
    def _columns(x: Tensor, like: Tensor) -> Tensor:
        """As they were: (B, H, n L, ...)."""
        return rearrange(x, "(b n) h l ... -> b h (n l) ...", b=like.shape[0])
