"""What units of several tokens are found by, and what asks for them.

    mean             the mean of a unit's keys
    representative   the mean of the keys of those of its tokens that its own later tokens attend to most (InfLLM)
    landmark         its last token, through a projection of its own (Landmark Attention)

All are decided when a unit is complete and kept until the bank forgets it, so that a decoded token computes none but
its own. What a token of a unit receives is summed over the softmaxes of the unit's tokens from its own on, each over
the unit's tokens so far, at their positions: nothing looks ahead, and calls may end anywhere.

A query asks for itself, or by the mean of the queries of its stretch of tokens so far; `ahead` takes the rest of the
stretch with it, as far as the call goes, which is InfLLM as published and neither causal nor exact under splits.

Shapes: B batch, T time, D width, H heads, G heads of keys, K heads of units' keys, W width of a head, N units that the
call completes, U tokens of a unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor, nn

from farfield.architectures.columns import located
from farfield.architectures.keyed import KeyedMixer
from farfield.architectures.ops.alibi import alike
from farfield.architectures.rows import Rows
from farfield.architectures.state import KeyValueBuffer, State
from farfield.memory.placing import Placing
from farfield.memory.ties import earliest

if TYPE_CHECKING:
    from farfield.memory.key_value import KeyValueMemoryConfig

__all__ = ["Completed", "UnitKeys", "UnitState", "asked_for", "completed"]


@dataclass(frozen=True, eq=False)
class UnitState(State):
    """Keys of the complete units, and of representatives the queries of the newest U - 1 tokens; both without values.

    `asked` (B, H, W) is the sum of the queries of the open stretch, float32 or wider.
    """

    keys: KeyValueBuffer | None = None
    queries: KeyValueBuffer | None = None
    asked: Tensor | None = None

    def cast(self, dtype: torch.dtype) -> UnitState:
        """The same as numbers of `dtype`."""
        keys, queries = (None if one is None else one.cast(dtype) for one in (self.keys, self.queries))
        return UnitState(keys, queries, self.asked)


@dataclass(frozen=True, eq=False)
class Completed:
    """Of the units that a call completes, (B, N) each: the last token's column, the unit's number, its document.

    Number and document are -1 where a row has fewer.
    """

    column: Tensor
    number: Tensor
    document: Tensor

    def take(self, x: Tensor) -> Tensor:
        """The last tokens (B, N, D) of x (B, T, D)."""
        return x.gather(1, self.column[..., None].expand(-1, -1, x.shape[2]))


def completed(rows: Rows, unit: int) -> Completed:
    """The units of `unit` tokens that the call completes."""

    def make() -> Completed:
        if rows.begin is not None:
            first = (-1 - rows.begin) % unit
            column = torch.arange(first, max(first, rows.time), unit, device=rows.device).expand(rows.batch, -1)
            number = (rows.begin + column).div(unit, rounding_mode="floor")
            return Completed(column, number, rows.document.gather(1, column))
        ends = rows.real & (rows.positions % unit == unit - 1)
        column = (~ends).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(ends.sum(1).max())]
        there = ends.gather(1, column)
        number = rows.positions.gather(1, column).div(unit, rounding_mode="floor")
        document = rows.document.gather(1, column)
        return Completed(column, torch.where(there, number, -1), torch.where(there, document, -1))

    return rows.once(("completed", unit), make)


class UnitKeys(nn.Module):
    """The keys (B, K, N, W) that units are found by. See the file's head."""

    def __init__(
        self, config: KeyValueMemoryConfig, mixer: KeyedMixer, placing: Placing, heads: int, width: int
    ) -> None:
        super().__init__()
        self.config, self.placing, self.heads = config, placing, heads
        channels = mixer.kv_heads * mixer.head_width
        self.landmark = nn.Linear(width, channels, bias=False) if config.key == "landmark" else None

    def start(self, batch: int, mixer: KeyedMixer, like: Tensor) -> UnitState:
        config, width = self.config, mixer.head_width
        keys = queries = asked = None
        if config.unit_keys:
            limit = config.slots // config.unit
            keys = KeyValueBuffer.empty(batch, config.key_heads(self.heads, mixer.kv_heads), width, like, limit, 0)
        if config.unit_keys and config.key == "representative":
            queries = KeyValueBuffer.empty(batch, self.heads, width, like, config.unit - 1, 0)
        if config.averages:
            wide = torch.promote_types(like.dtype, torch.float32)
            asked = torch.zeros(batch, self.heads, width, dtype=wide, device=like.device)
        return UnitState(keys, queries, asked)

    def forward(
        self, mixer: KeyedMixer, x: Tensor, queries: Tensor, keys: Tensor, rows: Rows, bank: Tensor, state: UnitState
    ) -> tuple[Tensor, UnitState]:
        """Keys of the units that the call completes, and the state behind the call, its `asked` aside.

        Args:
            x: (B, T, D). queries: (B, H, T, W). keys: (B, G, T, W). bank: the keys (B, G, P, W) before the call, kept
                as the call's are.
        """
        assert state.keys is not None
        done = completed(rows, self.config.unit)
        found = self._found(mixer, x, queries, keys, rows, bank, state, done)
        found = self.placing.kept(found, (done.number + 1) * self.config.unit - 1)
        if not self.config.gradient:
            found = found.detach()
        after = state.keys
        if done.column.shape[1]:
            after = after.append(found, found[..., :0], Rows.at(done.number))
        if rows.begin is None or rows.begin < self.config.unit:
            after = after.emptied((rows.last_position >= 0) & (rows.last_position < self.config.unit - 1))
        kept = state.queries
        if kept is not None:
            newest = queries.detach()
            kept = kept.append(newest, newest[..., :0], rows)
        return found, replace(state, keys=after, queries=kept)

    def _found(
        self,
        mixer: KeyedMixer,
        x: Tensor,
        queries: Tensor,
        keys: Tensor,
        rows: Rows,
        bank: Tensor,
        state: UnitState,
        done: Completed,
    ) -> Tensor:
        if self.landmark is not None:
            landmarks: Tensor = self.landmark(done.take(x))
            return rearrange(landmarks, "b n (g w) -> b g n w", w=mixer.head_width)
        if not done.column.shape[1]:
            return keys.new_zeros(keys.shape[0], self.config.key_heads(self.heads, mixer.kv_heads), 0, keys.shape[3])
        own = self._tokens(bank, keys, rows, done)
        if self.config.key == "mean":
            return own.mean(3)
        assert state.queries is not None
        asking = self._tokens(state.queries.read()[0], queries.detach(), rows, done)
        own = own.repeat_interleave(self.heads // own.shape[1], 1)
        index = self.chosen(self.received(mixer, asking, own.detach(), done.number))
        represent = index[..., None].expand(-1, -1, -1, -1, own.shape[4])
        return own.gather(3, represent).mean(3)

    def _tokens(self, past: Tensor, own: Tensor, rows: Rows, done: Completed) -> Tensor:
        """What stands at the tokens of the completed units, (B, H, N, U, W), of (B, H, P, W) and (B, H, T, W)."""
        unit = self.config.unit
        past = past[:, :, max(0, past.shape[2] - unit + 1) :]
        position = done.number[..., None] * unit + torch.arange(unit, device=own.device)
        column = located(position, done.column, rows, past.shape[2]).clamp(0, past.shape[2] + own.shape[2] - 1)
        index = column.flatten(1)[:, None, :, None].expand(-1, own.shape[1], -1, own.shape[3])
        found: Tensor = torch.cat((past, own), 2).gather(2, index).unflatten(2, (-1, unit))
        return found

    @torch.no_grad()
    def received(self, mixer: KeyedMixer, queries: Tensor, keys: Tensor, number: Tensor) -> Tensor:
        """The attention (B, H, N, U) that each token of a unit receives from the unit's tokens from it on.

        Args:
            queries, keys: (B, H, N, U, W), of the units `number` (B, N).
        """
        unit = self.config.unit
        within = torch.arange(unit, device=keys.device)
        position = (number[..., None] * unit + within).flatten(1)
        power = within.expand(*number.shape, -1).flatten(1)
        turned = [
            mixer.rotate(x.flatten(2, 3), position, sign * power).unflatten(2, (-1, unit))
            for x, sign in ((queries, 1), (keys, -1))
        ]
        wide = torch.promote_types(keys.dtype, torch.float32)
        scores = (turned[0] @ turned[1].transpose(-1, -2)).to(wide) * mixer.scale
        slopes = alike(mixer.slopes, keys)
        if slopes is not None:
            scores = scores - slopes[:, None, None, None] * (within[:, None] - within).abs()
        later = torch.ones(unit, unit, dtype=torch.bool, device=keys.device).triu(1)
        shares: Tensor = scores.masked_fill(later, -math.inf).softmax(-1)
        return shares.sum(-2)

    def chosen(self, received: Tensor) -> Tensor:
        """Which tokens represent a unit, (B, H, N, representatives), by what they received (B, H, N, U)."""
        return earliest(received, min(self.config.representatives, self.config.unit))[1]


@torch.no_grad()
def asked_for(queries: Tensor, rows: Rows, stretch: int, before: Tensor, ahead: bool = False) -> tuple[Tensor, Tensor]:
    """The mean (B, H, T, W) of the queries of each token's stretch so far, and the sum (B, H, W) of the open stretch.

    Args:
        queries: (B, H, T, W). before: the sum that an earlier call left, of the document that goes on.
        ahead: the rest of the stretch counts too, as far as the call has it.
    """
    real, column = rows.real, torch.arange(rows.time, device=rows.device).expand(rows.batch, -1)
    every = torch.where(real[:, None, :, None], queries, 0.0).to(torch.float64)
    sums = torch.nn.functional.pad(every.cumsum(2), (0, 0, 1, 0))  # [n]: of the first n columns
    within = rows.positions.clamp(min=0) % stretch
    first = torch.where(rows.document == 0, column.masked_fill(~rows.continued, rows.time).amin(1, keepdim=True), 0)
    low = torch.maximum(column - within, first).clamp(min=0)
    high = column + 1
    if ahead:
        high = torch.minimum(_run_ends(rows), column + stretch - within)
    total = _at(sums, high) - _at(sums, low.clamp(max=rows.time))
    goes_on = rows.continued & (rows.positions - within < rows.following)
    total = total + torch.where(goes_on[:, None, :, None], before[:, :, None].to(total.dtype), 0.0)
    mean = total / (within + high - column)[:, None, :, None]
    last = torch.where(real, column, -1).amax(1, keepdim=True)
    left = _at(total, last.clamp(min=0))[:, :, 0].to(before.dtype)
    closed = ((rows.last_position + 1) % stretch == 0)[:, None, None]
    after = torch.where(closed, 0.0, left)
    return mean.to(queries.dtype), torch.where((last < 0)[:, :, None], before, after)


def _at(x: Tensor, column: Tensor) -> Tensor:
    """Columns (B, N) of x (B, H, T, W)."""
    return x.gather(2, column[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))


def _run_ends(rows: Rows) -> Tensor:
    """(B, T): the column behind the last of each token's document in the call."""
    breaks = torch.ones_like(rows.real)
    breaks[:, :-1] = ~rows.real[:, 1:] | (rows.positions[:, 1:] == 0)
    column = torch.arange(1, rows.time + 1, device=rows.device).expand(rows.batch, -1)
    return column.masked_fill(~breaks, rows.time).flip(1).cummin(1).values.flip(1)
