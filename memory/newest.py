"""The bank of the newest tokens: what a key-value memory keeps where nothing but age decides.

One buffer is bank and open segment. Which tokens have been written follows from positions, so appending is the only
write, and any split of a document into calls reads the same. See `key_value` for what the settings mean.

Shapes: B batch, T time, D width, H heads, G heads of keys and values, S slots, W width of a head, N keys read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import repeat
from torch import Tensor, nn

from farfield.architectures.attention import columns
from farfield.architectures.mixer import Heads, KeyedMixer, KeyValue, in_steps
from farfield.architectures.ops.alibi import Alibi, alike
from farfield.architectures.ops.attention import Part
from farfield.architectures.ops.layouts import Selected
from farfield.architectures.rows import Rows
from farfield.architectures.state import KeyValueBuffer, State
from farfield.memory.settings import Wrapped

if TYPE_CHECKING:
    from farfield.memory.key_value import KeyValueMemoryConfig

__all__ = ["MemoryState", "WithMemory"]


@dataclass(frozen=True, eq=False)
class MemoryState(State):
    """The mixer's state, and the newest tokens' keys and values before rotation: bank and open segment in one."""

    mixer: State
    bank: KeyValueBuffer


class WithMemory(Wrapped):
    """A softmax mixer with a key-value memory around it."""

    mixer: KeyedMixer

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
