"""One layer alone, with its projections: ours and those of other libraries, in turn.

    train      forward and backward over one text
    prefill    forward, without gradients
    decode     one token after so many others, and the bytes of the state it comes from

`ratio` of our row: how many times as fast as the best peer. `ratio` of a peer: how many times as fast as ours. A row
more has the products of our layer's linear maps alone: its ratio is the most that ours can have.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from farfield.benchmarks.peers import Layer, LayerPeer, Sizes, peers
from farfield.benchmarks.speed.cases import CASES, layer
from farfield.benchmarks.speed.held import state_bytes
from farfield.benchmarks.speed.projections import ALONE, products, projections
from farfield.benchmarks.speed.rows import OURS, compared, described
from farfield.benchmarks.speed.turns import FAILURES, Conditions, LackingError, Turns, in_turn, said
from farfield.benchmarks.speed.writing import Writing
from farfield.config import ConfigError, unknown
from farfield.settings import SpeedSettings

__all__ = ["DECODED", "Block", "blocks", "measure", "unmeasured"]

DECODED = 16  # tokens written in one measurement of decoding


@dataclass(frozen=True)
class Block:
    """What is measured in turn: one case, one measure, one length."""

    case: str
    measure: str
    sizes: Sizes
    batch: int
    under: Conditions

    @property
    def head(self) -> dict[str, Any]:
        """What its rows have in common."""
        length = self.sizes.length
        return described("mixers", self.under.threads, case=self.case, measure=self.measure, length=length)


def blocks(settings: SpeedSettings, device: str, threads: int | None) -> list[Block]:
    """Every case at every length and measure; an encoder does not decode."""
    chosen = list(CASES) if settings.mixers is None else list(settings.mixers)
    for name in chosen:
        if name not in CASES:
            raise ConfigError(unknown("mixers: unknown case", name, CASES))
    rest = settings.batch, Conditions.of(settings, device, threads)
    return [
        Block(name, measure, Sizes(settings.width, settings.heads, length), *rest)
        for name in chosen
        for length in settings.lengths
        for measure in settings.measures
        if not (CASES[name].encoder and measure == "decode")
    ]


def measure(block: Block) -> list[dict[str, Any]]:
    """A row for our layer and for each peer of its case; one that cannot do it has its reason."""
    block.under.begin()
    others = peers(block.case) if block.under.with_peers else []
    reasons = {peer.name: reason for peer in others if (reason := peer.missing())}
    builds: dict[str, Callable[[Sizes], Layer]] = {OURS: functools.partial(layer, CASES[block.case])}
    builds |= {peer.name: peer.build for peer in others if peer.name not in reasons}
    works, told = {}, {}
    for name, build in builds.items():
        try:
            works[name], told[name] = _work(build, block)
        except FAILURES as failure:
            reasons[name] = said(failure)
    if OURS in works and block.measure != "decode":
        works[ALONE] = _alone(block)
    turns = in_turn(works, block.under.repeats, block.under.threads)
    return _rows(block, others, turns, reasons, told)


def unmeasured(block: Block, reason: str) -> list[dict[str, Any]]:
    """The rows of a block that could not be measured at all."""
    others = peers(block.case) if block.under.with_peers else []
    names = [OURS, *(peer.name for peer in others)]
    return _rows(block, others, Turns({}), dict.fromkeys(names, reason), {})


def _work(build: Callable[[Sizes], Layer], block: Block) -> tuple[Callable[[], object], dict[str, Any]]:
    """What is timed, and what is told of the layer."""
    torch.manual_seed(block.under.seed)
    made = build(block.sizes)
    made.module.to(block.under.device, block.under.dtype)
    shape = (block.batch, block.sizes.length, block.sizes.width)
    x = torch.randn(shape, device=block.under.device, dtype=block.under.dtype)
    told = {"parameters": sum(weight.numel() for weight in made.module.parameters())}
    if block.measure == "train":
        return functools.partial(_both, made, x.requires_grad_(), torch.randn_like(x)), told
    if block.measure == "prefill":
        return functools.partial(_forward, made, x), told
    if made.decoder is None:
        raise LackingError("does not decode")
    with torch.no_grad():
        state = made.decoder.read(x)
    told["state_bytes"] = state_bytes(state)
    token = x[:, -1:].clone()
    return Writing(made.decoder.step, token, state, lambda _: token, DECODED), told


def _alone(block: Block) -> Callable[[], None]:
    """The products of our layer's linear maps."""
    x = torch.randn(
        block.batch, block.sizes.length, block.sizes.width, device=block.under.device, dtype=block.under.dtype
    )
    made = layer(CASES[block.case], block.sizes)
    made.module.to(block.under.device, block.under.dtype)
    return projections(products(made, x), x, block.measure == "train")


def _both(made: Layer, x: Tensor, above: Tensor) -> None:
    made.module.zero_grad(set_to_none=True)
    x.grad = None
    made.forward(x).backward(above)


@torch.no_grad()
def _forward(made: Layer, x: Tensor) -> None:
    made.forward(x)


def _rows(
    block: Block,
    others: list[LayerPeer],
    turns: Turns,
    reasons: Mapping[str, str],
    told: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    about = {peer.name: peer.about for peer in others}
    return compared(block.head, turns, reasons, told, about, DECODED if block.measure == "decode" else 1)
