"""Causal depthwise convolution over a few tokens: y_t = sum_j w_j x_{t-j}, j = 0 .. K-1, within one document.

The state is the last K - 1 inputs of each row's open document, zeros where the document is shorter.

Shapes: B batch, T time, D channels, K taps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from farfield.architectures.ops.pieces import pieces
from farfield.architectures.ops.transforms import transformed
from farfield.architectures.rows import Rows
from farfield.architectures.state import State

__all__ = ["ConvolutionState", "short_convolution", "short_convolution_definition"]


@dataclass(frozen=True, eq=False)
class ConvolutionState(State):
    """The last inputs (B, K - 1, D), oldest first."""

    inputs: Tensor

    @staticmethod
    def empty(batch: int, taps: int, channels: int, like: Tensor) -> ConvolutionState:
        return ConvolutionState(like.new_zeros(batch, taps - 1, channels))


def short_convolution_definition(x: Tensor, weight: Tensor, rows: Rows, state: ConvolutionState) -> Tensor:
    """The definition, a loop over rows and tokens: y (B, T, D) of x (B, T, D) with weight (D, K)."""
    taps = weight.shape[1]
    outputs = []
    for row in range(x.shape[0]):
        window = list(state.inputs[row].unbind(0))
        for time in range(x.shape[1]):
            if not rows.real[row, time]:
                outputs.append(torch.zeros_like(x[row, time]))
                continue
            if rows.positions[row, time] == 0:
                window = [torch.zeros_like(x[row, time])] * (taps - 1)
            window = [*window, x[row, time]][-taps:]
            outputs.append(sum((weight[:, taps - 1 - i] * value for i, value in enumerate(window)), torch.zeros(())))
            window = window[1:]
    stacked: Tensor = torch.stack(outputs).unflatten(0, x.shape[:2])
    return stacked


def short_convolution(
    x: Tensor, weight: Tensor, rows: Rows, state: ConvolutionState
) -> tuple[Tensor, ConvolutionState]:
    """y (B, T, D) of x (B, T, D) with weight (D, K), and the state behind it. Padding gives zeros."""
    taps, time = weight.shape[1], x.shape[1]
    before = torch.zeros_like(state.inputs) if rows.fresh else state.inputs
    x = rows.masked(x)
    if rows.plain and time == 1 and not torch.is_grad_enabled():  # a decoded token: few operators
        joined = torch.cat((before.to(x.dtype), x), 1)
        return (joined * weight.flip(1).T).sum(1, keepdim=True), ConvolutionState(joined[:, 1:].clone())
    if rows.plain:
        y: Tensor
        if transformed():
            joined = torch.cat((before.to(x.dtype), x), 1)
            y = (joined.unfold(1, taps, 1) * weight.flip(1)).sum(-1)
        else:
            y = _Convolution.apply(before.to(x.dtype), x, weight)  # type: ignore[no-untyped-call]
        last = x[:, time - taps + 1 :] if time >= taps else torch.cat((before.to(x.dtype), x), 1)[:, time:]
        return y, ConvolutionState(last.clone())  # a view would keep the whole call
    joined = torch.cat((before.to(x.dtype), x), dim=1)
    document = torch.cat((rows.document.new_zeros(x.shape[0], taps - 1), rows.document), dim=1)
    y = x * weight[:, 0]
    for tap in range(1, taps):
        shifted = slice(taps - 1 - tap, taps - 1 - tap + time)
        same = (document[:, shifted] == rows.document)[..., None]
        y = y + torch.where(same, joined[:, shifted], 0) * weight[:, tap]
    return rows.masked(y), ConvolutionState(_last_inputs(joined, document, rows, taps))


class _Convolution(torch.autograd.Function):
    """y (B, T, D) of a run of one document x (B, T, D) and the K - 1 inputs before it, piece by piece."""

    @staticmethod
    def forward(ctx: Any, before: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(before, x, weight)
        y = x.new_empty(x.shape)
        for at in pieces(x.shape[1], x[:, :1].numel(), x):
            y[:, at] = _sum(_window(before, x, at), weight)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        before, x, weight = ctx.saved_tensors
        taps, time = weight.shape[1], x.shape[1]
        on_x, nothing, wide = (
            x.new_empty(x.shape),
            torch.zeros_like(before),
            torch.promote_types(x.dtype, torch.float32),
        )
        on_weight = torch.zeros_like(weight, dtype=wide)
        for at in pieces(time, x[:, :1].numel(), x):
            later = above[:, at.start : at.stop + taps - 1]
            if later.shape[1] < at.stop - at.start + taps - 1:
                later = torch.cat((later, nothing[:, : at.stop + taps - 1 - time].to(later.dtype)), 1)
            on_x[:, at] = _sum(later, weight.flip(1))
            window, own = _window(before, x, at), above[:, at]
            for tap in range(taps):
                on_weight[:, tap] += (own * window[:, taps - 1 - tap : window.shape[1] - tap]).sum((0, 1), dtype=wide)
        first = torch.cat((nothing, above[:, : taps - 1], nothing), 1)[:, : 2 * (taps - 1)]
        return _sum(first, weight.flip(1)), on_x, on_weight.to(weight.dtype)


def _window(before: Tensor, x: Tensor, at: slice) -> Tensor:
    """x (B, T, D) at some columns, with the K - 1 inputs before them."""
    reach = before.shape[1]
    if at.start >= reach:
        return x[:, at.start - reach : at.stop]
    return torch.cat((before[:, at.start :], x[:, : at.stop]), 1)


def _sum(window: Tensor, weight: Tensor) -> Tensor:
    """sum_j w_j x_{t-j} (B, T, D) of K - 1 + T inputs (B, K - 1 + T, D)."""
    taps = weight.shape[1]
    y = window[:, taps - 1 :] * weight[:, 0]
    for tap in range(1, taps):
        y.addcmul_(window[:, taps - 1 - tap : window.shape[1] - tap], weight[:, tap])
    return y


def _last_inputs(joined: Tensor, document: Tensor, rows: Rows, taps: int) -> Tensor:
    """The last K - 1 real inputs (B, K - 1, D) of `joined` (B, K - 1 + T, D) that belong to the open document."""
    real = torch.cat((rows.real.new_ones(rows.batch, taps - 1), rows.real), dim=1)
    order = (~real).to(torch.uint8).argsort(dim=1, stable=True)
    first = real.sum(1, keepdim=True) - (taps - 1)
    index = order.gather(1, first + torch.arange(taps - 1, device=joined.device))
    kept = joined.gather(1, index[..., None].expand(-1, -1, joined.shape[2]))
    same = document.gather(1, index) == rows.last_document[:, None]
    return torch.where(same[..., None], kept, 0)
