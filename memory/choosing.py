"""The keeper of tokens that a policy chooses: sinks and the newest, heavy hitters, SnapKV's, those of small keys.

Every slot is read, but where the near field holds it. Policies by attention hear what each token has received: the
probabilities of bank, window and open segment follow from the log-sum-exp that all of them have in common.

Shapes: B batch, T time of a step, H heads, G heads of keys and values, P heads of positions (1 or G), N slots,
S tokens of a segment, W width of a head.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from farfield.architectures.columns import columns
from farfield.architectures.keyed import KeyedMixer
from farfield.architectures.mixer import Heads, KeyValue
from farfield.architectures.ops.attention import Part
from farfield.architectures.ops.layouts import Full, Given
from farfield.architectures.rows import Rows
from farfield.memory.bank import Slots
from farfield.memory.placed import Seen, by_heads, fading, in_cache, near_slots, turned, turned_queries
from farfield.memory.policies import attention_received, kept, pooled, protected, smallness
from farfield.memory.slots import Open

if TYPE_CHECKING:
    from farfield.memory.key_value import KeyValueMemoryConfig

__all__ = ["Choosing"]


class Choosing:
    """See the file's head."""

    def __init__(self, mixer: KeyedMixer, config: KeyValueMemoryConfig, heads: int) -> None:
        self.mixer, self.config, self.heads = mixer, config, heads
        self.hears = config.keep in ("heavy", "snap")

    def start(self, batch: int, like: Tensor) -> Slots:
        heads = self.mixer.kv_heads
        keys = like.new_zeros(batch, heads, 0, self.mixer.head_width)
        several = 1 if self.config.keep == "sinks" else heads
        position = torch.full((batch, several, 0), -1, dtype=torch.int64, device=like.device)
        fill = torch.zeros(batch, dtype=torch.int64, device=like.device)
        if not self.hears:
            return Slots(keys, keys.clone(), position, fill)
        length = 0 if self.config.when == "call" else self.config.segment
        heard = torch.zeros(
            batch, heads, length, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device
        )
        return Slots(keys, keys.clone(), position, fill, heard[:, :, :0].clone(), None, heard)

    def emptied(self, bank: Slots, rows: Tensor) -> Slots:
        return bank.emptied(rows)

    def read(self, heads: Heads, open_: Open, bank: Slots) -> tuple[KeyValue | None, Slots]:
        bank = self._used(bank, open_)
        if not bank.keys.shape[2]:
            return None, bank
        bank = self._turned(bank, open_)
        seen = self._seen(heads.queries, open_.rows, open_, bank)
        visible = self._visible(open_.rows, bank)
        layout = Full(seen.alibi) if visible is None else Given(visible, seen.alibi)
        return KeyValue(Part(seen.queries, seen.keys, bank.values, layout)), bank

    def _used(self, bank: Slots, open_: Open) -> Slots:
        """Without columns that no row uses, where that is known of positions alone."""
        begin = open_.rows.begin
        if begin is None:
            return bank
        written = begin if self.config.when == "call" else begin // self.config.segment * self.config.segment
        return bank.first(min(bank.keys.shape[2], self.config.capacity, written))

    def _turned(self, bank: Slots, open_: Open) -> Slots:
        """With the keys turned by the rule of positions, which serve the other steps of the segment too."""
        if self.config.position == "none" or bank.turned is not None:
            return bank
        return replace(bank, turned=turned(self.mixer, bank.keys, self._places(bank, open_), open_.rows, open_.start))

    def _places(self, bank: Slots, open_: Open) -> Tensor:
        """Where the slots (B, P, N) are said to stand."""
        if self.config.position == "index":
            return in_cache(bank.position, open_.start - (self.mixer.reach or 0))
        return bank.position

    def _seen(self, queries: Tensor, rows: Rows, open_: Open, bank: Slots) -> Seen:
        """Queries (B, H, T, W) at `rows` and the slots, turned by the rule of positions."""
        if bank.turned is None:
            return Seen(queries, bank.keys)
        alibi = None
        if self.mixer.slopes is not None:
            alibi = fading(self.mixer, queries, self._places(bank, open_), rows)
        return Seen(turned_queries(self.mixer, queries, rows, open_.start), bank.turned, alibi)

    def _visible(self, rows: Rows, bank: Slots) -> Tensor | None:
        """Which slots are there and not in the near field: (B, 1 or H, T, N); None where that is all of them."""
        if self.mixer.reach is None and rows.begin is not None:
            return None
        there = by_heads(bank.position >= 0, self.heads)[:, :, None].expand(-1, -1, rows.time, -1)
        if self.mixer.reach is None:
            return there
        near, first = near_slots(self.mixer, rows.positions, bank.position, self.heads)
        return there & ~torch.nn.functional.pad(near, (first, 0))

    @torch.no_grad()
    def heard(self, heads: Heads, open_: Open, bank: Slots, lse: Tensor) -> Slots:
        """With what the step's queries attend to added up: to slots in `score`, to the open segment in `waiting`."""
        if bank.score is None or bank.waiting is None:
            return bank
        first, counted = self._counted(open_.rows)
        if first == open_.rows.time:
            return self._waits(bank, open_)
        queries, lse = heads.queries[:, :, first:], lse[:, :, first:].to(bank.waiting.dtype)
        rows = open_.rows.part(first, open_.rows.time) if first else open_.rows
        score = bank.score
        if bank.keys.shape[2]:
            score = score + self._on_slots(queries, rows, open_, bank, counted, lse)
        position, on_open = self._on_open(queries, rows, open_, heads.keys, counted, lse)
        bank = replace(self._waits(bank, open_), score=score)
        assert bank.waiting is not None
        place = position if self.config.when == "segment" else torch.arange(position.shape[1], device=position.device)
        index = place.remainder(max(bank.waiting.shape[2], 1)).expand(position.shape)
        return replace(bank, waiting=bank.waiting.scatter_add(2, index[:, None].expand_as(on_open), on_open))

    def _waits(self, bank: Slots, open_: Open) -> Slots:
        """Where a call is a segment, with room for what its tokens hear."""
        if self.config.when == "segment" or bank.waiting is None:
            return bank
        return replace(bank, waiting=bank.waiting.new_zeros(*bank.waiting.shape[:2], open_.rows.time))

    def _counted(self, rows: Rows) -> tuple[int, Tensor]:
        """Which queries are listened to: none before a column, and (B, T') bool of those from it on."""
        counted = rows.real & (rows.positions >= self.mixer.apart)
        first, begin = 0, rows.begin
        if self.config.keep == "snap":
            observe, segment = self.config.observe, self.config.segment
            if self.config.when == "call":
                counted &= rows.positions > (rows.last_position - observe)[:, None]
                first = 0 if begin is None else max(0, rows.time - observe)
            else:
                counted &= rows.positions % segment >= segment - observe
                first = 0 if begin is None else min(max(0, segment - observe - begin % segment), rows.time)
        return first, counted[:, first:]

    def _on_slots(self, queries: Tensor, rows: Rows, open_: Open, bank: Slots, counted: Tensor, lse: Tensor) -> Tensor:
        """What slots get, by the bank's rule of positions or, in the window, by the mixer's: (B, G, N)."""
        seen, visible = self._seen(queries, rows, open_, bank), self._visible(rows, bank)
        listening = counted[:, None, :, None]
        if visible is None:
            visible = listening.expand(-1, -1, -1, bank.keys.shape[2])
        total = attention_received(seen.queries, seen.keys, lse, visible & listening, self.mixer.scale, seen.alibi)
        if self.mixer.reach is None:
            return total
        near, first = near_slots(self.mixer, rows.positions, bank.position, self.heads)
        if not near.shape[3]:
            return total
        keys, place = bank.keys[:, :, first:], bank.position[:, :, first:]
        near = near & by_heads(place >= 0, self.heads)[:, :, None] & listening
        standing = self._standing(queries, keys, place, rows, open_)
        got = attention_received(standing.queries, standing.keys, lse, near, self.mixer.scale, standing.alibi)
        return total + torch.nn.functional.pad(got, (first, 0))

    def _standing(self, queries: Tensor, keys: Tensor, position: Tensor, rows: Rows, open_: Open) -> Seen:
        """Queries at `rows` and keys at `position` (B, P, N) as the near field sees them."""
        queries = turned_queries(self.mixer, queries, rows, open_.start)
        keys = turned(self.mixer, keys, position, rows, open_.start)
        return Seen(queries, keys, fading(self.mixer, queries, position, rows))

    def _on_open(
        self, queries: Tensor, rows: Rows, open_: Open, keys: Tensor, counted: Tensor, lse: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Positions (B, n + T) of the open segment's tokens, the step's among them, and what they get (B, G, n + T)."""
        position, document = columns(open_.rows, open_.keys.shape[2], open_.valid)
        position = torch.where(document >= 0, position, -1)
        keys = torch.cat((open_.keys, keys), 2)
        seen = self._standing(queries, keys, position[:, None], rows, open_)
        visible = self.mixer.near(rows.positions, position) & counted[:, None, :, None]
        got = attention_received(seen.queries, seen.keys, lse, visible, self.mixer.scale, seen.alibi)
        return position.clamp(min=0), got

    @torch.no_grad()
    def _chosen(self, score: Tensor, capacity: int) -> Tensor:
        """The candidates (B, P, n) that stay, ascending: the best of scores (B, P, N), -inf for none."""
        return kept(score, capacity)

    def written(self, bank: Slots, keys: Tensor, values: Tensor, position: Tensor) -> Slots:
        """The best of slots and segment, in the order of their positions."""
        ended = (position >= 0).any(1)
        place = torch.cat((bank.position, position[:, None].expand(-1, bank.position.shape[1], -1)), 2)
        keys, values = torch.cat((bank.keys, keys), 2), torch.cat((bank.values, values), 2)
        waiting, score = bank.waiting, bank.score
        if waiting is not None and score is not None:
            score = torch.cat((score, waiting.masked_fill((position < 0)[:, None], 0.0)), 2)
            waiting = waiting.masked_fill(ended[:, None, None], 0.0)
            waiting = waiting[:, :, :0].clone() if self.config.when == "call" else waiting
        fill = (bank.fill + (position >= 0).sum(1)).clamp(max=self.config.capacity)
        room = min(self.config.capacity, place.shape[2])
        if room < place.shape[2] or not bool((place >= 0).all()):
            index = self._chosen(self._ranking(keys, place, score), room)
            index = index[:, :, : int(fill.max())]
            each = index.expand(-1, keys.shape[1], -1)
            wide = each[..., None].expand(-1, -1, -1, keys.shape[3])
            keys, values, place = keys.gather(2, wide), values.gather(2, wide), place.gather(2, index)
            score = None if score is None else score.gather(2, each)
        if self.config.keep == "snap" and score is not None:  # each segment is asked anew what it attends to
            score = score.masked_fill(ended[:, None, None], 0.0)
        return Slots(keys, values, place, fill, score, None, waiting)

    def _ranking(self, keys: Tensor, place: Tensor, score: Tensor | None) -> Tensor:
        """Scores (B, P, N) of candidates, of the protected above all others, of none below."""
        config, valid = self.config, place >= 0
        if score is None:
            ranks = place.double() if config.keep == "sinks" else smallness(keys.detach())
        else:
            ranks = pooled(score, valid, config.pool if config.keep == "snap" else 1)
        safe = protected(place, place.amax((1, 2)) + 1, config.initial, config.recent)
        return ranks.masked_fill(safe, float("inf")).masked_fill(~valid, -float("inf"))
