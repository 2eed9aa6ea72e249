"""The bank of the newest tokens: what a key-value memory keeps where nothing but age decides.

One buffer is bank and open segment. Which tokens have been written follows from positions, so appending is the only
write, and any split of a document into calls reads the same. See `key_value` for what the settings mean, `units` for
what units of tokens are found by, `search` for how.

Shapes: B batch, T time, D width, H heads, G heads of keys and values, S columns, W width of a head, N units read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from farfield.architectures.block_keys import labels
from farfield.architectures.columns import columns
from farfield.architectures.keyed import KeyedMixer
from farfield.architectures.mixer import Attended, Heads, KeyValue, Mixer, in_steps
from farfield.architectures.ops.attention import Part
from farfield.architectures.ops.uncompiled import uncompiled
from farfield.architectures.ops.units import Chosen, Grouped, Units
from farfield.architectures.ops.written import Near, Written
from farfield.architectures.rows import Rows
from farfield.architectures.state import KeyValueBuffer, State
from farfield.config import ModelError
from farfield.memory.forgetting import cycles, near_field
from farfield.memory.initial import Initial
from farfield.memory.placing import Placing
from farfield.memory.search import best
from farfield.memory.settings import Wrapped
from farfield.memory.units import UnitKeys, UnitState, asked_for, completed

if TYPE_CHECKING:
    from farfield.memory.key_value import KeyValueMemoryConfig

__all__ = ["MemoryState", "WithMemory"]

FOREVER = 2**62  # tokens, of which nothing is forgotten


@dataclass(frozen=True, eq=False)
class MemoryState(State):
    """The mixer's state, and the newest tokens' keys and values as `Placing` keeps them: bank and open segment in one.

    With what units are found by, and the first tokens of the document, where the settings have them.
    """

    mixer: State
    bank: KeyValueBuffer
    units: UnitState
    initial: Initial | None = None


@dataclass(frozen=True, eq=False)
class Found:
    """Keys as they are found by, (B, G, S, W), of the tokens or units in the columns [past, call].

    `number` (B, S) is the token's position, or the unit's place among the document's; `document` (B, S) -1 for none.
    `where` says which of them a query may see.
    """

    keys: Tensor
    number: Tensor
    document: Tensor
    where: Written


class WithMemory(Wrapped):
    """A softmax mixer with a key-value memory around it."""

    mixer: KeyedMixer

    def __init__(self, mixer: KeyedMixer, config: KeyValueMemoryConfig, heads: int, width: int) -> None:
        super().__init__()
        self.mixer, self.config = mixer, config
        self.gate = nn.Parameter(torch.zeros(heads)) if config.combine == "gate" else None
        made_of_keys = config.unit_keys and config.key != "landmark"
        self.placing = Placing(mixer, config.position, config.segment, made_of_keys)
        self.units = None
        if config.unit_keys or config.averages:
            self.units = UnitKeys(config, mixer, self.placing, heads, width)
        self.near = None
        if mixer.reach is not None:
            self.near = Near(mixer.near, *mixer.extent, mixer.extent == (0, mixer.reach))
        self.documents = config.documents(0)

    def stepped(self, step: int) -> None:
        """After `step` steps of training: among how many rows' banks it reads while it trains."""
        self.documents = self.config.documents(step)

    def start(self, batch: int) -> MemoryState:
        mixer, config = self.mixer, self.config
        like = next(mixer.parameters())
        bank = KeyValueBuffer.empty(batch, mixer.kv_heads, mixer.head_width, like, config.slots)
        slots = like.new_zeros(batch, mixer.kv_heads, config.initial, mixer.head_width)
        units = UnitState() if self.units is None else self.units.start(batch, mixer, like)
        return MemoryState(mixer.start(batch), bank, units, Initial(slots, slots.clone()) if config.initial else None)

    @uncompiled  # how far a call reaches is decided by numbers
    def forward(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        return in_steps(self._step, x, rows, state, self.mixer.span)

    def newest(self, state: State, count: int, dropped: Tensor) -> State:
        """See `Mixer.newest`; of single tokens around a window, whose segments are then counted anew."""
        assert isinstance(state, MemoryState)
        if self.config.unit > 1 or self.config.initial or self.units is not None:
            raise ModelError("units and first tokens of a document cannot be counted anew.")
        if self.mixer.reach is None:
            raise ModelError("without a window the open segment cannot be counted anew.")
        inner, bank = self.mixer.newest(state.mixer, count, dropped), state.bank.newest(count)
        if self.config.position == "original" and self.placing.once:  # keys are kept where they stood
            bank = replace(bank, keys=self.mixer.rotate(bank.keys, -dropped[:, None]))
        return replace(state, mixer=inner, bank=bank)

    def alone(self) -> Mixer:
        return near_field(self.mixer, self.config.segment)

    def exchanged(self, state: State, position: Tensor, seed: int) -> State:
        assert isinstance(state, MemoryState)
        keys, _, valid = state.bank.read()
        there = position.new_ones(len(keys), keys.shape[2]).bool() if valid is None else valid
        initial = state.initial
        if initial is not None:
            initial = initial.exchanged(position, seed)
        return replace(state, bank=state.bank.exchanged(cycles(there, seed)), initial=initial)

    def _step(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, MemoryState)
        heads, inner = self.mixer.project(x, rows, state.mixer)
        keys, values = (heads.keys, heads.values)
        if not self.config.gradient:
            keys, values = keys.detach(), values.detach()
        found, after = self.attended(x, heads, keys, values, rows, replace(state, mixer=inner))
        return self.mixer.finish(found.out, x, rows), after

    def attended(
        self, x: Tensor, heads: Heads, keys: Tensor, values: Tensor, rows: Rows, state: MemoryState
    ) -> tuple[Attended, MemoryState]:
        """The near field of `heads` joined with what their queries read, and the state behind it.

        Args:
            x: (B, T, D) what `heads` were projected from, into the mixer's state in `state`.
            keys, values: (B, G, T, W) what is kept of the call, before rotation.
        """
        config = self.config
        state = self._cast(state, keys.dtype)
        keys = self.placing.kept(keys, rows.positions)
        asking, fresh, units = heads.queries.detach(), None, state.units
        if units.asked is not None:
            asking, total = asked_for(asking, rows, config.stretch, units.asked, config.ahead)
            units = replace(units, asked=total)
        if self.units is not None and units.keys is not None:
            bank = state.bank.read()[0]
            fresh, units = self.units(self.mixer, x, heads.queries, keys, rows, bank, units)
        reads = self.read(heads.queries, asking, keys, values, rows, state, fresh)
        near = rows.segmented(config.segment) if self.mixer.reach is None else rows
        found, inner = self.mixer.attend(heads, near, state.mixer, reads)
        initial = None if state.initial is None else state.initial.written(keys, values, rows)
        return found, MemoryState(inner, state.bank.append(keys, values, rows), units, initial)

    @staticmethod
    def _cast(state: MemoryState, dtype: torch.dtype) -> MemoryState:
        """What the memory keeps, as numbers of the call: under autocast keys are narrower than the weights."""
        initial = None if state.initial is None else state.initial.cast(dtype)
        return replace(state, bank=state.bank.cast(dtype), units=state.units.cast(dtype), initial=initial)

    def read(
        self,
        queries: Tensor,
        asking: Tensor,
        keys: Tensor,
        values: Tensor,
        rows: Rows,
        state: MemoryState,
        fresh: Tensor | None = None,
    ) -> tuple[KeyValue, ...]:
        """What the call's queries read, of the bank and of the call's own complete segments; none if nothing can be.

        Args:
            queries: (B, H, T, W) that read; asking: (B, H, T, W) by which it is found what they read.
            keys, values: the call's own (B, G, T, W), as they are kept.
            fresh: what the units that the call completes are found by.
        """
        if not self._reaches(rows):
            return ()
        past_keys, past_values, valid = state.bank.read()
        past = past_keys.shape[2]
        position, document = columns(rows, past, valid)
        if rows.time == 1:  # a token never reads itself, so the bank needs no copy
            keys_of, values_of, position, document = past_keys, past_values, position[:, :past], document[:, :past]
        else:
            keys_of, values_of = torch.cat((past_keys, keys), 2), torch.cat((past_values, values), 2)
        reads = []
        if state.initial is not None:
            reads.append(self._initial(queries, keys, values, rows, state.initial))
        if not keys_of.shape[2]:
            return tuple(reads)
        turned = self.placing.queries(queries, rows)
        placed = self.placing.keys(keys_of, position, document, rows)
        where = self._tokens(turned, position, document, rows, past)
        part = Part(turned, placed, values_of, where)
        if self.training and self.documents > 1:
            reads += self._others(part, where)
        if not self.config.everything:
            part = self._chosen(part, asking, Found(placed, position, document, where), rows, past, state, fresh)
        return (*reads, KeyValue(part, self.gate))

    def _reaches(self, rows: Rows) -> bool:
        """Whether any token stands behind a complete segment."""
        segment = self.config.segment
        return rows.once(("reaches", segment), lambda: bool((rows.positions >= segment).any()))

    def _tokens(self, like: Tensor, position: Tensor, document: Tensor, rows: Rows, past: int) -> Written:
        """Which of the tokens in the columns [past, call] each query may see."""
        slots = self.config.slots
        alibi = self.placing.alibi(like, position, rows)
        if rows.begin is not None:
            return replace(self._written(position, document, rows, rows.begin - past, 1), alibi=alibi)
        opens, closes = range(past - slots, past - slots + rows.time), range(past, past + rows.time)
        return replace(self._written(position, document, rows, None, 1), opens=opens, closes=closes, alibi=alibi)

    def _written(self, position: Tensor, document: Tensor, rows: Rows, start: int | None, unit: int) -> Written:
        """Of columns at `position` (B, S) of `document` (B, S), the first of them at `start` where rows are runs."""
        config = self.config
        query = rows.once("query labels", lambda: labels(rows))
        begin = None if start is None else rows.begin
        told = (rows.positions, query, position, document, config.segment, config.capacity)
        return Written(*told, unit, config.initial, begin, start or 0, near=self.near)

    def _initial(self, queries: Tensor, keys: Tensor, values: Tensor, rows: Rows, initial: Initial) -> KeyValue:
        """The first tokens of the document, once they are written and where they are not near."""
        held = initial.read(keys, values, rows)
        where = self._written(held.position, held.document, rows, 0 if held.run else None, 1)
        alibi = self.placing.alibi(queries, held.position, rows)
        where = replace(where, first=0, capacity=FOREVER, alibi=alibi)
        placed = self.placing.keys(held.keys, held.position, held.document, rows)
        return KeyValue(Part(self.placing.queries(queries, rows), placed, held.values, where))

    def _others(self, part: Part, where: Written) -> list[KeyValue]:
        """The banks of the rows behind each row: Focused Transformer's negatives."""
        return [
            KeyValue(Part(part.queries, part.keys.roll(-n, 0), part.values.roll(-n, 0), where.rolled(n)))
            for n in range(1, min(self.documents, part.queries.shape[0]))
        ]

    def _chosen(
        self, part: Part, asking: Tensor, tokens: Found, rows: Rows, past: int, state: MemoryState, fresh: Tensor | None
    ) -> Part:
        """The part with the tokens of the best units alone."""
        config = self.config
        found = tokens if fresh is None else self._unit_columns(part.queries, rows, state, fresh)
        searching = self.placing.queries(asking, rows)
        index, there = self._select(searching, found.keys.detach(), found.where)
        chosen = self._units(found, index, there, rows, past)
        if config.combine != "grouped":
            return replace(part, layout=Units(chosen, tokens.where))
        landmarks = self._landmarks(part.queries, found, index)
        return replace(part, queries=torch.cat((part.queries, landmarks), -1), layout=Grouped(chosen, tokens.where))

    @torch.no_grad()
    def _select(self, queries: Tensor, keys: Tensor, where: Written) -> tuple[Tensor, Tensor]:
        """Column and whether it is one, (B, H or 1, T, N) each: the best of each query, by heads or in common."""
        count = min(self.config.count, keys.shape[2])
        return best(queries.detach(), keys, count, where, self.mixer.scale, self.config.shared)

    def _unit_columns(self, like: Tensor, rows: Rows, state: MemoryState, fresh: Tensor) -> Found:
        """The complete units in the columns [past, call]; of a single token, which sees none of its own, the past."""
        assert state.units.keys is not None
        unit, done = self.config.unit, completed(rows, self.config.unit)
        keys, _, valid = state.units.keys.read()
        past = keys.shape[2]
        number = rows.following.div(unit, rounding_mode="floor") - past + torch.arange(past, device=rows.device)
        document = torch.zeros_like(number) if valid is None else torch.where(valid, 0, -1)
        document = document.masked_fill(number < 0, -1)
        if rows.time > 1:
            keys = torch.cat((keys, fresh), 2)
            number, document = torch.cat((number, done.number), 1), torch.cat((document, done.document), 1)
        last = number * unit + unit - 1
        start = None if rows.begin is None else (rows.begin // unit - past) * unit
        where = self._written(number * unit, document, rows, start, unit)
        where = replace(where, alibi=self.placing.alibi(like, last, rows))
        if rows.begin is None:
            opens, closes = self._bounds(rows, past)
            where = replace(where, opens=opens, closes=closes)
        return Found(self.placing.keys(keys, last, document, rows), number, document, where)

    def _bounds(self, rows: Rows, past: int) -> tuple[list[int], list[int]]:
        """Of each query the first of the unit columns [past, call] that it may see in any row, and the one behind."""
        unit, slots = self.config.unit, self.config.slots

        def make() -> tuple[list[int], list[int]]:
            before = (rows.real & (rows.positions % unit == unit - 1)).cumsum(1)
            low, high = before.amin(0).tolist(), before.amax(0).tolist()
            return [past + n - slots // unit - 1 for n in low], [past + n for n in high]

        return rows.once(("unit bounds", unit, slots, past), make)

    def _units(self, found: Found, index: Tensor, there: Tensor, rows: Rows, past: int) -> Chosen:
        """Which units those in the columns `index` are, and where their tokens stand among [past, call]."""
        number = found.number.gather(1, index.flatten(1)).view_as(index)
        following = torch.where(rows.document == 0, rows.following, 0)
        shift = past + torch.arange(rows.time, device=rows.device) - rows.positions
        chosen = Chosen(number.clamp(min=0), there, self.config.unit, following, past - following, shift)
        if self.near is None or self.config.unit == 1:  # a search of tokens leaves out what is near
            return chosen
        return replace(chosen, hidden=self._hidden(self.near, chosen, rows))

    @staticmethod
    def _hidden(near: Near, chosen: Chosen, rows: Rows) -> Tensor:
        """Which tokens of the chosen units a query has in its near field: bool (B, H or 1, T, N, U)."""
        number = chosen.number
        tokens = number[..., None] * chosen.unit + torch.arange(chosen.unit, device=number.device)
        own = rows.positions[:, None].expand(-1, number.shape[1], -1)
        seen = near.sees(own.reshape(-1, 1), tokens.flatten(0, 2).flatten(1))[:, :, 0]
        by_head = seen.unflatten(0, number.shape[:3]).movedim(3, 1)
        if by_head.shape[1] == 1 or number.shape[1] == 1:
            by_head = by_head[:, 0] if by_head.shape[1] == 1 else by_head[:, :, 0]
        else:  # each head's units, as that head sees them
            by_head = by_head.diagonal(dim1=1, dim2=2).movedim(-1, 1)
        hidden: Tensor = by_head.reshape(*by_head.shape[:3], -1, chosen.unit)
        return hidden

    def _landmarks(self, queries: Tensor, found: Found, index: Tensor) -> Tensor:
        """The scores (B, H, T, N) of the units in the columns `index`, as they enter the softmax."""
        keys = found.keys.repeat_interleave(queries.shape[1] // found.keys.shape[1], 1)
        index = index.expand(-1, queries.shape[1], -1, -1)
        if keys.shape[2] <= 32 * index.shape[3]:
            scores = (queries @ keys.transpose(-1, -2)).gather(3, index)
        else:
            flat = index.flatten(2)[..., None].expand(-1, -1, -1, keys.shape[3])
            named = keys.gather(2, flat).unflatten(2, index.shape[2:])
            scores = (named @ queries[..., None])[..., 0]
        scores = scores * self.mixer.scale
        alibi = found.where.alibi
        if alibi is not None:
            scores = scores + alibi.selected(index, slice(None)).to(scores.dtype)
        return scores
