"""Another memory on a trained model: its weights as they are, and a memory that needs none of its own around them.

    model = retrofit(model, memory)       # a memory of a kind that needs no training
    model = retrofit(model, None)         # without the memory that it was trained with

What the model reads of retrieved passages stays, or is named: with fresh weights, a trained model learns to read them.
Weights go by the names that a model without a memory gives them. What the memory itself has learnt stays where the old
and the new one are of the same kind, so that a trained memory can be made larger or smaller.
"""

from __future__ import annotations

import contextlib
from typing import Literal

import torch
from torch import Tensor

from farfield.architectures.architecture import ArchitectureConfig
from farfield.config import ConfigError, read
from farfield.memory import AugmentationConfig, MemoryConfig, Wrapped
from farfield.memory.settings import Beginning
from farfield.model import LanguageModel, ModelConfig

__all__ = ["retrofit"]


def retrofit(
    model: LanguageModel,
    memory: MemoryConfig | None,
    fresh: bool = False,
    architecture: ArchitectureConfig | None = None,
    augmentation: AugmentationConfig | Literal["same"] | None = "same",
) -> LanguageModel:
    """A model with the weights of `model` and `memory` around its layers, on the same device and in the same mode.

    Args:
        model: what it is made of; it stays as it is.
        memory: what stands around its layers; None for nothing.
        fresh: give weights of their own to the memory and the augmentation where `model` has not learnt them, to be
            trained.
        architecture: other layers with weights of the same names and shapes, such as full attention in the place of a
            window; None for those of `model`.
        augmentation: what it reads of retrieved passages; None for nothing.

    Raises:
        ConfigError: the memory does not fit the layers, or has weights of its own that `model` has not learnt.
    """
    layers = model.config.architecture if architecture is None else architecture
    reads = model.config.augmentation if augmentation == "same" else augmentation
    config = {
        "architecture": layers.mapping(),
        "memory": None if memory is None else memory.mapping(),
        "vocabulary": model.config.vocabulary,
        "augmentation": None if reads is None else reads.mapping(),
    }
    # Weights that are all replaced take none of the caller's random numbers.
    with contextlib.nullcontext() if fresh else torch.random.fork_rng(devices=[]):
        made = LanguageModel(read(ModelConfig, config))
    weights = _named(model)
    missing = [name for name, new in _named(made).items() if name not in weights or weights[name].shape != new.shape]
    if missing and not fresh:
        if memory is None or architecture is not None:
            raise ConfigError(f"architecture: it has weights that the model has not learnt: {', '.join(missing[:3])}.")
        raise ConfigError(
            f"memory.name: '{memory.name}' has weights of its own, and this model was not trained with them. "
            f"Train one: farfield train ... memory={memory.name}."
        )
    example = model.embedding.weight
    made = made.to(device=example.device, dtype=example.dtype).train(model.training)
    with torch.no_grad():
        for name, tensor in _named(made).items():
            if name not in missing:
                tensor.copy_(weights[name])
    if missing and isinstance(made.stack, Beginning):
        made.stack.begin()
    return made


def _named(model: LanguageModel) -> dict[str, Tensor]:
    """Parameters and buffers; those of the backbone by their names in a model without a memory."""
    own = type(model.config.memory).__name__
    found = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        bare = _bare(model, name)
        found[bare or f"{own}:{name}"] = tensor
    return found


def _bare(model: LanguageModel, name: str) -> str | None:
    """The name of a backbone's weight without the memory's modules around it; None for a weight of the memory."""
    if not name.startswith("decoder."):
        return name
    stack, rest = model.stack, name.removeprefix("decoder.")
    inner = getattr(stack, "stack", None)
    if inner is not None:
        return f"decoder.{rest.removeprefix('stack.')}" if rest.startswith("stack.") else None
    for index, mixer in enumerate(stack.mixers()):
        place = f"layers.{index}.mixer."
        if rest.startswith(place) and isinstance(mixer, Wrapped):
            within = rest.removeprefix(place)
            return f"decoder.{place}{within.removeprefix('mixer.')}" if within.startswith("mixer.") else None
    return name
