"""Random features of the softmax kernel (FAVOR+), and the running maximum that keeps them within range.

    exp(q k / sqrt(W)) = E_w[phi(q) phi(k)],   phi(x)_m = exp(w_m x' - |x'|^2 / 2),   x' = x W^(-1/4)

with Gaussian rows w_m, orthogonal in blocks of W. Choromanski et al., https://arxiv.org/abs/2009.14794. To take a
maximum over all of time from the keys' exponents b, as published code does, would let the future change the past; a
running maximum c_t does not, and linear attention carries it exactly: keys exp(b_t - c_t), log decay c_{t-1} - c_t.

Shapes: B batch, H heads, T time, W width of a head, M features.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from farfield.architectures.rows import Rows

__all__ = ["Scaling", "least_total", "orthogonal_rows", "running_maximum", "running_maximum_definition"]

Scaling = Literal["gaussian", "constant"]

FLOOR = 0.75  # a denominator is at least this power of the least number: gradients through less would overflow


def least_total(dtype: torch.dtype) -> float:
    """What a sum of features, by which is divided, is made at least."""
    return float(torch.finfo(dtype).tiny ** FLOOR)


def orthogonal_rows(features: int, width: int, scaling: Scaling, generator: torch.Generator) -> Tensor:
    """(M, W) float64: directions orthogonal in blocks of W rows; lengths as of Gaussian rows, or all sqrt(W)."""
    blocks = []
    for _ in range(math.ceil(features / width)):
        q, r = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=generator))
        blocks.append((q * r.diagonal().sign()).T)  # without the signs, directions are not uniform
    rows = torch.cat(blocks)[:features]
    lengths = torch.full((features, 1), width**0.5, dtype=torch.float64)
    if scaling == "gaussian":
        lengths = torch.randn(features, width, dtype=torch.float64, generator=generator).norm(dim=1, keepdim=True)
    return rows * lengths


def running_maximum_definition(x: Tensor, rows: Rows, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The definition, token by token. Arguments and results as in `running_maximum`."""
    before, peaks = [], []
    for t in range(x.shape[2]):
        state = torch.where((rows.positions[:, t] == 0)[:, None], -math.inf, state)
        before.append(state)
        state = torch.where(rows.real[:, t, None], torch.maximum(state, x[:, :, t]), state)
        peaks.append(state)
    return torch.stack(before, 2), torch.stack(peaks, 2), state


def running_maximum(x: Tensor, rows: Rows, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The largest of x (B, H, T) so far in each document: before each token, with it (B, H, T both), and at the end.

    `state` (B, H) is the maximum of the document that each row goes on with; -inf where there is nothing yet.
    """
    if rows.fresh:
        state = torch.full_like(state, -math.inf)
    joined = torch.cat((state[..., None], torch.where(rows.real[:, None], x, -math.inf)), 2)
    if rows.plain:
        peaks = joined.cummax(2).values
        return peaks[..., :-1], peaks[..., 1:], peaks[..., -1].clone()
    document = torch.cat((torch.zeros_like(rows.document[:, :1]), rows.document), 1)[:, None]
    reach = 1  # each column holds the maximum of its last `reach` columns
    while reach < joined.shape[2]:
        same = document[..., reach:] == document[..., :-reach]
        earlier = torch.where(same, joined[..., :-reach], -math.inf)
        joined = torch.cat((joined[..., :reach], torch.maximum(joined[..., reach:], earlier)), 2)
        reach *= 2
    before = torch.where(document[..., 1:] == document[..., :-1], joined[..., :-1], -math.inf)
    return before, joined[..., 1:], joined[..., -1].clone()
