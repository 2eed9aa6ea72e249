"""Where each token of a batch stands: positions, padding, documents.

    positions   0  1  2  0  1 -1      two documents packed into a row, then padding
    real        1  1  1  1  1  0
    document    1  1  1  2  2  2      0 would mean: goes on with the document of the state that is handed in

Shapes: B batch, T time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

import torch
from torch import Tensor

__all__ = ["Bucket", "Copies", "Rows"]

V = TypeVar("V")


class lazy(Generic[V]):  # noqa: N801  # used as a decorator
    """functools.cached_property without its lock (before Python 3.12), which torch.compile cannot trace."""

    def __init__(self, make: Callable[[Any], V]) -> None:
        self.make, self.__doc__ = make, make.__doc__
        self.name = make.__name__

    def __get__(self, owner: Any, kind: type | None = None) -> V:
        if owner is None:
            return self  # type: ignore[return-value]  # looked up on the class, as documentation tools do
        value = owner.__dict__[self.name] = self.make(owner)
        return value


@dataclass(frozen=True, eq=False)
class Bucket:
    """Documents of about the same length, each a row of its own: `token` (N, S) among all B T, and which are `real`."""

    token: Tensor
    real: Tensor


class Copies:
    """Constants on another device, each copied there once: a graph that is captured can copy nothing from the host."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[Tensor, Tensor]] = {}

    def of(self, constant: Tensor, device: torch.device) -> Tensor:
        """`constant` on `device`."""
        if id(constant) not in self._of:  # kept with its copy, so that no other tensor gets its id
            self._of[id(constant)] = constant, constant.to(device)
        return self._of[id(constant)][1]


