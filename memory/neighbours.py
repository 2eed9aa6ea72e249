"""Neighbours: every chunk of text reads passages that were found for the chunk before it (RETRO).

    E_u = encoder(passages of chunk u; H_u)            H_u: the stream at the chunk's tokens, in the first of the layers
    x_t = x_t + out attention(q norm x_t; [none, E_u]) in some layers, between mixer and feed-forward

Token t reads the passages of the chunk that ended last, its own last token included: see `passages`. The softmax is one
over all tokens of all passages and a learned key that stands for none, so that a chunk for which nothing was found
reads that alone; the first m - 1 tokens of a document read nothing. The output projection begins at zero: a model
begins as what it is without. As in Borgeaud et al., https://arxiv.org/abs/2112.04426, whose positions are relative too;
`freeze` trains nothing else, which they call RETRO-fitting. Passages are embedded as tokens are.

State: the stream at the newest m - 1 tokens of the first of the layers, and of each of them keys and values of the
passages of the last chunk, (m - 1) D + 2 L D (1 + k r) numbers, whatever the length. Work a token: that of the reads,
and an equal share of encoding k r tokens a chunk.
Shapes: B batch, T time, C chunks that end in the call, k passages of a chunk, r tokens of one, m tokens of a chunk, L
layers that read, H heads, W width of a head, S = 1 + k r, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from einops import rearrange, repeat
from pydantic import Field
from torch import Tensor, nn

from farfield.architectures.decoder import DecoderConfig
from farfield.architectures.mixer import head_sizes
from farfield.architectures.ops.uncompiled import uncompiled
from farfield.architectures.rows import Rows
from farfield.architectures.state import State
from farfield.config import Config, ModelError
from farfield.memory.passage_encoder import Attention, PassageEncoder
from farfield.memory.passages import Chunks, Passages, chunks_of

__all__ = ["Neighbours", "NeighboursConfig", "NeighboursState", "Reading"]


class NeighboursConfig(Config):
    """Passages found for each chunk, encoded and read by chunked cross-attention."""

    kind: Literal["neighbours"] = "neighbours"
    chunk: int = Field(64, ge=2, description="tokens of a chunk, for which passages are looked for")
    passages: int = Field(2, ge=1, description="passages of a chunk")
    continuation: int = Field(64, ge=0, description="tokens of a passage behind its chunk that is alike")
    encoder: int = Field(2, ge=1, description="layers of the encoder of passages")
    layers: tuple[int, ...] | None = Field(
        None, description="layers that read; negative counts from the top; null: every third from the middle up"
    )
    heads: int | None = Field(None, ge=1, description="heads of its attention; null: width / head_width")
    head_width: int = Field(32, ge=2, description="width of a head where heads is null")
    freeze: bool = Field(False, description="train this alone, and leave layers, embedding and head as they are")

    @property
    def length(self) -> int:
        """Tokens of a passage."""
        return self.chunk + self.continuation

    def places(self, depth: int) -> tuple[int, ...]:
        """The layers that read.

        Raises:
            ValueError: a layer that does not exist, or none at all.
        """
        if self.layers is None:
            return tuple(range(max(0, depth // 2 - 1), depth, 3))
        if not self.layers:
            raise ValueError("layers: none given. Name layers, or write null.")
        for layer in self.layers:
            if not -depth <= layer < depth:
                raise ValueError(f"layers: {layer} given, but the model has layers 0 to {depth - 1}.")
        return tuple(sorted({layer % depth for layer in self.layers}))

    def check(self, architecture: DecoderConfig) -> None:
        """Raise ValueError, in one line that begins with the name of a setting, where it does not fit the layers."""
        self.places(architecture.depth)
        heads, width = head_sizes(architecture.width, self.heads, self.head_width)
        if width % 2:
            raise ValueError(f"heads: {heads} heads have a width of {width} each, which rotations need to be even.")

    def build(self, architecture: DecoderConfig) -> Neighbours:
        """With fresh weights."""
        return Neighbours(self, architecture.width, architecture.depth)

    def parameters(self, architecture: DecoderConfig) -> int:
        """Number of its weights."""
        width, layers = architecture.width, len(self.places(architecture.depth))
        return PassageEncoder.count(width, self.encoder) + layers * (Attention.count(width) + 3 * width)

    def state_bytes(self, architecture: DecoderConfig, element: int = 4) -> int:
        """Bytes of its state of one row, however long, with `element` bytes a number."""
        width, sources = architecture.width, 1 + self.passages * self.length
        numbers = (self.chunk - 1) * width + 2 * len(self.places(architecture.depth)) * sources * width
        return numbers * element + sources

    def flops(self, architecture: DecoderConfig, tokens: int) -> int:
        """Multiply-adds times two of a token after `tokens` others: its reads, and its share of the encoder's work."""
        width, layers = architecture.width, len(self.places(architecture.depth))
        sources = self.passages * self.length
        encoded = PassageEncoder.flops(width, self.encoder, self.passages, self.length, self.chunk)
        encoded += layers * sources * 4 * width * width
        read = layers * (4 * width * width + 4 * width * (1 + sources)) if tokens >= self.chunk - 1 else 0
        return read + encoded // self.chunk


