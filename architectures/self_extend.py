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
from farfield.architectures.extension import ExtendedField, Extension, Seen, deepest
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
        parts = [self._near(queries, seen, rows, True)]
        first = max(0, self.window - begin)  # the first query that has a key behind the window
        if first >= time:
            return parts
        far, common = self._far(queries, rows), begin + first - self.window
        place = Place(slice(None), slice(first, None)) if first else None
        keys, values = seen.keys, seen.values
        if time == 1:
            return [*parts, Part(far, keys[:, :, : common + 1], values[:, :, : common + 1], Full())]
        if common:
            parts.append(Part(far, keys[:, :, :common], values[:, :, :common], Full(), place))
        rest = slice(common, common + time - first)
        return [*parts, Part(far, keys[:, :, rest], values[:, :, rest], Causal(), place)]

    def documents(self, queries: Tensor, seen: Seen, rows: Rows, own: bool) -> list[Part]:
        parts = [self._near(queries, seen, rows, own)]
        if deepest(rows) >= self.window:
            layout = banded(rows, seen.past, seen.valid, None, ahead=-self.window)
            parts.append(Part(self._far(queries, rows), seen.keys, seen.values, layout))
        return parts

    def _near(self, queries: Tensor, seen: Seen, rows: Rows, own: bool) -> Part:
        """Queries over the window's keys, which are turned to where they stood."""
        low = max(0, seen.past - self.window + 1)
        past, valid = seen.past - low, None if seen.valid is None else seen.valid[:, low:]

        def stood() -> Rows:
            position, _ = columns(rows, past, valid)
            return Rows(position, position - self.placed(position))

        # Columns that are not valid stand elsewhere in each row, and are the same for all layers of a call.
        at = rows.once(("self extend, near", self.group, past), stood)
        keys, values = self.rotation.rows(seen.keys[:, :, low:], at), seen.values[:, :, low:]
        asking = self.rotation.rows(queries, rows.once("positions", lambda: Rows.at(rows.positions)))
        if rows.plain and rows.time == 1 and valid is None and own:
            return Part(asking, keys, values, Full())
        layout = banded(rows, past, valid, self.window - 1, ahead=0 if own else -1)
        return Part(asking, keys, values, layout)

    def _far(self, queries: Tensor, rows: Rows) -> Tensor:
        """Queries (B, H, T, W) as they stand to grouped keys."""
        shift = self.window - self.window // self.group
        grouped = rows.once(
            ("self extend", self.window, self.group), lambda: Rows(rows.positions, self.placed(rows.positions) + shift)
        )
        return self.rotation.rows(queries, grouped)
