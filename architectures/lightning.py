"""Lightning Attention-2: linear attention without a softmax, a scale or a denominator, whose heads forget by slopes.

    o_n = sum_{m <= n} exp(-s (n - m)) (q_n k_m) v_m         q, k, v = silu(x W_q), silu(x W_k), silu(x W_v)
    y = W_o (sigmoid(x W_g) * norm(o))                       norm: RMS over all heads together, with a gain
    s = 2^(-8 (h + 1) / H) (1 - l / (L - 1) + 1e-5)          head h of H, layer l of L

The slopes are ALiBi's: where H is no power of two, the heads beyond the nearest lower power P take every other slope
of 2 P heads. The upper layers forget less and the last hardly at all; the only layer of a model forgets as a first one.
Positions need no other encoding. Qin et al., https://arxiv.org/abs/2401.04658; gate and norm as MiniMax has them,
https://arxiv.org/abs/2501.08313.

State: H W^2 numbers a layer, whatever the length. Work a token: that of the projections and 4 H W^2.
Shapes: B batch, T time, D width, H heads, W width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from farfield.architectures.mixer import Mixer, MixerSettings, head_sizes
from farfield.architectures.ops.alibi import slopes_of
from farfield.architectures.ops.decoded import Linear
from farfield.architectures.ops.retention import Retention, retention
from farfield.architectures.ops.short_convolution import ConvolutionState
from farfield.architectures.projection import Projection
from farfield.architectures.rows import Rows
from farfield.architectures.state import State

__all__ = ["Lightning", "LightningConfig", "LightningState", "slopes"]


class LightningConfig(MixerSettings):
    """Lightning Attention-2: linear time, constant state, decay by ALiBi's slopes and by the layer's place."""

    form = "recurrence in chunks, linear"
    source = "arxiv.org/abs/2401.04658"

    kind: Literal["lightning"] = "lightning"
    heads: int | None = Field(None, ge=1, description="number of heads; null: width / head_width")
    head_width: int = Field(32, ge=1, description="width of a head where heads is null")
    conv: int = Field(0, ge=0, le=16, description="taps of a short convolution on queries, keys and values; 0: none")
    chunk: int = Field(64, ge=0, description="tokens in a chunk of the chunked form; 0: all at once, the dense form")

    def sizes(self, width: int) -> tuple[int, int]:
        """Heads, width of a head."""
        return head_sizes(width, self.heads, self.head_width)

    def check(self, width: int) -> None:
        self.sizes(width)

    def build(self, width: int, layer: int, depth: int) -> Lightning:
        return Lightning(self, width, layer, depth)

    def uncaptured(self) -> None:
        return None

    def parameters(self, width: int, layer: int, depth: int) -> int:
        heads, head_width = self.sizes(width)
        return Projection.count(width, heads, heads, head_width, self.conv) + width * width + width

    def state_bytes(self, width: int, tokens: int, layer: int, depth: int, element: int = 4) -> int:
        heads, head_width = self.sizes(width)
        inputs = Projection.state_bytes(heads, heads, head_width, self.conv, element)
        return heads * head_width**2 * max(element, 4) + inputs

    def flops(self, width: int, tokens: int, layer: int, depth: int) -> int:
        heads, head_width = self.sizes(width)
        return 2 * self.parameters(width, layer, depth) + 4 * heads * head_width**2


@dataclass(frozen=True, eq=False)
class LightningState(State):
    """The recurrence's state (B, H, W, W), float32 or wider, and the convolution's inputs."""

    memory: Tensor
    conv: ConvolutionState | None


def slopes(heads: int, layer: int, depth: int) -> Tensor:
    """s (H,), float64, of layer `layer` of `depth`."""
    share = 1 - layer / max(depth - 1, 1) + 1e-5
    return slopes_of(heads) * share


class Lightning(Mixer):
    """See the file's head."""

    def __init__(self, config: LightningConfig, width: int, layer: int, depth: int) -> None:
        super().__init__()
        self.heads, self.head_width = config.sizes(width)
        self.retention = Retention(
            self.head_width,
            self.head_width,
            -slopes(self.heads, layer, depth),
            config.chunk,
            activated=True,
            gate="sigmoid",
            together=True,
        )
        self.projection = Projection(width, self.heads, self.heads, self.head_width, config.conv)
        self.gate = Linear(width, width, bias=False)
        self.norm = nn.RMSNorm(width, eps=1e-6)

    def start(self, batch: int) -> LightningState:
        weight = self.gate.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        memory = weight.new_zeros(batch, self.heads, self.head_width, self.head_width, dtype=wide)
        return LightningState(memory, self.projection.start(batch))

    def forward(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, LightningState)
        qkv, conv = self.projection.inputs(x, rows, state.conv)
        y, memory = retention(self.retention, qkv, self.gate(x), self.norm.weight, rows, state.memory)
        return self.projection.out(y), LightningState(memory, conv)
