"""Layouts of units: each query names runs of tokens, and sees them token by token or through a landmark each.

    Units      one softmax over the tokens of all units that a query names
    Grouped    a softmax inside each unit, weighed by the softmax over landmarks that the unit's own score takes part in

In a grouped softmax (Landmark Attention, https://arxiv.org/abs/2305.16300)

    out = sum_b p_b sum_(j in b) w_(b j) v_j      w_(b .) = softmax_j(q . k_j)      p_b = exp(s_b - lse)

the sum over units b and the log-sum-exp go over the landmarks' scores s_b and whatever else is joined. Gradients follow
from the joined output and log-sum-exp, as those of any part:

    on s_b = p_b g . (out_b - out)      on q . k_j = p_b w_(b j) g . (v_j - out_b)      on v_j = p_b w_(b j) g

Shapes: B batch, H heads, G heads of keys, T queries, S keys, D width of a head, N units that a query names, U tokens
of a unit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from farfield.architectures.ops.alibi import Alibi
from farfield.architectures.ops.backend import Gradients, Kernel
from farfield.architectures.ops.layouts import BLOCK, DENSE, Layout, biased, wide
from farfield.architectures.ops.written import Span, Written, folded, shared_backward, shared_forward, unfolded

__all__ = ["Chosen", "Grouped", "Units"]

ROOM = 1 << 23  # numbers that are gathered at once
ALONE = 4  # a single query gathers what it names, unless that is more than a fourth of all


@dataclass(frozen=True, eq=False)
class Chosen:
    """Units by their `number` (B, H or 1, T, N) in the document of the query, where they were `found`.

    Their tokens stand in the key columns [past, call]: those at positions below `following` (B, T) at position plus
    `before`, the others at position plus `shift`. `hidden` (B, H or 1, T, N, U) are tokens that the query does not see.
    """

    number: Tensor
    found: Tensor
    unit: int
    following: Tensor
    before: Tensor
    shift: Tensor
    hidden: Tensor | None = None

    def select(self, heads: Tensor) -> Chosen:
        """Of some heads (n,) int64."""

        def some(x: Tensor) -> Tensor:
            return x if x.shape[1] == 1 else x.index_select(1, heads)

        hidden = None if self.hidden is None else some(self.hidden)
        return replace(self, number=some(self.number), found=some(self.found), hidden=hidden)

    @property
    def heads(self) -> int:
        """Heads that differ: 1 where all see the same."""
        return max(self.number.shape[1], 1 if self.hidden is None else self.hidden.shape[1])

    def tokens(self, span: Span, heads: int) -> tuple[Tensor, Tensor]:
        """Of a block of queries: each token's column among the span's and whether it is seen, (B, H, block, N, U)."""
        at = span.at
        number, found = self.number[:, :, at, :, None], self.found[:, :, at, :, None]
        position = number * self.unit + torch.arange(self.unit, device=number.device)
        following, before, shift = (x[:, None, at, None, None] for x in (self.following, self.before, self.shift))
        column = position + torch.where(position < following, before, shift)
        seen = found.expand_as(position) if self.hidden is None else found & ~self.hidden[:, :, at]
        shape = (number.shape[0], heads, *column.shape[2:])
        return (column - span.columns.start).clamp(0, span.width - 1).expand(shape), seen.expand(shape)

    def visible(self, span: Span, heads: int) -> Tensor:
        """Of a block of queries: which of the span's columns are seen, bool (B, heads, block, columns)."""
        alike = 1 if self.heads == 1 else heads
        index, seen = (x.flatten(3) for x in self.tokens(span, alike))
        counts = torch.zeros(*index.shape[:3], span.width, dtype=torch.uint8, device=index.device)
        return counts.scatter_add_(3, index, seen.to(torch.uint8)) > 0


def _gathers(named: int, keys: int, time: int) -> bool:
    """Whether gathering what each query names costs less than products with all keys under a mask.

    A single query gains nothing by what others share with it.
    """
    return keys > (DENSE if time > 1 else ALONE) * named


