"""AutoCompressors: every segment leaves summary vectors, and later segments read those of all before them.

    [h; y; s_n] = layers([s_0; ..; s_(n-1); x; e])        e are learned: the embeddings of the summary tokens

The first segment has nothing in front. The newest `limit` vectors are kept, so that the state is bounded. Gradients go
back through `bptt` compressions: all that is kept is cut from its past where a multiple of so many segments is
complete. Chevalier et al., https://arxiv.org/abs/2305.14788.

Segments of training are of random lengths where `spread` is not 0, so that the model reads any: between segment -
spread and segment + spread tokens, by a table that is a function of a seed, which fresh weights come with, and of the
training steps done. It is the same for all documents of a step, and told by a token's position in its document alone.
Evaluation has segments of `segment` tokens.

State: limit D numbers, and the layers'. Shapes: B batch, M vectors of a segment, S vectors kept, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from farfield.architectures.decoder import DecoderConfig
from farfield.architectures.state import State
from farfield.memory.drawn import Drawn
from farfield.memory.framed import Frame, Place
from farfield.memory.prefix import Prefix, PrefixSettings
from farfield.memory.segments import Lengths

__all__ = ["AutoCompressor", "AutoCompressorConfig", "SummaryState"]

DRAWN = 64  # lengths of a table, which repeats


class AutoCompressorConfig(PrefixSettings):
    """Summary vectors of every segment, read in front of all later ones."""

    source = "arxiv.org/abs/2305.14788"

    kind: Literal["summaries"] = "summaries"
    name: str = Field("autocompressor", description="what tables call it")
    tokens: int = Field(50, ge=1, description="vectors that a segment leaves")
    limit: int = Field(500, ge=1, description="vectors that are kept; the oldest are dropped first")
    bptt: int | None = Field(2, ge=1, description="compressions that gradients go back through; null: all")
    spread: int = Field(0, ge=0, description="training: segments differ from `segment` by up to so many tokens")

    @model_validator(mode="after")
    def _fits(self) -> AutoCompressorConfig:
        if self.limit < self.tokens:
            raise ValueError(
                f".limit: {self.limit} given, but a segment leaves {self.tokens} vectors. At least as many."
            )
        if self.spread >= self.segment:
            raise ValueError(
                f".spread: {self.spread} given, but segments have {self.segment} tokens. At most {self.segment - 1}."
            )
        return self

    @property
    def longest(self) -> int:
        return self.segment + self.spread

    @property
    def frame(self) -> Frame:
        return Frame(self.tokens, 0, self.limit, self.tokens)

    def outdated(self) -> str | None:
        if not self.spread:
            return None
        return f"spread: {self.spread} given, but a carried state is of the lengths it was made with. Use spread=0"

    def prefix(self, width: int) -> AutoCompressor:
        return AutoCompressor(self, width)

    def parameters(self, architecture: DecoderConfig) -> int:
        return self.tokens * architecture.width

    def own_bytes(self, width: int, tokens: int, element: int) -> int:
        return self.limit * width * element


@dataclass(frozen=True, eq=False)
class SummaryState(State):
    """The vectors (B, S, D) kept of the document, the newest last; those that do not exist yet are never read."""

    kept: Tensor


class AutoCompressor(Prefix):
    """See the file's head."""

    def __init__(self, config: AutoCompressorConfig, width: int) -> None:
        super().__init__()
        self.limit, self.tokens, self.bptt = config.limit, config.tokens, config.bptt
        self.summary = nn.Parameter(torch.empty(config.tokens, width))
        nn.init.normal_(self.summary, std=width**-0.5)  # as embeddings
        least, most = config.segment - config.spread, config.segment + config.spread
        self.random = Drawn(DRAWN, least, most) if config.spread else None

    def lengths(self) -> Lengths | None:
        if self.random is None or not self.training:
            return None
        return Lengths(tuple(self.random.values.tolist()))

    def start(self, batch: int) -> SummaryState:
        return SummaryState(self.summary.new_zeros(batch, self.limit, self.summary.shape[1]))

    def opened(self, state: SummaryState, place: Place) -> SummaryState:
        kept = state.kept
        if self.bptt is not None:
            kept = place.each(self.bptt).choose(kept.detach(), kept)
        return SummaryState(place.begins.choose(torch.zeros_like(kept), kept) if place.begins.any else kept)

    def before(self, state: SummaryState, place: Place, count: int) -> Tensor:
        return state.kept[:, self.limit - count :]

    def behind(self, state: SummaryState) -> Tensor:
        return self.summary.expand(state.kept.shape[0], -1, -1)

    def closed(self, state: SummaryState, tokens: Tensor, behind: Tensor, place: Place) -> SummaryState:
        if not place.ends.any:
            return state
        more = torch.cat((state.kept[:, self.tokens :], behind.to(state.kept.dtype)), 1)
        return SummaryState(place.ends.choose(more, state.kept))
