"""Self-extend: near tokens stand where they stand, those behind the window share positions in groups of g.

    n - m < w      query n,                              key m
    else           query floor(n / g) + w - floor(w / g), key floor(m / g)

w is the window, g the group. Within N trained tokens it reads (N - w) g + w. Jin et al.,
https://arxiv.org/abs/2401.01325, as its code has it. w = 1/4 of the trained length is what the paper takes at 4k.

Keys are kept at floor(m / g); those of the window are turned on to m by each call, so that the state is that of plain
attention. Work beside attention's: w more rotations of a key for a decoded token.

Shapes: B batch, T time, S key columns, H heads, W width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field
from torch import Tensor

from farfield.architectures.columns import banded, columns
from farfield.architectures.extension import ExtendedField, Extension, Kind, Seen, deepest
from farfield.architectures.ops.attention import Part
from farfield.architectures.ops.backend import Backend
from farfield.architectures.ops.layouts import Causal, Full
from farfield.architectures.ops.place import Place
from farfield.architectures.projection import Rotation
from farfield.architectures.rows import Rows

__all__ = ["SelfExtend", "SelfExtendField"]


class SelfExtend(Extension):
    """Far tokens share positions in groups."""

    kind: Literal["self_extend"] = "self_extend"
    window: int = Field(ge=1, le=1 << 40, description="newest tokens that keep their positions")
    group: int = Field(ge=1, le=1 << 40, description="far tokens at one position")

    def field(self, rotation: Rotation, scale: float, backend: Backend) -> SelfExtendField:
        return SelfExtendField(rotation, scale, backend, None, self.window, self.group)


@dataclass(frozen=True)
class Apart:
    """Query and key are fewer than `window` tokens apart; or, `far`, as many or more."""

    window: int
    far: bool

    def holds(self, query: Tensor, key: Tensor) -> Tensor:
        return query - key >= self.window if self.far else query - key < self.window


@dataclass(frozen=True, eq=False)
class SelfExtendField(ExtendedField):
    """See the file's head: w and g."""

    window: int = 0
    group: int = 0

    def placed(self, position: Tensor) -> Tensor:
        return position.div(self.group, rounding_mode="floor")

    def standing(self, rows: Rows) -> Rows:
        return rows.once(("grouped", self.group), lambda: Rows(rows.positions, self.placed(rows.positions)))

    def run(self, queries: Tensor, seen: Seen, rows: Rows) -> list[Part]:
        begin, time = seen.past, rows.time
        parts = [self._near(queries, seen, rows)]
        first = max(0, self.window - begin)  # the first query that has a key behind the window
        if first >= time:
            return parts
        far, common = self.rotation.rows(queries, self._grouped(rows)), begin + first - self.window
        place = Place(slice(None), slice(first, None)) if first else None
        keys, values = seen.keys, seen.values
        if time == 1:
            return [*parts, Part(far, keys[:, :, : common + 1], values[:, :, : common + 1], Full())]
        if common:
            parts.append(Part(far, keys[:, :, :common], values[:, :, :common], Full(), place))
        rest = slice(common, common + time - first)
        return [*parts, Part(far, keys[:, :, rest], values[:, :, rest], Causal(), place)]

    def kinds(self, rows: Rows) -> list[Kind]:
        near = Kind(Apart(self.window, far=False), self._as_they_are(rows), self.window - 1, returned=True)
        if deepest(rows) < self.window:
            return [near]
        return [near, Kind(Apart(self.window, far=True), self._grouped(rows))]

    def _near(self, queries: Tensor, seen: Seen, rows: Rows) -> Part:
        """Queries over the window's keys, which are turned to where they stood."""
        low = max(0, seen.past - self.window + 1)
        past = seen.past - low

        def stood() -> Rows:
            position, _ = columns(rows, past, None)
            return Rows(position, position - self.placed(position))

        at = rows.once(("self extend, near", self.group, past), stood)
        keys, values = self.rotation.rows(seen.keys[:, :, low:], at), seen.values[:, :, low:]
        asking = self.rotation.rows(queries, self._as_they_are(rows))
        if rows.plain and rows.time == 1:
            return Part(asking, keys, values, Full())
        return Part(asking, keys, values, banded(rows, past, None, self.window - 1))

    def _as_they_are(self, rows: Rows) -> Rows:
        """The rows, with where tokens stand as their phase."""
        return rows.once("positions", lambda: Rows.at(rows.positions))

    def _grouped(self, rows: Rows) -> Rows:
        """The rows, with where queries stand to grouped keys as their phase."""
        shift = self.window - self.window // self.group
        return rows.once(
            ("self extend", self.window, self.group), lambda: Rows(rows.positions, self.placed(rows.positions) + shift)
        )
