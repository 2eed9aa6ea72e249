"""A layer of queries alone: it attends to the keys and values that another layer keeps.

    o_n = softmax_m(q_n . k_m / sqrt(W)) v_m,  (k, v) of layer `keeper`, m in its near field

State: the inputs of the convolution on its queries, where it has one. Work a token: 4 D H W for the projections of
queries and output, 4 W for each head and key that it sees.
Shapes: B batch, T time, D width, H heads, W width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from farfield.architectures.keyed import LendingSettings
from farfield.architectures.mixer import Kept, Mixer, MixerSettings
from farfield.architectures.ops.short_convolution import ConvolutionState
from farfield.architectures.projection import Projection
from farfield.architectures.rows import Rows
from farfield.architectures.state import State

__all__ = ["Taker", "TakerState", "TakingSettings"]


class TakingSettings(MixerSettings):
    """What is left of a softmax mixer that takes the keys of the layer `keeper`, `below` it or above."""

    own: LendingSettings
    keeper: int
    below: bool

    @property
    def kind(self) -> str:
        """As that of the mixer it would be with keys of its own."""
        return str(getattr(self.own, "kind", type(self.own).__name__))

    def check(self, width: int) -> None:
        self.own.check(width)

    def joins(self) -> str | None:
        return self.own.joins()

    def uncaptured(self) -> str | None:
        return self.own.uncaptured()

    def captured_from(self) -> int:
        return self.own.captured_from()

    def build(self, width: int, layer: int, depth: int) -> Taker:
        return Taker(self, width, depth)

    def parameters(self, width: int, layer: int, depth: int) -> int:
        return Projection.weights(self.own, width, kv_heads=0)

    def state_bytes(self, width: int, tokens: int, layer: int, depth: int, element: int = 4) -> int:
        heads, _, head_width = self.own.sizes(width)
        return Projection.state_bytes(heads, 0, head_width, self.own.conv, element)

    def flops(self, width: int, tokens: int, layer: int, depth: int) -> int:
        heads, _, head_width = self.own.sizes(width)
        seen = self.own.pairs(width, tokens, self.keeper, depth) + (heads if self.below else 0)
        return 2 * self.parameters(width, layer, depth) + 4 * head_width * seen


@dataclass(frozen=True, eq=False)
class TakerState(State):
    """The inputs of the convolution on queries, if any."""

    conv: ConvolutionState | None


class Taker(Mixer):
    """See the file's head."""

    def __init__(self, settings: TakingSettings, width: int, depth: int) -> None:
        super().__init__()
        self.projection = Projection.of(settings.own, width, kv_heads=0)
        self.field = settings.own.near_field(width, settings.keeper, depth)

    def start(self, batch: int) -> TakerState:
        return TakerState(self.projection.start(batch))

    def forward(self, x: Tensor, rows: Rows, state: State, kept: Kept | None = None) -> tuple[Tensor, State]:
        """As of every mixer, over what the other layer has `kept`, without which there is nothing to attend to."""
        assert isinstance(state, TakerState)
        assert kept is not None, "a layer that takes keys is handed them by the stack"
        heads, conv = self.projection.split(x, rows, state.conv)
        queries = self.field.queries(heads.queries, rows)
        found = self.field.attend(queries, kept.cast(queries.dtype), rows)
        return self.projection.join(found.out, rows), TakerState(conv)

    def joined(self, states: Sequence[State], owner: Tensor, dropped: Tensor, count: int) -> TakerState:
        return TakerState(None)
