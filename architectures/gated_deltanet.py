"""Gated DeltaNet: linear attention that replaces what a key held instead of adding to it, and forgets by a gate.

    S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T,   o_t = q_t S_t / sqrt(K)
    b = sigmoid(x W_b),   log a = -exp(A) softplus(x W_a + d)          one number a head and token
    y = W_o (norm(o) silu(x W_g))

Queries, keys and values come through a short convolution and SiLU; queries and keys are then of length 1. A value head
h uses the queries and keys of head h H / I; norm is an RMS norm of each value head, with one weight for all. Yang et
al., https://arxiv.org/abs/2412.06464, in the form of Qwen3-Next: rates A and steps d begin as Mamba-2's.

State: I K V numbers a layer, whatever the length, and the convolution's inputs. Work a token: that of the projections
and 6 I K V. Shapes: B batch, T time, D width, H heads of keys, I heads of values, K width of a key, V of a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from farfield.architectures.mixer import Mixer, MixerSettings, head_sizes
from farfield.architectures.ops.decoded import Linear
from farfield.architectures.ops.gated_delta_rule import gated_delta_rule
from farfield.architectures.ops.short_convolution import ConvolutionState, short_convolution
from farfield.architectures.rows import Rows
from farfield.architectures.state import State
from farfield.architectures.time_step import time_step_bias

__all__ = ["GatedDeltaNet", "GatedDeltaNetConfig", "GatedDeltaNetState"]


class GatedDeltaNetConfig(MixerSettings):
    """The gated delta rule: linear time, constant state, and a memory whose entries are overwritten."""

    form = "delta rule in chunks, linear"
    source = "arxiv.org/abs/2412.06464"

    kind: Literal["gated_deltanet"] = "gated_deltanet"
    heads: int | None = Field(None, ge=1, description="heads of queries and keys; null: width / head_width")
    head_width: int = Field(32, ge=1, description="width of a head's keys where heads is null")
    value_heads: int | None = Field(None, ge=1, description="heads of values, a multiple of heads; null: as many")
    value_ratio: int = Field(2, ge=1, description="width of a value over that of a key")
    conv: int = Field(4, ge=0, le=16, description="taps of a short convolution on queries, keys and values; 0: none")
    chunk: int = Field(64, ge=1, description="tokens in a chunk of the chunked form")

    def sizes(self, width: int) -> tuple[int, int, int, int]:
        """Heads of keys, heads of values, width of a key, width of a value.

        Raises:
            ValueError: they do not divide.
        """
        heads, key = head_sizes(width, self.heads, self.head_width)
        value_heads = self.value_heads or heads
        if value_heads % heads:
            raise ValueError(f"value_heads: {value_heads} is no multiple of the {heads} heads.")
        return heads, value_heads, key, key * self.value_ratio

    def channels(self, width: int) -> int:
        """Channels of queries, keys and values together."""
        heads, value_heads, key, value = self.sizes(width)
        return 2 * heads * key + value_heads * value

    def check(self, width: int) -> None:
        self.sizes(width)

    def build(self, width: int, layer: int, depth: int) -> GatedDeltaNet:
        return GatedDeltaNet(self, width)

    def uncaptured(self) -> None:
        return None

    def parameters(self, width: int, layer: int, depth: int) -> int:
        _, heads, _, value = self.sizes(width)
        gates = 2 * heads * width + 2 * heads
        return self.channels(width) * (width + self.conv) + 2 * width * heads * value + gates + value

    def state_bytes(self, width: int, tokens: int, layer: int, depth: int, element: int = 4) -> int:
        _, heads, key, value = self.sizes(width)
        inputs = self.channels(width) * max(self.conv - 1, 0) * element
        return heads * key * value * max(element, 4) + inputs

    def flops(self, width: int, tokens: int, layer: int, depth: int) -> int:
        _, heads, key, value = self.sizes(width)
        return 2 * self.parameters(width, layer, depth) + 6 * heads * key * value


@dataclass(frozen=True, eq=False)
class GatedDeltaNetState(State):
    """The recurrence's state (B, I, K, V), float32 or wider, and the convolution's inputs."""

    memory: Tensor
    conv: ConvolutionState | None


class GatedDeltaNet(Mixer):
    """See the file's head."""

    def __init__(self, config: GatedDeltaNetConfig, width: int) -> None:
        super().__init__()
        heads, self.heads, self.key, self.value = config.sizes(width)
        self.shared, self.chunk = self.heads // heads, config.chunk
        self.sizes = [heads * self.key, heads * self.key, self.heads * self.value]
        self.qkv = Linear(width, sum(self.sizes), bias=False)
        self.gate = Linear(width, self.heads * self.value, bias=False)
        self.rates = nn.Linear(width, 2 * self.heads, bias=False)
        self.out = Linear(self.heads * self.value, width, bias=False)
        self.taps = nn.Parameter(torch.empty(sum(self.sizes), config.conv)) if config.conv else None
        self.log_rate = nn.Parameter(torch.empty(self.heads))
        self.step_bias = nn.Parameter(torch.empty(self.heads))
        self.norm = nn.RMSNorm(self.value, eps=1e-6, elementwise_affine=False)
        self.gain = nn.Parameter(torch.ones(self.value))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Rates uniform up to 16, steps from a thousandth to a tenth; the convolution begins near the identity."""
        with torch.no_grad():
            self.log_rate.copy_(torch.empty(self.heads).uniform_(0.01, 16.0).log())
            self.step_bias.copy_(time_step_bias(self.heads))
            if self.taps is not None:
                taps = self.taps.shape[1]
                self.taps.uniform_(-(taps**-0.5), taps**-0.5)
                self.taps[:, 0] += 1.0

    def start(self, batch: int) -> GatedDeltaNetState:
        weight = self.qkv.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        memory = weight.new_zeros(batch, self.heads, self.key, self.value, dtype=wide)
        conv = None
        if self.taps is not None:
            conv = ConvolutionState.empty(batch, self.taps.shape[1], sum(self.sizes), weight)
        return GatedDeltaNetState(memory, conv)

    def forward(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, GatedDeltaNetState)
        qkv, conv = self.qkv(x), state.conv
        if self.taps is not None and conv is not None:
            qkv, conv = short_convolution(qkv, self.taps.to(qkv.dtype), rows, conv)
        kind = state.memory.dtype
        q, k, v = silu(qkv).split(self.sizes, dim=-1)
        q, k = self._unit(q.to(kind)) * self.key**-0.5, self._unit(k.to(kind))
        v = rearrange(v.to(kind), "b t (i v) -> b i t v", i=self.heads)
        log_decay, beta = self._rates(x, kind)
        out, memory = gated_delta_rule(q, k, v, log_decay, beta, rows, state.memory, self.chunk, x.dtype)
        gate = rearrange(self.gate(x), "b t (i v) -> b i t v", i=self.heads)
        mixed = self.norm(out) * self.gain.to(kind) * silu(gate.to(kind))
        y = self.out(rearrange(mixed, "b i t v -> b t (i v)").to(x.dtype))
        return rows.masked(y), GatedDeltaNetState(memory, conv)

    def _unit(self, x: Tensor) -> Tensor:
        """(B, I, T, K) of queries or keys (B, T, H K), each of length 1, or shorter where it is nearly nothing."""
        x = rearrange(x, "b t (h k) -> b h t k", k=self.key)
        x = x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()
        return x.repeat_interleave(self.shared, dim=1) if self.shared > 1 else x

    def _rates(self, x: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
        """log a and b of each value head and token, (B, I, T)."""
        step, strength = rearrange(self.rates(x), "b t (two i) -> two b i t", two=2).to(kind).unbind(0)
        step = softplus(step + self.step_bias.to(kind)[:, None])
        return -self.log_rate.to(kind).exp()[:, None] * step, strength.sigmoid()
