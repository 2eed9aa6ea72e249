"""From a source to what one device reads: its rows of each batch, made ahead in the background.

    batch n of the source     rows 0 .. W * B - 1        W devices, B rows on each
    device r                  rows r * B .. (r + 1) * B - 1

Forward pass n of a run reads batch n; a step of the optimiser takes `accumulate` of them. Which rows a device sees is a
function of the seed, n and r alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from farfield.data import Batch, Prefetch, Source
from farfield.data.tensors import TensorSets, to_tensors
from farfield.training.options import TrainingConfig

__all__ = ["Fed", "feed", "shard"]


class Fed(NamedTuple):
    """tokens, targets, positions: (rows, time) int64. `read` is how many of them are no padding, documents included.

    `passages` (rows, chunks, count, length) int64 are those of the chunks that end in a row.
    """

    tokens: Tensor
    targets: Tensor
    positions: Tensor
    read: int
    sets: TensorSets | None = None
    passages: Tensor | None = None

    def to(self, device: torch.device) -> Fed:
        """The same on `device`."""
        if device == self.tokens.device:
            return self
        tokens, targets, positions = (
            tensor.to(device, non_blocking=True) for tensor in (self.tokens, self.targets, self.positions)
        )
        sets = None if self.sets is None else self.sets.to(device)
        passages = None if self.passages is None else self.passages.to(device, non_blocking=True)
        return Fed(tokens, targets, positions, self.read, sets, passages)


def feed(source: Source, training: TrainingConfig, done: int, rank: int, world: int) -> Prefetch[Fed]:
    """What device `rank` of `world` reads from step `done` to the end, in order."""
    return Prefetch(
        lambda number: shard(source.batch(number), rank, world),
        start=done * training.accumulate,
        stop=training.steps * training.accumulate,
    )


def shard(batch: Batch, rank: int, world: int) -> Fed:
    """The rows of a batch that belong to device `rank` of `world`."""
    rows = batch.tokens.shape[0] // world
    own = slice(rank * rows, (rank + 1) * rows)
    sets = None if batch.sets is None else batch.sets.part(rank, world)
    passages = None if batch.passages is None else batch.passages[own]
    mine = Batch(batch.tokens[own], batch.targets[own], batch.positions[own], sets, passages=passages)
    tensors = to_tensors(mine)
    return Fed(tensors.tokens, tensors.targets, tensors.positions, mine.read, tensors.sets, tensors.passages)
