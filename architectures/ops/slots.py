"""Attention of chunks: columns stand in slots, sorted as a layout says, and a chunk of slots sees those before it.

    columns in slots of 2, label by label      [. .] [1 4] [0 2] [3 5] [6 .]      of label 0: 1 4, of label 1: 0 2 3 5 6

In front of the chunks of each row stand as many empty ones as a chunk sees before its own. So the keys that a run of
chunks needs are one run of slots, of which those of each chunk are a view: nothing is copied for each of them, and what
a call of a kernel reads and writes stays in the cache. Rows are taken from queries, keys and values wherever they lie
in memory, and results are put back among those of the other rounds at once.

Shapes: B batch, H heads, T queries, which are the last of the S keys, D width of a head, N chunks, C slots of one, P
chunks that one sees before its own.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from farfield.architectures.ops.alibi import Alibi
from farfield.architectures.ops.backend import Gradients, Kernel

__all__ = ["NOBODY", "Round", "Slots", "fallen", "ranks", "slotted_backward", "slotted_forward"]

NOBODY = 2**62  # the label of a column that neither sees nor is seen: the last one when columns are sorted
SCORES = 2**22  # of queries by keys in one call of a kernel at most, but for those of a single chunk
CACHED = 2**18  # the same on a CPU: a megabyte of float32


def ranks(group: Tensor) -> Tensor:
    """How many columns of its own group stand before each column of `group` (..., S), in which groups are runs."""
    column = torch.arange(group.shape[-1], device=group.device)
    begins = torch.ones_like(group, dtype=torch.bool)
    begins[..., 1:] = group[..., 1:] != group[..., :-1]
    return column - torch.where(begins, column, 0).cummax(-1).values


@dataclass(frozen=True, eq=False)
class Slots:
    """Columns in chunks of C slots, a group after the other; chunks hold columns of one group.

    `row` (N,) is the row among B H of each chunk. `column` (N, C) is the one of S in each slot, and where none is, that
    is where not `real` (N, C), another one of the same row. `number` (N,) counts the chunks of a group; of the empty
    chunks that stand in front it is P. Where chunks are a `ring`, the empty one in front of a group, at `front` (M,),
    is not empty but holds the columns of the group's last chunk, if there are several.
    """

    row: Tensor
    column: Tensor
    real: Tensor
    number: Tensor
    before: int
    time: int
    keys: int
    heads: int
    front: Tensor | None = None

    @property
    def size(self) -> int:
        """C."""
        return self.column.shape[1]

    @staticmethod
    def of(order: Tensor, group: Tensor, size: int, before: int, time: int, ring: bool = False) -> Slots:
        """The columns `order` (B, H, S), which are of groups (B, H, S): runs, NOBODY behind all others.

        Chunks that none of the last `time` columns needs are left out.
        """
        heads, keys = order.shape[1:]
        order, group = order.flatten(0, 1), group.flatten(0, 1)
        rank, real = ranks(group), group < NOBODY
        opens = real & (rank % size == 0)
        kept = opens if time == keys else _needed(opens, rank // size, real & (order >= keys - time), before)
        starts = kept & (rank == 0) if ring else kept & (kept.cumsum(1) == 1)
        chunk = (kept.flatten().cumsum(0) - 1 + before * starts.flatten().cumsum(0)).view_as(rank)
        if time < keys:  # of a chunk that is left out, no column is placed
            real = real & kept.gather(1, torch.where(real, torch.arange(keys, device=rank.device) - rank % size, 0))
        begin = starts.nonzero()
        bounds = chunk[starts] - before
        count = int(chunk[-1, -1]) + 1 if chunk.numel() else 0
        owner = begin[torch.searchsorted(bounds, torch.arange(count, device=bounds.device), right=True) - 1]
        filler = order[owner[:, 0], owner[:, 1]]
        slot = torch.where(real, chunk * size + rank % size, count * size).flatten()
        column = _scattered(filler[:, None].expand(-1, size), slot, order.flatten())
        held = _scattered(torch.zeros_like(column, dtype=torch.bool), slot, real.flatten())
        place = torch.where(kept, chunk, count).flatten()
        number = _scattered(torch.full_like(filler, before), place, rank.flatten() // size)
        if ring and count:
            _close(column, held, bounds)
        return Slots(owner[:, 0], column, held, number, before, time, keys, heads, bounds if ring else None)

    def pieces(self) -> Iterator[slice]:
        """Runs of chunks that are not too large for one call of a kernel."""
        room = CACHED if self.column.device.type == "cpu" else SCORES
        step = max(1, min(room, SCORES) // (self.size * self.size * (1 + self.before)))
        for begin in range(self.before, len(self.row), step):
            yield slice(begin, min(begin + step, len(self.row)))

    def seen(self, at: slice) -> slice:
        """The chunks that those `at` see."""
        return slice(at.start - self.before, at.stop)

    def spans(self, x: Tensor, at: slice) -> Tensor:
        """What chunks `at` see (n, (P + 1) C, ...) of x (n + P, C, ...), which holds all of that: a view."""
        count, run = at.stop - at.start, x.flatten(0, 1)
        return run.as_strided(
            (count, (self.before + 1) * self.size, *run.shape[1:]), (self.size * run.stride(0), *run.stride())
        )

    @functools.cached_property
    def asked(self) -> Tensor:
        """(N, C) bool: in which slots a query stands."""
        return self.apart[0] & (self.column >= self.keys - self.time)

    @functools.cached_property
    def apart(self) -> list[Tensor]:
        """Which slots (N, C) hold a column, those of a ring that hold one once more apart."""
        if self.front is None:
            return [self.real]
        again = torch.zeros_like(self.real).index_fill_(0, self.front, True)
        return [self.real & ~again, self.real & again]


def _needed(opens: Tensor, number: Tensor, asked: Tensor, before: int) -> Tensor:
    """Those of the columns `opens` (G, S), which open chunks, whose chunk or one of the next `before` is asked."""
    chunk = opens.flatten().cumsum(0) - 1
    count = int(chunk[-1]) + 1 if chunk.numel() else 0
    asks = torch.zeros(count + 1, dtype=torch.bool, device=opens.device)
    asks[torch.where(asked.flatten(), chunk, count)] = True
    asks, number = asks[:count], number[opens]
    kept = asks.clone()
    for step in range(1, min(before, count - 1) + 1):
        kept[:-step] |= asks[step:] & (number[step:] == number[:-step] + step)
    found = torch.zeros_like(opens)
    found[opens] = kept
    return found


def _scattered(into: Tensor, place: Tensor, values: Tensor) -> Tensor:
    """`into` with `values` (n,) at places (n,), of which those behind its end are nowhere."""
    roomy = torch.cat((into.flatten(), into.new_zeros(1)))
    return roomy.scatter_(0, place, values)[:-1].view(into.shape)


def _close(column: Tensor, real: Tensor, front: Tensor) -> None:
    """Put the columns of each group's last chunk in front of it, in place, where it is not the only one."""
    last = torch.cat((front[1:], front.new_full((1,), len(column)))) - 1
    several = last > front + 1
    column[front[several]] = column[last[several]]
    real[front[several]] = real[last[several]]


