"""Answers that rounding decides: a logit or a log-probability that is the largest by less than it may be off."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["rounding", "tied", "tied_where"]

# How far a model's logits in one order of work may be from those in another, as a share of the largest: what every
# architecture's forms are tested to keep to. Each of two logits may move by as much, towards the other.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-9}


def rounding(logits: Tensor) -> Tensor:
    """How far each row of logits (B, V), and what is made of it, may be off: (B,), float64."""
    low, high = logits.aminmax(dim=1)
    return ROUNDING[logits.dtype] * torch.maximum(high, -low).double()


def tied(logits: Tensor) -> list[bool]:
    """Whether the two largest of each row of logits (B, V) are too near to say which is larger."""
    if logits.shape[1] < 2:
        return [False] * len(logits)
    best = logits.topk(2).values.double()
    found: list[bool] = (best[:, 0] - best[:, 1] <= 2 * rounding(logits)).tolist()
    return found


def tied_where(logits: Tensor, asked: Tensor) -> Tensor:
    """Whether rounding decides what is likeliest at each of `asked` (B, T) by logits (B, T, V): (B, T) booleans."""
    found = torch.zeros_like(asked)
    found[asked] = torch.tensor(tied(logits[asked]), dtype=torch.bool, device=asked.device)
    return found
