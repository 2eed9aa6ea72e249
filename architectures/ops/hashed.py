"""Attention among tokens of one bucket: columns are sorted by bucket and cut into chunks, which are rows of one batch.

    Hashed      query t sees the last keys of its own label before it       causal
    Adjacent    query t sees the keys of its own chunk and the one before   both directions

With an `alibi`, scores fall with the distance in tokens, wherever a chunk holds them.

    bucket of columns 0 .. 6    1 0 1 1 0 1 1       chunks of 2:   [1 4]  [0 2] [3 5] [6 .]

A chunk of `Hashed` holds tokens of one label, each in a slot that follows from how many of its label stand before it:
what comes later does not move it, so that the future does not change the past, not even in the last bit. Work and
memory are linear in S for a fixed window or chunk.

Shapes: B batch, H heads, T queries, which are the last of the S keys, D width of a head, R rounds, N chunks, C slots of
one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from farfield.architectures.ops.alibi import Alibi
from farfield.architectures.ops.backend import Gradients, Kernel
from farfield.architectures.ops.layouts import Layout, biased, wide

__all__ = ["NOBODY", "Adjacent", "Hashed", "hashed", "ranks"]

NOBODY = 2**62  # the label of a column that neither sees nor is seen: the last one when columns are sorted
LEAST = 16  # slots of a chunk at least: products of fewer rows cost as much
SCORES = 2**22  # of queries by keys in one call of a kernel at most, but for those of a single chunk


def hashed(x: Tensor, rotations: Tensor) -> Tensor:
    """The bucket argmax([x R; -x R]) (B, H, R, T) of x (B, H, T, D) in each round, rotations (H, R, D, buckets / 2).

    Angular hashing (Andoni et al., https://arxiv.org/abs/1509.02897): the smaller the angle of two, the likelier one
    bucket. It is a choice: no gradient goes through it.
    """
    kind = torch.promote_types(x.dtype, torch.float32)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        turned = torch.einsum("bhtd,hrdk->bhrtk", x.to(kind), rotations.to(kind))
        return torch.cat((turned, -turned), -1).argmax(-1)


def ranks(group: Tensor) -> Tensor:
    """How many columns of its own group stand before each column of `group` (..., S), in which groups are runs."""
    column = torch.arange(group.shape[-1], device=group.device)
    begins = torch.ones_like(group, dtype=torch.bool)
    begins[..., 1:] = group[..., 1:] != group[..., :-1]
    return column - torch.where(begins, column, 0).cummax(-1).values


@dataclass(frozen=True, eq=False)
class Chunks:
    """Columns in chunks of `size` slots, a group after the other; chunks hold columns of one group.

    `column` (N, C) is the one in each slot, among the B H S of all rows and heads, and B H S where a slot is empty.
    `place` (B, H, S) is the slot of each column, among N C, and N C where it is in none. `number` (N,) counts the
    chunks of a group.
    """

    size: int
    column: Tensor
    place: Tensor
    number: Tensor

    @staticmethod
    def of(order: Tensor, group: Tensor, size: int) -> Chunks:
        """The columns `order` (B, H, S), which are of groups (B, H, S): runs, NOBODY behind all others."""
        real, rank = group < NOBODY, ranks(group)
        opens = real & (rank % size == 0)
        chunk = opens.flatten().cumsum(0).view_as(rank) - 1
        number = rank[opens].div(size, rounding_mode="floor")
        nowhere = len(number) * size
        place = torch.empty_like(order).scatter_(2, order, torch.where(real, chunk * size + rank % size, nowhere))
        column = place.new_full((nowhere + 1,), place.numel())
        column.scatter_(0, place.flatten(), torch.arange(place.numel(), device=place.device))
        return Chunks(size, column[:-1].view(-1, size), place, number)

    def asking(self, time: int) -> Tensor:
        """(N,) bool: chunks in which one of the last `time` columns stands."""
        keys = self.place.shape[2]
        within = self.column % keys >= keys - time
        return (within & (self.column < self.place.numel())).any(1)

    def table(self, x: Tensor, fill: float = 0.0) -> Tensor:
        """(N, 1, C, ...) of what `x` (B, H, T, ...) holds of the last T columns; `fill` in the other slots."""
        keys, time = self.place.shape[2], x.shape[2]
        row, column = self.column.div(keys, rounding_mode="floor"), self.column % keys - (keys - time)
        nothing = x.shape[0] * x.shape[1] * time
        index = torch.where((column >= 0) & (self.column < self.place.numel()), row * time + column, nothing)
        return _taken(x.flatten(0, 2), index, fill)[:, None]

    def back(self, table: Tensor, time: int, fill: float = 0.0) -> Tensor:
        """(B, H, T, ...) of the last `time` columns in the `table` (N, 1, C, ...); `fill` for those in no chunk."""
        return _taken(table.flatten(0, 2), self.place[:, :, self.place.shape[2] - time :], fill)


def _taken(x: Tensor, index: Tensor, fill: float) -> Tensor:
    """Rows `index` of x (n, ...), of which row n is `fill`."""
    x = torch.cat((x, x.new_full((1, *x.shape[1:]), fill)))
    return x.index_select(0, index.flatten()).view(*index.shape, *x.shape[1:])


@dataclass(frozen=True, eq=False)
class Piece:
    """Chunks `at` (n,) of queries, the chunks `before` (n,) them that they see too, if any, and the mask of both."""

    at: Tensor
    before: Tensor | None
    mask: Tensor

    def fallen(self, places: Places) -> Piece:
        """The same with scores that fall with distance: a mask (n, 1, C, C or 2 C) of numbers."""
        apart = places.query[self.at][..., None] - self.seen(places.key)[..., 0][:, :, None]
        distance = torch.where(self.mask, apart.abs().to(places.slope.dtype), torch.inf)
        return Piece(self.at, self.before, -places.slope[self.at][:, None, None, None] * distance)

    def seen(self, table: Tensor) -> Tensor:
        """The keys (n, 1, C or 2 C, D) that the queries need of the table (N, 1, C, D)."""
        own = table.index_select(0, self.at)
        return own if self.before is None else torch.cat((table.index_select(0, self.before), own), 2)

    def add(self, into: Tensor, x: Tensor) -> None:
        """`into` (N, 1, C, D) with `x` added where `seen` takes it from, in place."""
        size = into.shape[2]
        into[self.at] += x[:, :, -size:]
        if self.before is not None:
            into[self.before] += x[:, :, :size]


@dataclass(frozen=True, eq=False)
class Places:
    """ALiBi in chunks: the slope (N,) of each, and where its queries (N, 1, C) and keys (N, 1, C, 1) stand."""

    slope: Tensor
    query: Tensor
    key: Tensor

    @staticmethod
    def of(alibi: Alibi, chunks: Chunks) -> Places:
        batch, heads, keys = chunks.place.shape
        head = chunks.column[:, 0].div(keys, rounding_mode="floor") % heads  # no chunk's first slot is empty
        query = alibi.query_position[:, None].expand(batch, heads, -1)
        key = alibi.keys().expand(batch, heads, -1)
        return Places(alibi.slopes[head], chunks.table(query), chunks.table(key)[..., None])


def _fallen(pieces: Iterator[Piece], alibi: Alibi | None, chunks: Chunks) -> Iterator[Piece]:
    """The pieces, with what an alibi makes of their masks, one at a time."""
    places = None if alibi is None else Places.of(alibi, chunks)
    return pieces if places is None else (piece.fallen(places) for piece in pieces)


def _forward(
    chunks: Chunks, pieces: Iterator[Piece], kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Output (B, H, T, D) and log-sum-exp (B, H, T) of all pieces."""
    queries, keys, values = (chunks.table(x) for x in (q, k, v))
    out = torch.zeros_like(queries)
    lse = out.new_full(out.shape[:3], -torch.inf, dtype=torch.promote_types(q.dtype, torch.float32))
    for piece in pieces:
        seen = piece.seen(keys), piece.seen(values)
        out[piece.at], lse[piece.at] = kernel.forward(queries[piece.at], *seen, piece.mask, False, scale)
    return chunks.back(out, q.shape[2]), chunks.back(lse, q.shape[2], -torch.inf)


def _backward(
    chunks: Chunks,
    pieces: Iterator[Piece],
    kernel: Kernel,
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
) -> Gradients:
    """Gradients of q, k, v of all pieces, each chunk's added up in place."""
    above, queries, keys, values, out, lse = (chunks.table(x) for x in (gradient, q, k, v, out, lse))
    on_q, on_k, on_v = wide(queries), wide(keys), wide(values)
    for piece in pieces:
        its, seen = (above[piece.at], queries[piece.at]), (piece.seen(keys), piece.seen(values))
        found = kernel.backward(*its, *seen, out[piece.at], lse[piece.at], piece.mask, False, scale)
        on_q[piece.at] = found[0].to(on_q.dtype)
        piece.add(on_k, found[1])
        piece.add(on_v, found[2])
    time, keys_time = q.shape[2], k.shape[2]
    return chunks.back(on_q, time), chunks.back(on_k, keys_time), chunks.back(on_v, keys_time)


@dataclass(frozen=True, eq=False)
class Hashed:
    """Query t sees those of the keys before it that have its own label, the last `window` of them, and not itself.

    ```
    label   5 5 8 5 5      window 2      . . . . .
                                         x . . . .
                                         . . . . .
                                         x x . . .
                                         . x . x .
    ```

    Labels are (B, H, S), NOBODY for a column that neither sees nor is seen; `order` (B, H, S) sorts the columns by
    them, in order of time where they are equal. Chunks are as large as the window, so that a query needs its own and
    the one before, and one mask serves all but those with an alibi, which a few chunks at a time have masks for.
    """

    label: Tensor
    order: Tensor
    window: int
    alibi: Alibi | None = None

    def mask(self, time: int, keys: int) -> Tensor:
        same = (self.label[..., None, :] == self.label[..., None]) & (self.label < NOBODY)[..., None]
        before = same & torch.ones(keys, keys, dtype=torch.bool, device=same.device).tril(-1)
        later = before.sum(-1, keepdim=True) - before.cumsum(-1)  # how many of a query's keys stand behind a key
        visible = (before & (later < self.window))[:, :, keys - time :]
        return biased(visible, self.alibi, slice(0, time), slice(0, keys))

    def select(self, heads: Tensor) -> Layout:
        alibi = None if self.alibi is None else self.alibi.select(heads)
        return Hashed(self.label.index_select(1, heads), self.order.index_select(1, heads), self.window, alibi)

    def forward(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        return _forward(self.chunks, self._masked(q.shape[2]), kernel, q, k, v, scale)

    def backward(
        self, kernel: Kernel, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> Gradients:
        return _backward(self.chunks, self._masked(q.shape[2]), kernel, gradient, q, k, v, out, lse, scale)

    @functools.cached_property
    def chunks(self) -> Chunks:
        """Of one label each."""
        return Chunks.of(self.order, self.label.gather(2, self.order), max(self.window, LEAST))

    def _masked(self, time: int) -> Iterator[Piece]:
        return _fallen(self._pieces(time), self.alibi, self.chunks)

    def _pieces(self, time: int) -> Iterator[Piece]:
        """First chunks, which see their own only, and the others."""
        size, asking = self.chunks.size, self.chunks.asking(time)
        slot = torch.arange(2 * size, device=self.label.device)
        distance = slot[size:, None] - slot
        mask = ((distance > 0) & (distance <= self.window))[None, None]
        first = self.chunks.number == 0
        for at in _split((asking & first).nonzero()[:, 0], size):
            yield Piece(at, None, mask[..., size:])
        for at in _split((asking & ~first).nonzero()[:, 0], size):
            yield Piece(at, at - 1, mask)


@dataclass(frozen=True, eq=False)
class Adjacent:
    """Tokens of a document, sorted by bucket and cut into chunks of `size`: each sees its own chunk and the one before.

    ```
    sorted columns of one document, size 2        the same, of buckets 0 0 0 1 1, not across:
      . x . . .                                     . x . . .
      x . . . .                                     x . . . .
      x x . x .                                     x x . . .
      x x x . .                                     . . . . .
      . . x x .                                     . . . x .
    ```

    Not itself. `across` buckets, or those of its own bucket only. Across them, the first chunk of several sees the last
    one, as in the code that was released with the paper. `bucket` (B, H, T); `document` (B, T), NOBODY for padding.
    """

    document: Tensor
    bucket: Tensor
    size: int
    across: bool
    alibi: Alibi | None = None

    def mask(self, time: int, keys: int) -> Tensor:
        return biased(self._definition(time), self.alibi, slice(0, time), slice(0, keys))

    def _definition(self, time: int) -> Tensor:
        """Which of all keys (B, H, T, T) each query sees."""
        document = self.document[:, None].expand_as(self.bucket)
        same = (document[..., None] == document[..., None, :]) & (document < NOBODY)[..., None]
        column = torch.arange(time, device=same.device)
        place = self.bucket * time + column
        rank = (same & (place[..., None, :] < place[..., None])).sum(-1)
        chunk = rank.div(self.size, rounding_mode="floor")
        after = chunk[..., None] - chunk[..., None, :]
        near = (after == 0) | (after == 1)
        if self.across:
            last = torch.where(same, chunk[..., None, :], 0).amax(-1, keepdim=True)
            return same & (near | ((last > 0) & (after == -last))) & (column != column[:, None])
        return same & near & (self.bucket[..., None] == self.bucket[..., None, :]) & (column != column[:, None])

    def select(self, heads: Tensor) -> Layout:
        alibi = None if self.alibi is None else self.alibi.select(heads)
        return Adjacent(self.document, self.bucket.index_select(1, heads), self.size, self.across, alibi)

    def forward(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        return _forward(self.chunks, self._masked(), kernel, q, k, v, scale)

    def backward(
        self, kernel: Kernel, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> Gradients:
        return _backward(self.chunks, self._masked(), kernel, gradient, q, k, v, out, lse, scale)

    @functools.cached_property
    def chunks(self) -> Chunks:
        """Of one document each."""
        by_bucket = self.bucket.argsort(dim=2, stable=True)
        document = self.document[:, None].expand_as(self.bucket)
        order = by_bucket.gather(2, document.gather(2, by_bucket).argsort(dim=2, stable=True))
        return Chunks.of(order, document.gather(2, order), self.size)

    def _masked(self) -> Iterator[Piece]:
        return _fallen(self._pieces(), self.alibi, self.chunks)

    def _pieces(self) -> Iterator[Piece]:
        bucket, number, size = self.chunks.table(self.bucket, -1)[:, 0], self.chunks.number, self.size
        chunk = torch.arange(len(number), device=number.device)
        first = chunk[number == 0]
        before = chunk - 1
        if self.across:
            before[first] = torch.cat((first[1:] - 1, chunk[-1:]))  # the last chunk of the same document
        alone = before == chunk if self.across else number == 0
        for at in _split(chunk[alone], size):
            yield Piece(at, None, self._visible(bucket[at], bucket[at]))
        for at in _split(chunk[~alone], size):
            seen = torch.cat((bucket[before[at]], bucket[at]), 1)
            yield Piece(at, before[at], self._visible(bucket[at], seen))

    def _visible(self, bucket: Tensor, seen: Tensor) -> Tensor:
        """The mask (n, 1, C, S) of queries' buckets (n, C) and keys' (n, S), the last of which are the same tokens."""
        own = torch.eye(self.size, dtype=torch.bool, device=seen.device)
        other = ~torch.nn.functional.pad(own, (seen.shape[1] - self.size, 0))
        visible = (seen >= 0)[:, None] & other
        if not self.across:
            visible &= bucket[..., None] == seen[:, None]
        return rearrange(visible, "n c s -> n 1 c s")


def _split(chunks: Tensor, size: int) -> Iterator[Tensor]:
    """Pieces of `chunks` (n,) that are not too large for one call of a kernel; none of no chunks."""
    if len(chunks):
        yield from chunks.split(max(1, SCORES // (2 * size * size)))
