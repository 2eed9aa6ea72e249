"""Softmax attention of a whole document to a few rows of keys and values, as one function with the maps around it.

    q = heads of x I^T, turned to where they stand,    p = softmax(q K^T / sqrt(W)),    y = (p V) O^T

A piece of tokens at a time goes through all of it while it is in the cache. The backward pass makes the weights p once
more, of queries and log-sum-exps, which are kept.

Shapes: S tokens, D width, H heads, W width of a head, R rows, P tokens in a piece.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from farfield.architectures.ops.pieces import add_product, parts_of
from farfield.architectures.ops.rotary import rotate

__all__ = ["PIECE", "rows_attention"]

PIECE = 128  # tokens


def rows_attention(
    x: Tensor, keys: Tensor, values: Tensor, inputs: Tensor, out: Tensor, angles: tuple[Tensor, Tensor] | None
) -> Tensor:
    """y (S, D) of x (S, D), keys and values (H, R, W), inputs (H W, D) and out (D, H W).

    `angles`: cosine and sine (1, 1, S, W / 2) that queries are turned by.
    """
    cos, sin = angles or (None, None)
    found: Tensor = _Attended.apply(x, keys, values, inputs, out, cos, sin)  # type: ignore[no-untyped-call]
    return found


class _Attended(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        inputs: Tensor,
        out: Tensor,
        cos: Tensor | None,
        sin: Tensor | None,
    ) -> Tensor:
        heads, _, width = keys.shape
        q, mixed = x.new_empty(2, len(x), inputs.shape[0])
        y, lse = torch.empty_like(x), x.new_empty(heads, len(x), 1)
        by_width = keys.transpose(1, 2).contiguous() * width**-0.5
        by_input, by_out = inputs.T.contiguous(), out.T.contiguous()
        for at in parts_of(len(x), PIECE):
            queries = _by_head(torch.mm(x[at], by_input, out=q[at]), heads)
            if cos is not None and sin is not None:
                queries.copy_(_turned(queries, cos[:, :, at], sin[:, :, at]))
            scores = queries @ by_width
            top = scores.amax(-1, keepdim=True)
            weights = scores.sub_(top).exp_()
            total = weights.sum(-1, keepdim=True)
            torch.add(top, total.log(), out=lse[:, at])
            torch.div(weights @ values, total, out=_by_head(mixed[at], heads))
            torch.mm(mixed[at], by_out, out=y[at])
        ctx.save_for_backward(x, keys, values, inputs, out, cos, sin, q, mixed, lse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        x, keys, values, inputs, out, cos, sin, q, mixed, lse = ctx.saved_tensors
        heads, _, width = keys.shape
        on_x = torch.empty_like(x)
        on_inputs, on_out = (
            torch.zeros_like(weight) if wanted else None
            for weight, wanted in zip((inputs, out), ctx.needs_input_grad[3:5], strict=True)
        )
        scaled = keys * width**-0.5
        by_width, values_by_width = scaled.transpose(1, 2).contiguous(), values.transpose(1, 2).contiguous()
        on_keys, on_values = torch.zeros_like(by_width), torch.zeros_like(by_width)
        for at in parts_of(len(x), PIECE):
            queries, on_mixed = _by_head(q[at], heads), above[at] @ out
            add_product(on_out, above[at].T, mixed[at])
            shared = (on_mixed * mixed[at]).view(-1, heads, width).sum(-1).T[..., None]
            on_heads = _by_head(on_mixed, heads)
            weights = (queries @ by_width).sub_(lse[:, at]).exp_()
            on_values.baddbmm_(on_heads.transpose(1, 2), weights)
            on_scores = (on_heads @ values_by_width).sub_(shared).mul_(weights)
            on_keys.baddbmm_(queries.transpose(1, 2), on_scores)
            on_queries = on_scores @ scaled
            if cos is not None and sin is not None:
                on_queries = _turned(on_queries, cos[:, :, at], -sin[:, :, at])
            on_q = on_queries.transpose(0, 1).reshape(-1, heads * width)
            torch.mm(on_q, inputs, out=on_x[at])
            add_product(on_inputs, on_q.T, x[at])
        on_keys = on_keys.transpose(1, 2) * width**-0.5
        return on_x, on_keys, on_values.transpose(1, 2), on_inputs, on_out, None, None


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(H, P, W) of (P, H W)."""
    return x.view(len(x), heads, -1).transpose(0, 1)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` (H, P, W) turned by the angles (1, 1, P, W / 2)."""
    return rotate(x[None], cos, sin, "halves")[0]
