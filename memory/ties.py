"""Choices that rounding does not make: of equal scores the earliest wins.

In text many tokens are alike, and in a first layer their keys are the same numbers. What a product or a sum gives for
them differs in the last bits by how long the call is; so scores are compared on a grid that is far coarser than that
and far finer than any difference that means something, and what is equal there goes by its place.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["coarse", "earliest"]

ROUNDED = {torch.float64: (torch.int64, 27), torch.float32: (torch.int32, 12)}
"""As what a score is rounded, and how many of its last bits go."""


def coarse(scores: Tensor) -> Tensor:
    """Scores rounded to 26 significant bits in float64, and to 12 in float32 and narrower; infinities stay."""
    wide = scores.detach().to(torch.promote_types(scores.dtype, torch.float32))
    kind, last = ROUNDED[wide.dtype]
    bits = (wide + 0.0).view(kind)  # there is one zero
    return ((bits + (1 << (last - 1))) & -(1 << last)).view(wide.dtype)


def earliest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of scores (..., N) and where they stand, the best first; of equal ones the first.

    Each is compared as one integer: the bits of a rounded score, in the order of scores, and behind them its place from
    the end. So no two are equal, and the largest are found without sorting all.
    """
    rounded = coarse(scores)
    kind, last = ROUNDED[rounded.dtype]
    bits = rounded.view(kind)
    ordered = bits ^ ((bits >> (8 * bits.element_size() - 1)) & torch.iinfo(kind).max)  # of negative ones the others
    place = torch.arange(scores.shape[-1] - 1, -1, -1, device=scores.device)
    ordered = ordered & -(1 << last) if kind == torch.int64 else ordered.long() << 32
    index = (ordered | place).topk(count, dim=-1).indices
    return scores.gather(-1, index), index
