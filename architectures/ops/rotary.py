"""Rotation of queries and keys by position, so that their product depends on the distance only.

Rotary embedding (Su et al., https://arxiv.org/abs/2104.09864) turns the pair (x_i, x_j) by the angle n * w_i at
position n. Two layouts of the pairs and two schedules of the frequencies are in use:

    halves       pairs (x_i, x_{i + D/2}),  w_i = base^(-2 i / D)          RoPE as in Llama
    interleaved  pairs (x_{2i}, x_{2i+1}),  w_i = base^(-i / (D/2 - 1))    RetNet: the last is exactly 1 / base

xPos (Sun et al., https://arxiv.org/abs/2212.10554) scales the turned pairs too, queries by zeta_i^n and keys by
zeta_i^-m, so that far tokens matter less, and the more so the faster their pair turns:

    zeta_i = ((2 i / D + 0.4) / 1.4)^(1 / scale_base)

Both powers leave the range of float32 after some ten thousand tokens. The product needs n - m only, so they are counted
from a reference that query and key have in common.

Shapes: B batch, T time, H heads, D width of a head.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from farfield.architectures.ops.decoded import turned
from farfield.architectures.ops.pieces import pieces
from farfield.architectures.ops.transforms import transformed

__all__ = ["Layout", "angles", "frequencies", "powers", "rotate", "rotate_definition", "scales"]

Layout = Literal["halves", "interleaved"]


def frequencies(width: int, layout: Layout, base: float = 10000.0) -> Tensor:
    """The D / 2 frequencies in radians a token, float64."""
    pairs = width // 2
    if layout == "halves":
        exponents = torch.arange(pairs, dtype=torch.float64) / pairs
    else:
        exponents = torch.linspace(0, 1, pairs, dtype=torch.float64)
    return base**-exponents


def angles(phase: Tensor, frequency: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine (B, 1, T, D / 2) of phase (B, T) times frequency (D / 2), computed in float64.

    Float32 would be off by hundredths of a radian at a million tokens.
    """
    turn = phase[:, None, :, None] * frequency.to(phase.device)  # float64, as the frequencies are
    return turn.cos().to(dtype), turn.sin().to(dtype)


def scales(width: int, scale_base: float = 512.0) -> Tensor:
    """log zeta (D / 2,) of xPos: nats a token, float64; at least log(0.4 / 1.4) / scale_base."""
    pair = torch.arange(0, width, 2, dtype=torch.float64)
    return ((pair / width + 0.4) / 1.4).log() / scale_base


def powers(tokens: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """zeta^tokens (B, 1, T, D / 2) of tokens (B, T), computed in float64."""
    return (tokens[:, None, :, None] * scale.to(tokens.device)).exp().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, layout: Layout) -> Tensor:
    """`x` (B, H, T, D) turned by the angles (B, 1, T, D / 2), in the dtype of `x`; computed in that of the angles.

    Cosine and sine may both have been multiplied by a scale of each pair. No gradient flows to them.
    """
    if transformed():
        return _turned_whole(x, cos, sin, layout)
    if not torch.is_grad_enabled():
        found = turned(x, cos, sin) if layout == "halves" else None
        return _turned(x, x.new_empty(x.shape), cos, sin, layout) if found is None else found
    whole: Tensor = _Turn.apply(x, cos, sin, layout)  # type: ignore[no-untyped-call]
    return whole


def _turned_whole(x: Tensor, cos: Tensor, sin: Tensor, layout: Layout) -> Tensor:
    """`x` (B, H, T, D) turned, by operators that write nothing in place."""
    pairs = x.to(cos.dtype)
    a, b = pairs.chunk(2, dim=-1) if layout == "halves" else (pairs[..., ::2], pairs[..., 1::2])
    both = a * cos - b * sin, b * cos + a * sin
    found = torch.cat(both, -1) if layout == "halves" else torch.stack(both, -1).flatten(-2)
    return found.to(x.dtype)


class _Turn(torch.autograd.Function):
    """One tensor made piece by piece, with a head's tokens side by side; the gradient is turned back.

    Attention goes through a head at a time. The gradient lies as `x` does, which is a part of one product of all heads.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, layout: Layout) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.layout, ctx.by_token = layout, x.stride(1) < x.stride(2)
        return _turned(x, x.new_empty(x.shape), cos, sin, layout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        batch, heads, time, width = above.shape
        if ctx.by_token:
            out = above.new_empty(batch, time, heads, width).transpose(1, 2)
        else:
            out = above.new_empty(above.shape)
        return _turned(above, out, cos, -sin, ctx.layout), None, None, None


def _turned(x: Tensor, out: Tensor, cos: Tensor, sin: Tensor, layout: Layout) -> Tensor:
    """`x` (B, H, T, D) turned, in `out`."""
    for at in pieces(x.shape[2], x.shape[0] * x.shape[1] * x.shape[3], x):
        _turn_piece(x[:, :, at], out[:, :, at], cos[:, :, at], sin[:, :, at], layout)
    return out


def _turn_piece(x: Tensor, out: Tensor, cos: Tensor, sin: Tensor, layout: Layout) -> None:
    part = x.to(cos.dtype)
    if layout == "interleaved":
        turned = torch.view_as_complex(part.unflatten(-1, (-1, 2)).contiguous()) * torch.complex(cos, sin)
        out.copy_(torch.view_as_real(turned).flatten(-2))
        return
    (a, b), (first, second) = part.chunk(2, dim=-1), out.chunk(2, dim=-1)
    if out.dtype == cos.dtype and not torch.compiler.is_compiling():  # graphs take no parts of a tensor for results
        torch.mul(a, cos, out=first).addcmul_(b, sin, value=-1)
        torch.mul(b, cos, out=second).addcmul_(a, sin)
    else:
        first.copy_(torch.addcmul(a * cos, b, sin, value=-1))
        second.copy_(torch.addcmul(b * cos, a, sin))


def rotate_definition(x: Tensor, phase: Tensor, layout: Layout, base: float = 10000.0) -> Tensor:
    """The definition: each pair of `x` (B, H, T, D) as a complex number times exp(i n w)."""
    turn = phase[:, None, :, None].to(torch.float64) * frequencies(x.shape[-1], layout, base)
    if layout == "halves":
        pairs = torch.complex(*x.double().chunk(2, dim=-1))
        turned = pairs * torch.polar(torch.ones_like(turn), turn)
        return torch.cat((turned.real, turned.imag), dim=-1).to(x.dtype)
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    turned = pairs * torch.polar(torch.ones_like(turn), turn)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)
