"""Truncation: a state without its oldest tokens, the others at positions that begin anew.

    state = truncated(model, state, 512)                # the newest 512 tokens, now at positions 0 to 511

    tokens      a b c d e f g h        keep 4       e f g h
    positions   0 1 2 3 4 5 6 7                     0 1 2 3

Kept keys are those that were computed with the dropped tokens in sight, turned to their new positions, and kept values
stay as they were. So the state comes near to one that has read the newest tokens alone, and is not equal to it
(AttentionStore, https://arxiv.org/abs/2403.19708, section 3.4, where keys are kept before rotation to the same end).
"""

from __future__ import annotations

import torch

from farfield.config import ModelError
from farfield.memory import StackMemory
from farfield.memory.newest import WithMemory
from farfield.memory.settings import Wrapped
from farfield.model import LanguageModel, ModelState

__all__ = ["check_truncation", "truncated"]


@torch.no_grad()
def truncated(model: LanguageModel, state: ModelState, count: int) -> ModelState:
    """`state` with the newest `count` tokens of each row alone; it takes the place of `state`.

    Raises:
        ModelError: a layer whose state has no single tokens, or fewer than one is to be kept.
    """
    if count < 1:
        raise ModelError(f"truncation: {count} tokens given, at least 1 is kept.")
    memory, layers = model.config.memory, []
    if isinstance(memory, StackMemory):
        raise ModelError(f"memory '{memory.name}': {_WITHOUT}")
    if model.config.neighbours is not None:
        raise ModelError(
            f"augmentation '{model.config.neighbours.kind}': chunks are counted from a document's start, so that the "
            "oldest tokens cannot be dropped. Use a model without."
        )
    dropped = (state.position - count).clamp(min=0)
    for index, (mixer, kept) in enumerate(zip(model.decoder.mixers(), state.layers, strict=True)):
        try:
            layers.append(mixer.newest(kept, count, dropped))
        except ModelError as error:
            if isinstance(mixer, Wrapped) and memory is not None:
                reason = error if isinstance(mixer, WithMemory) else _WITHOUT
                raise ModelError(f"memory '{memory.name}': {reason}") from None
            name = model.config.decoder.pattern[index % len(model.config.decoder.pattern)]
            raise ModelError(f"layer {index} ({name}): {error}") from None
    return ModelState(state.position - dropped, tuple(layers))


def check_truncation(model: LanguageModel) -> None:
    """Raise ModelError where the oldest tokens of this model's states cannot be dropped."""
    truncated(model, model.start(1), 1)


_WITHOUT = "its state does not hold single tokens, so that the oldest ones cannot be dropped. Use memory=none."
