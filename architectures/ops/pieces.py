"""Pieces of time that stay in the cache.

A tensor of a long text that an operator makes anew comes from the system page by page, at five times the cost of a
copy, and is out of the cache before the next operator reads it. What goes through time piece by piece, and writes into
one tensor, costs neither. An accelerator has neither cost and is slower in pieces, and a compiled graph is fused by the
compiler: there a piece is all of the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from farfield.architectures.ops.decoded import Linear
from farfield.architectures.ops.transforms import transformed

__all__ = ["HELD", "add_product", "in_pieces", "parts_of", "pieces", "worth_pieces"]

HELD = 2**17  # numbers of one tensor in a piece: half a megabyte in float32, of which a handful fill a cache


def pieces(time: int, numbers: int, like: Tensor, multiple: int = 1) -> Iterator[slice]:
    """Slices of `time` tokens, each a multiple of `multiple` long but for the last.

    Args:
        numbers: how many of the largest tensor belong to one token.
        like: a tensor on the device of the work.
    """
    step = time
    if like.device.type == "cpu" and not torch.compiler.is_compiling():
        step = max(1, HELD // (numbers * multiple)) * multiple
    return (slice(begin, min(begin + step, time)) for begin in range(0, time, max(1, step)))


def parts_of(tokens: int, piece: int) -> Iterator[slice]:
    """Slices of `tokens` tokens, each `piece` long but for the last."""
    return (slice(begin, min(begin + piece, tokens)) for begin in range(0, tokens, piece))


def worth_pieces(x: Tensor, piece: int, *maps: nn.Module) -> bool:
    """Whether rows of x (N, S, D) are worth one function of pieces: on a CPU, of several, in one wide precision.

    `maps`, whose weights the function takes, are linear, and nothing in their place, such as one that adds to them.
    """
    wide = x.dtype in (torch.float32, torch.float64)
    wide = wide and all(type(one) in (nn.Linear, Linear) and one.weight.dtype == x.dtype for one in maps)
    plain = x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.is_autocast_enabled("cpu")
    return wide and plain and not transformed() and x.shape[1] > piece


def add_product(to: Tensor | None, left: Tensor, right: Tensor) -> None:
    """Adds a piece's product to the gradient of a weight, float32 or wider; None: of a frozen one."""
    if to is None:
        return
    if to.dtype == right.dtype:
        to.addmm_(left, right)
    else:
        to += left @ right


def in_pieces(function: Callable[..., Tensor], along: Sequence[Tensor], weights: Sequence[Tensor] = ()) -> Tensor:
    """`function(*along, *weights)` (B, T, ...), made piece by piece; of what it makes inside, nothing is kept.

    The backward makes it again. For a chain of cheap operators that is less than to write and read what lies between.

    Args:
        function: of each token alone: what it gives for a piece is the same piece of what it gives for all.
        along: tensors (B, T, ...). weights: tensors that all tokens share.
    """
    numbers = max(x[:, :1].numel() for x in along)
    if transformed() or sum(1 for _ in pieces(along[0].shape[1], numbers, along[0])) < 2:
        return function(*along, *weights)
    made: Tensor = _InPieces.apply(function, numbers, len(along), *along, *weights)  # type: ignore[no-untyped-call]
    return made


class _InPieces(torch.autograd.Function):
    """See `in_pieces`. `tensors` are `count` along time, then weights."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], numbers: int, count: int, *tensors: Tensor) -> Tensor:
        along, weights = tensors[:count], tensors[count:]
        out: Tensor | None = None
        for at in pieces(along[0].shape[1], numbers, along[0]):
            part = function(*(x[:, at] for x in along), *weights)
            if out is None:
                out = part.new_empty(*along[0].shape[:2], *part.shape[2:])
            out[:, at] = part
        assert out is not None
        ctx.function, ctx.numbers, ctx.count = function, numbers, count
        kind = along[0].device.type
        ctx.precision = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        ctx.save_for_backward(*tensors)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        tensors, count = ctx.saved_tensors, ctx.count
        wanted = [n for n in range(len(tensors)) if ctx.needs_input_grad[n + 3]]
        found: list[Tensor | None] = [None] * len(tensors)
        for at in pieces(above.shape[1], ctx.numbers, above):
            own = [(x[:, at] if n < count else x).detach() for n, x in enumerate(tensors)]
            with torch.enable_grad(), torch.autocast(*ctx.precision):
                made = ctx.function(*(x.requires_grad_(n in wanted) for n, x in enumerate(own)))
            gradients = torch.autograd.grad(made, [own[n] for n in wanted], above[:, at])
            for n, gradient in zip(wanted, gradients, strict=True):
                whole = found[n]
                if n >= count:
                    found[n] = gradient if whole is None else whole.add_(gradient)
                else:
                    whole = found[n] = tensors[n].new_empty(tensors[n].shape) if whole is None else whole
                    whole[:, at] = gradient
        return None, None, None, *found
