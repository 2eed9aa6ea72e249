"""FAVOR+ over one whole document as one function, from its tokens to its answer.

    q, k, v = heads of x I^T, q and k turned to where they stand
    phi(z) = exp(A z' - |z'|^2 / 2 - c),  z' = z W^(-1/4)       c, the largest exponent, cancels
    S = sum_m phi(k_m) (v_m, 1)                                 S: (M, W + 1)
    (n, d) = phi(q) S,   y = (n / d) O^T

Features are four times as wide as the layer, and PyTorch would write them, their exponents, and a gradient of each.
Here a piece of tokens at a time goes through buffers that are used again and stay in the cache. The keys' maximum is
that of the pieces so far: sums are scaled down where it grows. The backward pass makes the features once more, queries
first, whose answers give the gradient of S. The square of a query's length cancels as well and is left out.

Shapes: S tokens, D width, H heads, W width of a head, M features, P tokens in a piece.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from farfield.architectures.ops.pieces import add_product, parts_of
from farfield.architectures.ops.random_features import least_total
from farfield.architectures.ops.rotary import rotate

__all__ = ["PIECE", "favor"]

PIECE = 128  # tokens


def favor(x: Tensor, inputs: Tensor, out: Tensor, matrix: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
    """y (S, D) of x (S, D) with inputs (3 H W, D), out (D, H W) and the features' rows A (M, W).

    `angles`: cosine and sine (1, 1, S, W / 2) that queries and keys are turned by. No gradient goes to A.
    """
    found: Tensor = _Favor.apply(x, inputs, out, matrix, *(angles or (None, None)))  # type: ignore[no-untyped-call]
    return found


class _Favor(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, inputs: Tensor, out: Tensor, matrix: Tensor, cos: Tensor | None, sin: Tensor | None
    ) -> Tensor:
        work = _Work(matrix, out.shape[1], cos, sin)
        qkv, mixed = x.new_empty(len(x), inputs.shape[0]), x.new_empty(len(x), out.shape[1])
        sums, peak = work.written(x, inputs, qkv)
        read, by_out, y = sums.transpose(1, 2).contiguous(), out.T.contiguous(), torch.empty_like(x)
        tops, totals = x.new_empty(2, work.heads, len(x), 1)
        for at in parts_of(len(x), PIECE):
            exponents = work.exponents(work.parts(qkv[at])[0])
            top = torch.amax(exponents, -1, keepdim=True, out=tops[:, at])
            both = exponents.sub_(top).exp_() @ read
            total = torch.clamp(both[..., -1:], min=work.least, out=totals[:, at])
            torch.div(both[..., :-1], total, out=work.by_head(mixed[at]))
            torch.mm(mixed[at], by_out, out=y[at])
        ctx.work = work
        ctx.save_for_backward(x, inputs, out, qkv, mixed, sums, peak, tops, totals)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        x, inputs, out, qkv, mixed, sums, peak, tops, totals = ctx.saved_tensors
        work, inner, wanted = ctx.work, mixed.shape[1], ctx.needs_input_grad
        on_x, on_sums = torch.empty_like(x), torch.zeros_like(sums)
        on_inputs = torch.zeros_like(inputs) if wanted[1] else None
        on_q_map, on_kv_map = (None, None) if on_inputs is None else on_inputs.split((inner, 2 * inner))
        on_out = torch.zeros_like(out) if wanted[2] else None
        for at in parts_of(len(x), PIECE):
            on_both = work.on_both(above[at] @ out, mixed[at], totals[:, at])
            add_product(on_out, above[at].T, mixed[at])
            features = work.exponents(work.parts(qkv[at])[0]).sub_(tops[:, at]).exp_()
            on_sums.baddbmm_(on_both.transpose(1, 2), features)
            on_q = work.turned_back((on_both @ sums).mul_(features) @ work.matrix, at)
            on_q = on_q.transpose(0, 1).reshape(-1, inner)
            torch.mm(on_q, inputs[:inner], out=on_x[at])
            add_product(on_q_map, on_q.T, x[at])
        on_read = on_sums[:, :-1].transpose(1, 2).contiguous()
        for at in parts_of(len(x), PIECE):
            _, k, v = work.parts(qkv[at])
            features = work.key_features(k, peak)
            on_exponents = (work.with_one(v) @ on_sums).mul_(features)
            on_k = (on_exponents @ work.matrix).addcmul_(k, on_exponents.sum(-1, keepdim=True), value=-work.square)
            on_kv = torch.stack((work.turned_back(on_k, at), features @ on_read))
            on_kv = on_kv.permute(2, 0, 1, 3).reshape(-1, 2 * inner)
            on_x[at].addmm_(on_kv, inputs[inner:])
            add_product(on_kv_map, on_kv.T, x[at])
        return on_x, on_inputs, on_out, None, None, None


class _Work:
    """What all pieces of a call share."""

    def __init__(self, matrix: Tensor, inner: int, cos: Tensor | None, sin: Tensor | None) -> None:
        self.width, self.cos, self.sin = matrix.shape[1], cos, sin
        self.heads, self.square = inner // self.width, float(self.width**-0.5)
        self.least = least_total(matrix.dtype)
        scaled = matrix * self.width**-0.25
        self.matrix = scaled.expand(self.heads, -1, -1)
        self.by_width = scaled.T.contiguous().expand(self.heads, -1, -1)

    def written(self, x: Tensor, inputs: Tensor, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """S^T (H, W + 1, M) and the keys' maximum (H, 1, 1) of x (S, D); `qkv` (S, 3 H W) is filled, turned."""
        sums = x.new_zeros(self.heads, self.width + 1, self.matrix.shape[1])
        peak, by_input = x.new_full((self.heads, 1, 1), -math.inf), inputs.T.contiguous()
        for at in parts_of(len(x), PIECE):
            parts = self.parts(torch.mm(x[at], by_input, out=qkv[at]))
            if self.cos is not None and self.sin is not None:
                parts[:2] = rotate(parts[:2], self.cos[:, :, at], self.sin[:, :, at], "halves")
            exponents, half = self.exponents(parts[1]), self.half(parts[1])
            before, peak = peak, torch.maximum(peak, (exponents.amax(-1, keepdim=True) - half).amax(1, keepdim=True))
            features = exponents.sub_(half + peak).exp_()
            sums.mul_((before - peak).exp()).baddbmm_(self.with_one(parts[2]).transpose(1, 2), features)
        return sums, peak

    def parts(self, qkv: Tensor) -> Tensor:
        """Queries, keys and values (3, H, P, W) of a piece (P, 3 H W)."""
        return qkv.view(len(qkv), 3, self.heads, self.width).permute(1, 2, 0, 3)

    def by_head(self, mixed: Tensor) -> Tensor:
        """(H, P, W) of (P, H W)."""
        return mixed.view(len(mixed), self.heads, self.width).transpose(0, 1)

    def exponents(self, part: Tensor) -> Tensor:
        """A z' (H, P, M) of z (H, P, W)."""
        return torch.bmm(part, self.by_width)

    def half(self, k: Tensor) -> Tensor:
        """|k'|^2 / 2 (H, P, 1)."""
        return k.square().sum(-1, keepdim=True) * (self.square / 2)

    def key_features(self, k: Tensor, peak: Tensor) -> Tensor:
        """phi(k) (H, P, M)."""
        return self.exponents(k).sub_(self.half(k) + peak).exp_()

    def with_one(self, v: Tensor) -> Tensor:
        """(v, 1) (H, P, W + 1)."""
        return torch.nn.functional.pad(v, (0, 1), value=1.0)

    def on_both(self, above: Tensor, mixed: Tensor, total: Tensor) -> Tensor:
        """The gradient (H, P, W + 1) of numerators and denominators, by that of their ratio (P, H W)."""
        on_ratio, ratio = self.by_head(above), self.by_head(mixed)
        on_total = -(on_ratio * ratio).sum(-1, keepdim=True)
        return torch.cat((on_ratio, torch.where(total > self.least, on_total, 0.0)), -1).div_(total)

    def turned_back(self, part: Tensor, at: slice) -> Tensor:
        """The gradient (H, P, W) of what was turned."""
        if self.cos is None or self.sin is None:
            return part
        return rotate(part[None], self.cos[:, :, at], -self.sin[:, :, at], "halves")[0]
