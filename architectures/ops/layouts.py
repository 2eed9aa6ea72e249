"""Layouts of softmax attention: which query sees which key, and how that is computed block by block.

    Full       every query, every key                          a past that all may read
    Causal     query t sees keys 0 .. t                        the call itself
    Banded     by document, distance, dilation and position    packed rows, windows: a band of blocks, never T by T
    Labelled   by document and position, columns in any order  global tokens, gathered from where they stand
    Selected   each query names its keys by index              what a memory found
    Given      a mask                                          what a bank of few keys holds

More of them, for runs of columns that need no mask, stand in `runs`. With an `alibi`, scores fall with distance: it
says where queries and keys stand, whatever the layout counts by, and each block's mask is numbers that are added.

Shapes: B batch, H heads, T queries, S keys, D width of a head, N selected keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor

from farfield.architectures.ops.alibi import Alibi
from farfield.architectures.ops.backend import FlashKernel, Gradients, Kernel
from farfield.architectures.ops.decoded import one_query

__all__ = [
    "BLOCK",
    "DENSE",
    "Banded",
    "Block",
    "Causal",
    "Full",
    "Given",
    "Labelled",
    "Layout",
    "Selected",
    "biased",
    "masked_backward",
    "masked_forward",
    "wide",
]

BLOCK = 256  # queries in a block
DENSE = 32  # a memory of at most this many keys for each one selected is read by a mask, a larger one by gathering

Block = tuple[slice, slice, Tensor | None]  # queries, the key columns that they need, and their mask if any


class Layout(Protocol):
    """Which query sees which key, and how that is computed."""

    def mask(self, time: int, keys: int) -> Tensor:
        """The definition: bool, or numbers that are added to the scores, broadcastable to (B, H, T, S)."""

    def forward(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Output (B, H, T, D) and log-sum-exp (B, H, T) of this part alone."""

    def backward(
        self, kernel: Kernel, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> Gradients:
        """Gradients of q, k, v, given the joined output and log-sum-exp."""

    def select(self, heads: Tensor) -> Layout:
        """The layout of some heads (n,) int64."""


def wide(like: Tensor) -> Tensor:
    """Zeros to add gradients of blocks into: float32 where the values are narrower."""
    return torch.zeros(like.shape, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)


def biased(visible: Tensor, alibi: Alibi | None, at: slice, columns: slice) -> Tensor:
    """The mask of a block: which keys are visible, or with an alibi what is added to the scores, -inf where none is."""
    return visible if alibi is None else alibi.added(at, columns, visible)


@dataclass(frozen=True, eq=False)
class Full:
    """Every query sees every key."""

    alibi: Alibi | None = None

    def mask(self, time: int, keys: int) -> Tensor:
        return biased(torch.ones(time, keys, dtype=torch.bool), self.alibi, slice(0, time), slice(0, keys))

    def select(self, heads: Tensor) -> Layout:
        return self if self.alibi is None else Full(self.alibi.select(heads))

    def decoded(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor] | None:
        """As `forward`, of one query without gradients, with heads that share keys; None where nothing is faster."""
        return one_query(q, k, v, scale) if self.alibi is None and kernel.name == "cpu" else None

    def forward(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        if self.alibi is None and (kernel.whole or q.shape[2] <= BLOCK):
            return kernel.forward(q, k, v, None, False, scale)
        return masked_forward(self._blocks(q.shape[2]), kernel, q, k, v, scale)

    def backward(
        self, kernel: Kernel, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> Gradients:
        if self.alibi is None and (kernel.whole or q.shape[2] <= BLOCK):
            return kernel.backward(gradient, q, k, v, out, lse, None, False, scale)
        return masked_backward(self._blocks(q.shape[2]), kernel, gradient, q, k, v, out, lse, scale)

    def _blocks(self, time: int) -> Iterator[Block]:
        for begin in range(0, time, BLOCK):
            at = slice(begin, min(begin + BLOCK, time))
            yield at, slice(None), None if self.alibi is None else self.alibi.added(at, slice(None))


@dataclass(frozen=True, eq=False)
class Causal:
    """Query t sees keys 0 .. t of as many keys as queries."""

    alibi: Alibi | None = None

    def mask(self, time: int, keys: int) -> Tensor:
        return biased(torch.ones(time, keys, dtype=torch.bool).tril(), self.alibi, slice(0, time), slice(0, keys))

    def select(self, heads: Tensor) -> Layout:
        return self if self.alibi is None else Causal(self.alibi.select(heads))

    def forward(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        if self.alibi is None and (kernel.whole or q.shape[2] <= BLOCK):
            return kernel.forward(q, k, v, None, True, scale)
        return masked_forward(self._blocks(q), kernel, q, k, v, scale)

    def backward(
        self, kernel: Kernel, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> Gradients:
        if self.alibi is None and (kernel.whole or q.shape[2] <= BLOCK):
            return kernel.backward(gradient, q, k, v, out, lse, None, True, scale)
        return masked_backward(self._blocks(q), kernel, gradient, q, k, v, out, lse, scale)

    def _blocks(self, q: Tensor) -> Iterator[Block]:
        time = q.shape[2]
        for begin in range(0, time, BLOCK):
            end = min(begin + BLOCK, time)
            at, columns = slice(begin, end), slice(0, end)
            lower = torch.ones(end - begin, end, dtype=torch.bool, device=q.device).tril(begin)
            yield at, columns, biased(lower[None, None], self.alibi, at, columns)


def masked_forward(
    blocks: Iterator[Block], kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of masked attention, block by block."""
    out, lse = torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))
    for at, keys, mask in blocks:
        out[:, :, at], lse[:, :, at] = kernel.forward(q[:, :, at], k[:, :, keys], v[:, :, keys], mask, False, scale)
    return out, lse


def masked_backward(
    blocks: Iterator[Block],
    kernel: Kernel,
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
) -> Gradients:
    """Gradients of masked attention, block by block, added up in place."""
    on_q, on_k, on_v = torch.empty_like(q), wide(k), wide(v)
    for at, keys, mask in blocks:
        pieces = (q[:, :, at], k[:, :, keys], v[:, :, keys], out[:, :, at], lse[:, :, at])
        on_q[:, :, at], more_k, more_v = kernel.backward(gradient[:, :, at], *pieces, mask, False, scale)
        on_k[:, :, keys] += more_k
        on_v[:, :, keys] += more_v
    return on_q, on_k, on_v


@dataclass(frozen=True, eq=False)
class Banded:
    """A query sees the keys of its own document that stand at most `reach` before it and at most `ahead` behind it,
    at multiples of `dilation`. `ahead` 0 is causal; -1 leaves out the query's own key.

    ```
    reach 2, one document:      the same, the third token starts a document:      reach 1, ahead 1:
      x . . . .                   x . . . .                                         x x . . .
      x x . . .                   x x . . .                                         x x x . .
      x x x . .                   . . x . .                                         . x x x .
      . x x x .                   . . x x .                                         . . x x x
      . . x x x                   . . x x x                                         . . . x x
    ```

    Columns stand in order of time and the last T of the S key columns are the queries' own, so a query needs only the
    columns in this distance of its own: work and memory are linear in T for a fixed reach. Positions (B, T) and (B, S)
    count inside a document; documents (B, T) and (B, S) are ids, -1 for a key that nobody sees. `reach` None: without
    limit. Keys whose position is below `first` are left to another part. `regular` says that all rows are single runs
    without padding, so that one mask serves all rows and blocks. `opens` says for each query the first column that it
    may need in any row: of packed documents, none before its own is looked at.
    """

    query_position: Tensor
    query_document: Tensor
    key_position: Tensor
    key_document: Tensor
    reach: int | None
    dilation: int = 1
    first: int = 0
    regular: bool = False
    ahead: int = 0
    alibi: Alibi | None = None
    opens: Sequence[int] | None = None

    def mask(self, time: int, keys: int) -> Tensor:
        return self._mask(slice(0, time), slice(0, keys))

    def select(self, heads: Tensor) -> Layout:
        return self if self.alibi is None else replace(self, alibi=self.alibi.select(heads))

    def forward(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        if isinstance(kernel, FlashKernel) and self._one_band(q, v):
            return kernel.band(q, k, v, self.reach, self.ahead, scale)
        return masked_forward(self._blocks(q.shape[2], k.shape[2]), kernel, q, k, v, scale)

    def backward(
        self, kernel: Kernel, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> Gradients:
        if isinstance(kernel, FlashKernel) and self._one_band(q, v):
            return kernel.band_backward(gradient, q, k, v, out, lse, self.reach, self.ahead, scale)
        return masked_backward(self._blocks(q.shape[2], k.shape[2]), kernel, gradient, q, k, v, out, lse, scale)

    def within(self, reach: int | None, keys: int) -> tuple[Banded, int]:
        """The layout of the pairs at most `reach` apart, over the last columns that have them, and where they begin."""
        if reach is None:
            return self, 0
        reach = reach if self.reach is None else min(self.reach, reach)
        begin = max(0, keys - self.query_position.shape[1] - reach)
        alibi = self.alibi
        if alibi is not None:
            alibi = replace(alibi, key_position=alibi.key_position[..., begin:])
        opens = None if self.opens is None else [max(0, first - begin) for first in self.opens]
        position, document = self.key_position[:, begin:], self.key_document[:, begin:]
        made = replace(self, key_position=position, key_document=document, reach=reach, alibi=alibi, opens=opens)
        return made, begin

    def _one_band(self, q: Tensor, v: Tensor) -> bool:
        """Whether the visible columns of all rows are one band, so that a kernel for bands needs no mask."""
        plain = self.regular and self.dilation == 1 and self.first == 0 and self.alibi is None
        return plain and self.ahead >= 0 and v.shape[-1] == q.shape[-1]

    def _blocks(self, time: int, keys: int) -> Iterator[Block]:
        """Blocks of queries with the key columns that they need and their mask."""
        block = BLOCK if self.reach is None else min(BLOCK, max(64, self.reach // 2))
        past = keys - time
        kept: Tensor | None = None
        for begin in range(0, time, block):
            end = min(begin + block, time)
            low = 0 if self.reach is None else max(0, past + begin - self.reach)
            if self.opens is not None:
                low = max(low, min(self.opens[begin:end]))
            high = past + end + max(self.ahead, 0)
            at, columns = slice(begin, end), slice(low, min(high, keys))
            inner = self.regular and end - begin == block and low > 0 and high <= keys
            if not inner or kept is None:
                mask = self._mask(at, columns)
                kept = mask if inner and self._plain(low) else None
            else:
                mask = kept
            yield at, columns, mask

    def _plain(self, low: int) -> bool:
        """Whether no key from column `low` on is left to another part, so that the mask is the same from here on."""
        return self.first == 0 or bool((self.key_position[:, low:] >= self.first).all())

    def _mask(self, at: slice, columns: slice) -> Tensor:
        """The mask (B or 1, H or 1, block, columns) of a block."""
        rows = slice(0, 1) if self.regular and self.first == 0 else slice(None)
        distance = self.query_position[rows, at, None] - self.key_position[rows, None, columns]
        same = self.query_document[rows, at, None] == self.key_document[rows, None, columns]
        visible = same & (distance >= -self.ahead)
        if self.reach is not None:
            visible &= distance <= self.reach
        if self.dilation > 1:
            visible &= distance % self.dilation == 0
        if self.first:
            visible &= (self.key_position[rows] >= self.first)[:, None, columns]
        return biased(visible[:, None], self.alibi, at, columns)


@dataclass(frozen=True, eq=False)
class Labelled:
    """A query sees the keys of its own document whose position is not after its own, in whatever column they stand.

    Positions and documents are (B, T) for queries and (B, S) for keys; a key of document -1 is seen by nobody.
    """

    query_position: Tensor
    query_document: Tensor
    key_position: Tensor
    key_document: Tensor
    alibi: Alibi | None = None

    def mask(self, time: int, keys: int) -> Tensor:
        return self._mask(slice(0, time))

    def select(self, heads: Tensor) -> Layout:
        return self if self.alibi is None else replace(self, alibi=self.alibi.select(heads))

    def forward(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        return masked_forward(self._blocks(q.shape[2]), kernel, q, k, v, scale)

    def backward(
        self, kernel: Kernel, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> Gradients:
        return masked_backward(self._blocks(q.shape[2]), kernel, gradient, q, k, v, out, lse, scale)

    def _blocks(self, time: int) -> Iterator[Block]:
        for begin in range(0, time, BLOCK):
            at = slice(begin, min(begin + BLOCK, time))
            yield at, slice(None), self._mask(at)

    def _mask(self, at: slice) -> Tensor:
        same = self.query_document[:, at, None] == self.key_document[:, None]
        visible = (same & (self.key_position[:, None] <= self.query_position[:, at, None]))[:, None]
        return biased(visible, self.alibi, at, slice(None))


@dataclass(frozen=True, eq=False)
class Given:
    """A query sees the keys where `visible` (B or 1, H or 1, T, S) is true."""

    visible: Tensor
    alibi: Alibi | None = None

    def mask(self, time: int, keys: int) -> Tensor:
        return biased(self.visible, self.alibi, slice(0, time), slice(0, keys))

    def select(self, heads: Tensor) -> Layout:
        visible = self.visible if self.visible.shape[1] == 1 else self.visible.index_select(1, heads)
        return Given(visible, None if self.alibi is None else self.alibi.select(heads))

    def forward(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        return masked_forward(self._blocks(q.shape[2]), kernel, q, k, v, scale)

    def backward(
        self, kernel: Kernel, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> Gradients:
        return masked_backward(self._blocks(q.shape[2]), kernel, gradient, q, k, v, out, lse, scale)

    def _blocks(self, time: int) -> Iterator[Block]:
        for begin in range(0, time, BLOCK):
            at = slice(begin, min(begin + BLOCK, time))
            yield at, slice(None), biased(self.visible[:, :, at], self.alibi, at, slice(None))


@dataclass(frozen=True, eq=False)
class Selected:
    """Each query sees the keys at its own `index` (B, H, T, N) into S where `valid` (B, H, T, N), each at most once.

    Where the queries together read much of few keys, they are computed as masked attention over all of them; gathering
    a row for each query and selected key is worth its memory traffic only where the keys are many.
    """

    index: Tensor
    valid: Tensor
    alibi: Alibi | None = None

    def mask(self, time: int, keys: int) -> Tensor:
        return self.dense(slice(0, time), keys)

    def select(self, heads: Tensor) -> Layout:
        alibi = None if self.alibi is None else self.alibi.select(heads)
        return Selected(self.index.index_select(1, heads), self.valid.index_select(1, heads), alibi)

    def dense(self, at: slice, keys: int) -> Tensor:
        """The block's selection as a mask (B, H, block, S)."""
        index, valid = self.index[:, :, at], self.valid[:, :, at]
        counts = torch.zeros(*index.shape[:3], keys, dtype=torch.uint8, device=index.device)
        visible = counts.scatter_add_(3, index, valid.to(torch.uint8)) > 0
        return biased(visible, self.alibi, at, slice(None))

    def forward(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        if self._is_dense(k):
            return masked_forward(self._masks(q.shape[2], k.shape[2]), kernel, q, k, v, scale)
        outs, lses = [], []
        for at in self._blocks(q.shape[2]):
            scores = self._scores(q, k, at, scale)
            lse = scores.logsumexp(-1)
            weights = (scores - lse.masked_fill(lse.isneginf(), 0.0)[..., None]).exp().to(v.dtype)
            outs.append((weights[..., None, :] @ self._gathered(v, at))[..., 0, :])
            lses.append(lse)
        return torch.cat(outs, 2), torch.cat(lses, 2)

    def backward(
        self, kernel: Kernel, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> Gradients:
        if self._is_dense(k):
            return masked_backward(self._masks(q.shape[2], k.shape[2]), kernel, gradient, q, k, v, out, lse, scale)
        on_q, on_k, on_v = torch.empty_like(q), wide(k), wide(v)
        for at in self._blocks(q.shape[2]):
            keys, values, above = self._gathered(k, at), self._gathered(v, at), gradient[:, :, at]
            weights = (self._scores(q, k, at, scale) - lse[:, :, at, None]).exp()
            inner = (above.to(lse.dtype) * out[:, :, at].to(lse.dtype)).sum(-1, keepdim=True)
            on_weights = (values @ above[..., None])[..., 0].to(lse.dtype)
            on_scores = weights * (on_weights - inner) * scale
            on_q[:, :, at] = (on_scores.to(k.dtype)[..., None, :] @ keys)[..., 0, :]
            self._scatter(on_k, on_scores[..., None] * q[:, :, at, None, :], at)
            self._scatter(on_v, weights[..., None] * above[..., None, :], at)
        return on_q, on_k, on_v

    def _is_dense(self, k: Tensor) -> bool:
        """Whether masked attention over all S keys costs less than gathering N rows for each query."""
        return k.shape[2] <= DENSE * self.index.shape[3]

    def _masks(self, time: int, keys: int) -> Iterator[Block]:
        for at in self._blocks(time):
            yield at, slice(None), self.dense(at, keys)

    def _gathered(self, x: Tensor, at: slice) -> Tensor:
        """The selected rows (B, H, block, N, D) of `x` (B, H, S, D)."""
        index = self.index[:, :, at]
        flat = rearrange(index, "b h t n -> b h (t n) 1").expand(-1, -1, -1, x.shape[-1])
        return rearrange(x.gather(2, flat), "b h (t n) d -> b h t n d", n=index.shape[-1])

    def _scores(self, q: Tensor, k: Tensor, at: slice, scale: float) -> Tensor:
        scores = (self._gathered(k, at) @ q[:, :, at, :, None])[..., 0]
        wide = scores.to(torch.promote_types(q.dtype, torch.float32)) * scale
        if self.alibi is not None:
            wide = wide + self.alibi.selected(self.index[:, :, at], at)
        return wide.masked_fill(~self.valid[:, :, at], -math.inf)

    def _scatter(self, into: Tensor, values: Tensor, at: slice) -> None:
        """Add `values` (B, H, block, N, D) to the rows of `into` (B, H, S, D) that they were gathered from."""
        index = rearrange(self.index[:, :, at], "b h t n -> b h (t n) 1").expand(-1, -1, -1, into.shape[-1])
        into.scatter_add_(2, index, rearrange(values, "b h t n d -> b h (t n) d").to(into.dtype))

    def _blocks(self, time: int) -> Iterator[slice]:
        for begin in range(0, time, BLOCK):
            yield slice(begin, min(begin + BLOCK, time))
