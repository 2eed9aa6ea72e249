"""Layout of a query that sees a run of columns, another one in every row: decoded tokens of rows of unequal length.

    row 0   k k k k k k .        the cache is read where it stands, each row as far as it goes
    row 1   k k k . . . .

Shapes: B batch, H heads, T queries, S keys, D width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from farfield.architectures.ops.backend import Gradients, Kernel
from farfield.architectures.ops.decoded import one_query
from farfield.architectures.ops.layouts import Given, Layout

__all__ = ["Spans"]


@dataclass(frozen=True, eq=False)
class Spans:
    """The queries of row b see the keys [begin[b], end[b]); begin and end (B,) int64."""

    begin: Tensor
    end: Tensor

    def mask(self, time: int, keys: int) -> Tensor:
        column = torch.arange(keys, device=self.end.device)
        return ((column >= self.begin[:, None]) & (column < self.end[:, None]))[:, None, None].expand(-1, 1, time, -1)

    def select(self, heads: Tensor) -> Layout:
        return self

    def decoded(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor] | None:
        """As `forward`, of one query without gradients, with heads that share keys; None where nothing is faster."""
        return one_query(q, k, v, scale, (self.begin, self.end)) if kernel.name == "cpu" else None

    def forward(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        return self._given(q, k).forward(kernel, q, k, v, scale)

    def backward(
        self, kernel: Kernel, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> Gradients:
        return self._given(q, k).backward(kernel, gradient, q, k, v, out, lse, scale)

    def _given(self, q: Tensor, k: Tensor) -> Given:
        return Given(self.mask(q.shape[2], k.shape[2]))
