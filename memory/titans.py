"""Titans: a small network a head that learns, while reading, to answer a token's key with its value.

    q, k, v = silu(conv(x W)),  q and k of length 1            a head at a time
    theta, eta, alpha = max_rate sigmoid(.), sigmoid(.), sigmoid(.)    of x: how much is learnt, kept up, forgotten
    m = (sigmoid(.) norm(M(q)) * gain) W_o                         M: see `inner_network`

    sum      y = mixer(x) + m
    gate     y = mixer(x) * sigmoid(m)                             "memory as a gate", MAG
    layer    y = mixer(x + m)                                      "memory as a layer", MAL, with its residual

Behrouz et al., https://arxiv.org/abs/2501.00663; the activation within M and the gate a head are those of
titans-pytorch. A token reads the weights at the start of its segment, as gradients are taken at them: reading comes
before writing, and the mixer has the open segment in its near field. Segments are cut at multiples of `segment` in the
document. Published code clips the summed gradient of a segment; here each token's is, by its norm over all layers: it
bounds the sum as well, and does not depend on where calls end.

M begins each document with weights that are trained. The state is as large at any token: three times the weights of M,
in float32 or wider.
Shapes: B batch, T time, D width, H heads of the memory, W width of a head, F hidden width.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, silu

from farfield.architectures.mixer import Mixer, MixerSettings, head_sizes
from farfield.architectures.ops.short_convolution import ConvolutionState, short_convolution
from farfield.architectures.ops.uncompiled import uncompiled
from farfield.architectures.rows import Rows
from farfield.architectures.state import State
from farfield.memory.forgetting import cycles
from farfield.memory.inner_network import Learnt, Rates, Weights, regressed
from farfield.memory.settings import MixerMemory, Wrapped

__all__ = ["Titans", "TitansConfig", "TitansState"]

KEPT = 7.0  # the decay begins at sigmoid(-7): half of what is learnt is forgotten in 760 tokens
SLOW = -2.0  # the rate begins at sigmoid(-2) of its maximum


class TitansConfig(MixerMemory):
    """Settings of Titans' neural memory. In every form it is causal, exact under splits, and keeps rows apart."""

    source = "arxiv.org/abs/2501.00663"
    keyed: ClassVar[bool] = False

    kind: Literal["titans"] = "titans"
    name: str = Field("titans", description="what tables call it")
    form: Literal["sum", "gate", "layer"] = Field(
        "gate", description="sum: added to the mixer's output; gate: a gate on it; layer: added to the mixer's input"
    )
    segment: int = Field(64, ge=1, description="tokens that are learnt from at the same weights")
    heads: int | None = Field(None, ge=1, description="networks; null: width / head_width")
    head_width: int = Field(32, ge=1, description="width of a head where heads is null")
    depth: int = Field(2, ge=1, le=4, description="layers of a network")
    expand: int = Field(2, ge=1, description="hidden width of a network, in widths of a head")
    conv: int = Field(4, ge=0, le=16, description="taps of a short convolution on queries, keys and values; 0: none")
    max_rate: float = Field(0.5, gt=0, description="the largest learning rate of a token")
    max_grad_norm: float | None = Field(
        1.0, gt=0, description="norm that a token's gradient is clipped to; null: never"
    )

    @property
    def trained(self) -> bool:
        return True

    def sizes(self, width: int) -> tuple[int, int]:
        """Heads and the width of one.

        Raises:
            ValueError: they do not divide.
        """
        return head_sizes(width, self.heads, self.head_width)

    def layers_of(self, head_width: int) -> list[tuple[int, int]]:
        """Widths in and out of each layer of a network."""
        hidden = [self.expand * head_width] * (self.depth - 1)
        return list(itertools.pairwise([head_width, *hidden, head_width]))

    def inner(self, width: int) -> int:
        """Weights of all networks of a layer."""
        heads, head_width = self.sizes(width)
        return heads * sum(into * out for into, out in self.layers_of(head_width))

    def check(self, mixer: MixerSettings, width: int, layer: int, depth: int) -> None:
        self.sizes(width)

    def build(self, mixer: Mixer, settings: MixerSettings, width: int) -> Titans:
        return Titans(mixer, self, width)

    def parameters(self, mixer: MixerSettings, width: int, layer: int, depth: int) -> int:
        heads, head_width = self.sizes(width)
        channels = heads * head_width
        return 4 * channels * width + 3 * channels * self.conv + 4 * heads * (width + 1) + channels + self.inner(width)

    def state_bytes(
        self, mixer: MixerSettings, width: int, tokens: int, layer: int, depth: int, element: int = 4
    ) -> int:
        heads, head_width = self.sizes(width)
        inputs = 3 * heads * head_width * max(self.conv - 1, 0) * element
        own = 3 * self.inner(width) * max(element, 4) + inputs
        return mixer.state_bytes(width, tokens, layer, depth, element) + own

    def flops(self, mixer: MixerSettings, width: int, tokens: int, layer: int, depth: int) -> int:
        outer = self.parameters(mixer, width, layer, depth) - self.inner(width)
        return mixer.flops(width, tokens, layer, depth) + 2 * outer + 10 * self.inner(width)

    def begins(self, mixer: MixerSettings, layer: int, depth: int) -> int:
        return self.segment + 1


