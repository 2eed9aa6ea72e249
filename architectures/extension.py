"""Attention that reads farther than its model was trained, without training: queries and keys stand closer.

    dual_chunk     positions begin anew in each chunk: see `dual_chunk`
    self_extend    far tokens share positions in groups: see `self_extend`

Both are one softmax over what a query sees, in parts for which queries are turned to other positions. Each key is
turned once, by its own position alone, so that what is kept serves every later query. They compose with stretched
frequencies (`stretching`), and with every way to choose keys: a mixer makes its parts as ever, tells where their
queries and keys stand (`EVERY`), and `split` takes each apart by the kinds of its pairs. What sees no farther than a
window, a segment or a group stays as it is.

Shapes: B batch, T time, S key columns, H heads, G heads of keys and values, W width of a head.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

import torch
from torch import Tensor

from farfield.architectures.columns import banded
from farfield.architectures.mixer import Attended, Kept, KeyValue, join
from farfield.architectures.ops.alibi import EVERY, Alibi, Relation
from farfield.architectures.ops.attention import Part
from farfield.architectures.ops.backend import Backend
from farfield.architectures.ops.layouts import Banded
from farfield.architectures.projection import Rotation, Turned
from farfield.architectures.rows import Rows
from farfield.architectures.state import KeyValueBuffer
from farfield.config import Config

__all__ = ["ExtendedField", "Extension", "Kind", "Seen", "deepest"]


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


@dataclass(frozen=True)
class Kind:
    """Pairs of a query and a key that stand to each other in one way.

    `asking` are the call's rows, with where queries stand as their phase. `reach` is the most tokens between the two.
    `returned`: keys stand where their tokens do, and not where they are kept.
    """

    relation: Relation
    asking: Rows
    reach: int | None = None
    returned: bool = False


class Standing(Protocol):
    """A layout that tells where queries and keys stand."""

    alibi: Alibi | None


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
    def kinds(self, rows: Rows) -> list[Kind]:
        """The kinds of pairs that the call may have: each pair of a query and an earlier key is of one of them."""

    def split(self, parts: Sequence[Part], queries: Tensor, rows: Rows) -> list[Part]:
        """Parts that tell where their pairs stand, as parts of one kind each.

        Args:
            parts: of the call's queries, of which where they stand is looked at alone; keys are turned by `turn`.
            queries: (B, H, T, W), not turned.
        """
        found = []
        for kind in self.kinds(rows):
            turned = self.rotation.rows(queries, kind.asking)
            found += [self._of_kind(kind, replace(part, queries=turned)) for part in parts]
        return found

    def _of_kind(self, kind: Kind, part: Part) -> Part:
        layout, keys, values = part.layout, part.keys, part.values
        if isinstance(layout, Banded):  # blocks are alike by distance, but not by where chunks begin
            layout, begin = replace(layout, regular=False).within(kind.reach, keys.shape[2])
            keys, values = keys[:, :, begin:], values[:, :, begin:]
        alibi = cast("Standing", layout).alibi
        assert alibi is not None
        if kind.returned:
            keys = self._returned(keys, alibi.key_position)
        layout = replace(layout, alibi=replace(alibi, slopes=kind.relation))  # type: ignore[type-var]
        return replace(part, keys=keys, values=values, layout=layout)

    def _returned(self, keys: Tensor, position: Tensor) -> Tensor:
        """Kept keys (B, G, S, W) of tokens at `position`, (B or 1, S) or (B or 1, G, S), turned on to it."""
        moved = position - self.placed(position)
        if position.ndim == 2:
            return self.rotation.at(keys, moved.expand(keys.shape[0], -1))
        each = moved.expand(keys.shape[0], -1, -1).flatten(0, 1)
        return self.rotation.at(keys.flatten(0, 1)[:, None], each).view(keys.shape)

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
            layout = banded(rows, seen.past, seen.valid, None, ahead=0 if kept.own else -1, slopes=EVERY)
            parts = self.split([Part(queries, seen.keys, seen.values, layout)], queries, rows)
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
