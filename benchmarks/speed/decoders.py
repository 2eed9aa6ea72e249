"""Whole decoders, by architecture, and those of other libraries: tokens per second, state and peak memory by length.

    train      a loss and its gradients over one text of that length
    prefill    reading a prompt of that length
    decode     writing one token after so many others

`ratio`: tokens a second over those of the first architecture of the list. Peers are Llama's shape, of our width, depth
and ids: what the architecture `attention` is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from farfield.api import build, check_decoder
from farfield.architectures.feedforward import inner_width
from farfield.benchmarks.peers import Decoder, Peer
from farfield.benchmarks.peers.models import MODELS, Model, Shape
from farfield.benchmarks.speed.held import state_bytes
from farfield.benchmarks.speed.layers import DECODED
from farfield.benchmarks.speed.rows import OURS, described
from farfield.benchmarks.speed.turns import FAILURES, Conditions, LackingError, Measured, Turns, in_turn, said
from farfield.benchmarks.speed.writing import Writing, likeliest
from farfield.generation import TextModel
from farfield.settings import SpeedSettings
from farfield.tokenizers import BytesTokenizer

__all__ = ["Block", "blocks", "measure", "unmeasured"]

PIECE = 2048  # tokens that are prefilled in one call
RATIO = 2.67  # inner width over width of SwiGLU: see its settings
PEERS = "peers"  # the architecture of rows of other libraries
BYTES = BytesTokenizer().vocabulary  # ids of a model that is built without a tokenizer


@dataclass(frozen=True)
class Block:
    """What is measured in turn: the architectures at one measure and one length."""

    architectures: tuple[str, ...]
    overrides: tuple[str, ...]
    measure: str
    shape: Shape
    batch: int
    under: Conditions

    @property
    def length(self) -> int:
        return self.shape.length

    @property
    def peers(self) -> tuple[Peer[Shape, Model], ...]:
        return tuple(MODELS) if self.under.with_peers else ()

    @property
    def head(self) -> dict[str, Any]:
        """What its rows have in common."""
        return described("decoder", self.under.threads, measure=self.measure, length=self.length)


def blocks(settings: SpeedSettings, device: str, threads: int | None) -> list[Block]:
    """All architectures in turn, at every length and measure.

    Raises:
        ConfigError: one of them is unknown or does not fit the sizes. ModelError: it reads both ways.
    """
    overrides = (f"width={settings.width}", f"depth={settings.depth}")
    for name in settings.architectures:
        check_decoder(name, overrides)
    inner = inner_width(settings.width, RATIO)
    shape = Shape(settings.depth, settings.width, inner, settings.heads, BYTES, 0)
    rest = settings.batch, Conditions.of(settings, device, threads)
    return [
        Block(settings.architectures, overrides, measure, shape._replace(length=length), *rest)
        for measure in settings.measures
        for length in settings.lengths
    ]


def measure(block: Block) -> list[dict[str, Any]]:
    """One row for each architecture, and one for each peer; what cannot do it has its reason."""
    block.under.begin()
    works: dict[str, Callable[[], object]] = {}
    reasons, told = {}, {}
    for name in block.architectures:
        model = build(name, block.overrides, seed=block.under.seed).to(block.under.device, block.under.dtype)
        works[name], told[name] = _work(model, block)
    for peer in block.peers:
        if (reason := peer.missing()) is not None:
            reasons[peer.name] = reason
            continue
        try:
            works[peer.name], told[peer.name] = _peer(peer, block)
        except FAILURES as failure:
            reasons[peer.name] = said(failure)
    turns = in_turn(works, block.under.repeats, block.under.threads)
    return [{**row, **told.get(name, {})} for name, row in _rows(block, turns, reasons).items()]


def unmeasured(block: Block, reason: str) -> list[dict[str, Any]]:
    """The rows of a block that could not be measured."""
    names = (*block.architectures, *(peer.name for peer in block.peers))
    return list(_rows(block, Turns({}), dict.fromkeys(names, reason)).values())


def _rows(block: Block, turns: Turns, reasons: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """By name: an architecture's of ours, or a peer's."""
    tokens = block.batch * (DECODED if block.measure == "decode" else block.length)
    first = turns.measured.get(block.architectures[0])
    about = {peer.name: peer.about for peer in block.peers}
    rows: dict[str, dict[str, Any]] = {}
    for name in (*block.architectures, *about):
        found = turns.measured.get(name, reasons.get(name))
        who = {"architecture": PEERS, "who": name, **about[name]} if name in about else {"architecture": name}
        row = {**block.head, "who": OURS, **who, "yardstick": turns.yardstick}
        if isinstance(found, Measured):
            row |= {"seconds": found.seconds, "tokens_per_second": tokens / found.seconds}
            row |= {"peak_bytes": found.peak_bytes}
            row["ratio"] = first.seconds / found.seconds if isinstance(first, Measured) else None
        else:
            row["reason"] = found
        rows[name] = row
    return rows


def _tokens(block: Block) -> torch.Tensor:
    generator = torch.Generator().manual_seed(block.under.seed)
    shape = (block.batch, block.length + 1)
    return torch.randint(0, block.shape.vocabulary, shape, generator=generator).to(block.under.device)


def _work(model: TextModel, block: Block) -> tuple[Callable[[], object], dict[str, Any]]:
    """What is timed of ours, as a call without arguments, and what is told of it."""
    tokens, told = _tokens(block), {"parameters": model.config.parameters()}
    if block.measure == "train":
        return functools.partial(_train, model, tokens), told
    state = _prefill(model, tokens[:, :-1])
    told["state_bytes"] = state_bytes(state)
    if block.measure == "prefill":
        return functools.partial(_prefill, model, tokens[:, :-1]), told
    return Writing(model, tokens[:, -1:], state, likeliest, DECODED), told


def _peer(peer: Peer[Shape, Model], block: Block) -> tuple[Callable[[], object], dict[str, Any]]:
    """What is timed of a peer, and what is told of it."""
    torch.manual_seed(block.under.seed)
    made, tokens = peer.build(block.shape), _tokens(block)
    made.module.to(block.under.device, block.under.dtype)
    told: dict[str, Any] = {"parameters": sum(weight.numel() for weight in made.module.parameters())}
    if block.measure == "train":
        made.module.train()
        return functools.partial(_learn, made, tokens), told
    made.module.eval()
    decoder = made.decoder
    if decoder is None:
        raise LackingError("is measured in training alone")
    with torch.no_grad():
        state = decoder.read(tokens[:, :-1])
    told["state_bytes"] = state_bytes(state)
    if block.measure == "prefill":
        return functools.partial(_read, decoder, tokens[:, :-1]), told
    return Writing(decoder.step, tokens[:, -1:], state, likeliest, DECODED), told


def _train(model: TextModel, tokens: torch.Tensor) -> None:
    model.zero_grad(set_to_none=True)
    model.loss(tokens[:, :-1], tokens[:, 1:]).total.backward()


@torch.no_grad()
def _prefill(model: TextModel, tokens: torch.Tensor) -> Any:
    state = model.start(tokens.shape[0])
    for piece in tokens.split(PIECE, 1):
        _, state = model.hidden(piece, state)
    return state


def _learn(made: Model, tokens: torch.Tensor) -> None:
    made.module.zero_grad(set_to_none=True)
    made.loss(tokens[:, :-1], tokens[:, 1:]).backward()


@torch.no_grad()
def _read(decoder: Decoder, tokens: torch.Tensor) -> None:
    decoder.read(tokens)
