"""What a call of a model leaves: its state, and of a batch with targets its loss.

Shapes: B batch, T time, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from farfield.architectures import State
from farfield.architectures.feedforward import Auxiliary
from farfield.architectures.ops.cross_entropy import IGNORED, linear_cross_entropy
from farfield.architectures.state import count_bytes

__all__ = ["Loss", "ModelState"]


@dataclass(frozen=True, eq=False)
class ModelState(State):
    """The position (B,) int64 that comes next in each row, and the state of each layer.

    Behind the layers' comes that of neighbours, where the model reads them. `layers` is a tuple, or for the first call
    on a state that is read from disk, `ArrivingStates`. `ahead` (B,) int64: by how much positions run ahead of what
    positional encodings see, where windows were read side by side; None of a model that reads no windows.
    """

    position: Tensor
    layers: Sequence[State]
    ahead: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Bytes that this state uses; the position of rows that are alike is one number, and not counted."""
        return super().bytes - self.position.nbytes + count_bytes(self.position)

    def first(self, count: int) -> ModelState | None:
        """Where every layer has it; see `State.first`. Not of windows, which have no order."""
        if self.ahead is not None:
            return None
        found = [layer.first(count) for layer in self.layers]
        layers = tuple(layer for layer in found if layer is not None)
        if len(layers) < len(found):
            return None
        return ModelState(torch.full_like(self.position, count), layers)


@dataclass(frozen=True, eq=False)
class Loss:
    """A batch's loss: `total` is what is minimised, `nll` the mean negative log-likelihood in nats a scored token.

    `state` is what the tokens left; None of an encoder.

    `auxiliary` are the layers' own losses, which `total` has in it; `metrics` are called `<layer>.<name>`.
    """

    total: Tensor
    nll: Tensor
    auxiliary: dict[str, Tensor]
    metrics: dict[str, Tensor]
    tokens: int
    state: ModelState | None

    @staticmethod
    def of(
        hidden: Tensor, weight: Tensor, targets: Tensor, auxiliary: Auxiliary, state: ModelState | None, piece: int
    ) -> Loss:
        """From the output (B, T, D), the weights (V, D) of the head and the targets (B, T), in pieces of tokens."""
        count = int((targets != IGNORED).sum())
        nll = linear_cross_entropy(hidden.flatten(0, 1), weight, targets.flatten(), piece) / max(count, 1)
        losses = auxiliary.losses
        return Loss(sum(losses.values(), nll), nll, losses, auxiliary.metrics, count, state)

    @staticmethod
    def joined(pieces: Sequence[Loss]) -> Loss:
        """Of consecutive pieces of rows: `nll` over all scored tokens, what layers tell as the mean of the pieces."""
        count = sum(piece.tokens for piece in pieces)
        nll = torch.stack([piece.nll * piece.tokens for piece in pieces]).sum() / max(count, 1)
        told = [
            {name: torch.stack([each[name] for each in many]).mean(0) for name in many[0]}
            for many in ([piece.auxiliary for piece in pieces], [piece.metrics for piece in pieces])
        ]
        return Loss(sum(told[0].values(), nll), nll, told[0], told[1], count, pieces[-1].state)
