"""States: what a layer carries from one call to the next, as values.

A `State` is a frozen dataclass of tensors, other states, tuples of states, or None, and a pytree for torch. The first
dimension of every tensor is the batch. A state that was handed in never changes its meaning: whoever still holds it
can go on from it again.

Shapes: B batch, H heads, T time, S slots, D width of a key, V width of a value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from farfield.architectures.rows import Rows, lazy

__all__ = ["KeyValueBuffer", "NoState", "State", "count_bytes", "static"]

S = TypeVar("S", bound="State")


def static() -> Any:
    """A field that is not a tensor and never changes, such as a limit."""
    return field(metadata={"static": True})


@dataclass(frozen=True, eq=False)
class State:
    """Base of all states. Subclasses are frozen dataclasses and become pytrees of torch by being defined."""

    def __init_subclass__(cls) -> None:
        pytree.register_pytree_node(
            cls,
            lambda state: (
                [getattr(state, name) for name in state._names()],
                tuple((f.name, getattr(state, f.name)) for f in dataclasses.fields(state) if "static" in f.metadata),
            ),
            lambda children, context: cls(**dict(zip(cls._names(), children, strict=True)), **dict(context)),
        )

    @classmethod
    def _names(cls) -> list[str]:
        return [f.name for f in dataclasses.fields(cls) if "static" not in f.metadata]

    @property
    def bytes(self) -> int:
        """Bytes that this state uses."""
        return sum(
            part.bytes if isinstance(part, State) else part.numel() * part.element_size() for part in self._parts()
        )

    @property
    def allocated(self) -> int:
        """Bytes that this state holds, slack included."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors().values())

    def select(self: S, rows: Tensor) -> S:
        """The state of batch rows `rows` (n,) int64: picked, repeated, reordered."""
        return self._map(lambda tensor: tensor.index_select(0, rows), lambda state: state.select(rows))

    def detach(self: S) -> S:
        """The same values without their gradients' history."""
        return self._map(lambda tensor: tensor.detach(), lambda state: state.detach())

    def to(self: S, device: torch.device | str) -> S:
        """The same values on another device."""
        return self._map(lambda tensor: tensor.to(device), lambda state: state.to(device))

    def compact(self: S) -> S:
        """The same values without slack, each tensor alone on its memory: what is saved."""
        return self._map(
            lambda tensor: tensor.clone(memory_format=torch.contiguous_format), lambda state: state.compact()
        )

    def first(self: S, count: int) -> S | None:
        """The state behind the first `count` of the tokens that this one has read, of every row at least as many.

        None where that is no longer in it: a recurrence has forgotten what it was, a window what it dropped.
        """
        return None

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """All tensors by dotted names, as safetensors stores them."""
        found: dict[str, Tensor] = {}
        for name in self._names():
            value = getattr(self, name)
            for place, part in _walk(value, f"{prefix}{name}"):
                found |= part.tensors(f"{place}.") if isinstance(part, State) else {place: part}
        return found

    def restored(self: S, tensors: Mapping[str, Tensor], prefix: str = "") -> S:
        """A state built like this one with the tensors that `tensors()` named.

        Raises:
            KeyError: a tensor of this state is not among `tensors`.
        """

        def back(value: Any, place: str) -> Any:
            if isinstance(value, State):
                return value.restored(tensors, f"{place}.")
            if isinstance(value, Sequence):
                return tuple(back(item, f"{place}.{index}") for index, item in enumerate(value))
            return None if value is None else tensors[place]

        return dataclasses.replace(
            self, **{name: back(getattr(self, name), f"{prefix}{name}") for name in self._names()}
        )

    def _parts(self) -> Iterator[Tensor | State]:
        for name in self._names():
            for _, part in _walk(getattr(self, name), name):
                yield part

    def _map(self: S, on_tensor: Callable[[Tensor], Tensor], on_state: Callable[[Any], Any]) -> S:
        def apply(value: Any) -> Any:
            if isinstance(value, State):
                return on_state(value)
            if isinstance(value, Sequence):
                return tuple(apply(item) for item in value)
            return None if value is None else on_tensor(value)

        return dataclasses.replace(self, **{name: apply(getattr(self, name)) for name in self._names()})


def count_bytes(counts: Tensor) -> int:
    """Bytes of counts of tokens (B,) that a state needs: none where all rows are alike, which the shapes say."""
    return 0 if torch.equal(counts, counts[:1].expand_as(counts)) else counts.nbytes


