"""SwiGLU as one function: y = (silu(g) * v) W_2^T + b_2 with (g, v) = x W_1^T + b_1.

PyTorch writes silu(g), the product and, in the backward pass, four gradients, each into fresh memory of (tokens, inner
width), which costs more than the arithmetic. Here a piece of tokens at a time goes through buffers that are used again:
the gates and values of each piece are kept, each a tensor of its own, which the allocator has at hand where it would
ask the system for one large tensor; their product is computed once more in the backward pass. What is not a product of
matrices goes through a piece by parts that stay in the cache. Few tokens, a compiled graph, transforms and other
devices have the definition.

Shapes: N tokens, D width, I inner width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from farfield.architectures.ops.decoded import linear
from farfield.architectures.ops.passes import Passes, passes
from farfield.architectures.ops.pieces import HELD, add_product
from farfield.architectures.ops.transforms import transformed

__all__ = ["swiglu", "swiglu_definition"]

PIECE = 3 * 2**20  # gates and values: 12 megabytes of float32
LEAST = 512  # tokens of a piece at least, so that reading the weights again costs little


def swiglu_definition(
    x: Tensor, first: Tensor, second: Tensor, first_bias: Tensor | None = None, second_bias: Tensor | None = None
) -> Tensor:
    """The definition."""
    gate, value = linear(x, first, first_bias).chunk(2, dim=-1)
    return linear(silu(gate) * value, second, second_bias)


def swiglu(
    x: Tensor, first: Tensor, second: Tensor, first_bias: Tensor | None = None, second_bias: Tensor | None = None
) -> Tensor:
    """(..., D) of `x` (..., D), weights (2 I, D) and (D, I), biases (2 I,) and (D,); within autocast in its dtype."""
    tokens, inner = x.flatten(0, -2), second.shape[1]
    fits = first.shape == (2 * inner, x.shape[-1])  # what does not, the definition refuses
    if len(tokens) <= LEAST or x.device.type != "cpu" or not fits or torch.compiler.is_compiling() or transformed():
        return swiglu_definition(x, first, second, first_bias, second_bias)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    given = [None if one is None else one.to(dtype) for one in (tokens, first, second, first_bias, second_bias)]
    found: Tensor = _SwiGLU.apply(*given)  # type: ignore[no-untyped-call]  # torch's own
    return found.view(*x.shape[:-1], second.shape[0])


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, first: Tensor, second: Tensor, first_bias: Tensor | None, second_bias: Tensor | None
    ) -> Tensor:
        piece = _piece(len(x), len(first))
        out, product, kept = x.new_empty(len(x), len(second)), x.new_empty(piece, second.shape[1]), []
        ctx.passes = passes(x, first, second)
        for ours, to in zip(x.split(piece), out.split(piece), strict=True):
            both = _linear(ours, first, first_bias, ours.new_empty(len(ours), len(first)))
            _multiply(ctx.passes, both, product[: len(ours)])
            _linear(product[: len(ours)], second, second_bias, to)
            kept.append(both)
        ctx.save_for_backward(x, first, second, *kept)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        x, first, second, *kept = ctx.saved_tensors
        _, learns_first, learns_second, biased_first, biased_second = needed = ctx.needs_input_grad
        wide, piece = torch.promote_types(x.dtype, torch.float32), _piece(len(x), len(first))
        on_x = torch.empty_like(x) if needed[0] else None
        # x^T g and not g^T x: where the wider factor need not be turned, the product is the faster one.
        on_first = torch.zeros(first.shape[::-1], dtype=wide) if learns_first else None
        on_second = torch.zeros(second.shape, dtype=wide) if learns_second else None
        on_bias = torch.zeros(len(first), dtype=wide) if biased_first else None
        product, on_product = x.new_empty(2, piece, second.shape[1])
        on_both = x.new_empty(piece, len(first))
        for at, (ours, dy, both) in enumerate(zip(x.split(piece), gradient.split(piece), kept, strict=True)):
            inner, on_ours = product[: len(ours)], on_both[: len(ours)]
            _differentiate(ctx.passes, both, torch.mm(dy, second, out=on_product[: len(ours)]), inner, on_ours)
            add_product(on_second, dy.T, inner)
            add_product(on_first, ours.T, on_ours)
            if on_bias is not None:
                on_bias += on_ours.sum(0, dtype=wide)
            if on_x is not None:
                torch.mm(on_ours, first, out=on_x[at * piece : at * piece + len(ours)])
        found = (None if on_first is None else on_first.T.contiguous(), on_second, on_bias)
        above = gradient.sum(0, dtype=wide) if biased_second else None
        return on_x, *(None if one is None else one.to(x.dtype) for one in (*found, above))


def _piece(tokens: int, numbers: int) -> int:
    """Tokens of a piece, all pieces but the last as long, where each token has `numbers` gates and values."""
    most = max(LEAST, PIECE // numbers)
    count = -(-tokens // most)
    return -(-tokens // count)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """x W^T + b in `out`."""
    return torch.mm(x, weight.T, out=out) if bias is None else torch.addmm(bias, x, weight.T, out=out)


def _parts(both: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """A piece's gates and values (n, 2 I) and what else stands by token, a few tokens at a time."""
    rows = max(1, HELD // both.shape[1])
    return zip(*(one[: len(both)].split(rows) for one in (both, *others)), strict=True)


def _multiply(fused: Passes | None, both: Tensor, product: Tensor) -> None:
    """silu(g) v of gates and values (n, 2 I) in `product` (n, I)."""
    if fused is not None:
        fused.gated(both, product)
        return
    for part, inner in _parts(both, product):
        gate, value = part.chunk(2, dim=-1)
        torch.ops.aten.silu.out(gate, out=inner).mul_(value)


def _differentiate(fused: Passes | None, both: Tensor, on_product: Tensor, product: Tensor, on_both: Tensor) -> None:
    """Of gates and values (n, 2 I) and the gradient (n, I) of their product, which is used up: the product in `product`
    (n, I), their gradients in `on_both` (n, 2 I).
    """
    if fused is not None:
        fused.gated_backward(both, on_product, product, on_both)
        return
    for part, above, inner, to in _parts(both, on_product, product, on_both):
        (gate, value), (on_gate, on_value) = part.chunk(2, dim=-1), to.chunk(2, dim=-1)
        torch.mul(torch.ops.aten.silu.out(gate, out=inner), above, out=on_value)
        inner.mul_(value)
        torch.ops.aten.silu_backward.grad_input(above.mul_(value), gate, grad_input=on_gate)