@dataclass(frozen=True, eq=False)
class NeighboursState(State):
    """`hidden` (B, m - 1, D) of the newest tokens, `read` (B, L, 2, H, S, W) keys and values, `seen` (B, S) bool."""

    hidden: Tensor
    read: Tensor
    seen: Tensor


class CrossAttention(nn.Module):
    """Reads encoded passages, and a key of its own that stands for none."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.attention = Attention(width, heads)
        self.none = nn.Parameter(torch.zeros(2, heads, width // heads))
        nn.init.zeros_(self.attention.out.weight)

    def keys(self, encoded: Tensor | None, like: Tensor, phase: Tensor) -> Tensor:
        """Keys and values (B, C, 2, H, S, W) of encoded passages (B, C, k r, D); of None, zeros of the shape `like`."""
        none = self.none[:, :, None]
        if encoded is None:
            zeros = like.new_zeros(*like.shape[:-2], like.shape[-2] - 1, like.shape[-1])
            return torch.cat((none.expand(*like.shape[:-2], 1, -1).to(like.dtype), zeros), -2)
        found = torch.stack(self.attention.keys(encoded.flatten(0, 1), phase), 1).unflatten(0, encoded.shape[:2])
        return torch.cat((none.expand(*found.shape[:-2], 1, -1).to(found.dtype), found), -2)


class Neighbours(nn.Module):
    """See the file's head."""

    def __init__(self, config: NeighboursConfig, width: int, depth: int) -> None:
        super().__init__()
        self.config = config
        self.heads, self.head_width = head_sizes(width, config.heads, config.head_width)
        self.encoder = PassageEncoder(width, self.heads, config.encoder)
        self.cross = nn.ModuleDict({str(layer): CrossAttention(width, self.heads) for layer in config.places(depth)})

    def start(self, batch: int) -> NeighboursState:
        """The empty state: nothing of it is read before a chunk has ended."""
        like, sources = self.encoder.norm.weight, 1 + self.config.passages * self.config.length
        seen = torch.zeros(batch, sources, dtype=torch.bool, device=like.device)
        seen[:, 0] = True
        hidden = like.new_zeros(batch, self.config.chunk - 1, like.shape[0])
        read = like.new_zeros(batch, len(self.cross), 2, self.heads, sources, self.head_width)
        return NeighboursState(hidden.detach(), read.detach(), seen)

    def reading(self, rows: Rows, passages: Passages | None, embedding: nn.Embedding) -> Reading:
        """What the layers of one call are handed; padding stands at the ends of rows.

        Raises:
            ModelError: passages that do not fit the chunks that end in the call.
        """
        chunks = chunks_of(rows, self.config.chunk)
        if passages is None:
            return Reading(self, chunks, None, embedding)
        config, tokens = self.config, passages.tokens
        passages.check(rows.batch, config.passages, config.length, embedding.num_embeddings)
        most = chunks.slots - 1
        beyond = torch.arange(tokens.shape[1], device=tokens.device) >= chunks.count[:, None]
        if tokens.shape[1] < most or bool((tokens >= 0).flatten(2).any(2)[beyond].any()):
            raise ModelError(
                f"passages: for {tokens.shape[1]} chunks given, and {most} of {config.chunk} tokens end in this call "
                "at most. Give those of each chunk that ends in its row, in order, and -1 behind them."
            )
        return Reading(self, chunks, tokens[:, :most], embedding)


@dataclass(frozen=True, eq=False)
class _Carried:
    """From layer to layer of one call: the state before it, the newest stream, what was encoded, what is kept."""

    state: NeighboursState
    hidden: Tensor | None = None
    encoded: Tensor | None = None
    kept: tuple[Tensor, ...] = ()