class Round(Protocol):
    """Slots, and who sees whom among them."""

    @property
    def slots(self) -> Slots:
        """Where columns stand."""

    def mask(self, at: slice) -> Tensor:
        """What is added to the scores of some chunks, (n or 1, 1, C, (P + 1) C); -inf where a query sees no key."""


def fallen(slots: Slots, visible: Tensor, alibi: Alibi, at: slice) -> Tensor:
    """A mask of the keys that are `visible` (n or 1, 1, C, (P + 1) C) whose scores fall with distance."""
    row, column, seen = slots.row[at], slots.column[at], slots.seen(at)
    batch, head = row.div(slots.heads, rounding_mode="floor"), row % slots.heads
    whose = batch[:, None] if alibi.query_position.shape[0] > 1 else torch.zeros_like(batch)[:, None]
    query = alibi.query_position[whose, (column - (slots.keys - slots.time)).clamp(min=0)]
    stands = alibi.keys().expand(-1, slots.heads, -1)
    row = slots.row[seen] if stands.shape[0] > 1 else slots.row[seen] % slots.heads
    key = slots.spans(stands.flatten(0, 1)[row[:, None], slots.column[seen]], at)
    apart = (query[:, :, None] - key[:, None]).abs().to(alibi.slopes.dtype)
    return -alibi.slopes[head][:, None, None, None] * torch.where(visible, apart[:, None], torch.inf)


