"""The way out of gated state spaces as one function: z = (gelu(x U^T) * (y S^T)) W^T + b.

Between the maps PyTorch writes both products, the activation, what is gated and, in the backward pass, a gradient of
each, all of them several times as wide as the layer. Here a piece of tokens at a time goes through buffers that are
used again and stay in the cache, where products of matrices are a quarter faster as well. For the backward pass the
gate's product x U^T is kept and no more, in pieces, since memory of more than 32 MB at once is new to the process every
time; y S^T is a quarter of its cost and is computed once more. A single piece, a compiled graph, transforms and other
devices have the definition.

Shapes: N tokens, D width, E channels, I width of the gate, O width of the output.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear

from farfield.architectures.ops.pieces import add_product, parts_of
from farfield.architectures.ops.transforms import transformed

__all__ = ["gelu_gate", "gelu_gate_definition"]

PIECE = 128  # tokens


def gelu_gate_definition(x: Tensor, y: Tensor, gate: Tensor, spread: Tensor, out: Tensor, bias: Tensor) -> Tensor:
    """The definition."""
    return linear(linear(y, spread) * gelu(linear(x, gate)), out, bias)


def gelu_gate(x: Tensor, y: Tensor, gate: Tensor, spread: Tensor, out: Tensor, bias: Tensor) -> Tensor:
    """(..., O) of x (..., D), y (..., E), gate (I, D), spread (I, E), out (O, I) and bias (O,).

    In the dtype of `x`, or in autocast's, as the definition.
    """
    kind = x.device.type
    if kind != "cpu" or torch.compiler.is_compiling() or x[..., 0].numel() <= PIECE or transformed():
        return gelu_gate_definition(x, y, gate, spread, out, bias)
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    tokens = (part.to(dtype).flatten(0, -2) for part in (x, y))
    weights = (weight.to(dtype) for weight in (gate, spread, out, bias))
    found: Tensor = _Gated.apply(torch.is_grad_enabled(), *tokens, *weights)  # type: ignore[no-untyped-call]
    return found.view(*x.shape[:-1], out.shape[0])


class _Gated(torch.autograd.Function):
    """See the file's head. `keep`: whether a backward pass may follow."""

    @staticmethod
    def forward(ctx: Any, keep: bool, x: Tensor, y: Tensor, *weights: Tensor) -> Tensor:
        gate, spread, out, bias = weights
        z = x.new_empty(x.shape[0], out.shape[0])
        by_gate, by_spread, by_out = (weight.T.contiguous() for weight in (gate, spread, out))
        buffers, products = x.new_empty(2, PIECE, gate.shape[0]), []
        for at in parts_of(len(x), PIECE):
            active, gated = (buffer[: at.stop - at.start] for buffer in buffers)
            product = torch.mm(x[at], by_gate)
            torch.ops.aten.gelu.out(product, out=active)
            torch.mm(y[at], by_spread, out=gated).mul_(active)
            torch.addmm(bias, gated, by_out, out=z[at])
            if keep:
                products.append(product)
        if keep:
            ctx.save_for_backward(x, y, gate, spread, out, *products)
        return z

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        x, y, gate, spread, out, *products = ctx.saved_tensors
        wide = torch.promote_types(x.dtype, torch.float32)
        on_x, on_y = torch.empty_like(x), torch.empty_like(y)
        on_gate, on_spread, on_out = (
            torch.zeros_like(weight, dtype=wide) if wanted else None
            for weight, wanted in zip((gate, spread, out), ctx.needs_input_grad[3:], strict=False)
        )
        buffers, by_spread = x.new_empty(4, PIECE, gate.shape[0]), spread.T.contiguous()
        for at, product in zip(parts_of(len(x), PIECE), products, strict=True):
            active, gated, on_gated, on_product = (buffer[: at.stop - at.start] for buffer in buffers)
            torch.ops.aten.gelu.out(product, out=active)
            torch.mm(y[at], by_spread, out=gated)
            torch.mm(above[at], out, out=on_gated)
            torch.mul(on_gated, gated, out=on_product)
            torch.ops.aten.gelu_backward.grad_input(on_product, product, grad_input=on_product)
            torch.mm(on_product, gate, out=on_x[at])
            add_product(on_gate, on_product.T, x[at])
            add_product(on_out, above[at].T, gated.mul_(active))
            torch.mm(on_gated.mul_(active), spread, out=on_y[at])
            add_product(on_spread, on_gated.T, y[at])
        on_weights = (total if total is None else total.to(x.dtype) for total in (on_gate, on_spread, on_out))
        return None, on_x, on_y, *on_weights, above.sum(0) if ctx.needs_input_grad[6] else None
