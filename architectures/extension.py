"""Attention that reads farther than its model was trained, without training: queries and keys stand closer.

    dual_chunk     positions begin anew in each chunk: see `dual_chunk`
    self_extend    far tokens share positions in groups: see `self_extend`

Both are one softmax over the whole document, in parts for which queries are turned to other positions. Each key is
turned once, by its own position alone, so that what is kept serves every later query. They compose with stretched
frequencies (`stretching`).

Shapes: B batch, T time, S key columns, H heads, G heads of keys and values, W width of a head.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from farfield.architectures.mixer import Attended, Kept, KeyValue, join
from farfield.architectures.ops.attention import Part
from farfield.architectures.ops.backend import Backend
from farfield.architectures.projection import Rotation, Turned
from farfield.architectures.rows import Rows
from farfield.architectures.state import KeyValueBuffer
from farfield.config import Config

__all__ = ["ExtendedField", "Extension", "Seen", "deepest"]


class Extension(Config, abc.ABC):
    """How positions beyond the trained ones are seen."""

    @abc.abstractmethod
    def field(self, rotation: Rotation, scale: float, backend: Backend) -> ExtendedField:
        """The near field of a whole document by it."""


@dataclass(frozen=True, eq=False)
class Seen:
    """Keys and values (B, G, S, W) of the columns [past, call], and which of the past are valid; None: all."""

    keys: Tensor
    values: Tensor
    past: int
    valid: Tensor | None

    @staticmethod
    def of(kept: Kept, rows: Rows) -> Seen:
        """What the queries of the call may see."""
        if rows.fresh:
            return Seen(kept.keys, kept.values, 0, None)
        keys, values, valid = kept.before.read()
        past = keys.shape[2]
        if rows.time == 1 and rows.plain and valid is None and kept.after is not None:
            keys, values, _ = kept.after.read()
            return Seen(keys, values, past, None)
        return Seen(torch.cat((keys, kept.keys), 2), torch.cat((values, kept.values), 2), past, valid)


@dataclass(frozen=True, eq=False)
class ExtendedField(abc.ABC):
    """A near field of the whole document so far, whose queries are turned for each part of the softmax anew."""

    rotation: Rotation
    scale: float
    backend: Backend
    slopes: Tensor | None = None  # none: distances are not what they are elsewhere

    @abc.abstractmethod
    def placed(self, position: Tensor) -> Tensor:
        """Where keys at `position`, of any shape, stand."""

    @abc.abstractmethod
    def standing(self, rows: Rows) -> Rows:
        """The rows, with where keys stand as their phase; the same object for all layers of these settings."""

    @abc.abstractmethod
    def run(self, queries: Tensor, seen: Seen, rows: Rows) -> list[Part]:
        """The parts where every row is one run of a document behind `seen.past` tokens, padding at most at its end."""

    @abc.abstractmethod
    def documents(self, queries: Tensor, seen: Seen, rows: Rows, own: bool) -> list[Part]:
        """The parts wherever tokens stand: by masks, block by block. `own`: a query sees the key of its own token."""

    def queries(self, x: Tensor, rows: Rows) -> Tensor:
        return x

    def turn(self, x: Tensor, rows: Rows) -> Tensor:
        """Keys (B, G, T, W) as they are kept."""
        return self.rotation.rows(x, self.standing(rows))

    def turned(self, queries: Tensor, keys: Tensor, rows: Rows, reference: Tensor | None) -> Turned:
        return Turned(queries, self.turn(keys, rows))

    def attend(self, queries: Tensor, kept: Kept, rows: Rows, reads: Sequence[KeyValue] = ()) -> Attended:
        seen = Seen.of(kept, rows)
        if rows.single and rows.right_padded and seen.valid is None and kept.own:
            parts = self.run(queries, seen, rows)
        else:
            parts = self.documents(queries, seen, rows, kept.own)
        return join(parts, reads, self.scale, self.backend)

    def renumbered(self, kept: KeyValueBuffer, dropped: Tensor) -> KeyValueBuffer:
        """Kept keys as they stand where `dropped` (B,) older tokens never were. To be used in place of `kept`."""
        position = torch.arange(kept.keys.shape[2], device=dropped.device).expand(len(dropped), -1)
        moved = self.placed(position) - self.placed(position + dropped[:, None])
        return replace(kept, keys=self.rotation.at(kept.keys, moved))


def deepest(rows: Rows) -> int:
    """The highest position of the call; while a graph is compiled, which is not to depend on it, that of any call."""
    if torch.compiler.is_compiling():
        return torch.iinfo(torch.int64).max
    return rows.once("deepest", lambda: int(rows.positions.max()) if rows.positions.numel() else -1)
