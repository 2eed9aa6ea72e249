"""Layouts of rows of unlike lengths: of the keys of a row, only the first so many are there.

    Counted    every query sees the keys that are there        right-padded documents, in both directions

Shapes: B batch, H heads, T queries, S keys, D width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from farfield.architectures.ops.backend import Gradients, Kernel
from farfield.architectures.ops.layouts import BLOCK, Block, Layout, masked_backward, masked_forward

__all__ = ["Counted"]


@dataclass(frozen=True, eq=False)
class Counted:
    """Every query of a row sees the first `count` (B,) of its keys.

    ```
    count 2:   x x .
               x x .
    ```
    """

    count: Tensor

    def mask(self, time: int, keys: int) -> Tensor:
        return (torch.arange(keys, device=self.count.device) < self.count[:, None])[:, None, None]

    def select(self, heads: Tensor) -> Layout:
        return self

    def forward(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        return masked_forward(self._blocks(q.shape[2], k.shape[2]), kernel, q, k, v, scale)

    def backward(
        self, kernel: Kernel, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> Gradients:
        return masked_backward(self._blocks(q.shape[2], k.shape[2]), kernel, gradient, q, k, v, out, lse, scale)

    def _blocks(self, time: int, keys: int) -> Iterator[Block]:
        mask = self.mask(time, keys)
        for begin in range(0, time, BLOCK):
            yield slice(begin, min(begin + BLOCK, time)), slice(None), mask
