"""Layouts of runs of columns, which become rows of one batch: no mask, and work only where a query sees a key.

With slopes, scores fall with distance, as in `alibi`, and one mask of numbers serves all runs of a length. A relation
of pairs fits `Aligned`, `Strided` and `Steps`, which are told where both stand.

    Runs       query t sees keys up to t of its own run        segments
    Aligned    query t sees all keys of the run beside its own chosen blocks
    Strided    query t sees keys t, t - s, t - 2 s, ...        a comb
    Steps      query t sees the keys of the runs before its    summaries

Shapes: B batch, H heads, T queries, S keys, D width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from farfield.architectures.ops.alibi import Alibi
from farfield.architectures.ops.backend import Gradients, Kernel
from farfield.architectures.ops.counted import Counted
from farfield.architectures.ops.layouts import (
    BLOCK,
    Block,
    Causal,
    Full,
    Layout,
    biased,
    masked_backward,
    masked_forward,
    wide,
)

__all__ = ["Aligned", "Runs", "Steps", "Strided"]


@dataclass(frozen=True, eq=False)
class Runs:
    """Causal inside each run of columns and blind between them: as many keys as queries, `first` columns, then
    `length` in each further run.

    ```
    first 1, length 2:   x . . . .
                         . x . . .
                         . x x . .
                         . . . x .
                         . . . x x
    ```

    Whole runs are rows of one batch, so work is T length, without a mask.
    """

    length: int
    first: int
    slopes: Tensor | None = None

    def mask(self, time: int, keys: int) -> Tensor:
        run = (torch.arange(time) - self.first).div(self.length, rounding_mode="floor").clamp(min=-1)
        visible = (run[:, None] == run).tril()
        return biased(visible, Alibi.run(self.slopes, time, keys), slice(0, time), slice(0, keys))

    def select(self, heads: Tensor) -> Layout:
        return self if self.slopes is None else replace(self, slopes=self.slopes.index_select(0, heads))

    def forward(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))
        for at, runs in self._pieces(q.shape[2]):
            queries, keys, values = (_rows(x[:, :, at], runs) for x in (q, k, v))
            found, its = self._causal(queries).forward(kernel, queries, keys, values, scale)
            out[:, :, at], lse[:, :, at] = _columns(found, runs), _columns(its, runs)
        return out, lse

    def backward(
        self, kernel: Kernel, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> Gradients:
        found = (wide(q), wide(k), wide(v))
        for at, runs in self._pieces(q.shape[2]):
            above, queries, keys, values, result, its = (
                _rows(x[:, :, at], runs) for x in (gradient, q, k, v, out, lse)
            )
            gradients = self._causal(queries).backward(kernel, above, queries, keys, values, result, its, scale)
            for into, piece in zip(found, gradients, strict=True):
                into[:, :, at] = _columns(piece, runs)
        return found

    def _causal(self, q: Tensor) -> Causal:
        """Inside each of the runs (B runs, H, N, D)."""
        return Causal(Alibi.run(self.slopes, q.shape[2], q.shape[2]))

    def _pieces(self, time: int) -> Iterator[tuple[slice, int]]:
        """Columns, and how many runs they are: the first run, all whole ones, the ragged last one."""
        first = min(self.first, time)
        runs = (time - first) // self.length
        ends = (first, first + runs * self.length, time)
        for begin, end, count in zip((0, *ends), ends, (1, runs, 1), strict=False):
            if end > begin:
                yield slice(begin, end), count


@dataclass(frozen=True, eq=False)
class Aligned:
    """Every query of a run of `length` columns sees every key of the same run, which the last queries need not fill.

    ```
    length 2, 3 queries:   x x . .
                           x x . .
                           . . x x
    ```

    With a `count` (B,), only the first so many keys of a row are there. With slopes, each query stands where its
    key does, or each run of queries begins `apart` (H, runs) tokens behind its run of keys, at least `length`. Of that,
    what all pairs of a run have in common comes off the log-sum-exp. One mask serves all runs. An `alibi` tells where
    both stand for a relation.
    """

    length: int
    count: Tensor | None = None
    slopes: Tensor | None = None
    apart: Tensor | None = None
    alibi: Alibi | None = None

    def mask(self, time: int, keys: int) -> Tensor:
        query, key = torch.arange(time)[:, None], torch.arange(keys)
        visible = query // self.length == key // self.length
        if self.count is not None:
            visible = visible & Counted(self.count).mask(time, keys)
        if self.slopes is None:
            return biased(visible, self.alibi, slice(0, time), slice(0, keys))
        between = query % self.length - key % self.length
        if self.apart is not None:
            between = between + self.apart[:, query // self.length]
        return torch.where(visible, -self.slopes[:, None, None] * between.abs(), -math.inf)

    def select(self, heads: Tensor) -> Layout:
        slopes, apart = (None if x is None else x.index_select(0, heads) for x in (self.slopes, self.apart))
        return replace(self, slopes=slopes, apart=apart, alibi=None if self.alibi is None else self.alibi.select(heads))

    def forward(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))
        for at, seen, runs in self._pieces(q.shape[2]):
            keys, values = (_rows(x[:, :, seen], runs) for x in (k, v))
            queries = _rows(q[:, :, at], runs)
            found, its = self._layout(queries, keys, at, seen, runs).forward(kernel, queries, keys, values, scale)
            out[:, :, at], lse[:, :, at] = _columns(found, runs), _columns(its, runs)
        return out, lse if self.apart is None else lse - self._common(q.shape[2])

    def backward(
        self, kernel: Kernel, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> Gradients:
        on_q, on_k, on_v = wide(q), wide(k), wide(v)
        if self.apart is not None:
            lse = lse + self._common(q.shape[2])
        for at, seen, runs in self._pieces(q.shape[2]):
            above, queries, result, its = (_rows(x[:, :, at], runs) for x in (gradient, q, out, lse))
            keys, values = (_rows(x[:, :, seen], runs) for x in (k, v))
            layout = self._layout(queries, keys, at, seen, runs)
            found = layout.backward(kernel, above, queries, keys, values, result, its, scale)
            on_q[:, :, at] = _columns(found[0], runs)
            on_k[:, :, seen], on_v[:, :, seen] = (_columns(x, runs) for x in found[1:])
        return on_q, on_k, on_v

    def _common(self, time: int) -> Tensor:
        """What the scores (H, T) of each query have in common to lose: they stand further than next to their keys."""
        assert self.slopes is not None
        assert self.apart is not None
        further = self.slopes[:, None] * (self.apart - self.length)
        return further.repeat_interleave(self.length, 1)[:, :time]

    def _pieces(self, time: int) -> Iterator[tuple[slice, slice, int]]:
        """Columns of queries and of keys, and how many runs they are: all whole ones, the ragged last one."""
        runs = time // self.length
        whole = runs * self.length
        if runs:
            yield slice(0, whole), slice(0, whole), runs
        if time > whole:
            yield slice(whole, time), slice(whole, whole + self.length), 1

    def _layout(self, q: Tensor, k: Tensor, at: slice, seen: slice, runs: int) -> Layout:
        """The layout of runs that are rows of their own (B runs, H, N, D), queries with their keys or right behind."""
        if self.alibi is not None:
            batch, query = q.shape[0] // runs, self.alibi.query_position[:, None, at]
            stand = (_rows(x.expand(batch, -1, -1), runs) for x in (query, self.alibi.keys(seen)))
            query, key = stand
            return Full(replace(self.alibi, query_position=query[:, 0], key_position=key))
        alibi = Alibi.run(self.slopes, q.shape[2], k.shape[2], 0 if self.apart is None else self.length)
        if self.count is None:
            return Full(alibi)
        first = torch.arange(runs, device=self.count.device) * self.length + seen.start
        return Counted((self.count[:, None] - first).flatten(), alibi)


@dataclass(frozen=True, eq=False)
class Strided:
    """Query t sees keys t, t - stride, t - 2 stride, ... of as many keys as queries.

    The residues modulo the stride are rows of one batch, so work is T^2 / stride, without a mask of T by T.
    """

    stride: int
    alibi: Alibi | None = None

    def mask(self, time: int, keys: int) -> Tensor:
        distance = torch.arange(time)[:, None] - torch.arange(keys)
        visible = (distance >= 0) & (distance % self.stride == 0)
        return biased(visible, self.alibi, slice(0, time), slice(0, keys))

    def select(self, heads: Tensor) -> Layout:
        return self if self.alibi is None else replace(self, alibi=self.alibi.select(heads))

    def forward(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))
        for at, residues in self._pieces(q.shape[2]):
            queries, keys, values = (_turned(x[:, :, at], residues) for x in (q, k, v))
            causal = self._causal(at, residues, q.shape[0])
            found, its = causal.forward(kernel, queries, keys, values, scale)
            out[:, :, at], lse[:, :, at] = _back(found, residues), _back(its, residues)
        return out, lse

    def backward(
        self, kernel: Kernel, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> Gradients:
        found = (wide(q), wide(k), wide(v))
        for at, residues in self._pieces(q.shape[2]):
            above, queries, keys, values, result, its = (
                _turned(x[:, :, at], residues) for x in (gradient, q, k, v, out, lse)
            )
            causal = self._causal(at, residues, q.shape[0])
            gradients = causal.backward(kernel, above, queries, keys, values, result, its, scale)
            for into, piece in zip(found, gradients, strict=True):
                into[:, :, at] = _back(piece, residues).to(into.dtype)
        return found

    def _causal(self, at: Tensor, residues: int, batch: int) -> Causal:
        """Among the tokens of each residue (B residues, H, N, D), whose columns are `at`."""
        if self.alibi is None:
            return Causal()
        stand = [x[:, None, at] for x in (self.alibi.query_position, self.alibi.key_position)]
        if isinstance(self.alibi.slopes, Tensor):  # distances are those of any residue
            query, key = (_turned(x, residues)[: 1 if x.shape[0] == 1 else None, 0] for x in stand)
        else:
            query, key = (_turned(x.expand(batch, -1, -1), residues)[:, 0] for x in stand)
        return Causal(replace(self.alibi, query_position=query, key_position=key))

    def _pieces(self, time: int) -> Iterator[tuple[Tensor, int]]:
        """Columns of the residues that are met once more than the others, and of those; how many residues each are."""
        column = torch.arange(time)
        often = time % self.stride
        rare = self.stride - often if time >= self.stride else 0
        for some, residues in ((column % self.stride < often, often), (column % self.stride >= often, rare)):
            if bool(some.any()):
                yield column[some], residues


def _turned(x: Tensor, residues: int) -> Tensor:
    """The residues of x (B, H, N residues, ...) as rows (B residues, H, N, ...)."""
    return rearrange(x, "b h (n r) ... -> (b r) h n ...", r=residues)


def _back(x: Tensor, residues: int) -> Tensor:
    """As they were: (B, H, N residues, ...)."""
    return rearrange(x, "(b r) h n ... -> b h (n r) ...", r=residues)


@dataclass(frozen=True, eq=False)
class Steps:
    """Query t sees the first `count` keys of each whole `stride` queries before it; there are `before` earlier queries.

    ```
    stride 2, count 1, before 2:   x . .
                                   x . .
                                   x x .
    ```

    Every query sees a key: `before` is at least `stride`.
    """

    stride: int
    count: int
    before: int
    alibi: Alibi | None = None

    def mask(self, time: int, keys: int) -> Tensor:
        visible = self._visible(slice(0, time), keys, torch.device("cpu"))
        return biased(visible, self.alibi, slice(0, time), slice(0, keys))

    def select(self, heads: Tensor) -> Layout:
        return self if self.alibi is None else replace(self, alibi=self.alibi.select(heads))

    def forward(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        return masked_forward(self._blocks(q), kernel, q, k, v, scale)

    def backward(
        self, kernel: Kernel, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> Gradients:
        return masked_backward(self._blocks(q), kernel, gradient, q, k, v, out, lse, scale)

    def _blocks(self, q: Tensor) -> Iterator[Block]:
        time = q.shape[2]
        for begin in range(0, time, BLOCK):
            at = slice(begin, min(begin + BLOCK, time))
            keys = (self.before + at.stop - 1) // self.stride * self.count
            even = (self.before + at.start) // self.stride * self.count == keys
            if even:
                mask = None if self.alibi is None else self.alibi.added(at, slice(0, keys))
            else:
                mask = biased(self._visible(at, keys, q.device)[None, None], self.alibi, at, slice(0, keys))
            yield at, slice(0, keys), mask

    def _visible(self, at: slice, keys: int, device: torch.device) -> Tensor:
        query = torch.arange(at.start, at.stop, device=device) + self.before
        seen = query.div(self.stride, rounding_mode="floor") * self.count
        return torch.arange(keys, device=device) < seen[:, None]


def _rows(x: Tensor, runs: int) -> Tensor:
    """The runs of x (B, H, runs N, ...) as rows (B runs, H, N, ...)."""
    return x if runs == 1 else rearrange(x, "b h (r n) ... -> (b r) h n ...", r=runs)


def _columns(x: Tensor, runs: int) -> Tensor:
    """As they were: (B, H, runs N, ...)."""
    return x if runs == 1 else rearrange(x, "(b r) h n ... -> b h (r n) ...", r=runs)
