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
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from farfield.architectures.ops.alibi import Alibi
from farfield.architectures.ops.backend import Gradients, Kernel
from farfield.architectures.ops.pieces import pieces

__all__ = ["NOBODY", "Round", "Slots", "fallen", "masks", "ranks", "slotted_backward", "slotted_forward"]

NOBODY = 2**62  # the label of a column that neither sees nor is seen: the last one when columns are sorted
SCORES = 2**22  # of queries by keys in one call of a kernel at most, but for those of a single chunk
CACHED = 2**18  # the same on a CPU: a megabyte of float32
LONG = 16  # chunks of a row that make pieces of its own worth their calls


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
    chunks that stand in front, from `front` (M,) on, it is P. Where chunks are a `ring`, there is one in front of each
    group, and it is not empty but holds the columns of the group's last chunk, if there are several.
    """

    row: Tensor
    column: Tensor
    real: Tensor
    number: Tensor
    before: int
    time: int
    keys: int
    batch: int
    heads: int
    front: Tensor
    ring: bool

    @property
    def size(self) -> int:
        """C."""
        return self.column.shape[1]

    @staticmethod
    def of(order: Tensor, group: Tensor, size: int, before: int, time: int, ring: bool = False) -> Slots:
        """The columns `order` (B, H, S), which are of groups (B, H, S): runs, NOBODY behind all others.

        Chunks that none of the last `time` columns needs are left out.
        """
        batch, heads, keys = order.shape
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
        return Slots(owner[:, 0], column, held, number, before, time, keys, batch, heads, bounds, ring)

    def pieces(self) -> Iterator[slice]:
        """Runs of chunks that are not too large for one call of a kernel.

        Where rows are long and pieces are small, empty chunks are left out; elsewhere they are few or calls are dear.
        """
        small = self.column.device.type == "cpu"
        step = max(1, min(CACHED if small else SCORES, SCORES) // (self.size * self.size * (1 + self.before)))
        begins = self.front.tolist() if small and len(self.row) > LONG * len(self.front) else [0]
        for begin, end in zip(begins, [*begins[1:], len(self.row)], strict=True):
            first, count = begin + self.before, -(-(end - begin - self.before) // step)
            for number in range(count):
                at, to = ((end - first) * turn // count for turn in (number, number + 1))
                yield slice(first + at, first + to)

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
        return self._apart[0] & (self.column >= self.keys - self.time)

    @functools.cached_property
    def queries(self) -> Tensor:
        """(B T H,): the slot of each query among N C, and N C where it is in none."""
        return self._places(self.asked, self.time)

    @functools.cached_property
    def columns(self) -> list[Tensor]:
        """(B S H,) each: the slot of each column among N C, and N C where it is in none; of a ring, the second ones."""
        return [self._places(there, self.keys) for there in self._apart]

    @property
    def _apart(self) -> list[Tensor]:
        """Which slots (N, C) hold a column, those of a ring that hold one once more apart."""
        if not self.ring:
            return [self.real]
        again = torch.zeros_like(self.real).index_fill_(0, self.front, True)
        return [self.real & ~again, self.real & again]

    def _places(self, there: Tensor, time: int) -> Tensor:
        """The slots (B time H,) of the last columns that are `there` (N, C)."""
        nowhere, every = there.numel(), self.batch * time * self.heads
        base = self.row.div(self.heads, rounding_mode="floor") * (time * self.heads) + self.row % self.heads
        line = torch.add((base - (self.keys - time) * self.heads)[:, None], self.column, alpha=self.heads)
        place = line.new_full((every + 1,), nowhere)
        line = torch.where(there, line, every).flatten()
        return place.scatter_(0, line, torch.arange(nowhere, device=line.device))[:-1]


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

    @property
    def alibi(self) -> Alibi | None:
        """With what scores fall."""

    def masks(self) -> Iterator[tuple[slice, Tensor]]:
        """Pieces of the chunks, and what is added to their scores, (n, 1, C, (P + 1) C), -inf where one is not seen.

        A mask is good until the next one is asked for.
        """

    @property
    def blind(self) -> Tensor:
        """(N, C) bool: which columns see no key."""


def masks(
    slots: Slots, common: Tensor, others: Tensor, own: Callable[[Tensor], Tensor]
) -> Iterator[tuple[slice, Tensor]]:
    """As of a `Round` where most chunks have one mask, (C, (P + 1) C), and some, at `others` (m,), one of their `own`.

    What is common is written once: (n, C, (P + 1) C) numbers for each piece would cost as much as to read its vectors.
    """
    places, room = others.tolist(), torch.empty(0)
    for at in slots.pieces():
        count, some = at.stop - at.start, others[bisect_left(places, at.start) : bisect_left(places, at.stop)]
        if len(room) < count:
            room = common.repeat(count, 1, 1)
        if not len(some):
            yield at, room[:count, None]
            continue
        room.index_copy_(0, some - at.start, own(some))
        yield at, room[:count, None]
        room.index_copy_(0, some - at.start, common.expand(len(some), -1, -1))


def fallen(slots: Slots, alibi: Alibi, visible: Callable[[Tensor], Tensor]) -> Iterator[tuple[slice, Tensor]]:
    """As of a `Round`, with scores that fall with distance or a relation of what is seen, of what is `visible`
    (n, C, (P + 1) C) of chunks (n,).
    """
    stands = alibi.keys().expand(slots.batch, slots.heads, -1).flatten(0, 1)
    asks = alibi.query_position.expand(slots.batch, -1).repeat_interleave(slots.heads, 0)
    query = asks[slots.row[:, None], (slots.column - (slots.keys - slots.time)).clamp(min=0)]
    key = stands[slots.row[:, None], slots.column]
    slopes = alibi.slopes
    for at in slots.pieces():
        chunk = torch.arange(at.start, at.stop, device=key.device)
        asking, asked = query[at][:, :, None], slots.spans(key[slots.seen(at)], at)[:, None]
        if isinstance(slopes, Tensor):
            apart = (asking - asked).abs().to(slopes.dtype)
            falls = -slopes[slots.row[at] % slots.heads, None, None]
            yield at, (falls * torch.where(visible(chunk), apart, torch.inf))[:, None]
        else:
            yield at, (visible(chunk) & slopes.holds(asking, asked))[:, None]


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


class _Table:
    """What stands in slots, vectors (...) of like (B, H, T, ...), in memory that serves all rounds."""

    def __init__(self, rounds: Sequence[Round], like: Tensor, dtype: torch.dtype, fill: float = 0.0) -> None:
        most = max(turn.slots.column.numel() for turn in rounds)
        self.lines = torch.empty((most + 1, *like.shape[3:]), dtype=dtype, device=like.device)
        self.fill = fill

    def of(self, slots: Slots) -> tuple[Tensor, Tensor]:
        """(N, C, ...) of one round, and the same as (N C + 1, ...), of which the last is of columns in no slot."""
        lines = self.lines[: slots.column.numel() + 1]
        lines[-1] = self.fill
        table = lines[:-1].view(*slots.column.shape, *lines.shape[1:])
        table.index_fill_(0, slots.front, 0)  # where no other chunk puts its own, and others add to it
        return table, lines


def slotted_forward(
    rounds: Sequence[Round], kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Output (B, H, T, D) and log-sum-exp (B, H, T) of one softmax over the keys of all rounds."""
    tensors, wide = [_Lines(x) for x in (q, k, v)], torch.promote_types(q.dtype, torch.float32)
    out = torch.empty_like(q.transpose(1, 2), memory_format=torch.contiguous_format)
    lse = out.new_empty(out.shape[:3], dtype=wide)
    whole, whole_lse = out.flatten(0, 2), lse.flatten()
    tables = _Table(rounds, q, q.dtype), _Table(rounds, q[..., 0], wide, -torch.inf)
    for number, turn in enumerate(rounds):
        slots, indices = turn.slots, [x.index(turn.slots) for x in tensors]
        (found, lines), (its, sums) = (table.of(slots) for table in tables)
        for at, mask in turn.masks():
            queries, keys, values = _taken(slots, at, tensors, indices)
            one, its_one = kernel.forward(queries, keys, values, mask, False, scale)
            found[at], its[at] = one[:, 0], its_one[:, 0]
        if not number:
            torch.index_select(lines, 0, slots.queries, out=whole)
            torch.index_select(sums, 0, slots.queries, out=whole_lse)
            continue
        for at in pieces(len(whole), whole.shape[1], whole):
            one, its_one = (x.index_select(0, slots.queries[at]) for x in (lines, sums))
            whole[at], whole_lse[at] = _joined(whole[at], whole_lse[at], one, its_one)
    return _with_alone(rounds, q, k, v, scale, out.transpose(1, 2), lse.transpose(1, 2))


