"""Steps of greedy generation that rounding decides."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["tied"]

# How far a model's logits in one order of work may be from those in another, as a share of the largest: what every
# architecture's forms are tested to keep to. Each of two logits may move by as much, towards the other.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-9}


def tied(logits: Tensor) -> list[bool]:
    """Whether the two largest of each row of logits (B, V) are too near to say which is larger."""
    if logits.shape[1] < 2:
        return [False] * len(logits)
    best = logits.double().topk(2).values
    bound = 2 * ROUNDING[logits.dtype] * logits.double().abs().amax(1)
    found: list[bool] = (best[:, 0] - best[:, 1] <= bound).tolist()
    return found
