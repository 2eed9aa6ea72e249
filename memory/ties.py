"""Choices that rounding does not make: of equal scores the earliest wins.

In text many tokens are alike, and in a first layer their keys are the same numbers. What a product or a sum gives for
them differs in the last bits by how long the call is; so scores are compared on a grid that is far coarser than that
and far finer than any difference that means something, and what is equal there goes by its place.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["coarse", "earliest"]

BITS = {torch.float64: 26}  # of a score that count; of every other dtype's
FEW = 12


def coarse(scores: Tensor) -> Tensor:
    """Scores rounded to 26 significant bits in float64, and to 12 in float32 and narrower; infinities stay."""
    bits = BITS.get(scores.dtype, FEW)
    mantissa, exponent = torch.frexp(scores.to(torch.promote_types(scores.dtype, torch.float32)))
    return torch.ldexp((mantissa * 2**bits).round(), exponent - bits)


def earliest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of scores (..., N) and where they stand, the best first; of equal ones the first."""
    order = coarse(scores).argsort(dim=-1, descending=True, stable=True)[..., :count]
    return scores.gather(-1, order), order
