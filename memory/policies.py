"""Policies: which tokens a bounded bank keeps, as pure functions of scores and positions.

    sinks   the first tokens and the newest                           https://arxiv.org/abs/2309.17453  StreamingLLM
    heavy   those that have received most attention, and the newest   https://arxiv.org/abs/2306.14048  H2O
    snap    those to which the last queries attend, neighbours too    https://arxiv.org/abs/2404.14469  SnapKV
    norm    those of the smallest keys                                https://arxiv.org/abs/2406.11430

A candidate is a slot or a token of a segment that is being written. Each policy gives it a score; the first and the
newest tokens are protected; the best stay, in the order of their positions.

Shapes: B batch, H heads of queries, G heads of keys, P heads of positions (1 or G), T queries, N candidates, W width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from farfield.architectures.ops.alibi import Alibi
from farfield.memory.ties import earliest

__all__ = ["attention_received", "kept", "pooled", "protected", "smallness"]

BLOCK = 256  # queries in a block


def attention_received(
    queries: Tensor, keys: Tensor, lse: Tensor, visible: Tensor, scale: float, alibi: Alibi | None = None
) -> Tensor:
    """The probabilities that keys get in a softmax of which they are a part, summed over queries and heads: (B, G, N).

        r_m = sum_h sum_t [t sees m] exp(scale q_ht . k_m + b_htm - lse_ht)      h of the heads that m's head serves

    Args:
        queries: (B, H, T, W). keys: (B, G, N, W). lse: (B, H, T), of the whole softmax.
        visible: bool (B or 1, H or 1, T, N).
    """
    batch, groups, count = keys.shape[:3]
    shared, group = keys.transpose(-1, -2)[:, :, None], queries.shape[1] // groups
    total: Tensor = lse.new_zeros(batch, groups, count)
    for begin in range(0, queries.shape[2], BLOCK):
        at = slice(begin, begin + BLOCK)
        scores = (queries[:, :, at].unflatten(1, (groups, group)) @ shared).flatten(1, 2).to(lse.dtype) * scale
        if alibi is not None:
            scores = scores + alibi.added(at, slice(None))
        # Where nothing is seen, the log-sum-exp may be -inf: no difference is taken there.
        apart = (scores - lse[:, :, at, None]).masked_fill(~visible[:, :, at], -math.inf)
        total += apart.exp().sum(2).unflatten(1, (groups, group)).sum(2)
    return total


def smallness(keys: Tensor) -> Tensor:
    """The negative lengths (B, G, N), float32 or wider, of keys (B, G, N, W)."""
    length: Tensor = torch.linalg.vector_norm(keys.to(torch.promote_types(keys.dtype, torch.float32)), dim=-1)
    return -length


def pooled(score: Tensor, valid: Tensor, kernel: int) -> Tensor:
    """Scores (B, G, N) averaged over `kernel` neighbours, an odd number, among the `valid` (B, P, N) in their order.

    Beyond the ends stand zeros, as published.
    """
    if kernel == 1:
        return score
    if bool(valid.all()):
        return torch.nn.functional.avg_pool1d(score, kernel, 1, kernel // 2)
    order = (~valid).to(torch.uint8).argsort(dim=-1, stable=True).expand_as(score)
    front = score.masked_fill(~valid, 0.0).gather(2, order)
    average = torch.nn.functional.avg_pool1d(front, kernel, 1, kernel // 2)
    return torch.empty_like(score).scatter_(2, order, average)


def protected(position: Tensor, end: Tensor, first: int, recent: int) -> Tensor:
    """Whether positions (B, P, N) are among the `first` of the document or the `recent` before `end` (B,)."""
    return (position < first) | (position >= (end - recent)[:, None, None])


def kept(score: Tensor, capacity: int) -> Tensor:
    """The columns (B, P, n) of the best min(N, capacity) of scores (B, P, N), ascending; those of -inf come last.

    Of equal scores the earliest columns stay.
    """
    columns = score.shape[2]
    values, index = earliest(score, min(capacity, columns))
    return torch.where(values.isneginf(), index + columns, index).sort(dim=2).values % columns
