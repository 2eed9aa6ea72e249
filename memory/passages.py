"""Passages as an input of the model, and which token reads those of which chunk.

    position     0 . . . m-2 | m-1 . . . . . . 2m-2 | 2m-1 . . .        chunks of m tokens
    reads        nothing     | those of chunk 0     | those of chunk 1

A chunk's passages are known with its last token, and read by that one and the next m - 1 (RETRO,
https://arxiv.org/abs/2112.04426, section 2.4): a token never reads what was found by tokens behind it. Chunks are
counted from the start of their document, wherever calls end.

    call         | b b | c c c c | c ...      m = 4: the first chunk of this call began in the call before it
    slot           0 0   1 1 1 1   2            slot 0 are the passages of the last chunk of the call before

Shapes: B batch, T time, C chunks that end in the call, k passages of a chunk, r tokens of a passage, m tokens of a
chunk, N slots that are read, W the most tokens of the call that read one slot.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from farfield.architectures.rows import Rows
from farfield.config import ModelError

__all__ = ["Chunks", "Passages", "chunks_of"]


@dataclass(frozen=True, eq=False)
class Passages:
    """Tokens (B, C, k, r) int64: for the c-th chunk that ends in row b of a call, in order; -1 where there is none.

    A chunk of m tokens ends at a real token where (position + 1) % m == 0.
    """

    tokens: Tensor

    def to(self, device: torch.device) -> Passages:
        """The same on `device`."""
        return Passages(self.tokens.to(device, non_blocking=True))

    def part(self, positions: Tensor, at: slice, size: int) -> Passages:
        """Those of the chunks of `size` tokens that end in the columns `at` of a call at `positions` (B, T)."""
        ends = (positions >= 0) & ((positions + 1) % size == 0)
        before, count = ends[:, : at.start].sum(1), ends[:, at].sum(1)
        number = torch.arange(int(count.max()), device=ends.device)
        if not len(number):
            return Passages(self.tokens[:, :0])
        index = (before[:, None] + number).clamp(max=self.tokens.shape[1] - 1)[..., None, None]
        found = self.tokens.gather(1, index.expand(-1, -1, *self.tokens.shape[2:]))
        return Passages(torch.where((number < count[:, None])[..., None, None], found, -1))

    def check(self, batch: int, count: int, length: int, vocabulary: int) -> None:
        """Raise ModelError where these are not `count` passages of `length` tokens for chunks of `batch` rows."""
        given, tokens = tuple(self.tokens.shape), self.tokens
        if tokens.dtype != torch.int64:
            raise ModelError(f"passages: {tokens.dtype} given, int64 is needed.")
        if tokens.ndim != 4 or given[0] != batch or given[2:] != (count, length):
            raise ModelError(f"passages: shape {given} given, ({batch}, chunks, {count}, {length}) is needed.")
        if tokens.numel() and not -1 <= int(tokens.min()) <= int(tokens.max()) < vocabulary:
            raise ModelError(f"passages: ids from 0 to {vocabulary - 1} are known, and -1 for none; others were given.")


@dataclass(frozen=True, eq=False)
class Chunks:
    """Where the chunks of a call end, and which tokens read which slot.

    `count` (B,) of a row's chunks end in the call. `window` (B, C, m) are the columns of each chunk, counted from m - 1
    columns before the call, and `last` (B, m - 1) those of the newest tokens; what stands before a row's own is of no
    meaning. `slots` is C + 1; nothing reads before the `first`. Of the N others `reader` (B, N, W) are the columns
    that read a slot, `phase` how far behind the start of the slot's chunk they stand; a token's answer is at `place`
    (B, T) among N W, if it `reads` (B, T) any.
    """

    count: Tensor
    window: Tensor
    last: Tensor
    slots: int
    first: int
    reader: Tensor
    phase: Tensor
    place: Tensor
    reads: Tensor

    @property
    def any(self) -> bool:
        """Whether any token reads."""
        return bool(self.reads.any())


def chunks_of(rows: Rows, size: int) -> Chunks:
    """The chunks of `size` tokens that end in the call; padding stands at the ends of rows."""
    return rows.once(("chunks", size), lambda: _chunks(rows, size))


def _chunks(rows: Rows, size: int) -> Chunks:
    column, most = torch.arange(rows.time, device=rows.device), min(size, rows.time)
    ends, reads = rows.real & ((rows.positions + 1) % size == 0), rows.positions >= size - 1
    count, slot = ends.sum(1), ends.cumsum(1)
    slots = 1 + (int(count.max()) if count.numel() else 0)
    first = 0 if slots == 1 or bool((reads & (slot == 0)).any()) else 1
    end = (~ends).to(torch.uint8).argsort(dim=1, stable=True)[:, : slots - 1]  # of rows with fewer, any columns
    begin = torch.cat((torch.zeros_like(count)[:, None], end), 1)
    reader = (begin[:, first:, None] + column[:size]).clamp(max=rows.time - 1)
    phase = (rows.positions.clamp(min=0) + 1) % size + size - 1
    within = (column - begin.gather(1, slot)).clamp(max=most - 1)
    return Chunks(
        count=count,
        window=end[..., None] + torch.arange(size, device=rows.device),
        last=rows.real.sum(1)[:, None] + torch.arange(size - 1, device=rows.device),
        slots=slots,
        first=first,
        reader=reader,
        phase=phase.gather(1, reader.flatten(1)).view_as(reader),
        place=((slot - first) * most + within).clamp(min=0),
        reads=reads,
    )
