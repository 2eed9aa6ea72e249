"""Prompts into states, in pieces.

Shapes: B batch, T time, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from farfield.config import ModelError
from farfield.fetching import Fetching
from farfield.knn import Mixing
from farfield.model import LanguageModel, ModelState
from farfield.side_by_side import read_windows

__all__ = ["prefill"]

PIECE = 1024  # tokens of a prompt that are prefilled in one call


@torch.no_grad()
def prefill(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    state: ModelState | None = None,
    piece: int = PIECE,
    fetching: Fetching | None = None,
    mixing: Mixing | None = None,
) -> tuple[Tensor, ModelState]:
    """Logits (B, V) behind the last token of each prompt, and the state there; `state` goes on where it stopped.

    With `fetching`, which has seen what the state has, chunks that end in the prompts read their neighbours; with
    `mixing`, what a datastore finds for each prompt is in the logits.

    Raises:
        ModelError: no prompts, or one without tokens.
    """
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ModelError("prompt: empty. A model needs at least one token to go on from.")
    if state is None and model.windows is not None:
        prompts, state = read_windows(model, prompts)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
    state = model.start(len(prompts)) if state is None else state
    begin, time = state.position, int(lengths.max())
    tokens = torch.zeros(len(prompts), time, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.as_tensor(prompt, dtype=torch.int64)
    tokens = tokens.to(model.device)
    column = torch.arange(time, device=model.device)
    positions = torch.where(column < lengths[:, None], begin[:, None] + column, -1)
    last = torch.zeros(len(prompts), 0)
    for first in range(0, time, piece):
        part = slice(first, first + piece)
        found_for = None if fetching is None else fetching.read(tokens[:, part], positions[:, part] >= 0)
        read = model.hidden if mixing is None else mixing.read
        hidden, state = read(tokens[:, part], state, positions=positions[:, part], passages=found_for)
        last = last if last.shape[1] else torch.zeros_like(hidden[:, 0])
        ends = (lengths > first) & (lengths <= first + hidden.shape[1])
        at = (lengths - 1 - first).clamp(0, hidden.shape[1] - 1)
        found = hidden.gather(1, at[:, None, None].expand(-1, 1, hidden.shape[2]))[:, 0]
        last = torch.where(ends[:, None], found, last)
    return (model.head if mixing is None else mixing.logits)(last), state
