"""What a model's memory is worth: the model without it, and a state whose entries are exchanged.

    alone = without_memory(model)                 # the same weights; what is near is seen as before
    state = exchanged(model, state, seed=0)       # each key that the memory holds brings the value of another

A memory that helps is one whose model answers better than both.
"""

from __future__ import annotations

import copy
from typing import cast

import torch

from farfield.config import ModelError
from farfield.memory import StackMemory, Wrapped
from farfield.memory.forgetting import Apart
from farfield.model import LanguageModel, ModelState

__all__ = ["exchanged", "without_memory"]


def without_memory(model: LanguageModel) -> LanguageModel:
    """The model without its memory, on the same weights: both change together.

    Raises:
        ModelError: it has none, or one that cannot be told from what is near.
    """
    memory = model.config.memory
    if memory is None:
        raise ModelError("memory: this model has none that could be taken away.")
    same = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    made = copy.deepcopy(model, same)
    made.__dict__.pop("_state_kinds", None)
    if isinstance(memory, StackMemory):
        made.decoder = cast(Apart, made.decoder).alone()
        return made
    for layer in made.decoder.layers:
        if isinstance(layer.mixer, Wrapped):
            layer.mixer = layer.mixer.alone()
    return made


@torch.no_grad()
def exchanged(model: LanguageModel, state: ModelState, seed: int) -> ModelState:
    """`state` with what the memory's entries are bound to exchanged within each row.

    Raises:
        ModelError: the model has no memory, or one without entries, or nothing has been written to it yet.
    """
    memory = model.config.memory
    if memory is None:
        raise ModelError("memory: this model has none whose entries could be exchanged.")
    begins, shortest = model.config.memory_from() or 0, int(state.position.min())
    if shortest + 1 < begins:
        raise ModelError(
            f"memory '{memory.name}': read from {begins} tokens on, and {shortest} are before the question."
        )
    if isinstance(memory, StackMemory):
        return ModelState(state.position, cast(Apart, model.decoder).exchanged(state.layers, seed))
    layers = list(state.layers)  # behind those of the layers may come that of neighbours
    for index, mixer in enumerate(model.decoder.mixers()):
        if isinstance(mixer, Wrapped):
            layers[index] = mixer.exchanged(layers[index], state.position, seed)
    return ModelState(state.position, tuple(layers))
