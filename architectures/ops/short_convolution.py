"""Causal depthwise convolution over a few tokens: y_t = sum_j w_j x_{t-j}, j = 0 .. K-1, within one document.

The state is the last K - 1 inputs of each row's open document, zeros where the document is shorter.

Shapes: B batch, T time, D channels, K taps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
    joined = torch.cat((before.to(x.dtype), x), dim=1)
    if rows.plain:
        y = x * weight[:, 0]
        for tap in range(1, taps):
            y = torch.addcmul(y, joined[:, taps - 1 - tap : taps - 1 - tap + time], weight[:, tap])
        return y, ConvolutionState(joined[:, time:].clone())  # a view would keep the whole call
    document = torch.cat((rows.document.new_zeros(x.shape[0], taps - 1), rows.document), dim=1)
    y = x * weight[:, 0]
    for tap in range(1, taps):
        shifted = slice(taps - 1 - tap, taps - 1 - tap + time)
        same = (document[:, shifted] == rows.document)[..., None]
        y = y + torch.where(same, joined[:, shifted], 0) * weight[:, tap]
    return rows.masked(y), ConvolutionState(_last_inputs(joined, document, rows, taps))


def _last_inputs(joined: Tensor, document: Tensor, rows: Rows, taps: int) -> Tensor:
    """The last K - 1 real inputs (B, K - 1, D) of `joined` (B, K - 1 + T, D) that belong to the open document."""
    real = torch.cat((rows.real.new_ones(rows.batch, taps - 1), rows.real), dim=1)
    order = (~real).to(torch.uint8).argsort(dim=1, stable=True)
    first = real.sum(1, keepdim=True) - (taps - 1)
    index = order.gather(1, first + torch.arange(taps - 1, device=joined.device))
    kept = joined.gather(1, index[..., None].expand(-1, -1, joined.shape[2]))
    same = document.gather(1, index) == rows.last_document[:, None]
    return torch.where(same[..., None], kept, 0)
