"""Feed-forwards: what each token does alone.

    SwiGLU    y = W_2 (silu(x W_1) * x W_3)      Shazeer, https://arxiv.org/abs/2002.05202

Shapes: B batch, T time, D width.
"""

from __future__ import annotations

import abc
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from farfield.architectures.rows import Rows
from farfield.config import Config

__all__ = ["Auxiliary", "FeedForward", "SwiGLU", "SwiGLUConfig"]

Auxiliary = dict[str, Tensor]
"""Losses of the layer by name (scalars, already weighted), such as a router's: returned, never kept on modules."""


class FeedForward(nn.Module, abc.ABC):
    """Maps each token by itself."""

    @abc.abstractmethod
    def forward(self, x: Tensor, rows: Rows) -> tuple[Tensor, Auxiliary]:
        """(B, T, D) of `x` (B, T, D), and the layer's own losses."""


class SwiGLUConfig(Config):
    """Gated linear unit with a swish gate."""

    kind: Literal["swiglu"] = "swiglu"
    ratio: float = Field(2.67, gt=0, description="inner width over width; rounded up to a multiple of 8")

    def inner(self, width: int) -> int:
        """The inner width."""
        return -(-int(width * self.ratio) // 8) * 8

    def build(self, width: int) -> SwiGLU:
        return SwiGLU(width, self.inner(width))

    def parameters(self, width: int) -> int:
        """Number of weights."""
        return 3 * width * self.inner(width)

    def flops(self, width: int) -> int:
        """Multiply-adds times two of one token."""
        return 2 * self.parameters(width)


class SwiGLU(FeedForward):
    """See the file's head."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, rows: Rows) -> tuple[Tensor, Auxiliary]:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(torch.nn.functional.silu(gate) * value), {}