class _Lines:
    """The vectors of x (B, H, T, D), of which the last T of S columns have one, where they lie in memory."""

    def __init__(self, x: Tensor) -> None:
        width = x.shape[3]
        if x.stride(3) != 1 or any(stride % width for stride in x.stride()[:3]):
            x = x.contiguous()
        self.strides, (self.heads, self.time) = [stride // width for stride in x.stride()[:3]], x.shape[1:3]
        last = sum((size - 1) * stride for size, stride in zip(x.shape[:3], self.strides, strict=True))
        self.lines = x.as_strided((last + 1, width), (width, 1))

    def index(self, slots: Slots) -> Tensor:
        """(N, C): which line stands in each slot, and some line of the row where none does."""
        batch, head, column = self.strides
        base = slots.row.div(self.heads, rounding_mode="floor") * batch + slots.row % self.heads * head
        at = slots.column if self.time == slots.keys else (slots.column - (slots.keys - self.time)).clamp(min=0)
        return torch.add(base[:, None], at, alpha=column)

    def take(self, index: Tensor) -> Tensor:
        """(n, C, D) of an index (n, C)."""
        return self.lines.index_select(0, index.flatten()).view(*index.shape, self.lines.shape[1])


class _Sums:
    """A tensor (B, H, T, ...) whose vectors are put in place by chunks; one line more takes what is for nobody."""

    def __init__(self, like: Tensor, dtype: torch.dtype, fill: float = 0.0) -> None:
        batch, self.heads, self.time = like.shape[:3]
        self.shape, self.nowhere = (batch, self.time, self.heads, *like.shape[3:]), batch * self.heads * self.time
        self.lines = torch.full((self.nowhere + 1, *like.shape[3:]), fill, dtype=dtype, device=like.device)

    def index(self, slots: Slots, there: Tensor) -> Tensor:
        """(N, C): the line of what is in each slot where `there` (N, C), else the one for nobody."""
        base = slots.row.div(self.heads, rounding_mode="floor") * (self.time * self.heads) + slots.row % self.heads
        base -= (slots.keys - self.time) * self.heads
        return torch.where(there, torch.add(base[:, None], slots.column, alpha=self.heads), self.nowhere)

    def add(self, index: Tensor, x: Tensor) -> None:
        """Add to lines, of which each is named once by an index (n, C), x (n, C, ...)."""
        index, x = index.flatten(), x.flatten(0, 1)
        self.lines.index_copy_(0, index, self.lines.index_select(0, index).add_(x))

    def whole(self) -> Tensor:
        """(B, H, T, ...)."""
        return self.lines[:-1].view(self.shape).transpose(1, 2)


def slotted_forward(
    rounds: Sequence[Round], kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Output (B, H, T, D) and log-sum-exp (B, H, T) of one softmax over the keys of all rounds."""
    out, lse = _Sums(q, q.dtype), _Sums(q[..., 0], torch.promote_types(q.dtype, torch.float32), -torch.inf)
    lines = [_Lines(x) for x in (q, k, v)]
    for number, turn in enumerate(rounds):
        slots = turn.slots
        indices, asked = [x.index(slots) for x in lines], out.index(slots, slots.asked)
        for at in slots.pieces():
            queries, keys, values = _taken(slots, at, lines, indices)
            found, its = kernel.forward(queries, keys, values, turn.mask(at), False, scale)
            found, its, index = found.reshape(-1, found.shape[3]), its.reshape(-1), asked[at].flatten()
            if number:
                found, its = _joined(out.lines.index_select(0, index), lse.lines.index_select(0, index), found, its)
            out.lines.index_copy_(0, index, found)
            lse.lines.index_copy_(0, index, its)
    return out.whole(), lse.whole()


def _taken(slots: Slots, at: slice, lines: Sequence[_Lines], indices: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Of chunks `at`, queries (n, 1, C, D), and keys and values (n, 1, (P + 1) C, D) that they see."""
    queries, *pair = zip(lines, indices, strict=True)
    found = [slots.spans(x.take(index[slots.seen(at)]), at)[:, None] for x, index in pair]
    return queries[0].take(queries[1][at])[:, None], *found


def _joined(out: Tensor, lse: Tensor, found: Tensor, its: Tensor) -> tuple[Tensor, Tensor]:
    """One softmax of two: outputs (n, D) and log-sum-exps (n,).

    A softmax of each pair, and not exponentials of all: at the end of a tensor those are computed in another way, and
    where a query stands among others depends on what comes later.
    """
    pair = torch.stack((lse, its), -1)
    blind = pair.amax(-1).isneginf()
    pair = pair.clamp(min=torch.finfo(pair.dtype).min)
    joined = (pair.amax(-1) - pair.log_softmax(-1).amax(-1)).masked_fill(blind, -torch.inf)
    old, new = pair.softmax(-1).split(1, -1)
    return (out * old).add_(found * new).to(out.dtype), joined


def slotted_backward(
    rounds: Sequence[Round],
    kernel: Kernel,
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
) -> Gradients:
    """Gradients of q, k, v of all rounds, given the joined output and log-sum-exp."""
    wide = torch.promote_types(q.dtype, torch.float32)
    on_q, on_k, on_v = (_Sums(x, wide) for x in (q, k, v))
    joined, lines = [_Lines(x) for x in (gradient, out, lse[..., None])], [_Lines(x) for x in (q, k, v)]
    for turn in rounds:
        slots = turn.slots
        whole, indices = [x.index(slots) for x in joined], [x.index(slots) for x in lines]
        asked, targets = on_q.index(slots, slots.asked), [on_k.index(slots, there) for there in slots.apart]
        for at in slots.pieces():
            above, result, its = (x.take(index[at])[:, None] for x, index in zip(joined, whole, strict=True))
            its = its[..., 0].masked_fill(~slots.asked[at, None], torch.inf)  # no query there: no weights
            queries, keys, values = _taken(slots, at, lines, indices)
            found = kernel.backward(above, queries, keys, values, result, its, turn.mask(at), False, scale)
            on_q.add(asked[at], found[0][:, 0])
            for sums, piece in zip((on_k, on_v), found[1:], strict=True):
                total = _summed(slots, piece[:, 0])
                for target in targets:
                    sums.add(target[slots.seen(at)], total)
    return on_q.whole(), on_k.whole(), on_v.whole()


def _summed(slots: Slots, x: Tensor) -> Tensor:
    """What chunks give (n, (P + 1) C, D) to those that they see, added up: (n + P, C, D), float32 or wider."""
    wide, size, count = torch.promote_types(x.dtype, torch.float32), slots.size, x.shape[0]
    total = x.new_empty(count + slots.before, size, x.shape[2], dtype=wide)
    total[: slots.before] = 0
    total[slots.before :] = x[:, slots.before * size :]
    for turn in range(slots.before):
        total[turn : turn + count] += x[:, turn * size : (turn + 1) * size]
    return total
