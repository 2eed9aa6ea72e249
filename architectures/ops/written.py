"""The layout of a bank: each query sees the complete segments of its document, as far back as the bank goes.

    segment 3, capacity 6      positions   0 1 2 | 3 4 5 | 6 7 8 | 9
                               query 4     x x x
                               query 8     x x x   x x x
                               query 9             x x x   x x x

A column may stand for a unit of several tokens; then it is seen as a whole. What a query sees in its near field anyway
is left out. Where all rows are the same run of one document, the queries of a segment see the same columns: only the
edges of a block need a mask, and where a block is one segment nothing does.

Shapes: B batch, H heads, G heads of keys, R heads that share one, T queries, S columns, D width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from farfield.architectures.ops.alibi import Alibi
from farfield.architectures.ops.backend import Gradients, Kernel
from farfield.architectures.ops.layouts import BLOCK, biased, wide

__all__ = ["Near", "Span", "Written", "folded", "shared_backward", "shared_forward", "unfolded"]


@dataclass(frozen=True, eq=False)
class Near:
    """What the near field holds: `sees` gives bool (B, H or 1, T, S) of positions (B, T) and (B, S).

    It holds nothing but the first `prefix` positions of a document and the last `reach` before a query; `reach` None:
    it may hold any. `solid` says that it holds all of the last `reach`, and no first ones.
    """

    sees: Callable[[Tensor, Tensor], Tensor]
    prefix: int = 0
    reach: int | None = None
    solid: bool = False


@dataclass(frozen=True, eq=False)
class Span:
    """A block of queries, the columns that any of them sees, and those among them that not all of them may see."""

    at: slice
    columns: slice
    edges: Sequence[slice]

    @property
    def width(self) -> int:
        """How many columns; 0: no query sees any."""
        return int(self.columns.stop) - int(self.columns.start)


@dataclass(frozen=True, eq=False)
class Written:
    """See the file's head.

    Positions and documents are (B, T) of queries and (B, S) of columns, those of a unit of `unit` tokens by its first;
    `segment`, `capacity` and `first` are multiples of it. Positions below `first` are left to another part. Columns
    stand in order of time; `opens` and `closes` bound for each query those that it may see in any row. `start` is the
    position of the first column where all rows are the same run, of which `begin` is the first query's; else None.
    """

    query_position: Tensor
    query_document: Tensor
    key_position: Tensor
    key_document: Tensor
    segment: int
    capacity: int
    unit: int = 1
    first: int = 0
    begin: int | None = None
    start: int = 0
    opens: Sequence[int] | None = None
    closes: Sequence[int] | None = None
    near: Near | None = None
    alibi: Alibi | None = None

    def mask(self, time: int, keys: int) -> Tensor:
        at, columns = slice(0, time), slice(0, keys)
        return biased(self.visible(at, columns), self.alibi, at, columns)

    def select(self, heads: Tensor) -> Written:
        """Of some heads; what is near is asked for these."""
        alibi = None if self.alibi is None else self.alibi.select(heads)
        near = self.near
        if near is not None:
            sees = near.sees

            def some(query: Tensor, key: Tensor) -> Tensor:
                found = sees(query, key)
                return found if found.shape[1] == 1 else found.index_select(1, heads)

            near = replace(near, sees=some)
        return replace(self, alibi=alibi, near=near)

    def rolled(self, rows: int) -> Written:
        """Each row with the columns of the row `rows` behind it, which that row's own query would see."""
        labels = (self.query_position, self.query_document, self.key_position, self.key_document)
        query, document, key, owner = (label.roll(-rows, 0) for label in labels)
        moved = {"query_position": query, "query_document": document, "key_position": key, "key_document": owner}
        return replace(self, **moved)  # type: ignore[arg-type]  # names of tensors, each with a tensor

    def forward(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        out = torch.zeros_like(q)
        lse = q.new_full(q.shape[:3], -math.inf, dtype=torch.promote_types(q.dtype, torch.float32))
        for span in self.spans(q.shape[2], k.shape[2], self._block):
            if span.width:
                pieces = (q[:, :, span.at], k[:, :, span.columns], v[:, :, span.columns])
                found = shared_forward(kernel, *pieces, self.masked(span, q.device), scale)
                out[:, :, span.at], lse[:, :, span.at] = found
        return out, lse

    def backward(
        self, kernel: Kernel, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> Gradients:
        on_q, on_k, on_v = torch.zeros_like(q), wide(k), wide(v)
        for span in self.spans(q.shape[2], k.shape[2], self._block):
            if span.width:
                at, columns = span.at, span.columns
                pieces = (q[:, :, at], k[:, :, columns], v[:, :, columns], out[:, :, at], lse[:, :, at])
                found = shared_backward(kernel, gradient[:, :, at], *pieces, self.masked(span, q.device), scale)
                on_q[:, :, at] = found[0]
                on_k[:, :, columns] += found[1]
                on_v[:, :, columns] += found[2]
        return on_q, on_k, on_v

    @property
    def _block(self) -> int:
        """Queries that are worth a call of the kernel, and not many more than there are columns for each."""
        return min(BLOCK, max(64, self.capacity // 2))

    def masked(self, span: Span, device: torch.device) -> Tensor | None:
        """What a block of queries sees of its columns, or what is added to its scores; None where it is all."""
        seen: Tensor | None = None
        for edge in span.edges:
            visible = self.visible(span.at, edge)
            if edge == span.columns:
                seen = visible
                break
            if seen is None or seen.shape[1] < visible.shape[1]:
                shape = (*visible.shape[:3], span.width)
                every = torch.ones(shape, dtype=torch.bool, device=device)
                seen = every if seen is None else every & seen
            seen[..., edge.start - span.columns.start : edge.stop - span.columns.start] &= visible
        if self.alibi is None:
            return seen
        return self.alibi.added(span.at, span.columns, seen)

    def visible(self, at: slice, columns: slice) -> Tensor:
        """Bool (B or 1, H or 1, block, columns)."""
        rows = slice(None) if self.begin is None else slice(0, 1)
        query, key = self.query_position[rows, at], self.key_position[rows, columns]
        written = (query.div(self.segment, rounding_mode="floor") * self.segment)[:, :, None]
        held = key[:, None]
        kept = (held < written) & (held >= (written - self.capacity).clamp(min=self.first))
        if self.begin is None:
            kept &= self.query_document[:, at, None] == self.key_document[:, None, columns]
        return kept[:, None] if self.near is None else kept[:, None] & ~self._covered(self.near, query, key)

    def _covered(self, near: Near, query: Tensor, key: Tensor) -> Tensor:
        """Which columns are in the near field of the queries (B, T), units with all of their tokens."""
        if self.unit == 1:
            return near.sees(query, key)
        tokens = key[..., None] + torch.arange(self.unit, device=key.device)
        return near.sees(query, tokens.flatten(1)).view(*query.shape[:1], -1, query.shape[1], *tokens.shape[1:]).all(-1)

    def spans(self, time: int, keys: int, block: int) -> Iterator[Span]:
        """Blocks of at most `block` queries."""
        if self.begin is not None:
            if time == 1:  # a decoded token waits for this
                return iter((self._span(slice(0, 1), self.begin, self.begin, keys),))
            return self._runs(self.begin, time, keys, block)
        return self._blocks(time, keys, block)

    def _blocks(self, time: int, keys: int, block: int) -> Iterator[Span]:
        for begin in range(0, time, block):
            end = min(begin + block, time)
            low = 0 if self.opens is None else max(0, min(self.opens[begin:end]))
            high = keys if self.closes is None else min(keys, max(self.closes[begin:end]))
            columns = slice(min(low, high), high)
            yield Span(slice(begin, end), columns, (columns,))

    def _runs(self, begin: int, time: int, keys: int, block: int) -> Iterator[Span]:
        """Blocks that end with a segment wherever one fits."""
        position = begin
        while position < begin + time:
            whole = position // self.segment + max(1, block // self.segment)
            end = min(begin + time, position + block, whole * self.segment)
            yield self._span(slice(position - begin, end - begin), position, end - 1, keys)
            position = end

    def _span(self, at: slice, early: int, late: int, keys: int) -> Span:
        """Of queries at positions `early` to `late`."""
        low, right = self._bounds(early, keys)
        left, high = (low, right) if late == early else self._bounds(late, keys)
        if self.near is not None:
            reach = self.near.reach
            if self.near.solid and reach is not None and early == late and self.unit == 1:
                high = min(high, self._column(early - reach, keys))  # one query needs no mask
                return Span(at, slice(min(low, high), high), ())
            left = high if reach is None else max(left, self._column(self.near.prefix, keys))
            right = min(right, self._column(0 if reach is None else early - reach, keys, whole=True))
        low = min(low, high)
        left, right = max(low, min(left, high)), max(low, min(right, high))
        edges = [slice(low, high)] if left >= right else [slice(low, left), slice(right, high)]
        return Span(at, slice(low, high), [edge for edge in edges if edge.stop > edge.start])

    def _bounds(self, position: int, keys: int) -> tuple[int, int]:
        """The first column that a query at `position` sees, and the one behind the last."""
        end = position // self.segment * self.segment
        return self._column(max(self.first, end - self.capacity), keys), self._column(end, keys)

    def _column(self, position: int, keys: int, whole: bool = False) -> int:
        """The first column that stands at `position` or behind; `whole`: the first that reaches it."""
        behind = position - self.start
        column = behind // self.unit if whole else -(-behind // self.unit)
        return max(0, min(keys, column))


def folded(x: Tensor, keys: Tensor) -> Tensor:
    """Queries (B, H, T, ...) of the heads that share one of `keys` (B, G, S, D) one after another: (B, G, R T, ...)."""
    if x.shape[1] == keys.shape[1]:
        return x
    by_key: Tensor = x.unflatten(1, (keys.shape[1], -1))
    return by_key.flatten(2, 3)


def unfolded(x: Tensor, time: int) -> Tensor:
    """As they were: (B, H, T, ...)."""
    if x.shape[2] == time:
        return x
    by_head: Tensor = x.unflatten(2, (-1, time))
    return by_head.flatten(1, 2)


def _folded_mask(mask: Tensor | None, heads: int, keys: Tensor) -> Tensor | None:
    """The mask (B or 1, H or 1, T, S) of queries that are folded."""
    if mask is None or heads == keys.shape[1]:
        return mask
    return folded(mask, keys) if mask.shape[1] > 1 else mask.repeat(1, 1, heads // keys.shape[1], 1)


def shared_forward(
    kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """The kernel's output (B, H, T, D) and log-sum-exp with keys (B, G, S, D), which are not copied for each head."""
    out, lse = kernel.forward(folded(q, k), k, v, _folded_mask(mask, q.shape[1], k), False, scale)
    return unfolded(out, q.shape[2]), unfolded(lse, q.shape[2])


def shared_backward(
    kernel: Kernel,
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    mask: Tensor | None,
    scale: float,
) -> Gradients:
    """The kernel's gradients of queries (B, H, T, D), and of keys and values (B, G, S, D)."""
    above, queries, result, its = (folded(x, k) for x in (gradient, q, out, lse))
    mask = _folded_mask(mask, q.shape[1], k)
    on_q, on_k, on_v = kernel.backward(above, queries, k, v, result, its, mask, False, scale)
    return unfolded(on_q, q.shape[2]), on_k, on_v
