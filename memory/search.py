"""Exact search: the columns of a bank whose keys match each query best, by products and the largest of them.

Products go over the columns that a block of queries may see, not over the bank and the call; masks over those of them
that not all of the block see. The largest k of n scores are found in the k groups of `GROUP` columns with the largest
maxima: exact, and one pass over the scores instead of a selection among all of them. The columns of a group stand far
apart, so that the maxima of neighbouring groups are found together.

Shapes: B batch, T queries, H heads of queries, G heads of keys, S columns, W width of a head, N columns found.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor

from farfield.architectures.ops.layouts import BLOCK
from farfield.architectures.ops.written import Span, Written
from farfield.memory.ties import earliest

__all__ = ["best", "largest"]

GROUP = 16  # columns whose maximum stands for them
MANY = 1 << 15  # scores from which on groups pay
ROOM = 1 << 20  # scores of a block of queries, so that they stay in the cache
LEAST = 16  # queries in a block
WIDE, LARGE = 64, 1 << 20  # width of a head, and numbers of its keys, from which on they do not stay in the cache


def best(
    queries: Tensor, keys: Tensor, count: int, where: Written, scale: float, shared: bool = False
) -> tuple[Tensor, Tensor]:
    """The columns of the `count` best keys of each query and whether they are any, (B, H, T, count) each.

    Args:
        queries: (B, H, T, W). keys: (B, G, S, W).
        where: which columns a query may see, and what distance adds to its scores; the scale matters to that alone.
        shared: heads agree on what their scores say on average; then H is 1 in what is returned.
    """
    time = queries.shape[2]
    block = LEAST if time == 1 else _block(queries, keys, where)
    found = []
    for span in where.spans(time, keys.shape[2], block):
        if not span.width:
            found.append(_nothing(queries, span, count, shared))
            continue
        asking = queries if time == 1 else queries[:, :, span.at]
        scores = _scores(asking, keys.narrow(2, span.columns.start, span.width), shared)
        if where.alibi is not None:
            added = where.alibi.added(span.at, span.columns)
            scores = scores * scale + (added.mean(1, keepdim=True) if shared else added)
        for edge in span.edges:
            visible = where.visible(span.at, edge)
            if shared and visible.shape[1] > 1:
                visible = visible.any(1, keepdim=True)
            begin = edge.start - span.columns.start
            scores[..., begin : begin + edge.stop - edge.start].masked_fill_(~visible, -math.inf)
        # Tokens of equal keys have equal values, and either will do; units of equal keys are different tokens.
        choose = largest if where.unit == 1 or count >= span.width else earliest
        values, index = choose(scores, min(count, span.width))
        there = values != -math.inf if span.edges else torch.ones_like(index, dtype=torch.bool)
        if index.shape[-1] < count:
            missing = (0, count - index.shape[-1])
            index, there = (torch.nn.functional.pad(x, missing) for x in (index, there))
        found.append((index + span.columns.start if span.columns.start else index, there))
    if len(found) == 1:
        return found[0]
    return torch.cat([index for index, _ in found], 2), torch.cat([there for _, there in found], 2)


def _block(queries: Tensor, keys: Tensor, where: Written) -> int:
    """Queries whose products are made at once: whole segments where that fits the cache."""
    held = min(keys.shape[2], where.capacity // where.unit + 1)
    room = ROOM // max(1, queries.shape[0] * queries.shape[1] * held)
    return max(LEAST, min(BLOCK, max(where.segment, where.capacity // 4), room))


def largest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of scores (..., S) and where they stand, in any order."""
    columns = scores.shape[-1]
    if count >= columns:
        return scores, torch.arange(columns, device=scores.device).expand(scores.shape)
    groups = columns // GROUP
    if groups < 4 * count or scores.numel() < MANY:
        found = scores.topk(count, dim=-1, sorted=False)
        return found.values, found.indices
    whole = groups * GROUP
    leading = scores[..., :whole].unflatten(-1, (GROUP, groups)).amax(-2).topk(count, dim=-1, sorted=False).indices
    place = leading[..., None, :] + torch.arange(0, whole, groups, device=scores.device)[:, None]
    place = place.flatten(-2)
    if whole < columns:
        rest = torch.arange(whole, columns, device=scores.device).expand(*place.shape[:-1], -1)
        place = torch.cat((place, rest), -1)
    found = scores.gather(-1, place).topk(count, dim=-1, sorted=False)
    return found.values, place.gather(-1, found.indices)


def _scores(queries: Tensor, keys: Tensor, shared: bool) -> Tensor:
    """Products (B, H, t, S) of queries (B, H, t, W) and the keys (B, G, S, W) that serve them; shared: their mean."""
    groups, time = keys.shape[1], queries.shape[2]
    if shared:
        mean = rearrange(queries, "b (g r) t w -> b g r t w", g=groups).sum(2) / queries.shape[1]
        return _products(mean, keys).sum(1, keepdim=True)
    if groups == queries.shape[1]:
        return _products(queries, keys)
    folded = rearrange(queries, "b (g r) t w -> b g (r t) w", g=groups)
    return rearrange(_products(folded, keys), "b g (r t) s -> b (g r) t s", t=time)


def _products(queries: Tensor, keys: Tensor) -> Tensor:
    """(B, G, n, S): few queries and large keys the other way round, which CPUs do up to five times as fast."""
    if queries.shape[2] < LEAST and keys.shape[3] >= WIDE and keys.shape[2] * keys.shape[3] >= LARGE:
        return (keys @ queries.transpose(-1, -2)).transpose(-1, -2).contiguous()
    return queries @ keys.mT


def _nothing(queries: Tensor, span: Span, count: int, shared: bool) -> tuple[Tensor, Tensor]:
    shape = (queries.shape[0], 1 if shared else queries.shape[1], span.at.stop - span.at.start, count)
    index = torch.zeros(shape, dtype=torch.int64, device=queries.device)
    return index, torch.zeros(shape, dtype=torch.bool, device=queries.device)
