"""A softmax mixer with a bounded bank of slots around it: segments one after another, read before write.

    segment          0         1         2         3
    tokens       |.........|.........|.........|....n
    slots at n    x  x    x  x x      xx     x            what the policy has kept of the complete segments
    near field                            [.........n    window of the mixer, or the open segment

A query reads the bank as it was where its segment began, all slots but those that its near field holds. At a segment's
end its tokens and the slots are candidates for the new bank. What stays, and what a query sees of it, is a `Keeper`'s:
`choosing` keeps tokens by a policy, `merging` keeps means of tokens. See `key_value` for what the settings mean.

With `when: call` a call is the segment, as caches are compressed behind a prompt: then answers depend on the calls.

Shapes: B batch, T time of a step, D width, H heads, G heads of keys and values, N slots, S tokens of a segment,
W width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from farfield.architectures.keyed import KeyedMixer
from farfield.architectures.mixer import Heads, KeyValue, Mixer, in_steps
from farfield.architectures.ops.uncompiled import uncompiled
from farfield.architectures.rows import Rows
from farfield.architectures.state import KeyValueBuffer, State
from farfield.config import ModelError
from farfield.memory.bank import Slots
from farfield.memory.forgetting import near_field
from farfield.memory.segments import Step, joined, parted, steps
from farfield.memory.settings import Wrapped

if TYPE_CHECKING:
    from farfield.memory.key_value import KeyValueMemoryConfig

__all__ = ["Keeper", "Open", "SlotsState", "WithSlots"]

FAR = 1 << 62  # a segment that no document ends


@dataclass(frozen=True, eq=False)
class SlotsState(State):
    """The mixer's state, the bank, and the open segment's keys and values before rotation; None where calls end it."""

    mixer: State
    bank: Slots
    open: KeyValueBuffer | None


@dataclass(frozen=True, eq=False)
class Open:
    """A step, and the tokens of its segment before it: keys and values (B, G, n, W), `valid` (B, n) or None for all.

    `start` (B, 1) int64 is the position at which each row's segment begins.
    """

    rows: Rows
    start: Tensor
    keys: Tensor
    values: Tensor
    valid: Tensor | None


class Keeper(Protocol):
    """What stays in a bank, and what of it is read."""

    def start(self, batch: int, like: Tensor) -> Slots:
        """No slots, in the dtype and on the device of `like`."""

    def emptied(self, bank: Slots, rows: Tensor) -> Slots:
        """Without what it holds for the rows (B,) bool."""

    def read(self, heads: Heads, open_: Open, bank: Slots) -> tuple[KeyValue | None, Slots]:
        """What a step's queries read, None if nothing; and the bank, which may note what they have found."""

    def heard(self, heads: Heads, open_: Open, bank: Slots, lse: Tensor) -> Slots:
        """The bank after attention with the log-sum-exp (B, H, T): it may note what has been attended to."""

    def written(self, bank: Slots, keys: Tensor, values: Tensor, position: Tensor) -> Slots:
        """The bank with a segment's keys and values (B, G, S, W) among its candidates; position (B, S), -1: no token.

        Rows without a token keep what they have, also of the segment that stays open.
        """


