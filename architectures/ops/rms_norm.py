"""Root-mean-square norm with a gain: y = g x / sqrt(mean x^2 + epsilon).

Zhang and Sennrich, https://arxiv.org/abs/1910.07467. On a CPU PyTorch makes it of seven operators, each of which writes
a tensor of its own, and differentiates them one by one. Here one function writes the result and, in its backward, the
gradient, in pieces that stay in the cache:

    r = (mean x^2 + epsilon)^(-1/2)       y = g r x
    on x = r (g dy) - x r^3 / D <g x, dy>       on g = sum_n r_n x_n dy_n

Elsewhere, where a graph is compiled, and for what fits into one piece, PyTorch's own is what is fast; a decoded token
has a form of its own (`decoded`).

Shapes: N tokens, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from farfield.architectures.ops.decoded import norm
from farfield.architectures.ops.passes import passes
from farfield.architectures.ops.transforms import transformed

__all__ = ["RMSNorm", "rms_norm"]

PIECE = 2**18  # numbers: a megabyte of float32


class RMSNorm(nn.Module):
    """The norm with its gain (D,), which begins at 1."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.epsilon)


def rms_norm(x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
    """`x` (..., D) with its root mean square made 1, times `gain` (D,); computed in float32 or wider."""
    found = norm(x, gain, epsilon)
    if found is not None:
        return found
    small = x.numel() <= PIECE or x.device.type != "cpu" or x.dtype != gain.dtype
    if small or gain.shape != x.shape[-1:] or torch.compiler.is_compiling() or transformed():
        return nn.functional.rms_norm(x, x.shape[-1:], gain, epsilon)
    whole: Tensor = _Normed.apply(x, gain, epsilon)  # type: ignore[no-untyped-call]  # torch's own
    return whole


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
        fused = ctx.passes = passes(x, gain)
        if fused is not None:
            whole, rate = fused.normed(x.contiguous().view(-1, x.shape[-1]), gain.contiguous(), epsilon)
            ctx.save_for_backward(x, gain, rate)
            return whole.view(x.shape)
        wide, flat = torch.promote_types(x.dtype, torch.float32), x.reshape(-1, x.shape[-1])
        out, rate = torch.empty_like(flat), flat.new_empty(flat.shape[0], 1, dtype=wide)
        gain_wide, piece = gain.to(wide), max(1, PIECE // x.shape[-1])
        for ours, to, r in zip(flat.split(piece), out.split(piece), rate.split(piece), strict=True):
            ours = ours.to(wide)
            torch.linalg.vector_norm(ours, dim=1, keepdim=True, out=r)
            r.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
            if x.dtype == wide:
                torch.mul(ours, r, out=to).mul_(gain_wide)
            else:
                to.copy_((ours * r).mul_(gain_wide))
        ctx.save_for_backward(x, gain, rate)
        return out.view(x.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        x, gain, rate = ctx.saved_tensors
        width = x.shape[-1]
        if ctx.passes is not None:
            flat, above = (one.contiguous().view(-1, width) for one in (x, gradient))
            on_x, on_gain = ctx.passes.normed_backward(flat, gain.contiguous(), rate, above)
            return on_x.view(x.shape), on_gain, None
        flat, above = x.reshape(-1, width), gradient.reshape(-1, width)
        on_x, piece = torch.empty_like(flat), max(1, PIECE // width)
        gain_wide = gain.to(rate.dtype)
        on_gain, scratch = torch.zeros_like(gain_wide), gain_wide.new_empty(min(piece, flat.shape[0]), width)
        for ours, dy, r, to in zip(*(t.split(piece) for t in (flat, above, rate, on_x)), strict=True):
            ours, dy = ours.to(rate.dtype), dy.to(rate.dtype)
            both = torch.mul(ours, dy, out=scratch[: ours.shape[0]])
            on_gain.addmv_(both.T, r[:, 0])
            shrink = torch.mv(both, gain_wide)[:, None].mul_(r.pow(3)).div_(-width)
            if x.dtype == rate.dtype:
                torch.mul(dy, gain_wide, out=to).mul_(r).addcmul_(ours, shrink)
            else:
                to.copy_((dy * gain_wide).mul_(r).addcmul_(ours, shrink))
        return on_x.view(x.shape), on_gain.to(gain.dtype), None
