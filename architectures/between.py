"""What may stand between the mixer and the feed-forward of some layers: passages that are read there.

    carried = between.begin(state)
    layer 0     x = x + mixer(norm(x));  x = x + feedforward(norm(x))
    layer 1     x = x + mixer(norm(x));  x, carried = between.at(1)(x, carried);  x = x + feedforward(norm(x))
    state = between.end(carried)

What lower layers leave for higher ones is handed on as a value, so that layers may be run again: for gradients that are
checkpointed, and where keys are taken from above.

Shapes: B batch, T time, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from farfield.architectures.state import State

__all__ = ["Between"]


class Between(Protocol):
    """One call's view of it: where the tokens stand is known to it already."""

    def begin(self, state: State) -> Any:
        """What the lowest layer is handed, from the state of the call before."""

    def at(self, index: int) -> Callable[[Tensor, Any], tuple[Tensor, Any]] | None:
        """The map of the stream (B, T, D), and of what is carried, in layer `index`; None: nothing stands there."""

    def end(self, carried: Any) -> State:
        """The state behind the call, from what the highest layer has left."""
