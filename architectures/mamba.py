"""Mamba: a selective state space, whose step, input and output are read off the token.

    (u, z) = x W_in,   u = silu(conv(u) + c)
    (d, B, C) = u W_u,   Delta = softplus(d W_d + b)
    h_t = exp(Delta_t A) h_{t-1} + Delta_t u_t B_t,   y_t = C_t h_t + D u_t          A = -exp(A_log)
    out = W_o (y silu(z))

The convolution's sums are of float32 or wider, as the scan is: rounded at each tap, they were the largest error in
bfloat16.
Gu and Dao, https://arxiv.org/abs/2312.00752. With `inner_norm`, d, B and C pass an RMS norm each, as in Jamba
(https://arxiv.org/abs/2403.19887). A_log begins as log(1 .. N), D as 1, steps log-uniform in [0.001, 0.1].

State: E N numbers a layer, whatever the length, and the convolution's inputs. Work a token: that of the projections and
6 E N. Shapes: B batch, T time, W width, E channels, N states a channel, R rank of the steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, silu, softplus

from farfield.architectures.mixer import Mixer, MixerSettings
from farfield.architectures.ops.decoded import Linear
from farfield.architectures.ops.selective_scan import selective_scan
from farfield.architectures.ops.short_convolution import ConvolutionState, short_convolution
from farfield.architectures.rows import Rows
from farfield.architectures.state import State
from farfield.architectures.time_step import time_step_bias

__all__ = ["Mamba", "MambaConfig", "MambaState"]


class MambaConfig(MixerSettings):
    """Mamba, a selective state space: linear time, constant state."""

    form = "selective scan in chunks, linear"
    source = "arxiv.org/abs/2312.00752"

    kind: Literal["mamba"] = "mamba"
    state: int = Field(16, ge=1, description="states a channel")
    expand: int = Field(2, ge=1, description="channels over the width")
    inner: int | None = Field(None, ge=1, description="channels; null: by expand")
    rank: int | None = Field(None, ge=1, description="rank of the map to the steps; null: width / 16, rounded up")
    conv: int = Field(4, ge=1, le=16, description="taps of the short convolution before the scan")
    inner_norm: bool = Field(False, description="RMS norms of steps, inputs and outputs, as in Jamba")
    inner_epsilon: float = Field(1e-6, gt=0, description="epsilon of those norms")
    bias: bool = Field(False, description="whether the projections into and out of the layer have biases")
    conv_bias: bool = Field(True, description="whether the short convolution has a bias")

    def sizes(self, width: int) -> tuple[int, int, int]:
        """Channels, rank of the steps, states a channel."""
        return self.inner or self.expand * width, self.rank or math.ceil(width / 16), self.state

    def check(self, width: int) -> None:
        channels, rank, _ = self.sizes(width)
        if rank > channels:
            raise ValueError(f"rank: {rank} is more than the {channels} channels that it is to map to.")

    def build(self, width: int, layer: int, depth: int) -> Mamba:
        return Mamba(self, width)

    def uncaptured(self) -> None:
        return None

    def parameters(self, width: int, layer: int, depth: int) -> int:
        channels, rank, states = self.sizes(width)
        inner = rank + 2 * states
        a_channel = 3 * width + self.conv + self.conv_bias + inner + rank + 1 + states + 1
        biases = 2 * channels + width if self.bias else 0
        return channels * a_channel + biases + (inner if self.inner_norm else 0)

    def state_bytes(self, width: int, tokens: int, layer: int, depth: int, element: int = 4) -> int:
        channels, _, states = self.sizes(width)
        return channels * (states * max(element, 4) + (self.conv - 1) * element)

    def flops(self, width: int, tokens: int, layer: int, depth: int) -> int:
        channels, _, states = self.sizes(width)
        return 2 * self.parameters(width, layer, depth) + 6 * channels * states


@dataclass(frozen=True, eq=False)
class MambaState(State):
    """The recurrence's state (B, E, N), float32 or wider, and the convolution's inputs."""

    memory: Tensor
    conv: ConvolutionState


class Mamba(Mixer):
    """See the file's head."""

    def __init__(self, config: MambaConfig, width: int) -> None:
        super().__init__()
        self.channels, self.rank, self.states = config.sizes(width)
        self.inner = [self.rank, self.states, self.states]
        self.input = Linear(width, 2 * self.channels, config.bias)
        self.taps = nn.Parameter(torch.empty(self.channels, config.conv))
        self.conv_bias = nn.Parameter(torch.empty(self.channels)) if config.conv_bias else None
        self.select = nn.Linear(self.channels, sum(self.inner), bias=False)
        self.gain = nn.Parameter(torch.ones(sum(self.inner))) if config.inner_norm else None
        self.epsilon = config.inner_epsilon
        self.step = nn.Linear(self.rank, self.channels)
        self.A_log = nn.Parameter(torch.empty(self.channels, self.states))
        self.D = nn.Parameter(torch.ones(self.channels))
        self.out = Linear(self.channels, width, config.bias)
        for rate in (self.A_log, self.D):
            rate._no_weight_decay = True  # type: ignore[attr-defined]  # read by farfield.training.optimizer
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As published: taps as torch's convolutions, steps of one rank's size, A from the real S4D."""
        bound = self.taps.shape[1] ** -0.5
        with torch.no_grad():
            self.taps.uniform_(-bound, bound)
            if self.conv_bias is not None:
                self.conv_bias.uniform_(-bound, bound)
            self.step.weight.uniform_(-(self.rank**-0.5), self.rank**-0.5)
            self.step.bias.copy_(time_step_bias(self.channels))
            self.A_log.copy_(torch.arange(1.0, self.states + 1).log().expand(self.channels, -1))

    def start(self, batch: int) -> MambaState:
        weight = self.input.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        memory = weight.new_zeros(batch, self.channels, self.states, dtype=wide)
        return MambaState(memory, ConvolutionState.empty(batch, self.taps.shape[1], self.channels, weight))

    def forward(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, MambaState)
        wide = state.memory.dtype
        u, gate = self.input(x).chunk(2, dim=-1)
        mixed, conv = short_convolution(u.to(wide), self.taps.to(wide), rows, state.conv)
        conv = ConvolutionState(conv.inputs.to(state.conv.inputs.dtype))  # rounded there before: nothing is lost
        u = silu(mixed if self.conv_bias is None else mixed + self.conv_bias.to(wide)).to(u.dtype)
        delta, b, c = self._selected(u, wide)
        rates = -self.A_log.to(wide).exp()
        out, memory = selective_scan(u, delta, rates, b, c, self.D, rows, state.memory)
        return rows.masked(self.out(out * silu(gate))), MambaState(memory, conv)

    def _selected(self, u: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Steps (B, T, E), inputs and outputs (B, T, N) of u (B, T, E)."""
        parts = self.select(u).split(self.inner, dim=-1)
        if self.gain is not None:
            gains = self.gain.to(u.dtype).split(self.inner)
            parts = [rms_norm(p, p.shape[-1:], eps=self.epsilon) * g for p, g in zip(parts, gains, strict=True)]
        low, b, c = parts
        return softplus(linear(low, self.step.weight).to(kind) + self.step.bias.to(kind)), b, c
