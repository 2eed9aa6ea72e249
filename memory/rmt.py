"""Recurrent Memory Transformer: a few vectors go from segment to segment, in front of each and behind it.

    [h; y; m'] = layers([m; x; m])        m' is what the next segment has for m; y is the answer

Before the first segment m is learned. Bulatov et al., https://arxiv.org/abs/2207.06881. Gradients go back through
`bptt` segments: m is cut from its past where the number of the segment that begins is a multiple of it, so that
segments [0, bptt), [bptt, 2 bptt), ... learn by themselves, in whatever calls they come. (In the published code the
setting for it, k2, cuts nothing.)

State: m of `tokens` vectors, and the layers'. Shapes: B batch, M vectors, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from farfield.architectures.decoder import DecoderConfig
from farfield.architectures.state import State
from farfield.memory.framed import Frame, Place
from farfield.memory.prefix import Prefix, PrefixSettings

__all__ = ["RecurrentMemory", "RecurrentMemoryConfig", "RecurrentMemoryState"]


class RecurrentMemoryConfig(PrefixSettings):
    """Vectors that are read in front of a segment, written behind it, and handed on."""

    source = "arxiv.org/abs/2207.06881"

    kind: Literal["recurrent"] = "recurrent"
    name: str = Field("rmt", description="what tables call it")
    bptt: int | None = Field(None, ge=1, description="segments that gradients go back through; null: all")

    @property
    def frame(self) -> Frame:
        return Frame(0, self.tokens, self.tokens, self.tokens)

    def prefix(self, width: int) -> RecurrentMemory:
        return RecurrentMemory(self, width)

    def parameters(self, architecture: DecoderConfig) -> int:
        return self.tokens * architecture.width

    def own_bytes(self, width: int, tokens: int, element: int) -> int:
        return self.tokens * width * element


@dataclass(frozen=True, eq=False)
class RecurrentMemoryState(State):
    """What the open segment reads, and after its end what it left: (B, M, D)."""

    memory: Tensor


class RecurrentMemory(Prefix):
    """See the file's head."""

    def __init__(self, config: RecurrentMemoryConfig, width: int) -> None:
        super().__init__()
        self.bptt = config.bptt
        self.initial = nn.Parameter(torch.empty(config.tokens, width))
        nn.init.normal_(self.initial, std=width**-0.5)  # as embeddings

    def start(self, batch: int) -> RecurrentMemoryState:
        return RecurrentMemoryState(self.initial.new_zeros(batch, *self.initial.shape))

    def opened(self, state: RecurrentMemoryState, place: Place) -> RecurrentMemoryState:
        memory = state.memory
        if self.bptt is not None:
            memory = place.each(self.bptt).choose(memory.detach(), memory)
        return RecurrentMemoryState(place.begins.choose(self.initial[None], memory))

    def before(self, state: RecurrentMemoryState, place: Place, count: int) -> Tensor:
        return state.memory

    def behind(self, state: RecurrentMemoryState) -> Tensor:
        return state.memory

    def closed(self, state: RecurrentMemoryState, tokens: Tensor, behind: Tensor, place: Place) -> RecurrentMemoryState:
        if not place.ends.any:
            return state
        return RecurrentMemoryState(place.ends.choose(behind.to(state.memory.dtype), state.memory))
