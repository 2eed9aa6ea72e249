"""Where a query of a memory stands, and where the keys that it reads do.

    none        nowhere: products of queries and keys before rotation
    original    where they stood in the document
    first       keys at the first token of the query's near field: the open segment's, or the window's
    capped      keys one near field away, all of them: a segment, or a window and its own token

Keys at `original` positions are turned once, when they are written, and kept so; but where they are scaled as well
(xPos), or units are found by what is made of them, each call turns them anew.

Of the last two a distance (B, T) for each query is all there is: queries are turned by it, and keys not at all, so that
a bank is searched and read as it is kept. `first` is Focused Transformer's (https://arxiv.org/abs/2307.03170), where
memory keys stand at position 0 of the local context; `capped` is InfLLM's (https://arxiv.org/abs/2402.04617).

Shapes: B batch, T queries, S keys, H heads, G heads of keys, W width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from farfield.architectures.keyed import KeyedMixer
from farfield.architectures.ops.alibi import Alibi, alike
from farfield.architectures.rows import Rows

__all__ = ["Placing"]


@dataclass(frozen=True, eq=False)
class Placing:
    """The rule `position` of a memory with segments of `segment` tokens, around a mixer."""

    mixer: KeyedMixer
    position: str
    segment: int
    raw: bool = False  # keys are needed as they were before rotation

    @property
    def once(self) -> bool:
        """Whether keys are kept as they are read."""
        return self.position != "original" or (self.mixer.span is None and not self.raw)

    def kept(self, keys: Tensor, position: Tensor) -> Tensor:
        """Keys (B, G, S, W) at `position` (B, S) of their documents, as the memory keeps them."""
        return self.mixer.rotate(keys, position) if self.position == "original" and self.once else keys

    def queries(self, queries: Tensor, rows: Rows) -> Tensor:
        """Queries (B, H, T, W) as the memory's keys need them."""
        if self.position == "none":
            return queries
        if self.position == "original":
            own = torch.where(rows.document == 0, rows.following, 0)
            return self.mixer.rotate(queries, rows.positions, torch.where(rows.real, rows.positions - own, 0))
        distance = self._distance(rows)
        return self.mixer.rotate(queries, distance, distance)

    def keys(self, keys: Tensor, position: Tensor, document: Tensor, rows: Rows) -> Tensor:
        """Kept keys (B, G, S, W) as queries meet them, at `position` (B, S) of `document` (B, S), -1 where nobody does.

        xPos counts from a reference: the first position that the call has of the document.
        """
        if self.once:
            return keys
        reference = torch.where(document == 0, rows.following, 0)
        return self.mixer.rotate(keys, position, torch.where(document >= 0, reference - position, 0))

    def alibi(self, like: Tensor, position: Tensor, rows: Rows) -> Alibi | None:
        """What distance adds to the scores of the queries and of keys at `position` (B, S)."""
        slopes = None if self.position == "none" else alike(self.mixer.slopes, like)
        if slopes is None:
            return None
        if self.position == "original":
            return Alibi(slopes, rows.positions, position)
        return Alibi(slopes, self._distance(rows), torch.zeros_like(position))

    def _distance(self, rows: Rows) -> Tensor:
        """(B, T): tokens between each query and where the keys stand."""
        reach = self.mixer.reach
        if self.position == "first" and reach is None:
            return rows.positions.clamp(min=0) % self.segment
        away = (self.segment if reach is None else reach + 1) if self.position == "capped" else reach
        assert away is not None
        return torch.full_like(rows.positions, away)
