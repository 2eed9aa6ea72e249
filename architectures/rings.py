"""Rings: the newest tokens of each bucket of each head and round, as a state.

    bucket 0   a b c d . . . .      window 2: c and d count, fill 4; the next one goes to the slot behind d
    bucket 1   e . . . . . . .                e counts, fill 1

Each token stands in one bucket a round, and the newest `window` of a bucket count. Slots [0, fill) are used; those
beyond are slack, at most another window. Writing a token is in place behind the fill, and only when a ring is full are
the tokens that count moved to the front of new memory, all rings' at once: that is once in `window` tokens at most.

A vector may say where its token stands, in four digits of base 256: whole numbers that every dtype has.

Shapes: B batch, H heads, R rounds, N buckets, S slots, V width of what is kept of a token, T time, P + T columns: those
of the past, oldest first in each bucket, and of a call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from farfield.architectures.ops.slots import ranks
from farfield.architectures.state import State, static

__all__ = ["DIGITS", "Rings", "digits", "number"]

DIGITS = 4  # of base 256: documents of at most 2^32 tokens


def digits(position: Tensor, dtype: torch.dtype) -> Tensor:
    """The digits (..., 4) of positions (...), the least first."""
    place = 8 * torch.arange(DIGITS, device=position.device)
    return ((position[..., None] >> place) & 255).to(dtype)


def number(spelled: Tensor) -> Tensor:
    """The positions (...), int64, of digits (..., 4)."""
    return (spelled.long() << 8 * torch.arange(DIGITS, device=spelled.device)).sum(-1)


@dataclass(frozen=True, eq=False)
class Rings(State):
    """Vectors `tokens` (B, H, R, N, S, V) of which `fill` (B, H, R, N) slots are used, oldest first.

    `mark` (B, H, R, N) is shared by all states on the same memory and says how far it has been filled: writing at the
    mark is in place, writing below it (a second continuation of one state) goes to new memory.
    """

    tokens: Tensor
    fill: Tensor
    mark: Tensor
    window: int = static()

    @staticmethod
    def empty(shape: tuple[int, int, int, int], width: int, like: Tensor, window: int) -> Rings:
        """No tokens, for `shape` (B, H, R, N), in the dtype and on the device of `like`."""
        fill = torch.zeros(shape, dtype=torch.int64, device=like.device)
        return Rings(like.new_zeros(*shape, 0, width), fill, fill.clone(), window)

    @property
    def kept(self) -> Tensor:
        """(B, H, R, N): the tokens that count."""
        return self.fill.clamp(max=self.window)

    @property
    def bytes(self) -> int:
        """Bytes of the rings, full or not, and of the fills: how full they are depends on what was read."""
        each = self.window * self.tokens.shape[-1] * self.tokens.element_size() + self.fill.element_size()
        return self.fill.numel() * each

    @property
    def allocated(self) -> int:
        """Bytes held, slack included."""
        return self.tokens.nbytes + self.fill.nbytes

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """All tensors but the shared mark, which is the fill again once the state stands alone."""
        return {f"{prefix}tokens": self.tokens, f"{prefix}fill": self.fill}

    def restored(self, tensors: Mapping[str, Tensor], prefix: str = "") -> Rings:
        """Rings with these tensors. Others may hold their memory, so the first token goes to new memory."""
        tokens, fill = tensors[f"{prefix}tokens"], tensors[f"{prefix}fill"]
        return Rings(tokens, fill, torch.full_like(fill, tokens.shape[-2]), self.window)

    def compact(self) -> Rings:
        """The tokens that count, in rings of `window` slots."""
        tokens, _ = self._newest(self._numbers(), self.window)
        return Rings(tokens, self.kept, self.kept, self.window)

    def cast(self, dtype: torch.dtype) -> Rings:
        """The same tokens as numbers of `dtype`."""
        if self.tokens.dtype == dtype:
            return self
        return Rings(self.tokens.to(dtype), self.fill, self.fill.clone(), self.window)

    def scaled(self, factor: Tensor) -> Rings:
        """The same tokens on memory of their own, the first D numbers of each times `factor` (B, 1, 1, D)."""
        times = torch.nn.functional.pad(factor, (0, self.tokens.shape[-1] - factor.shape[-1]), value=1.0)
        tokens = (self.tokens * times[:, :, :, None, None]).to(self.tokens.dtype)
        return Rings(tokens, self.fill, self.fill.clone(), self.window)

    def select(self, rows: Tensor) -> Rings:
        """The rows picked, on memory of their own."""
        fill = self.fill.index_select(0, rows)
        return Rings(self.tokens.index_select(0, rows), fill, fill.clone(), self.window)

    def emptied(self, rows: Tensor) -> Rings:
        """Without the tokens of the rows (B,) bool."""
        if not bool(rows.any()):
            return self
        # The mark stays: what is written to an emptied row goes to memory of its own.
        fill = self.fill.masked_fill(rows[:, None, None, None], 0)
        return Rings(self.tokens, fill, self.mark.clone(), self.window)

    def read(self) -> tuple[Tensor, Tensor]:
        """The tokens (B, H, R, N, n, V) that count, oldest first, zeros behind them, and which slots are real.

        There are as many slots as the fullest ring needs.
        """
        return self._newest(self._numbers(), int(self.kept.max()) if self.kept.numel() else 0)

    def of(self, bucket: Tensor) -> tuple[Tensor, Tensor]:
        """As `read`, of the ring of one bucket (B, H, R) in each round: (B, H, R, n, V) and (B, H, R, n)."""
        return self._newest(self._chosen(bucket), min(self.window, self.tokens.shape[-2]))

    def write(self, token: Tensor, bucket: Tensor, real: Tensor) -> Rings:
        """With one more `token` (B, H, V) in its bucket (B, H, R) of each round, in the rows that are `real` (B,)."""
        tracked = torch.is_grad_enabled() and (token.requires_grad or self.tokens.requires_grad)
        rings = self if not tracked and self._fits(bucket) else self._moved(tracked)
        chosen, slots = self._chosen(bucket), rings.tokens.shape[-2]
        at = (chosen * slots + rings.fill.flatten()[chosen])[real].flatten()
        new = token[real, :, None].expand(-1, -1, bucket.shape[2], -1).flatten(0, 2)
        tokens = rings.tokens
        if tracked:
            tokens = tokens.flatten(0, 4).index_put((at,), new).view_as(tokens)
        else:
            # Slots from the mark on are in nobody's view: `data` has no version counter that would tell it otherwise.
            tokens.data.flatten(0, 4).index_copy_(0, at, new)
        rings.mark.scatter_add_(3, bucket[..., None], real[:, None, None, None].expand_as(bucket[..., None]).long())
        return Rings(tokens, rings.mark.clone(), rings.mark, self.window)

    def renewed(self, tokens: Sequence[Tensor], label: Tensor, order: Tensor, last: Tensor) -> Rings:
        """The rings behind a call: the newest tokens that are of the document `last` (B,).

        Args:
            tokens: (B, H, S, ...), what is kept of S columns, which side by side is V numbers.
            label: (B, H, R, S), document times N plus bucket; those of no document are of none.
            order: (B, H, R, S), the columns sorted by label and in order of time where that is equal.
        """
        count, bucket = self.fill.shape[3], label % self.fill.shape[3]
        open_one = label.div(count, rounding_mode="floor") == last[:, None, None, None]
        fill = torch.zeros_like(self.fill).scatter_add_(3, bucket, open_one.long())
        rank = torch.empty_like(order).scatter_(3, order, ranks(label.gather(3, order)))
        slot = rank - (fill - self.window).clamp(min=0).gather(3, bucket)
        tracked = torch.is_grad_enabled() and any(part.requires_grad for part in tokens)
        most = int(fill.max()) if fill.numel() else 0
        slots = min(most, self.window) if tracked else _room(most, self.window)
        place = torch.where(open_one & (slot >= 0), bucket * slots + slot, count * slots)
        column = torch.arange(order.shape[3], device=order.device).expand_as(order)
        source = order.new_full((*order.shape[:3], count * slots + 1), -1).scatter_(3, place, column)[..., :-1]
        index = source.clamp(min=0).flatten(2)[..., None]
        found = torch.cat([part.gather(2, index.expand(-1, -1, -1, part.shape[3])) for part in tokens], -1)
        found = torch.where(source[..., None] >= 0, found.unflatten(2, source.shape[2:]), 0.0)
        fill = fill.clamp(max=self.window)
        return Rings(found.unflatten(3, (count, slots)), fill, fill.clone(), self.window)

    def _numbers(self) -> Tensor:
        """(B, H, R, N): which of all rings each is."""
        return torch.arange(self.fill.numel(), device=self.fill.device).view_as(self.fill)

    def _chosen(self, bucket: Tensor) -> Tensor:
        """Which of all rings those of `bucket` (B, H, R) are."""
        return self._numbers()[..., 0] + bucket

    def _newest(self, ring: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The newest tokens (..., count, V) of rings (...), oldest first, zeros behind them, and which are real."""
        fill, kept, slots = self.fill.flatten()[ring], self.kept.flatten()[ring], self.tokens.shape[-2]
        place = torch.arange(count, device=ring.device)
        real = place < kept[..., None]
        if not slots:
            return self.tokens.new_zeros(*real.shape, self.tokens.shape[-1]), real
        index = torch.where(real, (ring * slots + fill - kept)[..., None] + place, 0)
        found = self.tokens.flatten(0, 4).index_select(0, index.flatten()).view(*index.shape, self.tokens.shape[-1])
        return torch.where(real[..., None], found, 0.0), real

    def _fits(self, bucket: Tensor) -> bool:
        """Whether a token more in these fits in place: in the slack, at the mark, in memory that may be written."""
        frozen = self.tokens.is_inference() and not torch.is_inference_mode_enabled()
        free = self.fill.gather(3, bucket[..., None]) < self.tokens.shape[-2]
        return not frozen and bool(free.all()) and torch.equal(self.fill, self.mark)

    def _moved(self, tracked: bool) -> Rings:
        """The tokens that count, in new memory with room for one more in each ring; with slack where not `tracked`."""
        needed = 1 + (int(self.kept.max()) if self.kept.numel() else 0)
        tokens, _ = self._newest(self._numbers(), needed if tracked else _room(needed, self.window))
        return Rings(tokens, self.kept, self.kept, self.window)


def _room(needed: int, window: int) -> int:
    """Slots of every ring: twice as many as the fullest needs, up to the window, and from there on two windows."""
    return min(2 * needed, window) if needed <= window else 2 * window
