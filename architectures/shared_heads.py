"""Heads whose queries and keys are one projection, and their hash: what both forms of Reformer have in common.

    q = W_q x        k = q / |q|        v = W_v x        bucket = argmax([q R; -q R]) in each round

The rotations R are a buffer: a function of a seed, which fresh weights come with; both are saved. Hashes are taken
before queries are turned to their positions, so that a token's buckets do not depend on where it stands.

Shapes: B batch, T time, D width, H heads, W width of a head, R rounds.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from farfield.architectures.mixer import head_sizes
from farfield.architectures.ops.decoded import Linear
from farfield.architectures.ops.hashed import hashed
from farfield.architectures.ops.rms_norm import rms_norm
from farfield.architectures.ops.short_convolution import ConvolutionState, short_convolution
from farfield.architectures.rows import Rows

__all__ = ["SharedHeads", "shared_sizes"]

EPSILON = 1e-6  # of the mean square, as published


class SharedHeads(nn.Module):
    """x (B, T, D) to queries and values, to buckets, and back; without biases."""

    rotations: Tensor
    seed: Tensor

    def __init__(self, width: int, heads: int, head_width: int, buckets: int, rounds: int, conv: int) -> None:
        super().__init__()
        self.head_width, self.conv, self.channels = head_width, conv, 2 * heads * head_width
        self.qv = Linear(width, self.channels, bias=False)
        self.out = Linear(heads * head_width, width, bias=False)
        self.taps = nn.Parameter(torch.empty(self.channels, conv)) if conv else None
        self.register_buffer("seed", torch.randint(2**62, ()))
        drawn = torch.Generator().manual_seed(int(self.seed))
        shape = (heads, rounds, head_width, buckets // 2)
        self.register_buffer("rotations", torch.randn(shape, generator=drawn, dtype=torch.float32))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The convolution begins as the identity plus a little of each earlier token."""
        if self.taps is not None:
            nn.init.uniform_(self.taps, -(self.conv**-0.5), self.conv**-0.5)
            with torch.no_grad():
                self.taps[:, 0] += 1.0

    def start(self, batch: int) -> ConvolutionState | None:
        return ConvolutionState.empty(batch, self.conv, self.channels, self.qv.weight) if self.conv else None

    def split(
        self, x: Tensor, rows: Rows, state: ConvolutionState | None
    ) -> tuple[Tensor, Tensor, ConvolutionState | None]:
        """Queries and values (B, H, T, W) of `x` (B, T, D), and the convolution's state behind it."""
        mixed = self.qv(x)
        if self.taps is not None and state is not None:
            mixed, state = short_convolution(mixed, self.taps.to(mixed.dtype), rows, state)
        queries, values = (rearrange(p, "b t (h w) -> b h t w", w=self.head_width) for p in mixed.chunk(2, -1))
        return queries, values, state

    def buckets(self, queries: Tensor) -> Tensor:
        """The bucket (B, H, R, T) of queries (B, H, T, W) in each round."""
        return hashed(queries, self.rotations)

    def keys(self, queries: Tensor) -> Tensor:
        """Queries (B, H, T, W) brought to length sqrt(W), which the scale W^(-1/2) of the scores makes 1."""
        tokens = queries.transpose(1, 2)  # as they lie in memory
        return rms_norm(tokens, queries.new_ones(self.head_width), EPSILON).transpose(1, 2)

    def join(self, out: Tensor, rows: Rows) -> Tensor:
        """(B, T, D) of attention's output (B, H, T, W); zero at padding."""
        return rows.masked(self.out(rearrange(out, "b h t w -> b t (h w)")))

    @staticmethod
    def count(width: int, heads: int, head_width: int, conv: int) -> int:
        """Number of weights."""
        return heads * head_width * (3 * width + 2 * conv)

    @staticmethod
    def work(width: int, heads: int, head_width: int, conv: int, buckets: int, rounds: int) -> int:
        """Multiply-adds times two for a token: projections, convolution and hash."""
        weights = SharedHeads.count(width, heads, head_width, conv)
        return 2 * weights + heads * head_width * rounds * buckets

    @staticmethod
    def state_bytes(heads: int, head_width: int, conv: int, element: int) -> int:
        """Bytes of the convolution's inputs of one row."""
        return 2 * heads * head_width * max(conv - 1, 0) * element


def shared_sizes(width: int, heads: int | None, head_width: int, position: str) -> tuple[int, int]:
    """Number of heads and width of a head.

    Raises:
        ValueError: they do not divide, or heads of odd width are to be rotated.
    """
    heads, head_width = head_sizes(width, heads, head_width)
    if position in ("rope", "xpos") and head_width % 2:
        raise ValueError(f"position: {position} needs heads of even width, and this one is {head_width} wide.")
    return heads, head_width
