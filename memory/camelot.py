"""The keeper of merged slots: CAMELoT (https://arxiv.org/abs/2402.13449), made causal within a segment.

    mu(i)     the slot that the key of token i of the segment is most alike
    o_t       softmax attention of q_t over [K_mu(1) .. K_mu(t) ; K of the near field], V alike

A slot that several tokens have found stands there as often, as in the published formula: what many tokens ask for
counts more. As published, a query sees what all tokens of its window have found, those behind it too: `ahead: true`.

Shapes: B batch, T time of a step, H heads, G heads of keys and values, N slots, S tokens of a segment, W width of a
head.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from farfield.architectures.keyed import KeyedMixer
from farfield.architectures.mixer import Heads, KeyValue
from farfield.architectures.ops.attention import Part
from farfield.architectures.ops.layouts import Causal, Full, Labelled, Layout
from farfield.architectures.rows import Rows
from farfield.memory.bank import Slots
from farfield.memory.merging import consolidated, found, slot_of
from farfield.memory.placed import Seen, fading, turned, turned_queries
from farfield.memory.slots import Open

if TYPE_CHECKING:
    from farfield.memory.key_value import KeyValueMemoryConfig

__all__ = ["Merging"]

NOTHING = -1  # what a token has found where there were no slots, or before it came


class Merging:
    """See the file's head."""

    def __init__(self, mixer: KeyedMixer, config: KeyValueMemoryConfig) -> None:
        self.mixer, self.config = mixer, config

    def start(self, batch: int, like: Tensor) -> Slots:
        heads = self.mixer.kv_heads
        keys = like.new_zeros(batch, heads, 0, self.mixer.head_width)
        nothing = torch.full((batch, heads, self.config.segment), NOTHING, dtype=torch.int64, device=like.device)
        newest, fill = nothing[:, :, :0].clone(), torch.zeros(batch, dtype=torch.int64, device=like.device)
        return Slots(keys, keys.clone(), newest, fill, None, newest.clone(), nothing)

    def emptied(self, bank: Slots, rows: Tensor) -> Slots:
        return bank.emptied(rows, NOTHING)

    @torch.no_grad()
    def _found(self, keys: Tensor, bank: Slots) -> Tensor:
        """What tokens of keys (B, G, T, W) find in the bank, as `merging.found` tells it."""
        assert bank.count is not None
        return found(keys, bank.keys, bank.count, self.config.threshold)

    def read(self, heads: Heads, open_: Open, bank: Slots) -> tuple[KeyValue | None, Slots]:
        """What the segment's tokens have found so far; the bank notes what the step's tokens find."""
        rows, segment = open_.rows, self.config.segment
        if not bank.keys.shape[2] or not rows.once(("reaches", segment), lambda: _reaches(rows, segment)):
            return None, bank
        assert bank.waiting is not None
        match = self._found(heads.keys.detach(), bank)
        column = torch.where(rows.real, rows.positions % segment, segment)[:, None].expand_as(match)
        waiting = pad(bank.waiting, (0, 1)).scatter(2, column, match)[..., :-1]
        bank = replace(bank, waiting=waiting)
        come = segment if rows.begin is None else rows.begin % segment + rows.time
        index = slot_of(waiting[:, :, :come])
        wide = index[..., None].expand(-1, -1, -1, bank.keys.shape[3])
        keys, values = bank.keys.gather(2, wide), bank.values.gather(2, wide)
        seen = Seen(heads.queries, keys)
        if self.config.position == "original":
            queries = turned_queries(self.mixer, heads.queries, rows, open_.start)
            place = bank.position.gather(2, index)
            keys = turned(self.mixer, keys, place, rows, open_.start)
            seen = Seen(queries, keys, fading(self.mixer, queries, place, rows))
        layout = self._layout(rows, open_.start, come, seen)
        return KeyValue(Part(seen.queries, seen.keys, values, layout)), bank

    def _layout(self, rows: Rows, start: Tensor, come: int, seen: Seen) -> Layout:
        """A query sees what the tokens of its segment up to its own have found; ahead: what all that have come have."""
        if rows.begin is not None and (self.config.ahead or rows.time == 1):
            return Full(seen.alibi)
        if rows.begin is not None and rows.time == come:
            return Causal(seen.alibi)
        position = start + torch.arange(come, device=start.device)
        there = torch.where(start >= self.config.segment, 0, -1) + torch.zeros_like(position)
        there = torch.where(position <= rows.last_position[:, None], there, -1)
        own = torch.where(rows.real, 0, -2)
        asked = rows.positions if not self.config.ahead else rows.last_position[:, None].expand_as(rows.positions)
        return Labelled(asked, own, position, there, seen.alibi)

    def heard(self, heads: Heads, open_: Open, bank: Slots, lse: Tensor) -> Slots:
        """Attention decides nothing here."""
        return bank

    def written(self, bank: Slots, keys: Tensor, values: Tensor, position: Tensor) -> Slots:
        """A segment consolidated, or in the place of the oldest slots."""
        assert bank.waiting is not None
        assert bank.count is not None
        tokens, ended = (position >= 0).sum(1), (position >= 0).any(1)
        fill = (bank.fill + tokens).clamp(max=self.config.capacity)
        width = int(fill.max())  # slots come into use from the first on, and no row uses more than it has had tokens
        more = max(0, width - bank.keys.shape[2])
        roomy = (
            pad(bank.keys, (0, 0, 0, more)),
            pad(bank.values, (0, 0, 0, more)),
            pad(bank.position, (0, more), value=-1),
            pad(bank.count, (0, more)),
        )
        slots = consolidated(roomy, keys, values, position, bank.waiting)
        waiting = bank.waiting.masked_fill(ended[:, None, None], NOTHING)
        return Slots(slots[0], slots[1], slots[2], fill, None, slots[3], waiting).first(width)


def _reaches(rows: Rows, segment: int) -> bool:
    """Whether any token stands behind a complete segment."""
    return bool((rows.positions >= segment).any())
