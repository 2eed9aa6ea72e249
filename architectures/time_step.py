"""How wide the steps of a state space begin: log-uniform from a thousandth to a tenth, as Mamba's.

The width of a step is softplus(x + bias); a bias of zero would make it 0.69, at which a state forgets within a few
tokens. Gu and Dao, https://arxiv.org/abs/2312.00752, section 3.6.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["time_step_bias"]

LOW, HIGH, FLOOR = 1e-3, 1e-1, 1e-4


def time_step_bias(count: int) -> Tensor:
    """(count,) biases b with softplus(b) log-uniform in [0.001, 0.1], drawn from torch's generator."""
    step = torch.empty(count).uniform_(math.log(LOW), math.log(HIGH)).exp().clamp(min=FLOOR)
    return step + torch.log(-torch.expm1(-step))
