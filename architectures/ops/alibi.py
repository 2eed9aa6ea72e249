"""Attention with linear biases: a score falls with the distance between query and key, in each head at its own rate.

    score - s_h |n - m|        s_h = 2^(-8 (h + 1) / H),  n and m in tokens

Where H is no power of two, the heads beyond the nearest lower power P take every other slope of 2 P heads, from the
first on. Press et al., https://arxiv.org/abs/2108.12409. What comes off is a number of its own that a layout adds to
its block's scores: as further dimensions of queries and keys it would be a difference of large products.

A `Relation` in place of the slopes chooses pairs by where they stand: of what is visible, a query sees the keys for
which it holds, and no score falls.

Shapes: B batch, H heads, T queries, S keys, N selected keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["EVERY", "Alibi", "Relation", "Slopes", "alike", "slopes_of"]


class Relation(Protocol):
    """Which pairs of a query and a key are taken, by where they stand."""

    def holds(self, query: Tensor, key: Tensor) -> Tensor:
        """Bool of positions, which are broadcast."""


class Every:
    """All pairs: where they stand is told for another relation to take its place."""

    def holds(self, query: Tensor, key: Tensor) -> Tensor:
        return torch.ones((), dtype=torch.bool, device=query.device)


EVERY = Every()

Slopes = Tensor | Relation


def slopes_of(heads: int) -> Tensor:
    """s (H,), float64."""

    def published(count: int) -> list[float]:
        power = 2 ** int(math.log2(count))
        if power == count:
            return [2.0 ** (-8 * (head + 1) / count) for head in range(count)]
        return published(power) + published(2 * power)[::2][: count - power]

    return torch.tensor(published(heads), dtype=torch.float64)


def alike(slopes: Tensor | None, x: Tensor) -> Tensor | None:
    """The slopes, if any, where `x` is and as wide as its scores: float32 or wider."""
    return None if slopes is None else slopes.to(x.device, torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True, eq=False)
class Alibi:
    """Slopes (H,) or a relation, and where queries (B or 1, T) and keys (B or 1, S) stand, in tokens.

    Where each head has other keys, keys are (B or 1, H, S).
    """

    slopes: Slopes
    query_position: Tensor
    key_position: Tensor

    @staticmethod
    def of(slopes: Slopes | None, query: Tensor, key: Tensor) -> Alibi | None:
        """None without slopes."""
        return None if slopes is None else Alibi(slopes, query, key)

    @staticmethod
    def run(slopes: Tensor | None, time: int, keys: int, before: int = 0) -> Alibi | None:
        """Of a run of queries and one of keys, `before` keys before the first query; None without slopes."""
        if slopes is None:
            return None
        query, key = (torch.arange(count, device=slopes.device)[None] for count in (time, keys))
        return Alibi(slopes, query + before, key)

    def select(self, heads: Tensor) -> Alibi:
        """Of some heads (n,) int64."""
        key = self.key_position if self.key_position.ndim == 2 else self.key_position.index_select(1, heads)
        slopes = self.slopes.index_select(0, heads) if isinstance(self.slopes, Tensor) else self.slopes
        return Alibi(slopes, self.query_position, key)

    def keys(self, columns: slice = slice(None)) -> Tensor:
        """Where the keys at some columns stand, (B or 1, H or 1, columns)."""
        found = self.key_position[..., columns]
        return found if found.ndim == 3 else found[:, None]

    def added(self, at: slice, columns: slice, visible: Tensor | None = None) -> Tensor:
        """What is added to the scores of a block of queries: (B or 1, H, block, columns); -inf where not `visible`.

        Of a relation, bool (B or 1, H or 1, block, columns).
        """
        query, key = self.query_position[:, at][:, None, :, None], self.keys(columns)[:, :, None]
        if not isinstance(self.slopes, Tensor):
            taken = self.slopes.holds(query, key)
            return taken if visible is None else taken & visible
        distance = (query - key).abs().to(self.slopes.dtype)
        if visible is not None:  # before the heads multiply it: nothing is passed over twice
            distance = torch.where(visible, distance, math.inf)
        return -self.slopes[:, None, None] * distance

    def selected(self, index: Tensor, at: slice) -> Tensor:
        """What is added to the scores of a block of queries and its own keys `index` (B, H, block, N).

        Of a relation 0, or -inf where it does not hold.
        """
        each = self.key_position.ndim - 1  # rows, or rows and heads, have keys of their own
        key = self.key_position.expand(*index.shape[:each], -1).gather(each, index.flatten(each)).view_as(index)
        query = self.query_position[:, None, at, None]
        if not isinstance(self.slopes, Tensor):
            return torch.zeros(()).to(query.device).masked_fill(~self.slopes.holds(query, key), -math.inf)
        return -self.slopes[:, None, None] * (query - key).abs()
