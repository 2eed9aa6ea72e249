"""Slots as a step's queries see them: where in the document they are said to stand, and turned to it.

    none       nowhere: queries and keys before rotation
    original   where they stood
    index      where they stand in the cache: the slots behind the window follow one another up to its edge

    slots at       0   1   2      6          9 | 10  11   12         window of 2, the segment begins at 12
    original       0   1   2      6          9 | 10  11   12
    index                      5  6  7   8   9 | 10  11   12

Positions are those of the queries, whatever the rule, so that one rotation of the queries serves near field and slots.

Shapes: B batch, T time, H heads, G heads of keys and values, P heads of positions (1 or G), N slots, W width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from farfield.architectures.keyed import KeyedMixer
from farfield.architectures.ops.alibi import Alibi, alike
from farfield.architectures.rows import Rows

__all__ = ["Seen", "by_heads", "fading", "in_cache", "near_slots", "turned", "turned_queries"]


@dataclass(frozen=True, eq=False)
class Seen:
    """Queries (B, H, T, W) and keys (B, G, N, W) as their product needs them, and what distance adds to it."""

    queries: Tensor
    keys: Tensor
    alibi: Alibi | None = None


def in_cache(position: Tensor, edge: Tensor) -> Tensor:
    """Positions (B, P, N), ascending and then -1, with those before `edge` (B, 1) moved up to it without gaps."""
    behind = (position >= 0) & (position < edge[:, None])
    column = torch.arange(position.shape[2], device=position.device)
    return torch.where(behind, edge[:, None] - behind.sum(2, keepdim=True) + column, position)


def turned_queries(mixer: KeyedMixer, queries: Tensor, rows: Rows, start: Tensor) -> Tensor:
    """Queries (B, H, T, W) turned to where they stand; what xPos scales by is counted from `start` (B, 1)."""
    some = slice(0, 1) if rows.begin is not None else slice(None)  # where all rows are alike, one angle serves them
    position = rows.positions[some]
    return mixer.rotate(queries, position, torch.where(position >= 0, position - start[some], 0))


def turned(mixer: KeyedMixer, keys: Tensor, position: Tensor, rows: Rows, start: Tensor) -> Tensor:
    """Keys (B, G, N, W) turned to `position` (B, P, N), for the queries of a step at `rows`."""
    some = slice(0, 1) if rows.begin is not None and position.shape[1] == 1 else slice(None)
    place = position[some]
    behind = torch.where(place >= 0, start[some, None] - place, 0)
    heads = place.shape[1]
    parts = rearrange(keys, "b (p g) n w -> (b p) g n w", p=heads)
    parts = mixer.rotate(parts, place.flatten(0, 1), behind.flatten(0, 1))
    return rearrange(parts, "(b p) g n w -> b (p g) n w", p=heads)


def fading(mixer: KeyedMixer, queries: Tensor, position: Tensor, rows: Rows) -> Alibi | None:
    """What distance adds to the scores of queries like (B, H, T, W) at `rows` and keys at `position` (B, P, N)."""
    slopes = alike(mixer.slopes, queries)
    if slopes is None:
        return None
    key = position[:, 0] if position.shape[1] == 1 else by_heads(position, queries.shape[1])
    return Alibi(slopes, rows.positions, key)


def by_heads(x: Tensor, heads: int) -> Tensor:
    """(B, H, N) of x (B, P, N): that of the keys which each head of queries reads; (B, 1, N) where P is 1."""
    return x if x.shape[1] == 1 else x.repeat_interleave(heads // x.shape[1], 1)


def near_slots(mixer: KeyedMixer, query: Tensor, position: Tensor, heads: int) -> tuple[Tensor, int]:
    """Which slots at positions (B, P, N), ascending, the near field of queries at (B, T) holds; from which column on.

    Bool (B, 1 or H, T, N - first), and the first column: near fields hold none before it.
    """
    several, first = position.shape[1], _first_near(mixer, query, position)
    near: Tensor = mixer.near(query, position[:, :, first:].flatten(1))
    near = near.unflatten(3, (several, position.shape[2] - first))
    if several == 1:
        return near[:, :, :, 0], first
    if near.shape[1] == 1:
        return near[:, 0].transpose(1, 2).repeat_interleave(heads // several, 1), first
    head = torch.arange(heads, device=position.device)
    return near[:, head, :, head // (heads // several)].transpose(0, 1), first


def _first_near(mixer: KeyedMixer, query: Tensor, position: Tensor) -> int:
    """The first column of positions (B, P, N) that a near field of queries at (B, T) may reach back to."""
    beginning, back = mixer.extent
    if beginning or back is None or not position.shape[2]:
        return 0
    earliest = torch.where(query >= 0, query, 1 << 62).amin(1) - back
    columns = (position >= earliest[:, None, None]).flatten(0, 1).any(0).nonzero()
    return int(columns[0]) if len(columns) else position.shape[2]
