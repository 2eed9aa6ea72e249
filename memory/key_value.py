"""An external key-value memory around any softmax mixer: one object, whose settings are published systems.

    segment          0         1         2         3
    tokens       |.........|.........|.........|....n
    bank at n     [   capacity   ...............]        complete segments, oldest forgotten first
    near field                            [.........n    window of the mixer, or the open segment

A token is written when its segment is complete. A query reads the `top` keys of the bank that match it best, each head
by itself, and never one that its near field holds: nothing counts twice. Segments are cut at multiples of `segment` in
the document, wherever calls end, so any split of a document into calls reads the same. A mixer without a window keeps
the open segment as its near field; one with a window needs `segment` <= window + 1, so that nothing is lost in between.

memory=knn is Memorizing Transformers (https://arxiv.org/abs/2203.08913): unit one token, first in first out.

State: (capacity + segment) 2 G W numbers, whatever the length. Work a token: 2 H W (capacity + segment) to search,
4 H W top to read.
Shapes: B batch, T time, D width, H heads, G heads of keys and values, S slots, W width of a head, N keys read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from einops import repeat
from pydantic import Field
from torch import Tensor, nn

from farfield.architectures.attention import columns
from farfield.architectures.mixer import Heads, KeyedMixer, KeyValue, Mixer, in_steps
from farfield.architectures.ops.alibi import Alibi, alike
from farfield.architectures.ops.attention import Part
from farfield.architectures.ops.layouts import Selected
from farfield.architectures.rows import Rows
from farfield.architectures.state import KeyValueBuffer, State
from farfield.config import Config

__all__ = ["KeyValueMemoryConfig", "MemoryState", "WithMemory"]


class KeyValueMemoryConfig(Config):
    """Settings of the key-value memory. In every form it is causal, exact under splits, and keeps rows apart."""

    kind: Literal["key_value"] = "key_value"
    name: str = Field("knn", description="what tables call it")
    capacity: int = Field(8192, ge=1, description="tokens that are kept a layer; the oldest is forgotten first")
    segment: int = Field(32, ge=1, description="tokens in a segment; a segment is written when it is complete")
    top: int = Field(32, ge=1, description="keys that a token reads, a head at a time")
    position: Literal["none", "original"] = Field(
        "none", description="none: keys and queries without positions; original: those of where they stood"
    )
    combine: Literal["joint", "gate"] = Field(
        "joint",
        description="joint: one softmax with the near field; gate: a softmax of its own, blended a head at a time",
    )
    layers: Literal["all"] | tuple[int, ...] = Field(
        "all", description="layers with a memory; negative counts from the top"
    )
    gradient: bool = Field(False, description="whether gradients reach the keys and values that are read")

    @property
    def causal(self) -> bool:
        """The future does not change the past."""
        return True

    @property
    def split_exact(self) -> bool:
        """Any split into calls gives the same answer."""
        return True

    @property
    def row_independent(self) -> bool:
        """Rows of a batch do not see one another."""
        return True

    @property
    def slots(self) -> int:
        """Tokens that the state holds: the bank and the open segment."""
        return self.capacity + self.segment

    def places(self, depth: int) -> list[int]:
        """Layers with a memory.

        Raises:
            ValueError: a layer that does not exist, or none at all.
        """
        if self.layers == "all":
            return list(range(depth))
        if not self.layers:
            raise ValueError("layers: none given. Name layers, or write 'all'.")
        for layer in self.layers:
            if not -depth <= layer < depth:
                raise ValueError(f"layers: {layer} given, but the model has layers 0 to {depth - 1}.")
        return sorted({layer % depth for layer in self.layers})

    def check(self, reach: int | None) -> None:
        """Raise ValueError where tokens would be lost between a near field of `reach` tokens and the bank."""
        if reach is not None and self.segment > reach + 1:
            raise ValueError(
                f"segment: {self.segment} is longer than the window of {reach} tokens allows; tokens would be lost "
                f"between window and memory. At most {reach + 1}."
            )

    def state_bytes(self, kv_heads: int, head_width: int, tokens: int, element: int = 4) -> int:
        """Bytes of one row's bank and open segment after `tokens` tokens."""
        return min(tokens, self.slots) * 2 * kv_heads * head_width * element + 8

    def flops(self, heads: int, head_width: int, tokens: int) -> int:
        """Multiply-adds times two of one token's search and reading."""
        kept = min(tokens, self.slots)
        return 2 * heads * head_width * (kept + 2 * min(self.top, kept))


@dataclass(frozen=True, eq=False)
class MemoryState(State):
    """The mixer's state, and the newest tokens' keys and values before rotation: bank and open segment in one."""

    mixer: State
    bank: KeyValueBuffer


