"""RetNet: multi-scale retention, linear attention whose heads forget at different rates.

    S_n = gamma S_{n-1} + k_n^T v_n,   o_n = q_n S_n
    y = W_o (silu(x W_g) * norm(o))

    decay     torchscale   gamma_h = 1 - 2^(-5-h)
              linspace     gamma_h = 1 - 2^-x,  x evenly from 5 to 9 over the heads (yet-another-retnet)
    rotation  interleaved  pairs (2i, 2i+1),    frequencies 10000^(-linspace(0, 1, K / 2)) (torchscale)
              halves       pairs (i, i + K/2),  frequencies 10000^(-2i / K), as in Llama (flash-linear-attention)

Queries and keys are rotated by position, keys scaled by K^(-1/2); norm is an RMS norm of each head without weights.
Sun et al., https://arxiv.org/abs/2307.08621. This is the paper's form without the extra normalisers of torchscale:
those cancel in the norm but for its epsilon, and without them the parallel, chunked and recurrent forms are the same
function.

State: H K V numbers a layer, whatever the length. Work a token: that of the projections and 4 H K V.
Shapes: B batch, T time, D width, H heads, K width of a key, V width of a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from farfield.architectures.mixer import Mixer, MixerSettings, head_sizes
from farfield.architectures.ops.decoded import Linear
from farfield.architectures.ops.retention import Retention, retention
from farfield.architectures.ops.rotary import Layout, frequencies
from farfield.architectures.ops.short_convolution import ConvolutionState, short_convolution
from farfield.architectures.rows import Rows
from farfield.architectures.state import State

__all__ = ["RetNet", "RetNetConfig", "RetNetState"]


class RetNetConfig(MixerSettings):
    """Multi-scale retention: linear time, constant state, exact recurrent decoding."""

    form = "recurrence in chunks, linear"
    source = "arxiv.org/abs/2307.08621"

    kind: Literal["retnet"] = "retnet"
    heads: int | None = Field(None, ge=1, description="number of heads; null: width / head_width")
    head_width: int = Field(32, ge=2, description="width of a head's keys where heads is null")
    decay: Literal["torchscale", "linspace"] = Field("torchscale", description="how heads share out the rates of decay")
    rotation: Layout = Field(
        "interleaved", description="pairs and frequencies of the rotation: torchscale's or Llama's"
    )
    value_ratio: int = Field(2, ge=1, description="width of a value over that of a key")
    conv: int = Field(0, ge=0, le=16, description="taps of a short convolution on queries, keys and values; 0: none")
    chunk: int = Field(64, ge=0, description="tokens in a chunk of the chunked form; 0: all at once, the dense form")

    def sizes(self, width: int) -> tuple[int, int, int]:
        """Heads, width of a key, width of a value."""
        heads, key = head_sizes(width, self.heads, self.head_width)
        if key % 2:
            raise ValueError(f"heads: {heads} heads of width {key} given; the rotation needs an even width.")
        return heads, key, key * self.value_ratio

    def check(self, width: int) -> None:
        self.sizes(width)

    def build(self, width: int, layer: int, depth: int) -> RetNet:
        return RetNet(self, width)

    def uncaptured(self) -> None:
        return None

    def parameters(self, width: int, layer: int, depth: int) -> int:
        heads, key, value = self.sizes(width)
        return width * heads * (2 * key + 3 * value) + heads * (2 * key + value) * self.conv

    def state_bytes(self, width: int, tokens: int, layer: int, depth: int, element: int = 4) -> int:
        heads, key, value = self.sizes(width)
        inputs = heads * (2 * key + value) * max(self.conv - 1, 0) * element
        return heads * key * value * max(element, 4) + inputs

    def flops(self, width: int, tokens: int, layer: int, depth: int) -> int:
        heads, key, value = self.sizes(width)
        return 2 * self.parameters(width, layer, depth) + 4 * heads * key * value


@dataclass(frozen=True, eq=False)
class RetNetState(State):
    """The recurrence's state (B, H, K, V), float32 or wider, and the convolution's inputs."""

    memory: Tensor
    conv: ConvolutionState | None


class RetNet(Mixer):
    """See the file's head."""

    def __init__(self, config: RetNetConfig, width: int) -> None:
        super().__init__()
        self.heads, self.key, self.value = config.sizes(width)
        self.retention = Retention(
            self.key,
            self.value,
            log_decays(self.heads, config.decay),
            config.chunk,
            frequency=frequencies(self.key, config.rotation),
            layout=config.rotation,
            scale=self.key**-0.5,
        )
        self.sizes = self.retention.sizes
        self.qkv = Linear(width, sum(self.sizes), bias=False)
        self.gate = Linear(width, self.heads * self.value, bias=False)
        self.out = Linear(self.heads * self.value, width, bias=False)
        self.taps = nn.Parameter(torch.empty(sum(self.sizes), config.conv)) if config.conv else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As torchscale: Xavier, scaled down by 2^2.5 for the inputs and by 2 for the output."""
        for weight in (*self.qkv.weight.split(self.sizes), self.gate.weight):
            nn.init.xavier_uniform_(weight, gain=2**-2.5)
        nn.init.xavier_uniform_(self.out.weight, gain=2**-1)
        if self.taps is not None:
            taps = self.taps.shape[1]
            nn.init.uniform_(self.taps, -(taps**-0.5), taps**-0.5)
            with torch.no_grad():
                self.taps[:, 0] += 1.0

    def start(self, batch: int) -> RetNetState:
        weight = self.qkv.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        memory = weight.new_zeros(batch, self.heads, self.key, self.value, dtype=wide)
        conv = None
        if self.taps is not None:
            conv = ConvolutionState.empty(batch, self.taps.shape[1], sum(self.sizes), weight)
        return RetNetState(memory, conv)

    def forward(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, RetNetState)
        qkv, conv = self.qkv(x), state.conv
        if self.taps is not None and conv is not None:
            qkv, conv = short_convolution(qkv, self.taps.to(qkv.dtype), rows, conv)
        y, memory = retention(self.retention, qkv, self.gate(x), None, rows, state.memory)
        return self.out(y), RetNetState(memory, conv)


def log_decays(heads: int, decay: Literal["torchscale", "linspace"]) -> Tensor:
    """log gamma (H,), float64."""
    places = torch.arange(heads, dtype=torch.float64)
    if decay == "linspace":
        places = places * (4.0 / max(heads - 1, 1))
    return torch.log1p(-(2.0 ** (-5.0 - places)))
