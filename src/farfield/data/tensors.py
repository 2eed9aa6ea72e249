"""The edge to torch: a batch as tensors on a device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from farfield.data.batch import Batch

__all__ = ["TensorBatch", "to_tensors"]


@dataclass(frozen=True, eq=False)
class TensorBatch:
    """A `Batch` in torch: tokens, targets, positions, each (batch, time) int64."""

    tokens: Tensor
    targets: Tensor
    positions: Tensor


def to_tensors(batch: Batch, device: torch.device | str = "cpu") -> TensorBatch:
    """`batch` on `device`. On the CPU the memory is shared, not copied."""
    tokens, targets, positions = (
        torch.from_numpy(array).to(device, non_blocking=True)
        for array in (batch.tokens, batch.targets, batch.positions)
    )
    return TensorBatch(tokens, targets, positions)
