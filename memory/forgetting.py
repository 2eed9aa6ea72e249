"""Layers without the memory around them, and what a memory's entries are bound to exchanged: what a memory is worth.

    alone        what is near a token is seen as before, and nothing else: no read finds anything
    exchanged    what is kept stays as many and as large; each key brings the value of another

    keys      a  b  c  d              a  b  c  d
    values    1  2  3  4      ->      3  1  4  2         one cycle through all of a row: no key brings its own

A mixer with a window keeps it. Full attention, whose near field is the open segment where a memory stands around it,
sees that alone; without this it would see more than with the memory. The order of a row depends on the seed and on the
number of its entries: not on the rows beside it.

Shapes: B batch, T time, D width, N entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from farfield.architectures.feedforward import Auxiliary
from farfield.architectures.keyed import KeyedMixer
from farfield.architectures.mixer import Mixer, in_steps
from farfield.architectures.rows import Rows
from farfield.architectures.state import State
from farfield.memory.settings import Stack

__all__ = ["Apart", "NearField", "SegmentsApart", "cycles", "near_field"]


class Apart(Protocol):
    """A memory around the stack of layers that can be taken away, and whose entries can be exchanged."""

    def alone(self) -> Any:
        """A `Stack` of the same layers, the weights shared, that sees what is near alone."""

    def exchanged(self, states: Sequence[State], seed: int) -> tuple[State, ...]:
        """The states with what the memory's entries are bound to exchanged.

        Raises:
            ModelError: it has no entries that are bound to anything.
        """


class NearField(Mixer):
    """Full attention that sees the open segment alone, as it does with a memory around it."""

    def __init__(self, mixer: KeyedMixer, segment: int) -> None:
        super().__init__()
        self.mixer, self.segment = mixer, segment

    def start(self, batch: int) -> State:
        return self.mixer.start(batch)

    def forward(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        return in_steps(self._step, x, rows, state, self.mixer.span)

    def _step(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        heads, state = self.mixer.project(x, rows, state)
        found, state = self.mixer.attend(heads, rows.segmented(self.segment), state)
        return self.mixer.finish(found.out, x, rows), state


def near_field(mixer: Mixer, segment: int) -> Mixer:
    """`mixer` without a memory of segments: with the window it has, or else the open segment alone."""
    if isinstance(mixer, KeyedMixer) and mixer.reach is None:
        return NearField(mixer, segment)
    return mixer


class SegmentsApart(nn.Module):
    """A stack that reads each segment as a document of its own."""

    def __init__(self, stack: Stack, segment: int) -> None:
        super().__init__()
        self.stack, self.segment, self.checkpointing = stack, segment, False

    def mixers(self) -> Iterator[Mixer]:
        """The mixers from bottom to top."""
        return self.stack.mixers()

    def start(self, batch: int) -> tuple[State, ...]:
        """The empty states."""
        return self.stack.start(batch)

    def forward(self, x: Tensor, rows: Rows, states: Any) -> tuple[Tensor, tuple[State, ...], Auxiliary]:
        """(B, T, D) of `x` (B, T, D), and the states behind it."""
        return self.stack(x, rows.segmented(self.segment), states)


def cycles(valid: Tensor, seed: int) -> Tensor:
    """For each column of `valid` (B, N) bool the one whose value it gets, int64: one cycle through a row's valid ones.

    Other columns get their own.
    """
    order = torch.arange(valid.shape[1]).repeat(len(valid), 1)
    for row, there in enumerate(valid.cpu()):
        columns = there.nonzero()[:, 0]
        drawn = columns[torch.randperm(len(columns), generator=torch.Generator().manual_seed(seed))]
        order[row, drawn] = drawn.roll(1)
    return order.to(valid.device)
