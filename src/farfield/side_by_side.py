"""Reading windows side by side: see `farfield.windows` for what they are.

Shapes: B batch, T time, N windows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from farfield.model import LanguageModel, ModelState
from farfield.windows import Ids

__all__ = ["read_windows"]

TOKENS = 8192  # of windows that are read in one call


@torch.no_grad()
def read_windows(model: LanguageModel, prompts: Sequence[Ids]) -> tuple[list[list[int]], ModelState]:
    """The task of each prompt, which is not read yet, and the state (B rows) behind its windows."""
    how, device = model.windows, model.device
    assert how is not None, "a model that reads windows says how"
    windows: list[list[int]] = []
    owners: list[int] = []
    losses: list[int] = []
    tasks, position, ahead = [], [], []
    for row, prompt in enumerate(prompts):
        several, task = how.cut(prompt)
        sizes = [len(window) for window in several]
        longest = max(range(len(sizes)), key=lambda n: sizes[n], default=0)
        lost = [0 if n == longest else how.shared for n in range(len(sizes))]
        windows, owners, losses = windows + several, owners + [row] * len(several), losses + lost
        tasks.append(task)
        position.append(sum(sizes) - sum(lost))
        ahead.append(position[-1] - max(sizes, default=0))
    if not windows:
        return tasks, model.start(len(prompts))
    states = _read(model, windows)
    owner, dropped = (torch.tensor(one, device=device) for one in (owners, losses))
    layers = tuple(
        mixer.joined([state.layers[index] for state in states], owner, dropped, len(prompts))
        for index, mixer in enumerate(model.stack.mixers())
    )
    return tasks, ModelState(torch.tensor(position, device=device), layers, torch.tensor(ahead, device=device))


def _read(model: LanguageModel, windows: Sequence[Ids]) -> list[ModelState]:
    """States of all windows, as documents of their own, some of them in each."""
    count = max(1, TOKENS // max(len(window) for window in windows))
    states = []
    for first in range(0, len(windows), count):
        some = windows[first : first + count]
        time = max(len(window) for window in some)
        tokens = torch.tensor([[*window, *[0] * (time - len(window))] for window in some], device=model.device)
        column = torch.arange(time, device=model.device)
        ends = torch.tensor([len(window) for window in some], device=model.device)
        positions = torch.where(column < ends[:, None], column, -1)
        states.append(model.hidden(tokens, positions=positions)[1])
    return states
