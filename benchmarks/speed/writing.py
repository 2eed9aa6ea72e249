"""Tokens written one behind the other, as often as it is asked for: each time behind those of the time before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

__all__ = ["Writing", "likeliest"]

S = TypeVar("S")


class Writing(Generic[S]):
    """Whoever writes holds the state alone, and goes on from it.

    To begin from one state again and again would measure something else: caches that grow in place would be longer each
    time than their reader thinks, and ours, which no call changes for whoever still holds it, would be copied by the
    first token of each time but one.

    Args:
        step: the output of a token with a state, and the state behind it. token: the first one.
        following: the token that an output is followed by. tokens: how many are written in a call.
    """

    def __init__(
        self,
        step: Callable[[Tensor, S], tuple[Tensor, S]],
        token: Tensor,
        state: S,
        following: Callable[[Tensor], Tensor],
        tokens: int,
    ) -> None:
        self.step, self.token, self.state = step, token, state
        self.following, self.tokens = following, tokens

    @torch.no_grad()
    def __call__(self) -> None:
        for _ in range(self.tokens):
            found, self.state = self.step(self.token, self.state)
            self.token = self.following(found)


def likeliest(logits: Tensor) -> Tensor:
    """The ids (B, 1) that logits (B, T, V) end with."""
    return logits[:, -1:].max(-1).indices
