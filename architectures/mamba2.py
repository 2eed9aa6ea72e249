"""Mamba-2: a state space model whose state is that of linear attention with a decay a token and head (SSD).

    z, x, B, C, dt = u W_in              x, B, C = silu(conv(x, B, C) + b)          dt = softplus(dt + b_dt)
    S_t = exp(dt_t A) S_{t-1} + B_t^T (dt_t x_t),    y_t = C_t S_t + D x_t          A = -exp(A_log) a head
    out = W_out norm(y * silu(z))        norm: RMS over each of G parts, with a gain

B and C, the keys and queries of linear attention, are shared by the H / G heads of a group. All between the two outer
projections is computed in float32 or wider: the gradients of dt and A are small sums of large terms of both signs.
Fresh weights: exp(A_log) uniform in [1, 16], softplus(b_dt) log-uniform in [0.001, 0.1], D = 1.
Dao and Gu, https://arxiv.org/abs/2405.21060; https://github.com/state-spaces/mamba, modules/mamba2.py.

State: H N P numbers a layer and the convolution's inputs, whatever the length. Work a token: that of the projections
and 4 H N P.
Shapes: B batch, T time, D width, H heads, P width of a head, E = H P inner width, G groups, N width of B and C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from farfield.architectures.mixer import Mixer, MixerSettings
from farfield.architectures.ops.decoded import Linear
from farfield.architectures.ops.linear_attention import linear_attention
from farfield.architectures.ops.pieces import in_pieces
from farfield.architectures.ops.short_convolution import ConvolutionState, short_convolution
from farfield.architectures.rows import Rows
from farfield.architectures.state import State

__all__ = ["Mamba2", "Mamba2Config", "Mamba2State"]


class Mamba2Config(MixerSettings):
    """Mamba-2: linear time, constant state, decay chosen by each token."""

    form = "recurrence in chunks, linear"
    source = "arxiv.org/abs/2405.21060"

    kind: Literal["mamba2"] = "mamba2"
    expand: int = Field(2, ge=1, description="inner width over the width")
    heads: int | None = Field(None, ge=1, description="number of heads; null: inner width / head_width")
    head_width: int = Field(64, ge=1, description="width of a head where heads is null")
    state: int = Field(128, ge=1, description="width of B and C: numbers of state for each inner channel")
    groups: int = Field(1, ge=1, description="groups of heads, each with its own B and C")
    conv: int = Field(4, ge=1, le=16, description="taps of the short convolution on x, B and C")
    conv_bias: bool = Field(True, description="whether the short convolution has a bias")
    bias: bool = Field(False, description="whether the projections into and out of the layer have biases")
    epsilon: float = Field(1e-5, gt=0, description="epsilon of the norm before the projection out of the layer")
    step_low: float = Field(0.0, ge=0, description="least step dt of a token")
    step_high: float | None = Field(None, gt=0, description="largest step dt of a token; null: any")
    chunk: int = Field(64, ge=0, description="tokens in a chunk of the chunked form; 0: all at once, the dense form")

    def sizes(self, width: int) -> tuple[int, int]:
        """Heads, width of a head.

        Raises:
            ValueError: they do not divide.
        """
        inner = self.expand * width
        told = f"the inner width {inner} = {self.expand} x {width}"
        if self.heads is None and inner % self.head_width:
            raise ValueError(f"head_width: {self.head_width} does not divide {told}.")
        heads = self.heads or inner // self.head_width
        if inner % heads:
            raise ValueError(f"heads: {heads} does not divide {told}.")
        if heads % self.groups:
            raise ValueError(f"groups: {self.groups} does not divide the {heads} heads.")
        return heads, inner // heads

    def check(self, width: int) -> None:
        self.sizes(width)
        if self.step_high is not None and self.step_high <= self.step_low:
            raise ValueError(f"step_high: {self.step_high} given, which is not above step_low, {self.step_low}.")

    def build(self, width: int, layer: int, depth: int) -> Mamba2:
        return Mamba2(self, width)

    def channels(self, width: int) -> int:
        """How many channels the convolution has: those of x, B and C."""
        return self.expand * width + 2 * self.groups * self.state

    def uncaptured(self) -> None:
        return None

    def parameters(self, width: int, layer: int, depth: int) -> int:
        heads, _ = self.sizes(width)
        inner, channels = self.expand * width, self.channels(width)
        into = inner + channels + heads
        biases = into + width if self.bias else 0
        return width * (into + inner) + biases + channels * (self.conv + self.conv_bias) + 3 * heads + inner

    def state_bytes(self, width: int, tokens: int, layer: int, depth: int, element: int = 4) -> int:
        return self.expand * width * self.state * max(element, 4) + self.channels(width) * (self.conv - 1) * element

    def flops(self, width: int, tokens: int, layer: int, depth: int) -> int:
        return 2 * self.parameters(width, layer, depth) + 4 * self.expand * width * self.state


@dataclass(frozen=True, eq=False)
class Mamba2State(State):
    """The recurrence's state (B, H, N, P), float32 or wider, and the convolution's inputs."""

    memory: Tensor
    conv: ConvolutionState


class Mamba2(Mixer):
    """See the file's head."""

    def __init__(self, config: Mamba2Config, width: int) -> None:
        super().__init__()
        self.heads, self.head_width = config.sizes(width)
        self.groups, self.state, self.chunk = config.groups, config.state, config.chunk
        self.epsilon, self.steps = config.epsilon, (config.step_low, config.step_high)
        self.inner = config.expand * width
        self.channels = config.channels(width)
        self.into = Linear(width, self.inner + self.channels + self.heads, config.bias)
        self.taps = nn.Parameter(torch.empty(self.channels, config.conv))
        self.taps_bias = nn.Parameter(torch.empty(self.channels)) if config.conv_bias else None
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.gain = nn.Parameter(torch.ones(self.inner))
        self.out = Linear(self.inner, width, config.bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As published; A_log, D and dt_bias have one dimension, and so no weight decay."""
        bound = self.taps.shape[1] ** -0.5
        with torch.no_grad():
            self.taps.uniform_(-bound, bound)
            if self.taps_bias is not None:
                self.taps_bias.uniform_(-bound, bound)
            self.A_log.uniform_(1, 16).log_()
            dt = self.dt_bias.uniform_(math.log(1e-3), math.log(1e-1)).exp().clamp(min=1e-4)
            self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # softplus of it is dt

    def start(self, batch: int) -> Mamba2State:
        weight = self.into.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        memory = weight.new_zeros(batch, self.heads, self.state, self.head_width, dtype=wide)
        return Mamba2State(memory, ConvolutionState.empty(batch, self.taps.shape[1], self.channels, weight))

    def forward(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, Mamba2State)
        wide = state.memory.dtype
        z, mixed, dt = self.into(x).to(wide).split([self.inner, self.channels, self.heads], dim=-1)
        mixed, conv = short_convolution(mixed, self.taps.to(wide), rows, state.conv)
        conv = ConvolutionState(conv.inputs.to(state.conv.inputs.dtype))  # rounded there before: nothing is lost
        mixed = in_pieces(_activated, (mixed,), () if self.taps_bias is None else (self.taps_bias.to(wide),))
        u, k, q = mixed.split([self.inner, self.groups * self.state, self.groups * self.state], dim=-1)
        u = rearrange(u, "b t (h p) -> b h t p", h=self.heads)
        k, q = (rearrange(part, "b t (g n) -> b g t n", g=self.groups) for part in (k, q))
        dt = nn.functional.softplus(dt + self.dt_bias.to(wide))
        dt = rearrange(dt if self.steps == (0, None) else dt.clamp(*self.steps), "b t h -> b h t")
        decay = -self.A_log.to(wide).exp()[:, None] * dt
        out, memory = linear_attention(q, k, u * dt[..., None], decay, rows, state.memory, self.chunk)
        out, u = (rearrange(part, "b h t p -> b t h p") for part in (out, u))
        y = self.out(in_pieces(self.norm, (out, u, z), (self.D.to(wide), self.gain.to(wide))).to(x.dtype))
        return rows.masked(y), Mamba2State(memory, conv)

    def norm(self, out: Tensor, u: Tensor, z: Tensor, D: Tensor, gain: Tensor) -> Tensor:
        """RMS norm of out + D u (B, T, H, P), gated by z (B, T, E) before it, over each group's channels."""
        y = rearrange(out + D[:, None] * u, "b t h p -> b t (h p)")
        parts = rearrange(y * nn.functional.silu(z), "b t (g c) -> b t g c", g=self.groups)
        normed = nn.functional.rms_norm(parts, parts.shape[-1:], eps=self.epsilon)
        return rearrange(normed, "b t g c -> b t (g c)") * gain


def _activated(mixed: Tensor, bias: Tensor | None = None) -> Tensor:
    return nn.functional.silu(mixed if bias is None else mixed + bias)