@dataclass(frozen=True, eq=False)
class TitansState(State):
    """The mixer's state, what the networks have learnt, and the convolution's inputs."""

    mixer: State
    learnt: Learnt
    conv: ConvolutionState | None


class Titans(Wrapped):
    """Any mixer with Titans' neural memory around it."""

    def __init__(self, mixer: Mixer, config: TitansConfig, width: int) -> None:
        super().__init__()
        self.mixer, self.config = mixer, config
        self.heads, self.head_width = config.sizes(width)
        channels = self.heads * self.head_width
        self.qkv = nn.Linear(width, 3 * channels, bias=False)
        self.taps = nn.Parameter(torch.empty(3 * channels, config.conv)) if config.conv else None
        self.rates = nn.Linear(width, 4 * self.heads)
        sizes = config.layers_of(self.head_width)
        self.initial = nn.ParameterList(nn.Parameter(torch.empty(self.heads, *size)) for size in sizes)
        self.norm = nn.RMSNorm(self.head_width, eps=1e-6, elementwise_affine=False)
        self.gain = nn.Parameter(torch.ones(self.heads, self.head_width))
        self.out = nn.Linear(channels, width, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Networks whose layers keep the size of a vector; slow learning, slow forgetting, an open gate by half."""
        for layer in self.initial:
            nn.init.normal_(layer, std=layer.shape[-1] ** -0.5)
        with torch.no_grad():
            bias = torch.tensor([SLOW, 0.0, -KEPT, 0.0])
            self.rates.bias.copy_(bias.repeat_interleave(self.heads))
            if self.taps is not None:
                taps = self.taps.shape[1]
                self.taps.uniform_(-(taps**-0.5), taps**-0.5)
                self.taps[:, 0] += 1.0

    def start(self, batch: int) -> TitansState:
        weight = self.qkv.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        empty = [tuple(weight.new_zeros(batch, *x.shape, dtype=wide) for x in self.initial) for _ in range(3)]
        conv = None
        if self.taps is not None:
            conv = ConvolutionState.empty(batch, self.taps.shape[1], self.taps.shape[0], weight)
        return TitansState(self.mixer.start(batch), Learnt(*empty), conv)

    def alone(self) -> Mixer:
        return self.mixer

    def exchanged(self, state: State, position: Tensor, seed: int) -> State:
        """What the first layer has learnt of each coordinate of the keys, it has learnt of another one."""
        assert isinstance(state, TitansState)
        learnt, initial = state.learnt, self.initial[0]
        order = cycles(position.new_ones(len(position), initial.shape[1]).bool(), seed)[:, None, :, None]

        def other(weights: Weights, before: Tensor | float) -> Weights:
            change = weights[0] - before
            return (before + change.gather(2, order.expand_as(change)), *weights[1:])

        start, weights = other(learnt.start, initial), other(learnt.weights, initial)
        return replace(state, learnt=Learnt(start, weights, other(learnt.momentum, 0.0)))

    @uncompiled  # how many segments a call has is decided by numbers
    def forward(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, TitansState)
        memory, learnt, conv = self.remember(x, rows, state)
        y, inner = self.mixer(x + memory if self.config.form == "layer" else x, rows, state.mixer)
        if self.config.form == "sum":
            y = y + memory
        elif self.config.form == "gate":
            y = y * torch.sigmoid(memory)
        return y, TitansState(inner, learnt, conv)

    def remember(self, x: Tensor, rows: Rows, state: TitansState) -> tuple[Tensor, Learnt, ConvolutionState | None]:
        """What the memory tells each token (B, T, D), zero at padding, and what it leaves."""
        config, kind = self.config, state.learnt.momentum[0].dtype
        qkv, conv = self.qkv(x), state.conv
        if self.taps is not None and conv is not None:
            qkv, conv = short_convolution(qkv, self.taps.to(qkv.dtype), rows, conv)
        q, k, v = rearrange(silu(qkv.to(kind)), "b t (three h w) -> three b h t w", three=3, h=self.heads).unbind(0)
        told = rearrange(self.rates(x).to(kind), "b t (four h) -> four b h t", four=4)
        step, momentum, decay, gate = told.unbind(0)
        rates = Rates(config.max_rate * torch.sigmoid(step), logsigmoid(momentum), logsigmoid(-decay))
        read, learnt = regressed(
            _unit(q),
            _unit(k),
            v,
            rates,
            rows,
            config.segment,
            tuple(self.initial),
            state.learnt,
            config.max_grad_norm,
        )
        heads = self.norm(read) * self.gain.to(kind)[:, None] * torch.sigmoid(gate)[..., None]
        return rows.masked(self.out(rearrange(heads, "b h t w -> b t (h w)").to(x.dtype))), learnt, conv


def _unit(x: Tensor) -> Tensor:
    """Vectors (..., W) of length 1, or shorter where they are nearly nothing."""
    return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()
