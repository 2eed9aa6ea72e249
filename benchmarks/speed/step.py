"""A whole training step: ours beside models of one shape of other libraries, each with the loss of its own training.

    step       loss, gradients and AdamW over one batch; the same optimiser for all, and for bf16 the same autocast
    losses     of the same batches, each model from its own initialisation, at shorter texts

`ratio` of our row: how many times as fast as the best peer; of a peer: as ours. Of every two tokens the second follows
from the first, and the first are drawn by Zipf's law, so that there is something to learn.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from farfield.benchmarks.peers import Peer
from farfield.benchmarks.peers.models import MODELS, Model, Shape
from farfield.benchmarks.speed.models import builds
from farfield.benchmarks.speed.rows import compared, described
from farfield.benchmarks.speed.turns import FAILURES, Conditions, Turns, in_turn, said
from farfield.settings import SpeedSettings
from farfield.training.optimizer import build_optimizer
from farfield.training.options import OptimizerConfig

__all__ = ["Block", "batches", "blocks", "measure", "unmeasured"]

RATE = 1e-3


@dataclass(frozen=True)
class Block:
    """The models of one shape at one number of threads."""

    shape: Shape
    batch: int
    curve: int
    curve_length: int
    compiled: bool
    under: Conditions

    @property
    def head(self) -> dict[str, Any]:
        """What its rows have in common."""
        return described("step", self.under.threads, length=self.shape.length, batch=self.batch, measure="step")


def blocks(settings: SpeedSettings, device: str, threads: int | None) -> list[Block]:
    """One: all models in turn."""
    s = settings.step
    shape = Shape(s.depth, s.width, s.inner, s.heads, s.vocabulary, s.length)
    under = Conditions.of(settings, device, threads)
    return [Block(shape, s.batch, s.curve, s.curve_length, s.compile, under)]


def measure(block: Block) -> list[dict[str, Any]]:
    """A row for each model, and with `compiled` one for each compiled."""
    block.under.begin()
    works: dict[str, Callable[[], object]] = {}
    reasons, told = {}, {}
    data = next(batches(block, block.shape.length))
    for name, build in builds(_peers(block)).items():
        for compiled in (False, True) if block.compiled else (False,):
            called = f"{name}, compiled" if compiled else name
            try:
                works[called], told[called] = _work(build, block, data, compiled)
            except FAILURES as failure:
                reasons[called] = said(failure)
    turns = in_turn(works, block.under.repeats, block.under.threads)
    for name, build in builds(_peers(block)).items():
        if name in works:
            told[name]["losses"] = _curve(build, block)
    return _rows(block, turns, reasons, told)


def unmeasured(block: Block, reason: str) -> list[dict[str, Any]]:
    """The rows of a block that could not be measured."""
    return _rows(block, Turns({}), dict.fromkeys(builds(_peers(block)), reason), {})


def batches(block: Block, length: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens and targets (batch, length), the same for every model."""
    generator = torch.Generator().manual_seed(block.under.seed)
    vocabulary = block.shape.vocabulary
    follows = torch.randperm(vocabulary, generator=generator)
    chances = 1.0 / torch.arange(1, vocabulary + 1)
    while True:
        drawn = torch.multinomial(chances, block.batch * (length // 2 + 1), True, generator=generator)
        drawn = drawn.view(block.batch, -1)
        text = torch.stack((drawn, follows[drawn]), -1).flatten(1).to(block.under.device)
        yield text[:, :length], text[:, 1 : length + 1]


def _built(build: Callable[[Shape], Model], block: Block) -> tuple[Model, torch.optim.Optimizer]:
    torch.manual_seed(block.under.seed)
    made = build(block.shape)
    dtype, device = block.under.dtype, block.under.device
    narrow = dtype.itemsize < 4  # as training takes it: weights and their sums in float32, products narrower
    made.module.to(device, torch.float32 if narrow else dtype).train()
    if narrow:
        made = made._replace(loss=torch.autocast(device, dtype)(made.loss))
    return made, build_optimizer(made.module, OptimizerConfig(learning_rate=RATE))


def _work(
    build: Callable[[Shape], Model], block: Block, data: tuple[Tensor, Tensor], compiled: bool
) -> tuple[Callable[[], object], dict[str, Any]]:
    made, optimizer = _built(build, block)
    told: dict[str, Any] = {"parameters": sum(weight.numel() for weight in made.module.parameters())}
    if compiled:
        (made.compiled or made.module).compile()
        began = time.perf_counter()
        _step(made, optimizer, *data)
        told["compile_seconds"] = time.perf_counter() - began
    return functools.partial(_step, made, optimizer, *data), told


def _step(made: Model, optimizer: torch.optim.Optimizer, tokens: Tensor, targets: Tensor) -> float:
    optimizer.zero_grad(set_to_none=True)
    loss = made.loss(tokens, targets)
    loss.backward()
    optimizer.step()
    return loss.item()


def _curve(build: Callable[[Shape], Model], block: Block) -> list[float]:
    """The loss of each of the first batches before its step, nats a token."""
    made, optimizer = _built(build, block)
    data = batches(block, block.curve_length)
    return [_step(made, optimizer, *next(data)) for _ in range(block.curve)]


def _peers(block: Block) -> Sequence[Peer[Shape, Model]]:
    return MODELS if block.under.with_peers else ()


def _rows(block: Block, turns: Turns, reasons: dict[str, str], told: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    peers = _peers(block)
    missing = {peer.name: reason for peer in peers if (reason := peer.missing())}
    found = compared(block.head, turns, missing | reasons, told, {peer.name: peer.about for peer in peers})
    for row in found:
        if "seconds" in row:
            row["tokens_per_second"] = block.batch * block.shape.length / row["seconds"]
    return found
