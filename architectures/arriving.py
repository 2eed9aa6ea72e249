"""Layer states that arrive one after another, while the layers below already compute.

    layer           0       1       2
    read from disk  |--0--|--1--|--2--|
    computed              |--0--|--1--|--2--|

The decoder takes the states in order, and each is waited for when its turn comes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

from farfield.architectures.state import State

__all__ = ["ArrivingStates", "kinds"]


class ArrivingStates(Sequence[State]):
    """The states of layers, of known kinds, in the place of a tuple of them.

    Any other use than in order waits for what it needs; `tuple(states)` waits for all.
    """

    def __init__(self, like: Sequence[State], wait: Callable[[int], State]) -> None:
        """`like`: states of the same kinds. `wait(index)`: that of a layer, asked for once, when it is needed."""
        self.kinds = tuple(map(type, like))
        self._wait = wait
        self._found: dict[int, State] = {}

    def __len__(self) -> int:
        return len(self.kinds)

    @overload
    def __getitem__(self, index: int) -> State: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[State, ...]: ...

    def __getitem__(self, index: int | slice) -> State | tuple[State, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(len(self))[index])
        place = range(len(self))[index]
        if place not in self._found:
            self._found[place] = self._wait(place)
        return self._found[place]


def kinds(states: Sequence[State]) -> tuple[type[State], ...]:
    """The class of each state, known before they have arrived."""
    return states.kinds if isinstance(states, ArrivingStates) else tuple(map(type, states))
