"""Parallel context windows: a prompt is read in windows side by side, and its end sees all of them.

    phase     0 1 2 3 4 5 6        window 1
              0 1 2 3 4 5 6        window 2, which does not see window 1
                            7 8    the task: it sees all windows, and stands behind the longest

Each window is read as a document of its own, with phases from 0; their keys and values are one state then. The task and
what is written behind it see every token, at no distance beyond the trained ones. Ratner et al.,
https://arxiv.org/abs/2212.10947. What all windows begin with, such as a begin-of-text token, is kept once, of the
longest, as their code has it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from pydantic import Field, model_validator

from farfield.config import Config

__all__ = ["Ids", "ParallelWindows"]

Ids = Sequence[int]


class ParallelWindows(Config):
    """How a prompt is cut."""

    window: int = Field(ge=2, description="the most tokens of a window, with what all windows begin with")
    task: int = Field(64, ge=1, description="last tokens of a prompt, which see all windows")
    shared: int = Field(
        0, ge=0, description="first tokens of a prompt that stand before every window and are kept once"
    )

    @model_validator(mode="after")
    def _fits(self) -> ParallelWindows:
        if self.shared >= self.window:
            raise ValueError(f".shared: {self.shared} given, less than window = {self.window} is needed.")
        return self

    def cut(self, prompt: Ids) -> tuple[list[list[int]], list[int]]:
        """As few windows as hold all but the task, nearly equally long, and the task: at least the last token."""
        task = min(self.task, max(1, len(prompt) - self.shared))
        head, body = list(prompt[: self.shared]), list(prompt[self.shared : len(prompt) - task])
        if not body:
            return [], list(prompt)
        count = -(-len(body) // (self.window - self.shared))
        ends = [len(body) * number // count for number in range(count + 1)]
        windows = [[*head, *body[begin:end]] for begin, end in itertools.pairwise(ends)]
        return windows, list(prompt[len(prompt) - task :])
