"""Memories in front of segments: what a segment leaves is read by the layers before the tokens of later ones.

    segment 0   [ tokens | write ]
    segment 1   [ prefix | tokens | write ]          each read by the layers from an empty state
    segment 2   [ prefix | tokens ...                open: its layers' states are the state

A document is cut into segments at multiples of `segment`. Vectors of the memory's own stand in front of each, and
behind it once it is complete; the layers' outputs are what the memory is made of. Whatever mixers the layers have, they
see a document [prefix; tokens; write] with positions from 0. The prefix is run when a segment's first token comes, the
write vectors with its last one, so that any split into calls, padding and packing answers the same. Reads come before
writes: a segment never sees what it leaves.

State: that of the layers after one segment with what is around it, and the memory's own. Work a token: that of the
layers, times (P + S + W) / S for P vectors before and W behind S tokens.
Shapes: B batch, T time, L time of a step, P vectors before, W vectors behind, D width.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from farfield.architectures.decoder import Decoder, DecoderConfig
from farfield.architectures.feedforward import Auxiliary
from farfield.architectures.mixer import Mixer
from farfield.architectures.ops.uncompiled import uncompiled
from farfield.architectures.rows import Rows
from farfield.architectures.state import State
from farfield.config import ModelError
from farfield.memory.forgetting import SegmentsApart
from farfield.memory.framed import Frame, Inner, Place, ragged, run
from farfield.memory.segments import Lengths, Step, joined, parted, steps
from farfield.memory.settings import StackMemory

__all__ = ["Prefix", "PrefixSettings", "Segmented", "SegmentedState"]


class PrefixSettings(StackMemory):
    """What the settings of every memory in front of segments have."""

    segment: int = Field(512, ge=1, description="tokens in a segment, which the layers read from an empty state")
    tokens: int = Field(16, ge=1, description="vectors that a segment leaves")

    @property
    def trained(self) -> bool:
        return True

    @property
    def longest(self) -> int:
        """The most tokens of a segment, in training too."""
        return self.segment

    @property
    @abc.abstractmethod
    def frame(self) -> Frame:
        """How many vectors stand around segments."""

    @abc.abstractmethod
    def prefix(self, width: int) -> Prefix:
        """The memory with fresh weights."""

    @abc.abstractmethod
    def own_bytes(self, width: int, tokens: int, element: int) -> int:
        """Bytes of the memory's own state of one row after `tokens` tokens."""

    def own_flops(self, width: int, tokens: int) -> int:
        """Work of the memory itself for one token, that of a whole segment in equal shares."""
        return 0

    def check(self, architecture: DecoderConfig) -> None:
        """Any layers fit: they are called as without a memory."""

    def build(self, stack: Any, architecture: DecoderConfig) -> Any:
        return Segmented(stack, self.prefix(architecture.width), self)

    def read(self, tokens: int) -> int:
        """Vectors and tokens that the layers have read of the open segment after `tokens` tokens of a document."""
        if not tokens:
            return 0
        number, within = divmod(tokens - 1, self.segment)
        complete = within + 1 == self.segment
        return self.frame.before(number) + within + 1 + (self.frame.behind if complete else 0)

    def state_bytes(self, architecture: DecoderConfig, tokens: int, element: int = 4) -> int:
        width, depth, read = architecture.width, architecture.depth, self.read(tokens)
        mixers = enumerate(architecture.mixers())
        layers = sum(mixer.state_bytes(width, read, index, depth, element) for index, mixer in mixers)
        return layers + self.own_bytes(width, tokens, element)

    def flops(self, architecture: DecoderConfig, tokens: int) -> int:
        number, within = divmod(tokens, self.segment)
        before, end = self.frame.before(number), self.frame.before(number) + self.segment
        around = [*range(before), *range(end, end + self.frame.behind)]
        shared = sum(_layers_flops(architecture, place) for place in around) // self.segment
        return _layers_flops(architecture, before + within) + shared + self.own_flops(architecture.width, tokens)

    def begins(self, architecture: DecoderConfig) -> int:
        return self.segment + 1


def _layers_flops(architecture: DecoderConfig, place: int) -> int:
    """Work of the layers for the token at `place` of their document."""
    width, depth = architecture.width, architecture.depth
    return sum(
        mixer.flops(width, place, index, depth) + architecture.layer(index).feedforward.flops(width)
        for index, mixer in enumerate(architecture.mixers())
    )


class Prefix(nn.Module, abc.ABC):
    """What stands around segments, as a value in the state: pure functions of it and of where the rows stand."""

    @abc.abstractmethod
    def start(self, batch: int) -> State:
        """The memory of `batch` rows that have read nothing."""

    @abc.abstractmethod
    def opened(self, state: Any, place: Place) -> State:
        """The memory as segments that open read it: fresh where a document begins, cut from its past where asked."""

    @abc.abstractmethod
    def before(self, state: Any, place: Place, count: int) -> Tensor:
        """The vectors (B, count, D) before segments that open; of a row with fewer, the last ones are meant."""

    @abc.abstractmethod
    def behind(self, state: Any) -> Tensor:
        """The vectors (B, W, D) behind segments that are complete."""

    @abc.abstractmethod
    def closed(self, state: Any, tokens: Tensor, behind: Tensor, place: Place) -> State:
        """The memory after a step.

        Args:
            tokens: the layers' output (B, L, D) at the step's tokens.
            behind: the one (B, W, D) behind the tokens, which means something in rows whose segment is complete.
        """

    def lengths(self) -> Lengths | None:
        """The lengths of segments where they are not all alike."""
        return None