@dataclass(frozen=True, eq=False)
class Rows:
    """Positions (B, T), int64: 0 starts a new document, -1 is padding (left, right or between documents).

    Padding never stands inside a document: it is not read, not written, and its output is zero. `phase` (B, T) is
    what positional encodings see; it equals `positions` unless a method says otherwise. `longest` bounds the length
    of a document where that is known. `marked` (B, T) bool names the global tokens of encoders that have some; None:
    their own rule. `least` is a position that every real token is known to have reached. All else is derived once.
    """

    positions: Tensor
    phase: Tensor
    longest: int | None = None
    marked: Tensor | None = None
    least: int = 0
    copies: Copies | None = None

    @staticmethod
    def at(positions: Tensor) -> Rows:
        """Rows whose phase is their positions (B, T)."""
        return Rows(positions, positions)

    @staticmethod
    def fresh_documents(batch: int, time: int, device: torch.device | str | None = None) -> Rows:
        """One whole document a row: positions 0 .. time - 1."""
        return Rows.at(torch.arange(time, device=device).expand(batch, time))

    @staticmethod
    def one_more(position: Tensor, phase: Tensor, least: int, copies: Copies) -> Rows:
        """One more token of each row's document at position and phase (B,), behind `least` others or more; `least` > 0.

        No number is looked up: what others derive from theirs is known. So a graph can be captured with these rows.
        """
        rows = Rows(position[:, None], phase[:, None], least=least, copies=copies)
        rows.__dict__.update(padded=False, right_padded=True, fresh=False, single=True, begin=None)
        return rows

    @property
    def batch(self) -> int:
        return self.positions.shape[0]

    @property
    def time(self) -> int:
        return self.positions.shape[1]

    @property
    def device(self) -> torch.device:
        return self.positions.device

    @lazy
    def real(self) -> Tensor:
        """(B, T) bool: not padding."""
        return self.positions >= 0

    @lazy
    def document(self) -> Tensor:
        """(B, T) int64: how many documents have started in this row; 0 goes on with the state's document."""
        return (self.positions == 0).cumsum(1)

    @lazy
    def continued(self) -> Tensor:
        """(B, T) bool: real tokens that go on with the document of the state."""
        return self.real & (self.document == 0)

    @lazy
    def following(self) -> Tensor:
        """(B, 1) int64: the position of the first token that goes on with the state's document; 0 where none does."""
        far = torch.iinfo(torch.int64).max
        first = torch.where(self.continued, self.positions, far).amin(1, keepdim=True)
        return torch.where(first == far, 0, first)

    @lazy
    def first_phase(self) -> Tensor:
        """(B, T) int64: the phase at which each token's document begins; meaningless where it began before the call."""
        columns = torch.arange(self.time, device=self.device)
        return self.phase.gather(1, torch.where(self.positions == 0, columns, 0).cummax(1).values)

    @lazy
    def last_document(self) -> Tensor:
        """(B,) int64: the document that stands open at the end of each row."""
        return self.document[:, -1]

    @lazy
    def last_position(self) -> Tensor:
        """(B,) int64: where the last real token of each row stands; -1 for a row of nothing but padding."""
        column = torch.where(self.real, torch.arange(self.time, device=self.device), -1).amax(1, keepdim=True)
        return torch.where(column >= 0, self.positions.gather(1, column.clamp(min=0)), -1)[:, 0]

    @lazy
    def _alone(self) -> list[int] | None:
        """The positions (B,) of a call of one token, looked at once: a decoded token waits for it. None of others."""
        return self.positions[:, 0].tolist() if self.time == 1 else None

    @lazy
    def begin(self) -> int | None:
        """The position of the first column where all rows are the same run of one document; else None."""
        if self._alone is not None:
            return self._alone[0] if len(set(self._alone)) == 1 and self.plain else None
        first = self.positions[:, 0]
        return int(first[0]) if self.batch and self.plain and bool((first == first[0]).all()) else None

    @lazy
    def padded(self) -> bool:
        """Whether any token is padding."""
        if self._alone is not None:
            return any(position < 0 for position in self._alone)
        return bool((~self.real).any())

    @lazy
    def right_padded(self) -> bool:
        """Whether padding, if any, stands only at the ends of rows."""
        return self.time == 1 or not self.padded or not bool((self.real[:, 1:] & ~self.real[:, :-1]).any())

    def padding_last(self) -> Tensor | None:
        """The order (B, T) of columns that moves padding to the ends of rows; None where it stands there already."""
        if self.right_padded:
            return None
        return (~self.real).to(torch.uint8).argsort(dim=1, stable=True)

    @lazy
    def fresh(self) -> bool:
        """Whether every row begins a document in its first column, so that no state is looked at."""
        if self._alone is not None:
            return not any(self._alone)
        return bool((self.positions[:, 0] == 0).all())

    @lazy
    def single(self) -> bool:
        """Whether every row holds one document: all rows begin one in their first column, or none begins any."""
        if self._alone is not None:
            return self.fresh or all(self._alone)
        starts = self.positions == 0
        return not bool(starts[:, 1:].any()) and (self.fresh or not bool(starts[:, 0].any()))

    @property
    def plain(self) -> bool:
        """Whether every row is a run of one document without padding: the fast path of every op."""
        return self.single and not self.padded

    def settle(self) -> None:
        """Looks at the numbers now, so that no compiled graph has to break for it."""
        _ = self.plain, self.fresh, self.right_padded, self.begin

    @lazy
    def _memo(self) -> dict[object, object]:
        return {}

    def once(self, key: object, make: Callable[[], V]) -> V:
        """`make()`, computed once for these rows and `key`: layers share angles and masks by it."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]  # type: ignore[return-value]  # each key is only used with one type of value

    @overload
    def here(self, constant: Tensor) -> Tensor: ...
    @overload
    def here(self, constant: Tensor | None) -> Tensor | None: ...

    def here(self, constant: Tensor | None) -> Tensor | None:
        """`constant`, if any, on the device of these rows."""
        if constant is None or constant.device == self.device or self.copies is None:
            return None if constant is None else constant.to(self.device)
        return self.copies.of(constant, self.device)

    def part(self, begin: int, end: int) -> Rows:
        """The columns from `begin` to `end`."""

        def make() -> Rows:
            at = slice(begin, end)
            marked = None if self.marked is None else self.marked[:, at]
            return Rows(self.positions[:, at], self.phase[:, at], self.longest, marked)

        return self.once(("part", begin, end), make)

    def segmented(self, segment: int) -> Rows:
        """The same tokens in documents of at most `segment` tokens, cut at multiples of it; the phase stays."""

        def make() -> Rows:
            cut = torch.where(self.real, self.positions % segment, self.positions)
            return Rows(cut, self.phase, segment)

        return self.once(("segmented", segment), make)

    def masked(self, x: Tensor) -> Tensor:
        """`x` (B, T, ...) with zeros at the padding."""
        if not self.padded:
            return x
        keep = self.real.unflatten(1, (self.time, *([1] * (x.ndim - 2))))
        return torch.where(keep, x, torch.zeros((), dtype=x.dtype, device=x.device))

    @lazy
    def buckets(self) -> list[Bucket]:
        """Every document of this call, in buckets by the next power of two of its length: each half full or more."""
        before = torch.cat((self.real.new_zeros(self.batch, 1), self.real[:, :-1]), dim=1)
        begins = (self.real & ((self.positions == 0) | ~before)).flatten()
        first, number = begins.nonzero()[:, 0], begins.cumsum(0)[self.real.flatten()] - 1
        length = torch.bincount(number, minlength=len(first))
        powers = 2 ** torch.arange(40, device=self.device)
        size = powers[torch.searchsorted(powers, length)]
        found = []
        for width in size.unique().tolist():
            place = torch.arange(width, device=self.device)
            chosen = size == width
            real = place < length[chosen, None]
            found.append(Bucket(torch.where(real, first[chosen, None] + place, 0), real))
        return found

    def unpack(self, x: Tensor) -> list[Tensor]:
        """Of `x` (B, T, ...), each document a row of its own, (N, S, ...) for each bucket; zeros behind its end."""
        flat = x.flatten(0, 1)
        pieces = [
            (flat[bucket.token], bucket.real.unflatten(1, (-1, *([1] * (x.ndim - 2))))) for bucket in self.buckets
        ]
        return [torch.where(real, piece, torch.zeros((), dtype=x.dtype, device=x.device)) for piece, real in pieces]

    def repack(self, pieces: list[Tensor], like: Tensor) -> Tensor:
        """What `unpack` took apart, back in (B, T, ...) of `like`, with zeros at the padding."""
        flat: Tensor = torch.zeros_like(like).flatten(0, 1)
        for bucket, piece in zip(self.buckets, pieces, strict=True):
            flat = flat.index_put((bucket.token[bucket.real],), piece[bucket.real])
        return flat.reshape(like.shape)
