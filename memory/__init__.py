"""What is kept of the past outside the backbone's own state, and how it is read back.

Adding a memory: its file, one name in `MemoryConfig` below, one yaml file in configs/memory/. Settings of the
key-value memory are yaml files alone. `AugmentationConfig` are the ways in which what was retrieved reaches the layers
or the output of a model, beside a memory or without one.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from farfield.memory.autocompressor import AutoCompressorConfig
from farfield.memory.infini import Infini, InfiniConfig
from farfield.memory.key_value import KeyValueMemoryConfig, WithMemory
from farfield.memory.knn_lm import OutputConfig
from farfield.memory.longmem import LongMemConfig
from farfield.memory.mac import AmortizedContextsConfig
from farfield.memory.neighbours import Neighbours, NeighboursConfig
from farfield.memory.passages import Passages
from farfield.memory.rmt import RecurrentMemoryConfig
from farfield.memory.settings import MemorySettings, MixerMemory, StackMemory, Wrapped
from farfield.memory.titans import Titans, TitansConfig

__all__ = [
    "AmortizedContextsConfig",
    "AugmentationConfig",
    "AutoCompressorConfig",
    "Infini",
    "InfiniConfig",
    "KeyValueMemoryConfig",
    "LongMemConfig",
    "MemoryConfig",
    "MemorySettings",
    "MixerMemory",
    "Neighbours",
    "NeighboursConfig",
    "OutputConfig",
    "Passages",
    "RecurrentMemoryConfig",
    "StackMemory",
    "Titans",
    "TitansConfig",
    "WithMemory",
    "Wrapped",
]

MemoryConfig = Annotated[
    KeyValueMemoryConfig
    | InfiniConfig
    | TitansConfig
    | RecurrentMemoryConfig
    | AutoCompressorConfig
    | AmortizedContextsConfig
    | LongMemConfig,
    Field(discriminator="kind"),
]

AugmentationConfig = Annotated[NeighboursConfig | OutputConfig, Field(discriminator="kind")]