def _blocks(chosen: Chosen, where: Written, q: Tensor, k: Tensor) -> Iterator[Span]:
    """Blocks of queries with the columns that any of them may see, so few that what is gathered stays small."""
    named = chosen.number.shape[3] * chosen.unit
    each = named * k.shape[3] if _gathers(named, k.shape[2], q.shape[2]) else k.shape[2]
    block = max(1, min(BLOCK, ROOM // max(1, each * q.shape[0] * q.shape[1])))
    return (span for span in where.spans(q.shape[2], k.shape[2], block) if span.width)


def _alibi(where: Written, span: Span) -> Alibi | None:
    """For a block of queries and its columns."""
    alibi = where.alibi
    if alibi is None:
        return None
    return Alibi(alibi.slopes, alibi.query_position[:, span.at], alibi.key_position[..., span.columns])


@dataclass(frozen=True, eq=False)
class Units:
    """Each query sees the tokens of the units that it names, each at most once, among those that `where` allows."""

    chosen: Chosen
    where: Written

    def mask(self, time: int, keys: int) -> Tensor:
        span = Span(slice(0, time), slice(0, keys), ())
        return biased(self.chosen.visible(span, self.chosen.heads), self.where.alibi, span.at, span.columns)

    def select(self, heads: Tensor) -> Layout:
        return Units(self.chosen.select(heads), self.where.select(heads))

    def forward(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        out, lse = _nothing(q, k)
        for span in _blocks(self.chosen, self.where, q, k):
            at, keys, values = span.at, k[:, :, span.columns], v[:, :, span.columns]
            read = _Read.of(self.chosen, self.where, span, q, k)
            if read.gathers:
                scores = read.scores(scale).flatten(3)
                lse[:, :, at] = scores.logsumexp(-1)
                weights = (scores - _finite(lse[:, :, at])[..., None]).exp()
                out[:, :, at] = read.weighed(weights, values)
            else:
                mask = self._mask(span, q.shape[1])
                out[:, :, at], lse[:, :, at] = shared_forward(kernel, q[:, :, at], keys, values, mask, scale)
        return out, lse

    def backward(
        self, kernel: Kernel, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> Gradients:
        on_q, on_k, on_v = torch.zeros_like(q), wide(k), wide(v)
        for span in _blocks(self.chosen, self.where, q, k):
            at, columns = span.at, span.columns
            read = _Read.of(self.chosen, self.where, span, q, k)
            if read.gathers:
                weights = (read.scores(scale).flatten(3) - lse[:, :, at, None]).exp()
                above, into = gradient[:, :, at], (on_k[:, :, columns], on_v[:, :, columns])
                along = read.products(above, v[:, :, columns]).to(weights.dtype)
                whole = (above.to(lse.dtype) * out[:, :, at].to(lse.dtype)).sum(-1, keepdim=True)
                on_scores = weights * (along - whole) * scale
                on_q[:, :, at] = read.weighed(on_scores, read.keys)
                read.spread(on_scores, read.queries, into[0])
                read.spread(weights, above, into[1])
            else:
                pieces = (q[:, :, at], k[:, :, columns], v[:, :, columns], out[:, :, at], lse[:, :, at])
                found = shared_backward(kernel, gradient[:, :, at], *pieces, self._mask(span, q.shape[1]), scale)
                on_q[:, :, at] = found[0]
                on_k[:, :, columns] += found[1]
                on_v[:, :, columns] += found[2]
        return on_q, on_k, on_v

    def _mask(self, span: Span, heads: int) -> Tensor:
        """What a block of queries sees of its columns, or what is added to its scores."""
        return biased(self.chosen.visible(span, heads), self.where.alibi, span.at, span.columns)


@dataclass(frozen=True, eq=False)
class Grouped:
    """Each query reads the units that it names through their landmarks.

    The queries (B, H, T, D + N) of such a part carry in their last columns the landmarks' scores, as they enter the
    softmax: so the landmarks get gradients by them.
    """

    chosen: Chosen
    where: Written

    def mask(self, time: int, keys: int) -> Tensor:
        return Units(self.chosen, replace(self.where, alibi=None)).mask(time, keys)

    def select(self, heads: Tensor) -> Layout:
        return Grouped(self.chosen.select(heads), self.where.select(heads))

    def scores(self, q: Tensor, k: Tensor, scale: float) -> Tensor:
        """The definition: what a plain softmax over all keys takes for scores (B, H, T, S), s_b + log w_(b j)."""
        every, (queries, landmarks) = Span(slice(0, q.shape[2]), slice(0, k.shape[2]), ()), _taken(q, k)
        index, seen = self.chosen.tokens(every, q.shape[1])
        scores = queries @ k.transpose(-1, -2) * scale
        if self.where.alibi is not None:
            scores = scores + self.where.alibi.added(every.at, every.columns)
        own = scores.gather(3, index.flatten(3)).view_as(index).masked_fill(~seen, -math.inf)
        weighed = (landmarks[..., None] + (own - _finite(own.logsumexp(-1))[..., None])).masked_fill(~seen, -math.inf)
        return torch.full_like(scores, -math.inf, dtype=weighed.dtype).scatter_reduce(
            3, index.flatten(3), weighed.flatten(3), "amax"
        )

    def forward(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        out, lse = _nothing(q[..., : k.shape[3]], k)
        for span in _blocks(self.chosen, self.where, q, k):
            at, values = span.at, v[:, :, span.columns]
            read = _Read.of(self.chosen, self.where, span, q, k)
            inner, landmarks = read.weights(scale)
            lse[:, :, at] = landmarks.logsumexp(-1)
            share = (landmarks - _finite(lse[:, :, at])[..., None]).exp()
            out[:, :, at] = read.weighed((inner * share[..., None]).flatten(3), values)
        return out, lse

    def backward(
        self, kernel: Kernel, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> Gradients:
        on_q, on_k, on_v = torch.zeros_like(q), wide(k), wide(v)
        for span in _blocks(self.chosen, self.where, q, k):
            at, columns = span.at, span.columns
            read = _Read.of(self.chosen, self.where, span, q, k)
            into = (on_k[:, :, columns], on_v[:, :, columns])
            pieces = (gradient[:, :, at], v[:, :, columns], out[:, :, at], lse[:, :, at])
            on_q[:, :, at] = read.backward(*pieces, scale, *into)
        return on_q, on_k, on_v


def _nothing(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of queries that see no key."""
    kind = torch.promote_types(q.dtype, torch.float32)
    return torch.zeros_like(q), torch.full(q.shape[:3], -math.inf, dtype=kind, device=q.device)


def _taken(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Queries (B, H, T, D), and the scores (B, H, T, N) of the landmarks, float32 or wider."""
    queries, landmarks = q.split([k.shape[3], q.shape[3] - k.shape[3]], -1)
    return queries, landmarks.to(torch.promote_types(q.dtype, torch.float32))


def _finite(lse: Tensor) -> Tensor:
    return lse.masked_fill(lse.isneginf(), 0.0)


@dataclass(frozen=True, eq=False)
class _Read:
    """A block of queries (B, H, t, D) with its landmarks' scores (B, H, t, N) and its tokens, (B, H, t, N, U) each.

    Where the queries together read much of few keys, products go over all of them, and the named ones are taken out;
    else the named keys are gathered.
    """

    queries: Tensor
    landmarks: Tensor
    keys: Tensor
    index: Tensor
    seen: Tensor
    alibi: Alibi | None
    gathers: bool

    @staticmethod
    def of(chosen: Chosen, where: Written, span: Span, q: Tensor, k: Tensor) -> _Read:
        queries, landmarks = _taken(q[:, :, span.at], k)
        index, seen = chosen.tokens(span, q.shape[1])
        gathers = _gathers(index.shape[3] * index.shape[4], span.width, q.shape[2])
        return _Read(queries, landmarks, k[:, :, span.columns], index, seen, _alibi(where, span), gathers)

    def scores(self, scale: float) -> Tensor:
        """Of the named tokens (B, H, t, N, U), -inf where one is not seen."""
        scores = self.products(self.queries, self.keys).to(self.landmarks.dtype) * scale
        if self.alibi is not None:
            scores = scores + self.alibi.selected(self.index.flatten(3), slice(None))
        return scores.view(self.index.shape).masked_fill(~self.seen, -math.inf)

    def backward(
        self, above: Tensor, values: Tensor, out: Tensor, lse: Tensor, scale: float, on_k: Tensor, on_v: Tensor
    ) -> Tensor:
        """The gradient of the queries with their landmarks' scores, (B, H, t, D + N); others are added to on_k, on_v.

        Args:
            above, out: (B, H, t, D), the gradient of the joined output and that; lse: (B, H, t).
        """
        inner, landmarks = self.weights(scale)
        share = (landmarks - lse[..., None]).exp()
        weights = inner * share[..., None]
        along = self.products(above, values).to(weights.dtype).view_as(inner)
        unit = (inner * along).sum(-1)
        whole = (above.to(lse.dtype) * out.to(lse.dtype)).sum(-1, keepdim=True)
        on_scores = (weights * (along - unit[..., None]) * scale).flatten(3)
        self.spread(on_scores, self.queries, on_k)
        self.spread(weights.flatten(3), above, on_v)
        on_landmarks = (share * (unit - whole)).to(above.dtype)
        return torch.cat((self.weighed(on_scores, self.keys), on_landmarks), -1)

    def weights(self, scale: float) -> tuple[Tensor, Tensor]:
        """The softmax inside each unit (B, H, t, N, U), and the landmarks' scores, -inf where nothing is seen."""
        scores = self.scores(scale)
        lse = scores.logsumexp(-1)
        return (scores - _finite(lse)[..., None]).exp(), self.landmarks.masked_fill(lse.isneginf(), -math.inf)

    def products(self, x: Tensor, rows: Tensor) -> Tensor:
        """x (B, H, t, D) times each named one of rows (B, G, S, D): (B, H, t, N U)."""
        if self.gathers:
            return (self._gathered(rows) @ x[..., None])[..., 0]
        return unfolded(folded(x, rows) @ rows.transpose(-1, -2), x.shape[2]).gather(3, self.index.flatten(3))

    def weighed(self, weights: Tensor, rows: Tensor) -> Tensor:
        """The named ones of rows (B, G, S, D) times weights (B, H, t, N U), summed: (B, H, t, D)."""
        weights = weights.to(rows.dtype)
        if self.gathers:
            return (weights[..., None, :] @ self._gathered(rows))[..., 0, :]
        return unfolded(folded(self._scattered(weights, rows), rows) @ rows, weights.shape[2])

    def spread(self, weights: Tensor, x: Tensor, into: Tensor) -> None:
        """Add weights (B, H, t, N U) times x (B, H, t, D) to the named ones of `into` (B, G, S, D)."""
        if self.gathers:
            flat = self.index.flatten(2).unflatten(1, (into.shape[1], -1)).flatten(2)
            each = (weights[..., None] * x[:, :, :, None]).flatten(2, 3).unflatten(1, (into.shape[1], -1)).flatten(2, 3)
            into.scatter_add_(2, flat[..., None].expand_as(each), each.to(into.dtype))
        else:
            every = folded(self._scattered(weights.to(x.dtype), into), into)
            into += every.transpose(-1, -2) @ folded(x, into)

    def _gathered(self, rows: Tensor) -> Tensor:
        """(B, H, t, N U, D), without a copy of rows (B, G, S, D) for each head."""
        index = self.index.flatten(2).unflatten(1, (rows.shape[1], -1))
        several = rows[:, :, None].expand(-1, -1, index.shape[2], -1, -1)
        found = several.gather(3, index[..., None].expand(-1, -1, -1, -1, rows.shape[3]))
        return found.flatten(1, 2).reshape(*self.index.shape[:3], -1, rows.shape[3])

    def _scattered(self, weights: Tensor, rows: Tensor) -> Tensor:
        """(B, H, t, S) with the weights (B, H, t, N U) at the named ones."""
        every = weights.new_zeros(*weights.shape[:3], rows.shape[2])
        return every.scatter_add_(3, self.index.flatten(3), weights)
