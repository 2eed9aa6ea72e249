"""Whole decoders, by architecture: tokens per second, state and peak memory against length.

    train      a loss and its gradients over one text of that length
    prefill    reading a prompt of that length
    decode     writing one token after so many others

`ratio`: tokens a second over those of the first architecture of the list.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from farfield.api import build
from farfield.benchmarks.speed.layers import DECODED
from farfield.benchmarks.speed.rows import described
from farfield.benchmarks.speed.turns import Conditions, Measured, Turns, in_turn
from farfield.benchmarks.speed.writing import Writing, likeliest
from farfield.generation import TextModel
from farfield.settings import SpeedSettings

__all__ = ["Block", "blocks", "measure", "unmeasured"]

PIECE = 2048  # tokens that are prefilled in one call


@dataclass(frozen=True)
class Block:
    """What is measured in turn: the architectures at one measure and one length."""

    architectures: tuple[str, ...]
    overrides: tuple[str, ...]
    measure: str
    length: int
    batch: int
    under: Conditions

    @property
    def head(self) -> dict[str, Any]:
        """What its rows have in common."""
        return described("decoder", self.under.threads, measure=self.measure, length=self.length)


def blocks(settings: SpeedSettings, device: str, threads: int | None) -> list[Block]:
    """All architectures in turn, at every length and measure."""
    overrides = (f"width={settings.width}", f"depth={settings.depth}")
    rest = settings.batch, Conditions.of(settings, device, threads)
    return [
        Block(settings.architectures, overrides, measure, length, *rest)
        for measure in settings.measures
        for length in settings.lengths
    ]


def measure(block: Block) -> list[dict[str, Any]]:
    """One row for each architecture."""
    block.under.begin()
    models = {
        name: build(name, block.overrides, seed=block.under.seed).to(block.under.device, block.under.dtype)
        for name in block.architectures
    }
    works = {name: _work(model, block) for name, model in models.items()}
    turns = in_turn(works, block.under.repeats, block.under.threads)
    return [{**row, **_about(models[row["architecture"]], block)} for row in _rows(block, turns)]


def unmeasured(block: Block, reason: str) -> list[dict[str, Any]]:
    """The rows of a block that could not be measured."""
    return _rows(block, Turns(dict.fromkeys(block.architectures, reason)))


def _about(model: TextModel, block: Block) -> dict[str, Any]:
    return {"state_bytes": model.config.state_bytes(block.length), "parameters": model.config.parameters()}


def _rows(block: Block, turns: Turns) -> list[dict[str, Any]]:
    tokens = block.batch * (DECODED if block.measure == "decode" else block.length)
    first = turns.measured[block.architectures[0]]
    rows: list[dict[str, Any]] = []
    for name in block.architectures:
        found = turns.measured[name]
        row = {**block.head, "architecture": name, "yardstick": turns.yardstick}
        if isinstance(found, Measured):
            row |= {"seconds": found.seconds, "tokens_per_second": tokens / found.seconds}
            row |= {"peak_bytes": found.peak_bytes}
            row["ratio"] = first.seconds / found.seconds if isinstance(first, Measured) else None
        else:
            row["reason"] = found
        rows.append(row)
    return rows


def _work(model: TextModel, block: Block) -> Callable[[], object]:
    """What is timed, as a call without arguments."""
    generator = torch.Generator().manual_seed(block.under.seed)
    shape = (block.batch, block.length + 1)
    tokens = torch.randint(0, model.config.vocabulary, shape, generator=generator).to(model.device)
    if block.measure == "train":
        return functools.partial(_train, model, tokens)
    if block.measure == "prefill":
        return functools.partial(_prefill, model, tokens[:, :-1])
    return Writing(model, tokens[:, -1:], _prefill(model, tokens[:, :-1]), likeliest, DECODED)


def _train(model: TextModel, tokens: torch.Tensor) -> None:
    model.zero_grad(set_to_none=True)
    model.loss(tokens[:, :-1], tokens[:, 1:]).total.backward()


@torch.no_grad()
def _prefill(model: TextModel, tokens: torch.Tensor) -> Any:
    state = model.start(tokens.shape[0])
    for piece in tokens.split(PIECE, 1):
        _, state = model.hidden(piece, state)
    return state
