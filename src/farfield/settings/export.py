"""The settings of `farfield export`."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from farfield.config import Config
from farfield.huggingface.settings import OwnFolderConfig
from farfield.settings.names import Text

__all__ = ["ExportSettings"]


class ExportSettings(Config):
    """`farfield export`: a trained model as a folder of Hugging Face."""

    model: Text
    adapter_file: Text | None = Field(None, description="an adapter that was learnt beside the model's weights")
    to: Text
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    shard: int = Field(2 << 30, ge=1 << 20, description="the most bytes of weights in one file")
    hf: OwnFolderConfig = OwnFolderConfig()

    @property
    def dtype(self) -> torch.dtype | None:
        """Of the weights; None: as they are stored."""
        kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        return None if self.precision is None else kinds[self.precision]