@dataclass(frozen=True, eq=False)
class SegmentedState(State):
    """The states of the layers within the open segment, and the memory."""

    layers: tuple[State, ...]
    memory: State


class Segmented(nn.Module):
    """Layers that read a document segment by segment, with a memory in front of each. See the file's head."""

    def __init__(self, stack: Decoder, memory: Prefix, settings: PrefixSettings) -> None:
        super().__init__()
        self.stack, self.memory, self.segment = stack, memory, settings.segment
        self.frame, self.whole = settings.frame, Lengths((settings.segment,))
        self.longest = self.frame.most + settings.longest + self.frame.behind

    @property
    def checkpointing(self) -> bool:
        """Whether the layers compute their activations again in the backward pass."""
        return self.stack.checkpointing

    @checkpointing.setter
    def checkpointing(self, value: bool) -> None:
        self.stack.checkpointing = value

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles the layers: which segments there are depends on the rows, what the layers do in one does not."""
        self.stack.compile(*args, **kwargs)

    def mixers(self) -> Iterator[Mixer]:
        """The mixers from bottom to top."""
        return self.stack.mixers()

    def alone(self) -> SegmentsApart:
        """As before the first segment in each of them: what is handed on is what a document begins with."""
        return SegmentsApart(self, self.segment)

    def exchanged(self, states: Sequence[State], seed: int) -> tuple[State, ...]:
        """See `Apart.exchanged`."""
        raise ModelError("its vectors are not bound to keys, so that there is nothing to exchange.")

    def start(self, batch: int) -> tuple[State, ...]:
        """The empty state: one, of the layers and the memory."""
        return (SegmentedState(self.stack.start(batch), self.memory.start(batch)),)

    @uncompiled(recursive=False)  # as said at `compile`
    def forward(self, x: Tensor, rows: Rows, states: Sequence[State]) -> tuple[Tensor, tuple[State, ...], Auxiliary]:
        """(B, T, D) of `x` (B, T, D), zero at padding, the state behind it, and what the layers tell beside it."""
        (state,) = states
        assert isinstance(state, SegmentedState)
        lengths = self.memory.lengths() or self.whole
        outputs: list[Tensor] = []
        told: list[tuple[int, Auxiliary]] = []
        taken = steps(rows, lengths)
        if not taken:  # nothing but padding
            y, layers, auxiliary = self.stack(x, rows, state.layers)
            return torch.zeros_like(y), (SegmentedState(layers, state.memory),), auxiliary
        for step, part in zip(taken, parted(x, taken), strict=True):
            y, state, one = self._step(part, step, lengths, rows, state)
            outputs.append(y)
            told.append(one)
        return joined(outputs, taken, rows), (state,), _mean(told)

    def _step(
        self, x: Tensor, step: Step, lengths: Lengths, rows: Rows, state: SegmentedState
    ) -> tuple[Tensor, SegmentedState, tuple[int, Auxiliary]]:
        """The layers' output at the tokens x (B, L, D), the state behind them, and with columns read what they told."""
        place, layers, memory = Place.of(step, lengths), state.layers, state.memory
        if place.opens.any:
            memory = self.memory.opened(memory, place)
        if place.opens.every:  # nothing of the last segment's is read: its graph can go
            layers = tuple(layer.detach() for layer in layers)
        inner = self._framed(x, memory, place, lengths, rows, step)
        inner.rows.settle()
        hidden, layers, auxiliary = self.stack(inner.x, inner.rows, layers)
        tokens, behind = inner.split(hidden)
        memory = self.memory.closed(memory, tokens, behind, place)
        return tokens, SegmentedState(layers, memory), (inner.x.shape[1], auxiliary)

    def _framed(self, x: Tensor, memory: State, place: Place, lengths: Lengths, rows: Rows, step: Step) -> Inner:
        """The step's tokens with the vectors around them."""
        behind = self.memory.behind(memory) if self.frame.behind and place.ends.any else None
        if place.known is not None:
            count = self.frame.before(place.known)
            before = self.memory.before(memory, place, count) if count and place.opens.every else None
            _, within = lengths.place(step.rows.begin or 0)
            begin = 0 if place.opens.every else count + within
            return run(before, x, behind, begin, self.longest, rows)
        base = self.frame.before_each(place.number)
        count = int((base * place.opens.rows).max()) if place.opens.any else 0
        before = self.memory.before(memory, place, count) if count else None
        return ragged(before, x, behind, base, place, self.longest)


def _mean(told: Sequence[tuple[int, Auxiliary]]) -> Auxiliary:
    """What the layers told in several calls: the mean, by columns read."""
    if len(told) == 1:
        return told[0][1]
    total = sum(count for count, _ in told)

    def mean(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        shares = [count / total for count, _ in told]
        return {name: sum(s * part[name] for s, part in zip(shares, parts, strict=True)) for name in parts[0]}  # type: ignore[misc]

    return Auxiliary(mean([one.losses for _, one in told]), mean([one.metrics for _, one in told]))
