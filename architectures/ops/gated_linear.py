"""The second half of SwiGLU as one function: y = (silu(g) * v) W^T + b of the first half's output (g, v).

Between the halves PyTorch writes silu(g), the product and, in the backward pass, four gradients, each into fresh memory
of (tokens, inner width), which costs more than the arithmetic. Here a piece of tokens at a time goes through buffers
that are used again, and the product is computed once more in the backward pass instead of kept. A single piece, a
compiled graph and other devices have the definition.

Shapes: N tokens, D width, I inner width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

__all__ = ["add_product", "gated_linear", "gated_linear_definition"]

PIECE = 512  # tokens


def gated_linear_definition(both: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The definition."""
    gate, value = both.chunk(2, dim=-1)
    return linear(silu(gate) * value, weight, bias)


def gated_linear(both: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., D) of gates and values `both` (..., 2 I), weight (D, I) and bias (D,), in the dtype of `both`."""
    tokens = both.flatten(0, -2)
    if len(tokens) <= PIECE or both.device.type != "cpu" or torch.compiler.is_compiling():
        return gated_linear_definition(both, weight, bias)
    found: Tensor = _Gated.apply(tokens, weight.to(both.dtype))  # type: ignore[no-untyped-call]  # torch's own
    found = found if bias is None else found + bias.to(both.dtype)
    return found.view(*both.shape[:-1], weight.shape[0])


def _product(both: Tensor, out: Tensor) -> Tensor:
    """silu(g) * v (n, I) in `out`."""
    gate, value = both.chunk(2, dim=-1)
    found: Tensor = torch.ops.aten.silu.out(gate, out=out).mul_(value)
    return found


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, both: Tensor, weight: Tensor) -> Tensor:
        out = both.new_empty(both.shape[0], weight.shape[0])
        inner = both.new_empty(min(PIECE, both.shape[0]), weight.shape[1])
        for ours, to in zip(both.split(PIECE), out.split(PIECE), strict=True):
            torch.mm(_product(ours, inner[: ours.shape[0]]), weight.T, out=to)
        ctx.save_for_backward(both, weight)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        both, weight = ctx.saved_tensors
        wide = torch.promote_types(weight.dtype, torch.float32)
        on_both = torch.empty_like(both)
        on_weight = torch.zeros(weight.shape, dtype=wide) if ctx.needs_input_grad[1] else None
        on_inner, inner = both.new_empty(2, min(PIECE, both.shape[0]), weight.shape[1])
        for ours, dy, to in zip(*(t.split(PIECE) for t in (both, gradient, on_both)), strict=True):
            gate, value = ours.chunk(2, dim=-1)
            on_gate, on_value = to.chunk(2, dim=-1)
            silu_of = torch.ops.aten.silu.out(gate, out=inner[: ours.shape[0]])
            above = torch.mm(dy, weight, out=on_inner[: ours.shape[0]])
            torch.mul(silu_of, above, out=on_value)
            add_product(on_weight, dy, silu_of.mul_(value))
            torch.ops.aten.silu_backward.grad_input(above.mul_(value), gate, grad_input=on_gate)
        return on_both, None if on_weight is None else on_weight.to(weight.dtype)


def add_product(on_weight: Tensor | None, dy: Tensor, inner: Tensor) -> None:
    """Adds a piece's (n, D) and (n, I) to the gradient (D, I) of a weight, float32 or wider; None: of a frozen one."""
    if on_weight is None:
        return
    if on_weight.dtype == inner.dtype:
        on_weight.addmm_(dy.T, inner)
    else:
        on_weight += dy.T @ inner
