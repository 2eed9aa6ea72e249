"""Performer: softmax attention by random features, which is linear attention with a denominator (FAVOR+).

    o_n = sum_{m <= n} phi(q_n) phi(k_m) v_m / sum_{m <= n} phi(q_n) phi(k_m),    y = W_o o
    favor   phi(x) = exp(A x' - |x'|^2 / 2)        x' = x W^(-1/4): phi(q) phi(k) is exp(q k / sqrt(W)) on average
    relu    phi(x) = relu(A x') + 0.001            the generalised kernel: no softmax, but positive

The rows of A (M, W) are random and orthogonal in blocks, the same for all heads of a layer. Exponents are taken from
their maximum, of a query over its features, of keys over all features so far in the document: it cancels, exactly, and
the future does not change the past (see ops/random_features.py). The denominator is one more column of the values.
Choromanski et al., https://arxiv.org/abs/2009.14794. Rotated queries and keys (RoFormer, https://arxiv.org/abs/2104.09864)
are approximated anew at every position: for position=rope, answers depend on where a document begins, a little.

A is a buffer: a function of a seed, which fresh weights come with, and of how often it was drawn anew; all three are
saved. Training draws it anew after every `redraw` steps, and nothing else does. A state is of the A it was made with.

State: H M (W + 1) numbers a layer and the maximum of each head, whatever the length. Work a token: that of the
projections, of the features (4 H M W), and 4 H M (W + 1).
Shapes: B batch, T time, D width, H heads, W width of a head, M features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from farfield.architectures.mixer import Mixer, MixerSettings, head_sizes
from farfield.architectures.ops.linear_attention import linear_attention
from farfield.architectures.ops.random_features import Scaling, least_total, orthogonal_rows, running_maximum
from farfield.architectures.ops.short_convolution import ConvolutionState
from farfield.architectures.projection import Projection, Rotation
from farfield.architectures.rows import Rows
from farfield.architectures.state import State

__all__ = [
    "FeatureKind",
    "Performer",
    "PerformerConfig",
    "PerformerState",
    "RandomFeatures",
    "normalized",
    "performer_sizes",
]

FeatureKind = Literal["favor", "relu"]

RELU_FLOOR = 1e-3  # as published: no token is without any weight


class PerformerConfig(MixerSettings):
    """FAVOR+: softmax attention by positive orthogonal random features, linear in time."""

    form = "recurrence in chunks, linear"
    source = "arxiv.org/abs/2009.14794"

    kind: Literal["performer"] = "performer"
    heads: int | None = Field(None, ge=1, description="number of heads; null: width / head_width")
    head_width: int = Field(32, ge=2, description="width of a head where heads is null")
    features: FeatureKind = Field("favor", description="the softmax kernel, or a generalised one")
    count: int | None = Field(None, ge=1, description="random features a head; null: int(W ln W), W width of a head")
    scaling: Scaling = Field("gaussian", description="lengths of the random rows: as of Gaussian ones, or constant")
    redraw: int = Field(0, ge=0, description="training steps after which the features are drawn anew; 0: never")
    position: Literal["rope", "none"] = "rope"
    base: float = Field(10000.0, gt=0, description="base of the rotary frequencies")
    conv: int = Field(0, ge=0, le=16, description="taps of a short convolution on queries, keys and values; 0: none")
    chunk: int = Field(64, ge=0, description="tokens in a chunk of the chunked form; 0: all at once, the dense form")

    def sizes(self, width: int) -> tuple[int, int, int]:
        """Heads, width of a head, features.

        Raises:
            ValueError: they do not divide, or leave no feature.
        """
        return performer_sizes(width, self.heads, self.head_width, self.count, self.position == "rope")

    def check(self, width: int) -> None:
        self.sizes(width)

    def outdated(self) -> str | None:
        if not self.redraw:
            return None
        return f"redraw: {self.redraw} given, but a carried state is of the features it was made with. Use redraw=0"

    def build(self, width: int, layer: int, depth: int) -> Performer:
        return Performer(self, width)

    def uncaptured(self) -> None:
        return None

    def parameters(self, width: int, layer: int, depth: int) -> int:
        heads, head_width, _ = self.sizes(width)
        return Projection.count(width, heads, heads, head_width, self.conv)

    def state_bytes(self, width: int, tokens: int, layer: int, depth: int, element: int = 4) -> int:
        heads, head_width, count = self.sizes(width)
        numbers = count * (head_width + 1) + (1 if self.features == "favor" else 0)
        return heads * numbers * max(element, 4) + Projection.state_bytes(heads, heads, head_width, self.conv, element)

    def flops(self, width: int, tokens: int, layer: int, depth: int) -> int:
        heads, head_width, count = self.sizes(width)
        return 2 * self.parameters(width, layer, depth) + 4 * heads * count * (2 * head_width + 1)


@dataclass(frozen=True, eq=False)
class PerformerState(State):
    """Sums of features by values and one (B, H, M, W + 1), the keys' maximum (B, H) of favor; float32 or wider."""

    memory: Tensor
    peak: Tensor | None
    conv: ConvolutionState | None