class WithSlots(Wrapped):
    """A softmax mixer with a bank of slots around it."""

    mixer: KeyedMixer

    def __init__(self, mixer: KeyedMixer, config: KeyValueMemoryConfig, keeper: Keeper, heads: int) -> None:
        super().__init__()
        self.mixer, self.config, self.keeper = mixer, config, keeper
        self.gate = nn.Parameter(torch.zeros(heads)) if config.combine == "gate" else None
        self.segment = FAR if config.when == "call" else config.segment

    def start(self, batch: int) -> SlotsState:
        mixer, like = self.mixer, next(self.mixer.parameters())
        open_ = None
        if self.segment != FAR:
            open_ = KeyValueBuffer.empty(batch, mixer.kv_heads, mixer.head_width, like, self.config.segment)
        return SlotsState(mixer.start(batch), self.keeper.start(batch, like), open_)

    def alone(self) -> Mixer:
        if self.segment == FAR and self.mixer.reach is None:
            raise ModelError("the near field is what a call holds (when: call), so that nothing tells it from memory.")
        return near_field(self.mixer, self.segment)

    def exchanged(self, state: State, position: Tensor, seed: int) -> State:
        assert isinstance(state, SlotsState)
        return replace(state, bank=state.bank.exchanged(seed))

    @uncompiled  # how many segments a call has is decided by numbers
    def forward(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        return in_steps(self._call, x, rows, state, self.mixer.span)

    def _call(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        taken, pieces = steps(rows, self.segment), []
        if not taken:  # nothing but padding
            return torch.zeros_like(x), state
        for step, piece in zip(taken, parted(x, taken), strict=True):
            y, state = self._step(piece, step, state)
            pieces.append(y)
        return joined(pieces, taken, rows), state

    def _step(self, x: Tensor, step: Step, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, SlotsState)
        rows, bank, before = step.rows, state.bank, state.open
        if _any(step, "begins", step.begins):
            bank = self.keeper.emptied(bank, step.begins)
            before = None if before is None else before.emptied(step.begins)
        heads, inner = self.mixer.project(x, rows, state.mixer)
        keys, values = heads.keys, heads.values
        if not self.config.gradient:
            keys, values = keys.detach(), values.detach()
        open_ = self._open(rows, before, keys)
        read, bank = self.keeper.read(heads, open_, bank.cast(keys.dtype))
        read = None if read is None else KeyValue(read.part, self.gate)
        near = rows if self.mixer.reach is not None else self._near(rows)
        found, after = self.mixer.attend(heads, near, inner, () if read is None else (read,))
        bank = self.keeper.heard(heads, open_, bank, found.lse)
        if not rows.once(("all begin",), lambda: bool(rows.real[:, 0].all())):  # what was turned is not for all rows
            bank = replace(bank, turned=None)
        y = self.mixer.finish(found.out, x, rows)
        if before is None:  # the call's tokens are in the bank then: what the near field would keep of them is not read
            return y, SlotsState(inner, self.keeper.written(bank, keys, values, rows.positions), None)
        bank, before = self._written(bank, before.cast(keys.dtype), open_, keys, values, step)
        return y, SlotsState(after, bank, before)

    def _open(self, rows: Rows, before: KeyValueBuffer | None, like: Tensor) -> Open:
        """The open segment as the step finds it."""
        first = rows.positions[:, :1]
        if before is None:
            return Open(rows, first, like[:, :, :0], like[:, :, :0], None)
        start = rows.once(
            ("start", self.segment), lambda: first.div(self.segment, rounding_mode="floor") * self.segment
        )
        return Open(rows, start, *before.cast(like.dtype).read())

    def _near(self, rows: Rows) -> Rows:
        """For mixers without a window: the open segment as a document of its own."""
        if self.segment != FAR:
            return rows.segmented(self.segment)
        cut = torch.where(rows.real, rows.positions - rows.positions[:, :1], -1)
        return rows.once(("alone",), lambda: Rows(cut, rows.phase))

    def _written(
        self, bank: Slots, before: KeyValueBuffer, open_: Open, keys: Tensor, values: Tensor, step: Step
    ) -> tuple[Slots, KeyValueBuffer]:
        """The bank with what segments that end here leave, and the open segment behind the step."""
        if not _any(step, "ends", step.ends):
            return bank, before.append(keys, values, step.rows.segmented(self.segment))
        if step.whole:
            keys, values = torch.cat((open_.keys, keys), 2), torch.cat((open_.values, values), 2)
            position = open_.start + torch.arange(self.segment, device=keys.device)
            return self.keeper.written(bank, keys, values, position), before.emptied(step.ends)
        before = before.append(keys, values, step.rows.segmented(self.segment))
        keys, values, _ = before.read()
        position = torch.where(step.ends[:, None], open_.start + torch.arange(self.segment, device=keys.device), -1)
        return self.keeper.written(bank, keys, values, position), before.emptied(step.ends)


def _any(step: Step, name: str, rows: Tensor) -> bool:
    """Whether any of the rows (B,) is set: looked at once for all layers."""
    return step.rows.once(("any", name), lambda: bool(rows.any()))
