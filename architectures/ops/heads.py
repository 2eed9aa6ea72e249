"""Queries, keys and values of a token, side by side as their product makes them, to heads, in one pass.

    q, k, v = turn(qkv[:H]), turn(qkv[H : H + G]), qkv[H + G :]        turn: rotary positions, halves as pairs

The backward writes the gradients of all three side by side again, where operators of PyTorch turn each apart and then
copy them into one tensor (`native/passes.cpp`).

Shapes: B batch, T time, H heads, G heads of keys and values, W width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from farfield.architectures.ops.passes import Passes, passes
from farfield.architectures.ops.rotary import rotate

__all__ = ["Sizes", "heads_definition", "turned_heads"]

LEAST = 2**16  # numbers of a call that is worth it

Sizes = tuple[int, int, int]
"""H, G and W."""


def heads_definition(qkv: Tensor, cos: Tensor, sin: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor, Tensor]:
    """The definition."""
    heads, groups, width = sizes
    parts = qkv.unflatten(2, (heads + 2 * groups, width)).transpose(1, 2).split([heads, groups, groups], dim=1)
    return rotate(parts[0], cos, sin, "halves"), rotate(parts[1], cos, sin, "halves"), parts[2]


def turned_heads(qkv: Tensor, cos: Tensor, sin: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor, Tensor] | None:
    """Queries (B, H, T, W), keys and values (B, G, T, W) of `qkv` (B, T, (H + 2 G) W).

    None where a pass of its own is not to be had, or not worth it. No gradient flows to the angles.

    Args:
        cos: with `sin`, of the angles (B or 1, 1, T, W / 2), of the dtype of `qkv`.
    """
    if qkv.numel() < LEAST or qkv.stride(2) != 1 or sizes[2] % 2:
        return None
    found = passes(qkv, cos, sin)
    if found is None:
        return None
    rows, half = {1, qkv.shape[0]}, (1, qkv.shape[1], sizes[2] // 2)
    assert {cos.shape, sin.shape} <= {(row, *half) for row in rows}
    assert qkv.shape[2] == (sizes[0] + 2 * sizes[1]) * sizes[2]
    if not torch.is_grad_enabled():
        return found.to_heads(qkv, cos, sin, sizes)
    made: tuple[Tensor, Tensor, Tensor] = _Heads.apply(found, qkv, cos, sin, sizes)  # type: ignore[no-untyped-call]
    return made


class _Heads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, found: Passes, qkv: Tensor, cos: Tensor, sin: Tensor, sizes: Sizes
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.passes = found
        return found.to_heads(qkv, cos, sin, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *above: Tensor) -> tuple[None, Tensor, None, None, None]:
        return None, ctx.passes.from_heads(above, *ctx.saved_tensors), None, None, None
