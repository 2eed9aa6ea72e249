"""How the next token is chosen from logits, and the settings of an answer.

A draw is one number of the row's generator: the first id whose chances up to its own exceed it. So a whole answer's
numbers can be drawn before it begins, and ids are chosen where the logits are.

Shapes: B batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from farfield.config import Config

__all__ = ["GenerationConfig", "chances", "choose", "drawing", "drawn"]


class GenerationConfig(Config):
    """How an answer is written."""

    tokens: int = Field(64, ge=1, description="the most tokens of an answer")
    temperature: float = Field(0.0, ge=0, description="0: the most likely token at each step")
    top_k: int | None = Field(None, ge=1, description="draw among the k most likely tokens; null: among all")
    top_p: float = Field(1.0, gt=0, le=1, description="draw among the most likely tokens that together reach p")
    seed: int = Field(0, ge=0, lt=2**63, description="of the draws where temperature is above 0")
    stop: tuple[str, ...] = Field((), description="texts that end an answer; they are not part of it")
    capture: Literal["auto", True, False] = Field(
        "auto", description="a token's work as one CUDA graph, captured once; auto: where GPU and model allow it"
    )


def chances(logits: Tensor, config: GenerationConfig) -> Tensor:
    """What each id is drawn with (B, V), of logits (B, V); the temperature is above 0."""
    best = logits.amax(-1, keepdim=True)  # first, in float64: no temperature is too small to divide by
    scores = ((logits - best).double() / config.temperature).float()
    if config.top_k is not None and config.top_k < scores.shape[-1]:
        least = scores.topk(config.top_k).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if config.top_p < 1:
        ordered, order = scores.sort(descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        dropped = (before >= config.top_p).scatter(1, order, before >= config.top_p)
        scores = scores.masked_fill(dropped, -torch.inf)
    return scores.softmax(-1)


def drawn(chances: Tensor, numbers: Tensor) -> Tensor:
    """The ids (B,) that `numbers` (B,) float64, from 0 to below 1, draw by chances (B, V).

    Sums are of float64: in float32 the chances of the last of many ids would be lost in them.
    """
    reached = chances.double().cumsum(-1)
    return (reached <= (numbers * reached[:, -1])[:, None]).sum(-1).clamp(max=chances.shape[-1] - 1)


def choose(logits: Tensor, config: GenerationConfig, generators: Sequence[torch.Generator]) -> Tensor:
    """The next id (B,) of each row from logits (B, V); row b draws from `generators[b]`."""
    if config.temperature == 0:
        return logits.max(-1).indices  # the first of equal ones; `argmax` takes four times as long in bfloat16
    numbers = torch.cat([torch.rand(1, generator=one, dtype=torch.float64) for one in generators])
    return drawn(chances(logits, config), numbers.to(logits.device))


def drawing(config: GenerationConfig, rows: int) -> list[torch.Generator]:
    """What each row draws from."""
    # Spread apart, so that row 1 of seed 0 is not row 0 of seed 1.
    seeds = [(config.seed * 0x9E3779B97F4A7C15 + row * 0xBF58476D1CE4E5B9) % 2**63 for row in range(rows)]
    return [torch.Generator().manual_seed(seed) for seed in seeds]