class Reading:
    """`Between` of one call."""

    def __init__(self, module: Neighbours, chunks: Chunks, tokens: Tensor | None, embedding: nn.Embedding) -> None:
        """`tokens` (B, C, k, r) of passages; None: no chunk has any."""
        self.module, self.chunks, self.tokens, self.embedding = module, chunks, tokens, embedding
        self.order = list(module.cross)

    def begin(self, state: State) -> _Carried:
        assert isinstance(state, NeighboursState)
        return _Carried(state)

    def at(self, index: int) -> Callable[[Tensor, _Carried], tuple[Tensor, _Carried]] | None:
        if str(index) not in self.module.cross:
            return None
        return lambda x, carried: self._read(index, x, carried)

    @uncompiled  # how many chunks end in a call is decided by numbers
    def end(self, carried: _Carried) -> NeighboursState:
        state, hidden = carried.state, carried.hidden
        assert hidden is not None
        newest = hidden.gather(1, self.chunks.last[..., None].expand(-1, -1, hidden.shape[2]))
        if self.chunks.slots == 1:
            return NeighboursState(newest, state.read, state.seen)
        seen = self._seen(state)
        last = self.chunks.count.view(-1, 1, 1).expand(-1, 1, seen.shape[2])
        return NeighboursState(newest, torch.stack(carried.kept, 1), seen.gather(1, last)[:, 0])

    @uncompiled  # as above
    def _read(self, index: int, x: Tensor, carried: _Carried) -> tuple[Tensor, _Carried]:
        """The stream (B, T, D) with what layer `index` has read."""
        layer, number = self.module.cross[str(index)], self.order.index(str(index))
        assert isinstance(layer, CrossAttention)
        stream, x = x, x.to(layer.norm.weight.dtype)  # the stream may be wider than the weights
        if number == 0:
            carried = self._encoded(x, carried)
        keys = carried.state.read[:, number, None]
        if self.chunks.slots > 1:
            new = layer.keys(carried.encoded, keys.expand(-1, self.chunks.slots - 1, *keys.shape[2:]), self._places(x))
            keys = torch.cat((keys, new), 1)
            chosen = self.chunks.count.view(-1, *([1] * (keys.ndim - 1))).expand(-1, 1, *keys.shape[2:])
            carried = replace(carried, kept=(*carried.kept, keys.gather(1, chosen)[:, 0]))
        if not self.chunks.any:
            return stream, carried
        return stream + self._answer(layer, x, keys, self._seen(carried.state)), carried

    def _answer(self, layer: CrossAttention, x: Tensor, keys: Tensor, seen: Tensor) -> Tensor:
        """(B, T, D) of the stream (B, T, D): the tokens that read a slot together ask its keys; zero where none is."""
        chunks, width = self.chunks, x.shape[2]
        flat = chunks.reader.flatten(1)[..., None].expand(-1, -1, width)
        asked = layer.norm(x).gather(1, flat).unflatten(1, chunks.reader.shape[1:]).flatten(0, 1)
        keys, values = keys[:, chunks.first :].flatten(0, 1).unbind(1)
        seen = seen[:, chunks.first :].flatten(0, 1)
        found = layer.attention(asked, chunks.phase.flatten(0, 1), keys, values, seen)
        found = found.unflatten(0, chunks.reader.shape[:2]).flatten(1, 2)
        found = found.gather(1, chunks.place[..., None].expand(-1, -1, width))
        return torch.where(chunks.reads[..., None], found, torch.zeros((), dtype=found.dtype, device=found.device))

    def _encoded(self, x: Tensor, carried: _Carried) -> _Carried:
        """With the stream before and in the call, and the passages of all chunks that end in it."""
        hidden = torch.cat((carried.state.hidden.to(x.dtype), x), 1)
        carried = replace(carried, hidden=hidden, encoded=None)
        if self.tokens is None or not self.tokens.numel():
            return carried
        window = self.chunks.window
        own = hidden.gather(1, window.flatten(1)[..., None].expand(-1, -1, x.shape[2])).unflatten(1, window.shape[1:])
        given = self.tokens.flatten(0, 1)
        encoded = self.module.encoder(self.embedding(given.clamp(min=0)), given >= 0, own.flatten(0, 1))
        return replace(carried, encoded=rearrange(encoded, "(b c) k r d -> b c (k r) d", c=window.shape[1]))

    def _seen(self, state: NeighboursState) -> Tensor:
        """(B, C + 1, S): which sources a slot has."""
        batch, sources = state.seen.shape
        seen = state.seen.new_zeros(batch, self.chunks.slots, sources)
        seen[..., 0] = True
        seen[:, 0] = state.seen
        if self.tokens is not None:
            seen[:, 1:, 1:] = (self.tokens >= 0).flatten(2)
        return seen

    def _places(self, x: Tensor) -> Tensor:
        """(1, k r): where the tokens of passages stand in them."""
        config = self.module.config
        return repeat(torch.arange(config.length, device=x.device), "r -> 1 (k r)", k=config.passages)
