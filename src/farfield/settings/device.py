"""Where and in what precision a model runs."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from farfield.config import Config

__all__ = ["DeviceConfig"]


class DeviceConfig(Config):
    """Where and in what precision a trained model runs."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
    threads: int | None = Field(None, ge=1, le=1024, description="threads of the CPU; null: PyTorch's choice")

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}[self.precision]
