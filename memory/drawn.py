"""Random numbers of training that are a function of a seed, which fresh weights come with, and of the steps done."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Drawn"]


class Drawn(nn.Module):
    """`values` (N,) int64 from `least` to `most`, each as likely as the others; drawn anew after every step.

    Seed and values are saved with the weights, so that a resumed run goes on with the same ones.
    """

    values: Tensor
    seed: Tensor

    def __init__(self, count: int, least: int, most: int) -> None:
        super().__init__()
        self.least, self.most = least, most
        self.register_buffer("seed", torch.randint(2**62, ()))
        self.register_buffer("values", torch.empty(count, dtype=torch.int64))
        self.stepped(0)

    def stepped(self, step: int) -> None:
        """Sets the values to those of the step that comes after `step` steps."""
        generator = torch.Generator().manual_seed(int(self.seed) + step)
        self.values.copy_(torch.randint(self.least, self.most + 1, self.values.shape, generator=generator))