def _taken(
    slots: Slots, at: slice, tensors: Sequence[_Lines], indices: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Of chunks `at`, queries (n, 1, C, D), and keys and values (n, 1, (P + 1) C, D) that they see."""
    (queries, keys, values), seen = tensors, slots.seen(at)
    pair = (slots.spans(x.take(index[seen]), at) for x, index in zip((keys, values), indices[1:], strict=True))
    key, value = pair
    return queries.take(indices[0][at])[:, None], key[:, None], value[:, None]


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
    joined, tensors = [_Lines(x) for x in (gradient, out, lse[..., None])], [_Lines(x) for x in (q, k, v)]
    wide = torch.promote_types(q.dtype, torch.float32)
    sums = [torch.empty(x.transpose(1, 2).shape, dtype=wide, device=q.device) for x in (q, k, v)]
    rooms = [_Table(rounds, x, wide) for x in (q, k, v)]
    for number, turn in enumerate(rounds):
        slots = turn.slots
        whole, indices = [x.index(slots) for x in joined], [x.index(slots) for x in tensors]
        tables = [room.of(slots) for room in rooms]
        for at, mask in turn.masks():
            above, result, its = (x.take(index[at])[:, None] for x, index in zip(joined, whole, strict=True))
            its = its[..., 0].masked_fill(~slots.asked[at, None], torch.inf)  # no query there: no weights
            queries, keys, values = _taken(slots, at, tensors, indices)
            found = kernel.backward(above, queries, keys, values, result, its, mask, False, scale)
            tables[0][0][at] = found[0][:, 0]
            for (table, _), piece in zip(tables[1:], found[1:], strict=True):
                _add(slots, at, piece[:, 0], table)
        places = ([slots.queries], slots.columns, slots.columns)
        for total, (_, lines), some in zip(sums, tables, places, strict=True):
            for again, place in enumerate(some):
                _gather(total.flatten(0, 2), lines, place, first=number + again == 0)
    on_q, on_k, on_v = (total.transpose(1, 2) for total in sums)
    _add_alone(_alone(rounds, q, k), (gradient, q, k, v, out, lse), scale, (on_q, on_k, on_v))
    return on_q, on_k, on_v


def _gather(total: Tensor, lines: Tensor, place: Tensor, first: bool) -> None:
    """Add what stands at places (n,) of lines (m, D) to the total (n, D); if `first`, that is nothing yet."""
    if first:
        torch.index_select(lines, 0, place, out=total)
        return
    for at in pieces(len(place), lines.shape[1], lines):
        total[at] += lines.index_select(0, place[at])


def _add(slots: Slots, at: slice, x: Tensor, table: Tensor) -> None:
    """Put what chunks `at` give (n, (P + 1) C, D) to their own keys into the table, and add the rest to others'."""
    size, before, count = slots.size, slots.before, x.shape[0]
    table[at] = x[:, before * size :]
    for turn in range(before):
        begin = at.start - before + turn
        table[begin : begin + count] += x[:, turn * size : (turn + 1) * size]


Where = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


def _alone(rounds: Sequence[Round], q: Tensor, k: Tensor) -> Where:
    """Row, head and column of the queries that see no key, and of their own keys."""
    batch, heads, time = q.shape[:3]
    placed, sees = (torch.zeros(batch * time * heads, dtype=torch.bool, device=q.device) for _ in range(2))
    for turn in rounds:
        nobody = turn.blind.new_ones(1)
        placed |= turn.slots.queries < turn.blind.numel()
        sees |= ~torch.cat((turn.blind.flatten(), nobody)).index_select(0, turn.slots.queries)
    found = (placed & ~sees).view(batch, time, heads)
    alibi = rounds[0].alibi
    if alibi is not None and not isinstance(alibi.slopes, Tensor):
        found = found & alibi.slopes.holds(alibi.query_position, alibi.query_position)[..., None]
    row, column, head = found.nonzero().unbind(1)
    return (row, head, column), (row, head, column + k.shape[2] - time)


def _products(x: Tensor, y: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    return (x.to(dtype) * y.to(dtype)).sum(-1) * scale


def _with_alone(
    rounds: Sequence[Round], q: Tensor, k: Tensor, v: Tensor, scale: float, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp, in which queries that see no other key see their own, put in place.

    It stands where they do: no score falls with distance.
    """
    queries, columns = _alone(rounds, q, k)
    out[queries], lse[queries] = v[columns], _products(q[queries], k[columns], scale, lse.dtype)
    return out, lse


def _add_alone(where: Where, tensors: Sequence[Tensor], scale: float, found: Gradients) -> None:
    """Add the gradients of queries over their own keys, in place."""
    queries, columns = where
    above, q, k, v, out, lse = (x[columns if n in (2, 3) else queries] for n, x in enumerate(tensors))
    weights = (_products(q, k, scale, lse.dtype) - lse).exp()
    on_scores = weights * (_products(above, v, scale, lse.dtype) - _products(above, out, scale, lse.dtype))
    found[0][queries] += on_scores[:, None] * k
    found[1][columns] += on_scores[:, None] * q
    found[2][columns] += weights[:, None] * above