def _walk(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every tensor and state directly in `value`, with its dotted name."""
    if isinstance(value, Sequence):  # a tuple, or states that arrive: see `farfield.architectures.arriving`
        for index, item in enumerate(value):
            yield from _walk(item, f"{place}.{index}")
    elif value is not None:
        yield place, value


@dataclass(frozen=True, eq=False)
class NoState(State):
    """The state of a part that carries nothing."""

    def first(self, count: int) -> NoState:
        return self


@dataclass(frozen=True, eq=False)
class KeyValueBuffer(State):
    """Keys (B, H, S, D) and values (B, H, S, V) of the newest tokens of each row's open document, oldest first.

    Row b uses slots [0, length[b]); what lies beyond is slack. Capacity grows by doubling. `mark` (B,) is shared by
    all states on the same memory and says how far it has been filled: appending at the mark writes in place,
    appending below it (a second continuation of one state) copies. With a `limit`, only the newest `limit` tokens
    count; older ones are dropped when the slack is used up, so that a token costs no copy of the window.
    """

    keys: Tensor
    values: Tensor
    length: Tensor
    mark: Tensor
    limit: int | None = static()

    @staticmethod
    def empty(
        batch: int, heads: int, width: int, like: Tensor, limit: int | None = None, value_width: int | None = None
    ) -> KeyValueBuffer:
        """No tokens, in the dtype and on the device of `like`."""
        length = torch.zeros(batch, dtype=torch.int64, device=like.device)
        keys = like.new_zeros(batch, heads, 0, width)
        values = like.new_zeros(batch, heads, 0, width if value_width is None else value_width)
        return KeyValueBuffer(keys, values, length, length.clone(), limit)

    @property
    def bytes(self) -> int:
        """Bytes of the tokens that count, and of the lengths where they differ."""
        heads, width, value_width = self.keys.shape[1], self.keys.shape[3], self.values.shape[3]
        used = self.length if self.limit is None else self.length.clamp(max=self.limit)
        return int(used.sum()) * heads * (width + value_width) * self.keys.element_size() + count_bytes(used)

    @property
    def allocated(self) -> int:
        """Bytes held, slack included."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.keys, self.values, self.length))

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """All tensors but the shared mark, which is the length again once the state stands alone."""
        names = ("keys", "values", "length")
        return {f"{prefix}{name}": getattr(self, name) for name in names}

    def restored(self, tensors: Mapping[str, Tensor], prefix: str = "") -> KeyValueBuffer:
        """A buffer with these tensors. Others may hold their memory, so its first append copies: no slack is left."""
        keys, values, length = (tensors[f"{prefix}{name}"] for name in ("keys", "values", "length"))
        return KeyValueBuffer(keys, values, length, torch.full_like(length, keys.shape[2]), self.limit)

    def compact(self) -> KeyValueBuffer:
        """The tokens that count, without slack."""
        keys, values, valid = self.read()
        return _gathered(keys, values, valid, self.limit)

    def first(self, count: int) -> KeyValueBuffer | None:
        """The oldest `count` tokens, where none has been dropped for a limit. Appending to them copies."""
        if self.limit is not None or count > self.extent()[0]:
            return None
        length = torch.full_like(self.length, count)
        return KeyValueBuffer(self.keys[:, :, :count], self.values[:, :, :count], length, length.clone(), None)

    def newest(self, count: int) -> KeyValueBuffer:
        """The newest `count` tokens of each row, on memory of their own."""
        keys, values, valid = self.read()
        low = max(0, keys.shape[2] - count)
        valid = None if valid is None else valid[:, low:]
        return _gathered(keys[:, :, low:], values[:, :, low:], valid, self.limit)

    @staticmethod
    def joined(buffers: Sequence[KeyValueBuffer], owner: Tensor, dropped: Tensor, count: int) -> KeyValueBuffer:
        """`count` rows, each of the tokens of all rows that are its own, one row behind the other.

        Args:
            buffers: without a limit, with N rows together. owner: (N,) int64, the row of the result, in rising order.
            dropped: (N,) int64, how many of its oldest tokens each row loses.
        """
        keys, values, owners, first = [], [], [], 0
        for buffer in buffers:
            rows = slice(first, first + len(buffer.length))
            slot = torch.arange(buffer.keys.shape[2], device=buffer.length.device)
            row, column = ((slot >= dropped[rows, None]) & (slot < buffer.length[:, None])).nonzero(as_tuple=True)
            keys.append(buffer.keys[row, :, column])
            values.append(buffer.values[row, :, column])
            owners.append(owner[rows][row])
            first = rows.stop
        of = torch.cat(owners)
        length = torch.bincount(of, minlength=count)
        place = torch.arange(len(of), device=of.device) - (length.cumsum(0) - length)[of]
        room = int(length.max()) if count else 0
        found = []
        for parts in (keys, values):
            tokens = torch.cat(parts)
            rows_of = tokens.new_zeros(count, room, *tokens.shape[1:])
            found.append(rows_of.index_put((of, place), tokens).transpose(1, 2).contiguous())
        return KeyValueBuffer(found[0], found[1], length, length.clone(), None)

    def cast(self, dtype: torch.dtype) -> KeyValueBuffer:
        """The same tokens as numbers of `dtype`: under autocast keys are narrower than the weights they come from."""
        if self.keys.dtype == dtype:
            return self
        keys, values = self.keys.to(dtype), self.values.to(dtype)
        return KeyValueBuffer(keys, values, self.length, self.length.clone(), self.limit)

    def scaled(self, factor: Tensor) -> KeyValueBuffer:
        """The same tokens on memory of their own, their keys times `factor` (B, 1, 1, D)."""
        keys = (self.keys * factor).to(self.keys.dtype)
        return KeyValueBuffer(keys, self.values.clone(), self.length, self.length.clone(), self.limit)

    def extent(self) -> tuple[int, int]:
        """The smallest and the largest length of a row."""
        return self._extent

    @lazy
    def _extent(self) -> tuple[int, int]:
        """Looked at once: a token asks for it when it is appended and again when it is read."""
        lengths = self.length.tolist()
        return min(lengths, default=0), max(lengths, default=0)

    def read(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys (B, H, n, D), values (B, H, n, V) and which are valid (B, n), or None where all are.

        The newest token of every row stands in the last column.
        """
        low, high = self.extent()
        first = 0 if self.limit is None else max(0, low - self.limit)
        if low == high:
            return self.keys[:, :, first:high], self.values[:, :, first:high], None
        count = high - first
        slots = self.length[:, None] - count + torch.arange(count, device=self.length.device)
        valid = slots >= 0
        slots = slots.clamp(min=0)
        return _take(self.keys, slots), _take(self.values, slots), valid

    def tail(self, count: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values (B, H, count, ...) of the newest `count` tokens, a ring's among those that it counts no more.

        None where they are not, or no longer, here, or not in the same columns of every row.
        """
        low, high = self.extent()
        if low != high or high < count:
            return None
        return self.keys[:, :, high - count : high], self.values[:, :, high - count : high]

    def exchanged(self, columns: Tensor) -> KeyValueBuffer:
        """Each key with the value of the column (B, n) of `read` that is named for it; on memory of its own."""
        keys, values, valid = self.read()
        return _gathered(keys, _take(values, columns), valid, self.limit)

    def append(self, keys: Tensor, values: Tensor, rows: Rows) -> KeyValueBuffer:
        """These tokens and the call's keys (B, H, T, D) and values (B, H, T, V) behind them.

        Padding is not kept; a row in which a document starts keeps only the tokens of its last document.
        """
        if not rows.plain:
            return self._append_rows(keys, values, rows)
        tracked = torch.is_grad_enabled() and (keys.requires_grad or values.requires_grad or self.keys.requires_grad)
        low, high = (0, 0) if rows.fresh else self.extent()
        if high and not tracked and self._fits(high + rows.time):
            return self._write(keys, values, low == high)
        if low != high:
            return self._append_rows(keys, values, rows)
        return self._joined(keys, values, high, tracked)

    def emptied(self, rows: Tensor) -> KeyValueBuffer:
        """Without the tokens of the rows (B,) bool."""
        if not bool((rows & (self.length > 0)).any()):
            return self
        # The mark stays: what is appended to an emptied row goes to memory of its own.
        return KeyValueBuffer(self.keys, self.values, self.length.masked_fill(rows, 0), self.mark.clone(), self.limit)

    def _fits(self, total: int) -> bool:
        """Whether `total` tokens fit in place: within the slack, at the mark, in memory that may be written here."""
        frozen = self.keys.is_inference() and not torch.is_inference_mode_enabled()
        return total <= self.keys.shape[2] and not frozen and torch.equal(self.length, self.mark)

    def _write(self, keys: Tensor, values: Tensor, uniform: bool) -> KeyValueBuffer:
        """In place at the mark."""
        time = keys.shape[2]
        # Slots from the mark on are in nobody's view, so that a graph that has saved a view of the others stays valid:
        # `data` has no version counter that would tell it otherwise.
        all_keys, all_values = self.keys.data, self.values.data
        if uniform:
            start = self.extent()[0]
            all_keys[:, :, start : start + time] = keys
            all_values[:, :, start : start + time] = values
        else:
            batch = torch.arange(keys.shape[0], device=keys.device)[:, None]
            slots = self.length[:, None] + torch.arange(time, device=keys.device)
            all_keys[batch, :, slots] = keys.transpose(1, 2).to(self.keys.dtype)
            all_values[batch, :, slots] = values.transpose(1, 2).to(self.values.dtype)
        self.mark.add_(time)
        return KeyValueBuffer(self.keys, self.values, self.mark.clone(), self.mark, self.limit)

    def _joined(self, keys: Tensor, values: Tensor, used: int, tracked: bool) -> KeyValueBuffer:
        """Fresh memory: by concatenation under autograd, with slack otherwise."""
        time = keys.shape[2]
        total = used + time
        first = 0 if self.limit is None else max(0, total - self.limit)
        count = total - first
        old_keys, old_values = self.keys[:, :, min(first, used) : used], self.values[:, :, min(first, used) : used]
        new_keys, new_values = keys[:, :, max(0, first - used) :], values[:, :, max(0, first - used) :]
        length = torch.full_like(self.length, count)
        if tracked and not old_keys.shape[2]:
            joined = [new_keys, new_values]  # never written to: it has no slack
        elif tracked:
            joined = [torch.cat(pair, 2) for pair in ((old_keys, new_keys), (old_values, new_values))]
        else:
            capacity = _room(count, total, self.limit)
            if self.limit is not None and not used:  # room that was needed once is needed again, as by segments
                capacity = max(capacity, min(self.keys.shape[2], self.limit))
            joined = [_with_slack(pair, capacity) for pair in ((old_keys, new_keys), (old_values, new_values))]
        return KeyValueBuffer(joined[0], joined[1], length, length.clone(), self.limit)

    def _append_rows(self, keys: Tensor, values: Tensor, rows: Rows) -> KeyValueBuffer:
        """Any padding, any documents: all columns joined, the valid ones gathered."""
        old_keys, old_values, valid = self.read()
        if valid is None:
            valid = rows.real.new_ones(rows.batch, old_keys.shape[2])
        kept = rows.real & (rows.document == rows.last_document[:, None])
        old = valid & (rows.last_document == 0)[:, None]
        joined_keys, joined_values = torch.cat((old_keys, keys), 2), torch.cat((old_values, values), 2)
        tracked = torch.is_grad_enabled() and joined_keys.requires_grad
        return _gathered(joined_keys, joined_values, torch.cat((old, kept), 1), self.limit, slack=not tracked)

    def select(self, rows: Tensor) -> KeyValueBuffer:
        """The rows picked, on memory of their own."""
        length = self.length.index_select(0, rows)
        keys, values = self.keys.index_select(0, rows), self.values.index_select(0, rows)
        return KeyValueBuffer(keys, values, length, length.clone(), self.limit)


def _take(x: Tensor, slots: Tensor) -> Tensor:
    """Columns `slots` (B, n) of x (B, H, S, D)."""
    index = slots[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])
    return x.gather(2, index)


def _room(count: int, total: int, limit: int | None) -> int:
    """Slots for the newest `count` of `total` tokens: twice as many; a ring has slack from when it is overfull."""
    if limit is None:
        return 2 * count
    return min(2 * count, limit) if total <= limit else 2 * limit


def _with_slack(pair: tuple[Tensor, Tensor], capacity: int) -> Tensor:
    """Both halves in one new tensor of `capacity` slots."""
    old, new = pair
    batch, heads, time, width = new.shape
    joined = new.new_empty(batch, heads, capacity, width)
    joined[:, :, : old.shape[2]] = old
    joined[:, :, old.shape[2] : old.shape[2] + time] = new
    joined[:, :, old.shape[2] + time :] = 0
    return joined


def _gathered(
    keys: Tensor, values: Tensor, valid: Tensor | None, limit: int | None, slack: bool = False
) -> KeyValueBuffer:
    """The valid columns (B, n) of each row, the newest `limit` of them, oldest first; `slack` behind them."""
    batch, columns = keys.shape[0], keys.shape[2]
    if valid is None:
        valid = torch.ones(batch, columns, dtype=torch.bool, device=keys.device)
    total = valid.sum(1)
    length = total if limit is None else total.clamp(max=limit)
    count = int(length.max()) if length.numel() else 0
    order = (~valid).to(torch.uint8).argsort(dim=1, stable=True)
    slots = (total - length)[:, None] + torch.arange(count, device=keys.device)
    newest = (total - 1).clamp(min=0)[:, None]  # in the slots behind it too: numbers, whatever padding holds
    index = order.gather(1, torch.minimum(slots, newest)) if columns else slots
    found = [_take(keys, index), _take(values, index)]
    if slack:
        capacity = _room(count, int(total.max()) if total.numel() else 0, limit)
        found = [_with_slack((one[:, :, :0], one), capacity) for one in found]
    return KeyValueBuffer(found[0], found[1], length, length.clone(), limit)
