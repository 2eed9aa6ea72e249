"""One token of a model of a hundred million weights, beside reading its weights and its state once.

    decode     one token after so many others
    reading    a sum over every weight and every tensor of the state, slack left out: what a token costs at least

`over_reading`: the seconds of a token over those of reading. The smallest batch has the least to hide behind. On a GPU
ours is measured once more, as a graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from farfield.architectures.state import State
from farfield.benchmarks.peers import Peer
from farfield.benchmarks.peers.models import MODELS, Model, Shape
from farfield.benchmarks.speed.held import state_bytes, tensors_of
from farfield.benchmarks.speed.models import builds, captured
from farfield.benchmarks.speed.rows import OURS, compared, described
from farfield.benchmarks.speed.turns import FAILURES, Conditions, LackingError, Measured, Turns, in_turn, said
from farfield.benchmarks.speed.writing import Writing, likeliest
from farfield.settings import SpeedSettings

__all__ = ["Block", "blocks", "measure", "unmeasured"]

TOKENS = 8  # written in one measurement
READING = ", reading"
CAPTURED = f"{OURS}, captured"


@dataclass(frozen=True)
class Block:
    """The models of one shape at one number of threads."""

    shape: Shape
    batch: int
    under: Conditions

    @property
    def head(self) -> dict[str, Any]:
        """What its rows have in common."""
        return described("decoding", self.under.threads, length=self.shape.length, batch=self.batch, measure="decode")


def blocks(settings: SpeedSettings, device: str, threads: int | None) -> list[Block]:
    """One: all models in turn."""
    s = settings.decoding
    shape = Shape(s.depth, s.width, s.inner, s.heads, s.vocabulary, s.length)
    return [Block(shape, s.batch, Conditions.of(settings, device, threads))]


def measure(block: Block) -> list[dict[str, Any]]:
    """A row for each model."""
    block.under.begin()
    works: dict[str, Callable[[], object]] = {}
    reasons: dict[str, str] = {}
    told: dict[str, dict[str, Any]] = {}
    for name, build in _builds(block).items():
        try:
            works |= _works(name, build, block, told)
        except FAILURES as failure:
            reasons[name] = said(failure)
    return _rows(block, in_turn(works, block.under.repeats, block.under.threads), reasons, told)


def unmeasured(block: Block, reason: str) -> list[dict[str, Any]]:
    """The rows of a block that could not be measured."""
    return _rows(block, Turns({}), dict.fromkeys(_builds(block), reason), {})


def _builds(block: Block) -> dict[str, Callable[[Shape], Model]]:
    """By name how each model is built: on a GPU ours twice."""
    found = builds(_peers(block))
    return found | {CAPTURED: captured} if block.under.device == "cuda" else found


def _works(
    name: str, build: Callable[[Shape], Model], block: Block, told: dict[str, dict[str, Any]]
) -> dict[str, Callable[[], object]]:
    """Writing tokens, and reading what that must read; what is told of the model goes into `told`."""
    torch.manual_seed(block.under.seed)
    made = build(block.shape)
    if made.decoder is None:
        raise LackingError("its decoding is not measured")
    made.module.to(block.under.device, block.under.dtype).eval()
    tokens = torch.randint(block.shape.vocabulary, (block.batch, block.shape.length), device=block.under.device)
    with torch.no_grad():
        state = made.decoder.read(tokens)
    weights = list(made.module.parameters())
    told[name] = {"parameters": sum(weight.numel() for weight in weights), "state_bytes": state_bytes(state)}
    held = tensors_of(state.compact() if isinstance(state, State) else state)
    return {
        name: Writing(made.decoder.step, tokens[:, -1:], state, likeliest, TOKENS),
        name + READING: functools.partial(_read, [*weights, *held]),
    }


@torch.no_grad()
def _read(tensors: Iterable[Tensor]) -> None:
    for tensor in tensors:
        tensor.sum()


def _peers(block: Block) -> Sequence[Peer[Shape, Model]]:
    return MODELS if block.under.with_peers else ()


def _rows(block: Block, turns: Turns, reasons: dict[str, str], told: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    peers = _peers(block)
    missing = {peer.name: reason for peer in peers if (reason := peer.missing())}
    about = {peer.name: peer.about for peer in peers}
    decoded = {name: found for name, found in turns.measured.items() if not name.endswith(READING)}
    rows = compared(block.head, replace(turns, measured=decoded), missing | reasons, told, about, TOKENS)
    for row in rows:
        reading = turns.measured.get(row["who"] + READING)
        if "seconds" in row and isinstance(reading, Measured):
            row |= {"reading_seconds": reading.seconds, "over_reading": row["seconds"] / reading.seconds}
    return rows
