"""Where some of the queries of a softmax stand: heads, and columns of each row.

Shapes: B batch, H heads, T time, N columns, S keys, D width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["EVERYWHERE", "Place"]


@dataclass(frozen=True, eq=False)
class Place:
    """Some heads, and the same columns of each: every `step`-th, or (B, N) of each row, none of them twice."""

    heads: slice
    columns: slice | Tensor

    def take(self, x: Tensor) -> Tensor:
        """What stands there in `x` (B, H, T) or (B, H, T, D)."""
        if isinstance(self.columns, slice):
            return x[:, self.heads, self.columns]
        x = x[:, self.heads]
        return x.gather(2, self._index(x, self.columns))

    def put(self, into: Tensor, x: Tensor) -> None:
        """`into` (B, H, T) or (B, H, T, D) with `x` there, in place."""
        if isinstance(self.columns, slice):
            into[:, self.heads, self.columns] = x
        else:
            into[:, self.heads].scatter_(2, self._index(x, self.columns), x)

    def add(self, into: Tensor, x: Tensor) -> None:
        """`into` (B, H, T, D) with `x` added there, in place."""
        if isinstance(self.columns, slice):
            into[:, self.heads, self.columns] += x
        else:
            into[:, self.heads].scatter_add_(2, self._index(x, self.columns), x.to(into.dtype))

    def spread(self, x: Tensor, heads: int, time: int, fill: float) -> Tensor:
        """(B, heads, time, S) with `x` (B, H, N, S) there and `fill` elsewhere: the definition."""
        head = torch.arange(heads, device=x.device)[self.heads]
        columns = self.columns
        if isinstance(columns, slice):
            columns = torch.arange(time, device=x.device)[columns].expand(x.shape[0], -1)
        batch = torch.arange(x.shape[0], device=x.device)[:, None, None]
        wide = x.new_full((x.shape[0], heads, time, x.shape[3]), fill)
        return wide.index_put((batch, head[:, None], columns[:, None]), x)

    @staticmethod
    def _index(x: Tensor, columns: Tensor) -> Tensor:
        index = columns[:, None].expand(-1, x.shape[1], -1)
        return index[..., None].expand(-1, -1, -1, x.shape[3]) if x.ndim == 4 else index


EVERYWHERE = Place(slice(None), slice(None))
