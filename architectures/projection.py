"""Queries, keys and values of softmax attention, with an optional short convolution on each, and the way back.

Grouped-query attention (https://arxiv.org/abs/2305.13245): G heads of keys and values serve H heads of queries.

Shapes: B batch, T time, D width, H heads, G heads of keys and values, W width of a head.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from farfield.architectures.mixer import Heads
from farfield.architectures.ops.rotary import angles, frequencies, rotate
from farfield.architectures.ops.short_convolution import ConvolutionState, short_convolution
from farfield.architectures.rows import Rows

__all__ = ["Projection", "Rotation"]


class Projection(nn.Module):
    """x (B, T, D) to heads and back; without biases."""

    def __init__(self, width: int, heads: int, kv_heads: int, head_width: int, conv: int) -> None:
        super().__init__()
        self.sizes = [heads * head_width, kv_heads * head_width, kv_heads * head_width]
        self.head_width, self.conv = head_width, conv
        self.qkv = nn.Linear(width, sum(self.sizes), bias=False)
        self.out = nn.Linear(heads * head_width, width, bias=False)
        self.taps = nn.Parameter(torch.empty(sum(self.sizes), conv)) if conv else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The convolution begins as the identity plus a little of each earlier token."""
        if self.taps is not None:
            nn.init.uniform_(self.taps, -(self.conv**-0.5), self.conv**-0.5)
            with torch.no_grad():
                self.taps[:, 0] += 1.0

    def start(self, batch: int) -> ConvolutionState | None:
        if not self.conv:
            return None
        return ConvolutionState.empty(batch, self.conv, sum(self.sizes), self.qkv.weight)

    def split(self, x: Tensor, rows: Rows, state: ConvolutionState | None) -> tuple[Heads, ConvolutionState | None]:
        """Queries (B, H, T, W), keys and values (B, G, T, W)."""
        qkv = self.qkv(x)
        if self.taps is not None and state is not None:
            qkv, state = short_convolution(qkv, self.taps.to(qkv.dtype), rows, state)
        pieces = (rearrange(p, "b t (h w) -> b h t w", w=self.head_width) for p in qkv.split(self.sizes, dim=-1))
        return Heads(*pieces), state

    def join(self, out: Tensor, rows: Rows) -> Tensor:
        """(B, T, D) of attention's output (B, H, T, W); zero at padding."""
        return rows.masked(self.out(rearrange(out, "b h t w -> b t (h w)")))

    @staticmethod
    def count(width: int, heads: int, kv_heads: int, head_width: int, conv: int) -> int:
        """Number of weights."""
        channels = (heads + 2 * kv_heads) * head_width
        return channels * (width + conv) + heads * head_width * width

    @staticmethod
    def state_bytes(heads: int, kv_heads: int, head_width: int, conv: int, element: int) -> int:
        """Bytes of the convolution's inputs of one row."""
        return (heads + 2 * kv_heads) * head_width * max(conv - 1, 0) * element


class Rotation:
    """Rotary positions with halves as pairs, or none; angles are shared by the layers of a call."""

    def __init__(self, width: int, base: float | None) -> None:
        self.frequency = None if base is None else frequencies(width, "halves", base)
        self.key = ("rotation", width, base)

    def rows(self, x: Tensor, rows: Rows) -> Tensor:
        """`x` (B, H, T, W) turned to the phase of `rows`."""
        if self.frequency is None:
            return x
        kind, frequency = torch.promote_types(x.dtype, torch.float32), self.frequency
        cos, sin = rows.once((*self.key, kind), lambda: angles(rows.phase, frequency, kind))
        return rotate(x, cos, sin, "halves")

    def at(self, x: Tensor, phase: Tensor) -> Tensor:
        """`x` (B, H, T, W) turned to phase (B, T)."""
        if self.frequency is None:
            return x
        return rotate(x, *angles(phase, self.frequency, torch.promote_types(x.dtype, torch.float32)), "halves")