class WithMemory(Mixer):
    """A softmax mixer with a key-value memory around it."""

    def __init__(self, mixer: KeyedMixer, config: KeyValueMemoryConfig, heads: int) -> None:
        super().__init__()
        self.mixer, self.config = mixer, config
        self.gate = nn.Parameter(torch.zeros(heads)) if config.combine == "gate" else None

    def start(self, batch: int) -> MemoryState:
        mixer = self.mixer
        like = next(mixer.parameters())
        bank = KeyValueBuffer.empty(batch, mixer.kv_heads, mixer.head_width, like, self.config.slots)
        return MemoryState(mixer.start(batch), bank)

    def forward(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        return in_steps(self._step, x, rows, state, self.mixer.span)

    def _step(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, MemoryState)
        heads, inner = self.mixer.project(x, rows, state.mixer)
        keys, values = (heads.keys, heads.values)
        if not self.config.gradient:
            keys, values = keys.detach(), values.detach()
        bank = state.bank.cast(keys.dtype)
        read = self.read(heads, keys, values, rows, bank)
        near = rows.segmented(self.config.segment) if self.mixer.reach is None else rows
        found, inner = self.mixer.attend(heads, near, inner, () if read is None else (read,))
        return self.mixer.finish(found.out, x, rows), MemoryState(inner, bank.append(keys, values, rows))

    def read(self, heads: Heads, keys: Tensor, values: Tensor, rows: Rows, bank: KeyValueBuffer) -> KeyValue | None:
        """What the call's queries read, of the bank and of the call's own complete segments; None if nothing can be.

        Args:
            heads: the call's queries (B, H, T, W). keys, values: the call's own (B, G, T, W).
        """
        if not self._reaches(rows):
            return None
        past_keys, past_values, valid = bank.read()
        past = past_keys.shape[2]
        position, document = columns(rows, past, valid)
        if rows.time == 1:  # a token never reads itself, so the bank needs no copy
            keys, values, position, document = past_keys, past_values, position[:, :past], document[:, :past]
        else:
            keys, values = torch.cat((past_keys, keys), 2), torch.cat((past_values, values), 2)
        if not keys.shape[2]:
            return None
        queries, alibi = heads.queries, None
        if self.config.position == "original":
            own, behind = self._powers(rows, position, document)
            queries, keys = self.mixer.rotate(queries, rows.positions, own), self.mixer.rotate(keys, position, behind)
            slopes = alike(self.mixer.slopes, queries)
            alibi = None if slopes is None else Alibi(slopes, rows.positions, position)
        index, found = self._select(queries.detach(), keys.detach(), rows, position, document, past, alibi)
        return KeyValue(Part(queries, keys, values, Selected(index, found, alibi)), self.gate)

    @staticmethod
    def _powers(rows: Rows, position: Tensor, document: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens from a reference to each query (B, T), and from each key to it (B, S); 0 for what nobody sees.

        The reference is the first position that the call has of the document.
        """
        own, key = (torch.where(owner == 0, rows.following, 0) for owner in (rows.document, document))
        return torch.where(rows.real, rows.positions - own, 0), torch.where(document >= 0, key - position, 0)

    def _reaches(self, rows: Rows) -> bool:
        """Whether any token stands behind a complete segment."""
        segment = self.config.segment
        return rows.once(("reaches", segment), lambda: bool((rows.positions >= segment).any()))

    @torch.no_grad()
    def _select(
        self,
        queries: Tensor,
        keys: Tensor,
        rows: Rows,
        position: Tensor,
        document: Tensor,
        past: int,
        alibi: Alibi | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Column and whether it is one, (B, H, T, N) each: the best keys of each query and head, exact."""
        config, count = self.config, min(self.config.top, keys.shape[2])
        keys = repeat(keys, "b g s w -> b (g r) s w", r=queries.shape[1] // keys.shape[1])
        block = max(16, min(256, config.segment))
        indices, found = [], []
        for begin in range(0, rows.time, block):
            end = min(begin + block, rows.time)
            low, high = max(0, past + begin - config.slots), min(past + end, keys.shape[2])
            at, seen = slice(begin, end), slice(low, high)
            visible = self._visible(rows, position[:, seen], document[:, seen], at)
            if high <= low or not bool(visible.any()):
                shape = (*queries.shape[:2], end - begin, count)
                indices.append(torch.zeros(shape, dtype=torch.int64, device=keys.device))
                found.append(torch.zeros(shape, dtype=torch.bool, device=keys.device))
                continue
            scores = queries[:, :, at] @ keys[:, :, seen].transpose(-1, -2)
            if alibi is not None:
                scores = scores * self.mixer.scale + alibi.added(at, seen)
            best = scores.masked_fill(~visible, -math.inf).topk(min(count, high - low), dim=-1)
            missing = (0, count - best.indices.shape[-1])
            indices.append(nn.functional.pad(best.indices + low, missing))
            found.append(nn.functional.pad(~best.values.isneginf(), missing))
        return torch.cat(indices, 2), torch.cat(found, 2)

    def _visible(self, rows: Rows, position: Tensor, document: Tensor, at: slice) -> Tensor:
        """Which columns the bank holds for the queries `at` and their near field does not: (B, 1 or H, block, S)."""
        queries = rows.positions[:, at]
        written = (queries // self.config.segment * self.config.segment)[:, :, None]
        kept = (position[:, None] < written) & (position[:, None] >= written - self.config.capacity)
        same = torch.where(rows.real, rows.document, -2)[:, at, None] == document[:, None]
        visible = (kept & same & (position >= 0)[:, None])[:, None]
        return visible if self.mixer.reach is None else visible & ~self.mixer.near(queries, position)
