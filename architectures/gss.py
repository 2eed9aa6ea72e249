"""Gated state spaces: a diagonal state space in a narrow middle, between two gates.

    u = gelu(x W_u),   v = LayerNorm(gelu(x W_v))
    s_t = exp(L) s_{t-1} + v_t,   y_t = Re(C (exp(L) - 1) / L s_t) + D v_t          L = -exp(a) + i exp(f)
    out = ((y W_g) u) W_o + c

Mehta et al., https://arxiv.org/abs/2206.13947, over DSS (https://arxiv.org/abs/2203.14343): N complex rates for all
channels, which do not depend on the token. Rates begin normal as published, C with variance 1 / N. Whole sequences are
convolved by Fourier transforms, decoding is the recurrence.

State: 2 E N numbers a layer, whatever the length. Work a token: that of the projections and 8 E N.
Shapes: B batch, T time, W width, E channels, N states a channel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import gelu

from farfield.architectures.mixer import Mixer, MixerSettings
from farfield.architectures.ops.decoded import Linear
from farfield.architectures.ops.gelu_gate import gelu_gate
from farfield.architectures.ops.long_convolution import long_convolution
from farfield.architectures.rows import Rows
from farfield.architectures.state import State

__all__ = ["GSS", "GSSConfig", "GSSState"]


class GSSConfig(MixerSettings):
    """Gated state spaces: a long convolution by Fourier transforms, decoded as a recurrence with constant state."""

    form = "Fourier transform, linear"
    source = "arxiv.org/abs/2206.13947"

    kind: Literal["gss"] = "gss"
    channels: int | None = Field(None, ge=1, description="channels of the state space; null: a quarter of the width")
    state: int = Field(512, ge=1, description="complex states a channel")
    expand: int = Field(4, ge=1, description="width of the gate over that of the layer")

    def sizes(self, width: int) -> tuple[int, int, int]:
        """Channels, states a channel, width of the gate."""
        return self.channels or math.ceil(width / 4), self.state, self.expand * width

    def check(self, width: int) -> None:
        """Every width fits."""

    def build(self, width: int, layer: int, depth: int) -> GSS:
        return GSS(self, width)

    def uncaptured(self) -> None:
        return None

    def parameters(self, width: int, layer: int, depth: int) -> int:
        channels, states, gate = self.sizes(width)
        projections = 2 * width * gate + channels * (width + gate) + width
        return projections + 3 * channels + 2 * states + 2 * channels * states

    def state_bytes(self, width: int, tokens: int, layer: int, depth: int, element: int = 4) -> int:
        channels, states, _ = self.sizes(width)
        return 2 * channels * states * max(element, 4)

    def flops(self, width: int, tokens: int, layer: int, depth: int) -> int:
        channels, states, _ = self.sizes(width)
        return 2 * self.parameters(width, layer, depth) + 8 * channels * states


@dataclass(frozen=True, eq=False)
class GSSState(State):
    """The recurrence's state (B, E, N, 2), real and imaginary parts, float32 or wider."""

    memory: Tensor


class GSS(Mixer):
    """See the file's head."""

    def __init__(self, config: GSSConfig, width: int) -> None:
        super().__init__()
        self.channels, self.states, gate = config.sizes(width)
        self.gate = Linear(width, gate, bias=False)
        self.input = Linear(width, self.channels, bias=False)
        self.norm = nn.LayerNorm(self.channels)
        self.log_decay = nn.Parameter(torch.randn(self.states))
        self.log_frequency = nn.Parameter(torch.randn(self.states))
        self.read = nn.Parameter(torch.randn(self.channels, self.states, 2) * self.states**-0.5)
        self.skip = nn.Parameter(torch.randn(self.channels))
        self.spread = Linear(self.channels, gate, bias=False)
        self.out = Linear(gate, width)

    def start(self, batch: int) -> GSSState:
        weight = self.read
        wide = torch.promote_types(weight.dtype, torch.float32)
        return GSSState(weight.new_zeros(batch, self.channels, self.states, 2, dtype=wide))

    def forward(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, GSSState)
        v = self.norm(gelu(self.input(x)))
        rates = torch.complex(-self.log_decay.double().exp(), self.log_frequency.double().exp())
        read = torch.view_as_complex(self.read.double().contiguous()) * torch.expm1(rates) / rates
        y, memory = long_convolution(v, rates, read, rows, state.memory)
        y = (y + self.skip.to(v.dtype) * v).to(x.dtype)
        maps = (self.gate.weight, self.spread.weight, self.out.weight, self.out.bias)
        return rows.masked(gelu_gate(x, y, *maps)), GSSState(memory)
