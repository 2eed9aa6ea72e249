"""The edge to torch: a batch as tensors on a device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from farfield.data.batch import Batch, Ids

__all__ = ["TensorBatch", "TensorSets", "to_tensors"]


@dataclass(frozen=True, eq=False)
class TensorSets:
    """`Sets` in torch: tokens and positions (sets, documents, length), question (batch,), all int64."""

    tokens: Tensor
    positions: Tensor
    question: Tensor

    def to(self, device: torch.device) -> TensorSets:
        """The same on `device`."""
        moved = (tensor.to(device, non_blocking=True) for tensor in (self.tokens, self.positions, self.question))
        return TensorSets(*moved)


@dataclass(frozen=True, eq=False)
class TensorBatch:
    """A `Batch` in torch: tokens, targets, positions, each (batch, time) int64, sets of documents, passages."""

    tokens: Tensor
    targets: Tensor
    positions: Tensor
    sets: TensorSets | None = None
    passages: Tensor | None = None


def to_tensors(batch: Batch, device: torch.device | str = "cpu") -> TensorBatch:
    """`batch` on `device`. On the CPU the memory is shared, not copied."""
    tokens, targets, positions = (_moved(array, device) for array in (batch.tokens, batch.targets, batch.positions))
    sets = None
    if batch.sets is not None:
        arrays = (batch.sets.tokens, batch.sets.positions, batch.sets.question)
        sets = TensorSets(*(_moved(array, device) for array in arrays))
    passages = None if batch.passages is None else _moved(batch.passages, device)
    return TensorBatch(tokens, targets, positions, sets, passages)


def _moved(array: Ids, device: torch.device | str) -> Tensor:
    return torch.from_numpy(array).to(device, non_blocking=True)
