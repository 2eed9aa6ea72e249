"""Dual chunk attention: positions begin anew every s tokens, and no distance is longer than a trained one.

    key m       m mod s
    query n     n mod s                    to keys of its own chunk                floor(m / s) = floor(n / s)
                min((n mod s) + s, c)      to keys of the chunk before             floor(m / s) = floor(n / s) - 1
                min(2 s - 1, c)            to all older keys

c is the chunk, w the window, s = c - w: within w tokens distances are exact across the border of two chunks. An, Huang
et al., https://arxiv.org/abs/2402.17463, as their code has it (ChunkLlama), which takes c = 3/4 and w = 1/8 of the
trained length and clamps at c, where the paper says c - 1. The first s tokens are what they are without it.

In training and prefill the three parts are runs of columns (`Runs`, `Aligned`, `Steps`), without a mask; where
documents are packed, or keys are chosen, masks block by block.

Shapes: B batch, T time, S key columns, H heads, W width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from farfield.architectures.extension import ExtendedField, Extension, Kind, Seen, deepest
from farfield.architectures.ops.attention import Part
from farfield.architectures.ops.backend import Backend
from farfield.architectures.ops.layouts import Full
from farfield.architectures.ops.place import Place
from farfield.architectures.ops.runs import Aligned, Runs, Steps
from farfield.architectures.projection import Rotation
from farfield.architectures.rows import Rows

__all__ = ["DualChunk", "DualChunkField"]


@dataclass(frozen=True)
class Between:
    """The key's chunk, of `stride` tokens, is `least` before the query's, or one of those before that if `older`."""

    stride: int
    least: int
    older: bool = False

    def holds(self, query: Tensor, key: Tensor) -> Tensor:
        asking, asked = (x.div(self.stride, rounding_mode="floor") for x in (query, key))
        return asking - asked >= self.least if self.older else asking - asked == self.least


class DualChunk(Extension):
    """Positions begin anew in each chunk."""

    kind: Literal["dual_chunk"] = "dual_chunk"
    chunk: int = Field(
        ge=2, le=1 << 40, description="the longest distance in tokens; published: 3/4 of the trained length"
    )
    window: int = Field(
        ge=1, le=1 << 40, description="tokens in which distances are exact; published: 1/8 of the trained length"
    )

    @model_validator(mode="after")
    def _fits(self) -> DualChunk:
        if self.window >= self.chunk:
            raise ValueError(f".window: {self.window} given, less than chunk = {self.chunk} is needed.")
        return self

    def field(self, rotation: Rotation, scale: float, backend: Backend) -> DualChunkField:
        return DualChunkField(rotation, scale, backend, None, self.chunk, self.chunk - self.window)


@dataclass(frozen=True, eq=False)
class DualChunkField(ExtendedField):
    """See the file's head: c and s."""

    chunk: int = 0
    stride: int = 0

    def placed(self, position: Tensor) -> Tensor:
        return position % self.stride

    def standing(self, rows: Rows) -> Rows:
        return self._places(rows)[0]

    def run(self, queries: Tensor, seen: Seen, rows: Rows) -> list[Part]:
        """The chunk that stands open before the call, if any, then whole chunks of the call."""
        begin, time, stride = seen.past, rows.time, self.stride
        own, later, far = self._turned(queries, rows, begin + time - 1)
        head, first = min(-begin % stride, time), begin // stride * stride
        spans = []
        if head:
            spans = [(own, first, begin + (time == 1)), (later, first - stride, first), (far, 0, first - stride)]
        place = None if head == time else _from(0, head)
        parts = [self._part(q, seen, low, high, Full(), place) for q, low, high in spans if 0 <= low < high]
        if time > 1 or not head:
            parts.append(self._part(own, seen, begin, begin + time, Runs(stride, head)))
        start = max(begin + head, stride) - begin
        if start < time:
            low, runs = begin + start - stride, -(-(time - start) // stride)
            parts.append(self._part(later, seen, low, low + runs * stride, Aligned(stride), _from(start)))
        start = max(begin + head, 2 * stride) - begin
        if start < time:
            older = ((begin + time - 1) // stride - 1) * stride
            steps = Steps(stride, stride, begin + start - stride)
            parts.append(self._part(far, seen, 0, older, steps, _from(start)))
        return parts

    def kinds(self, rows: Rows) -> list[Kind]:
        own, later, far = self._places(rows)
        stride = self.stride
        found = [
            Kind(Between(stride, 0), own, stride - 1),
            Kind(Between(stride, 1), later, 2 * stride - 1),
            Kind(Between(stride, 2, older=True), far),
        ]
        return found[: 1 + min(max(deepest(rows), 0) // stride, 2)]

    def _turned(self, queries: Tensor, rows: Rows, last: int) -> list[Tensor]:
        """Queries (B, H, T, W) for their own chunk, the one before and older ones; as they are where there is none."""
        there = 1 + min(max(last, 0) // self.stride, 2)
        return [self.rotation.rows(queries, at) if n < there else queries for n, at in enumerate(self._places(rows))]

    def _places(self, rows: Rows) -> list[Rows]:
        """The rows, with where queries stand to each of the three as their phase."""
        stride = self.stride

        def make() -> list[Rows]:
            own = rows.positions % stride
            later, far = (own + stride).clamp(max=self.chunk), torch.full_like(own, min(2 * stride - 1, self.chunk))
            return [Rows(rows.positions, phase) for phase in (own, later, far)]

        return rows.once(("dual chunk", self.chunk, stride), make)

    @staticmethod
    def _part(
        queries: Tensor,
        seen: Seen,
        low: int,
        high: int,
        layout: Full | Runs | Aligned | Steps,
        place: Place | None = None,
    ) -> Part:
        """Queries over the key columns from `low` to `high`."""
        return Part(queries, seen.keys[:, :, low:high], seen.values[:, :, low:high], layout, place)


def _from(begin: int, end: int | None = None) -> Place:
    """All heads' columns from `begin` on, to `end`."""
    return Place(slice(None), slice(begin, end))