class RandomFeatures(nn.Module):
    """The rows of A (M, W), drawn by a seed that fresh weights come with and anew after every `redraw` steps."""

    matrix: Tensor
    seed: Tensor
    draws: Tensor

    def __init__(self, count: int, width: int, kind: FeatureKind, scaling: Scaling, redraw: int) -> None:
        super().__init__()
        self.sizes, self.kind, self.scaling, self.redraw = (count, width), kind, scaling, redraw
        self.register_buffer("matrix", torch.empty(count, width))
        self.register_buffer("seed", torch.randint(2**62, ()))
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))
        self.draw(0)

    def draw(self, draws: int) -> None:
        """Sets the rows to draw `draws` of the seed, counted from 0."""
        generator = torch.Generator().manual_seed(int(self.seed) + draws)
        self.draws.fill_(draws)
        self.matrix.copy_(orthogonal_rows(*self.sizes, self.scaling, generator))

    def stepped(self, step: int) -> None:
        """Draws the rows anew where `step` steps of training are a multiple of `redraw`."""
        if self.redraw and step % self.redraw == 0:
            self.draw(step // self.redraw)

    def exponents(self, x: Tensor) -> Tensor:
        """A x' (B, H, T, M), for favor less |x'|^2 / 2, of x (B, H, T, W); float32 or wider, also under autocast."""
        wide = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(wide) * x.shape[-1] ** -0.25
            projected = x @ self.matrix.to(wide).T
        return projected - x.square().sum(-1, keepdim=True) / 2 if self.kind == "favor" else projected

    @staticmethod
    def rectified(x: Tensor) -> Tensor:
        """The generalised kernel's features of A x'."""
        return nn.functional.relu(x) + RELU_FLOOR


class Performer(Mixer):
    """See the file's head."""

    def __init__(self, config: PerformerConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.heads, self.head_width, self.count = config.sizes(width)
        self.projection = Projection(width, self.heads, self.heads, self.head_width, config.conv)
        self.rotation = Rotation(self.head_width, config.base if config.position == "rope" else None)
        self.random = RandomFeatures(self.count, self.head_width, config.features, config.scaling, config.redraw)

    def start(self, batch: int) -> PerformerState:
        weight = self.projection.qkv.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        memory = weight.new_zeros(batch, self.heads, self.count, self.head_width + 1, dtype=wide)
        peak = weight.new_full((batch, self.heads), -math.inf, dtype=wide) if self.config.features == "favor" else None
        return PerformerState(memory, peak, self.projection.start(batch))

    def forward(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, PerformerState)
        heads, conv = self.projection.split(x, rows, state.conv)
        q, k = (self.random.exponents(self.rotation.rows(part, rows)) for part in (heads.queries, heads.keys))
        v, peak = heads.values, state.peak
        if peak is None:
            q, k = self.random.rectified(q), self.random.rectified(k)
            decay = k.new_zeros(1, 1, 1)
        else:
            q = (q - q.detach().amax(-1, keepdim=True)).exp()
            k, decay, peak = _within_range(k, rows, peak)
        v = torch.cat((v, torch.ones_like(v[..., :1])), -1)
        out, memory = linear_attention(q.to(v.dtype), k.to(v.dtype), v, decay, rows, state.memory, self.config.chunk)
        return self.projection.join(normalized(out), rows), PerformerState(memory, peak, conv)


def performer_sizes(
    width: int, heads: int | None, head_width: int, count: int | None, rotated: bool
) -> tuple[int, int, int]:
    """Heads, width of a head, features; what is None follows from the others.

    Raises:
        ValueError: they do not divide, leave no feature, or heads of odd width are to be rotated.
    """
    heads, head_width = head_sizes(width, heads, head_width)
    count = count or int(head_width * math.log(head_width))
    if count < 1:
        raise ValueError(f"count: null gives no feature to heads of width {head_width}. Give a number.")
    if rotated and head_width % 2:
        raise ValueError(f"position: rope needs heads of even width, and this one is {head_width} wide.")
    return heads, head_width, count


def normalized(out: Tensor) -> Tensor:
    """(..., W) of sums (..., W + 1) whose last column is the denominator."""
    return out[..., :-1] / out[..., -1:].clamp(min=least_total(out.dtype))


def _within_range(exponents: Tensor, rows: Rows, peak: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keys exp(b - c) (B, H, T, M) of exponents b, the log decay (B, H, T) and the maximum (B, H) c carried on.

    The maximum cancels in the answer: no gradient goes through it.
    """
    before, peaks, peak = running_maximum(exponents.detach().amax(-1), rows, peak)
    decay = torch.where(before.isneginf(), 0.0, before - peaks)
    keys = torch.where(rows.real[:, None, :, None], exponents - peaks[..., None], -math.inf).exp()
    return keys, decay, peak
