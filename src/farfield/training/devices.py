"""What a run trains on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from farfield.config import TrainingError
from farfield.training.options import TrainingConfig

__all__ = ["Devices", "choose_devices", "threads"]


@dataclass(frozen=True)
class Devices:
    """`count` devices of a kind, of which this process has the one at `rank`."""

    kind: Literal["cpu", "cuda"]
    count: int
    rank: int


def choose_devices(training: TrainingConfig, rank: int) -> Devices:
    """The devices that the settings name; where they leave it open, GPUs if there are any.

    Raises:
        TrainingError: there are not as many, or what is asked for works on one alone.
    """
    present = torch.cuda.device_count()
    if training.accelerator == "gpu" and not present:
        raise TrainingError("training.accelerator: no GPU is found here. Use training.accelerator=cpu.")
    gpu = present > 0 and training.accelerator != "cpu"
    count = training.devices or (present if gpu else 1)
    if gpu and count > present:
        raise TrainingError(f"training.devices: {count} given, but {present} GPUs are found here.")
    if training.carry and count > 1:
        raise TrainingError("training.carry: states are carried on one device only. Use training.devices=1.")
    return Devices("cuda" if gpu else "cpu", count, rank)


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """PyTorch uses `count` threads of the CPU within the block, or as many as it uses already."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
