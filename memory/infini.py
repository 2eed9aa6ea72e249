"""Infini-attention: a matrix a head that holds all complete segments, read beside the near field behind a gate.

    read      A_mem = s(Q) M / (s(Q) z)                      s = ELU + 1; M, z of the segments before
    linear    M <- M + s(K)^T V,            z <- z + sum_t s(k_t)             at the end of each segment
    delta     M <- M + s(K)^T (V - s(K) M / (s(K) z)),    z as above
    blended   A = g A_mem + (1 - g) A_near                   g = sigmoid(gate), one number a head

Munkhdalai et al., https://arxiv.org/abs/2404.07143. Queries and keys are those of the mixer, without positions; each
head of keys has a matrix, which the query heads of its group read. Where nothing has been written, the near field
answers alone. A segment is read before it is written, and what is written of a token depends on the segments before its
own only, so that the open segment is a running sum and the state as large at any token.

The published delta rule adds each key to z, also one whose value M holds already: after two identical writes a key
reads half its value. `delta_once` adds of a key only what z lacks of it, max(0, 1 - s(k) z / |s(k)|^2): it reads its
value.

The near field of full attention is the open segment, as published. A window stays as it is, and its tokens of complete
segments are in M too: both answers are normalised apart and blended, so nothing counts twice within one of them. A
segment longer than the window allows is refused: tokens would be in neither.

State: 2 G W (W + 1) numbers in float32 or wider, whatever the length. Work a token: 2 H W (W + 1) to read, and
2 G W (W + 1) to write, as much again for what the delta rules read of keys.
Shapes: B batch, T time, H heads, G heads of keys and values, R = H / G, W width of a head, S segments, L slots of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad

from farfield.architectures.keyed import KeyedMixer, KeyedSettings
from farfield.architectures.mixer import Mixer, MixerSettings, in_steps
from farfield.architectures.ops.uncompiled import uncompiled
from farfield.architectures.rows import Rows
from farfield.architectures.state import State
from farfield.memory.forgetting import cycles, near_field
from farfield.memory.grid import Grid, chosen, grid
from farfield.memory.settings import MixerMemory, Wrapped

__all__ = ["Compressed", "Infini", "InfiniConfig", "InfiniState", "compressive"]

Rule = Literal["linear", "delta", "delta_once"]


class InfiniConfig(MixerMemory):
    """Settings of Infini-attention. In every form it is causal, exact under splits, and keeps rows apart."""

    source = "arxiv.org/abs/2404.07143"

    kind: Literal["infini"] = "infini"
    name: str = Field("infini", description="what tables call it")
    segment: int = Field(64, ge=1, description="tokens in a segment; a segment is written when it is complete")
    rule: Rule = Field(
        "linear",
        description="linear: values are added; delta: what is read already is taken off them; delta_once: and a key "
        "that has been written is not added to the normaliser again",
    )
    gradient: bool = Field(True, description="whether gradients reach the segments before through what is read")

    @property
    def trained(self) -> bool:
        return True

    def check(self, mixer: MixerSettings, width: int, layer: int, depth: int) -> None:
        reach = _keyed(mixer).reach(layer, depth)
        if reach is not None and self.segment > reach + 1:
            raise ValueError(
                f"segment: {self.segment} is longer than the window of {reach} tokens allows; tokens would be lost "
                f"between window and memory. At most {reach + 1}."
            )

    def build(self, mixer: Mixer, settings: MixerSettings, width: int) -> Infini:
        assert isinstance(mixer, KeyedMixer)
        return Infini(mixer, self, _keyed(settings).sizes(width)[0])

    def parameters(self, mixer: MixerSettings, width: int, layer: int, depth: int) -> int:
        return _keyed(mixer).sizes(width)[0]

    def state_bytes(
        self, mixer: MixerSettings, width: int, tokens: int, layer: int, depth: int, element: int = 4
    ) -> int:
        keyed, near = _keyed(mixer), tokens
        _, kv_heads, head_width = keyed.sizes(width)
        if keyed.reach(layer, depth) is None:
            near = (tokens - 1) % self.segment + 1 if tokens else 0
        own = 2 * kv_heads * head_width * (head_width + 1) * max(element, 4)
        return keyed.state_bytes(width, near, layer, depth, element) + own

    def flops(self, mixer: MixerSettings, width: int, tokens: int, layer: int, depth: int) -> int:
        keyed = _keyed(mixer)
        heads, kv_heads, head_width = keyed.sizes(width)
        near = tokens if keyed.reach(layer, depth) is not None else tokens % self.segment
        products = heads + kv_heads * (1 if self.rule == "linear" else 2)
        return keyed.flops(width, near, layer, depth) + 2 * products * head_width * (head_width + 1)

    def begins(self, mixer: MixerSettings, layer: int, depth: int) -> int:
        return self.segment + 1


def _keyed(mixer: MixerSettings) -> KeyedSettings:
    assert isinstance(mixer, KeyedSettings), "a memory of keys around a mixer that has none"
    return mixer


@dataclass(frozen=True, eq=False)
class Compressed(State):
    """M with z as its last column, (B, G, W, W + 1): of the complete segments, and what the open one adds so far."""

    written: Tensor
    open: Tensor


@dataclass(frozen=True, eq=False)
class InfiniState(State):
    """The mixer's state and the memory's, the latter in float32 or wider."""

    mixer: State
    memory: Compressed


class Infini(Wrapped):
    """A softmax mixer with Infini-attention's memory around it."""

    mixer: KeyedMixer

    def __init__(self, mixer: KeyedMixer, config: InfiniConfig, heads: int) -> None:
        super().__init__()
        self.mixer, self.config = mixer, config
        self.gate = nn.Parameter(torch.zeros(heads))

    def start(self, batch: int) -> InfiniState:
        heads, width = self.mixer.kv_heads, self.mixer.head_width
        wide = torch.promote_types(self.gate.dtype, torch.float32)
        empty = self.gate.new_zeros(batch, heads, width, width + 1, dtype=wide)
        return InfiniState(self.mixer.start(batch), Compressed(empty, empty.clone()))

    def alone(self) -> Mixer:
        return near_field(self.mixer, self.config.segment)

    def exchanged(self, state: State, position: Tensor, seed: int) -> State:
        """Each feature of the keys is bound to what another one was; the normaliser, which is of keys alone, stays."""
        assert isinstance(state, InfiniState)
        written = state.memory.written
        order = cycles(position.new_ones(written.shape[0], written.shape[2]).bool(), seed)[:, None, :, None]
        values = written[..., :-1]
        values = values.gather(2, order.expand_as(values))
        return replace(state, memory=replace(state.memory, written=torch.cat((values, written[..., -1:]), -1)))

    @uncompiled  # how many segments a call has is decided by numbers
    def forward(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        return in_steps(self._step, x, rows, state, self.mixer.span)

    def _step(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, InfiniState)
        config, mixer = self.config, self.mixer
        heads, inner = mixer.project(x, rows, state.mixer)
        keys, values = heads.keys, heads.values
        if not config.gradient:
            keys, values = keys.detach(), values.detach()
        near = rows.segmented(config.segment) if mixer.reach is None else rows
        found, inner = mixer.attend(heads, near, inner)
        read, share, memory = compressive(heads.queries, keys, values, rows, state.memory, config.segment, config.rule)
        out = found.out.to(read.dtype)
        weight = torch.sigmoid(self.gate.to(read.dtype))[:, None, None] * share[..., None]
        blended = (out + weight * (read - out)).to(found.out.dtype)
        return mixer.finish(blended, x, rows), InfiniState(inner, memory)


def compressive(
    q: Tensor, k: Tensor, v: Tensor, rows: Rows, state: Compressed, segment: int, rule: Rule
) -> tuple[Tensor, Tensor, Compressed]:
    """What the complete segments before its own tell each query, and the memory behind the call.

    Args:
        q: (B, H, T, W); k, v: (B, G, T, W). rows: documents and padding of the call.
        state: in the dtype in which all is computed.

    Returns:
        The readouts (B, H, T, W) and whether anything was read (B, H, T), both in the dtype of the state; the state.
    """
    kind, cells = state.written.dtype, grid(rows, segment)
    with torch.autocast(q.device.type, enabled=False):
        queries, keys, values = (cells.cut(x.to(kind)) for x in (q, k, v))
        keys = feature(keys)
        if cells.real is not None:
            real = cells.real[:, None, ..., None]
            keys, values = torch.where(real, keys, 0.0), torch.where(real, values, 0.0)
        before, state = _carry(_adding(keys, values, rule), cells, state)
        queries = rearrange(feature(queries), "b (g r) s l w -> b g s (r l) w", g=keys.shape[1])
        read, found = _divided(queries @ before)
        both = rearrange(torch.cat((read, found), -1), "b g s (r l) w -> b (g r) s l w", l=keys.shape[3])
        both = cells.join(both)
    return both[..., :-1], both[..., -1], state


def feature(x: Tensor) -> Tensor:
    """ELU + 1, which is above 0."""
    return torch.where(x > 0, x + 1, x.clamp(max=0).exp())


def _adding(keys: Tensor, values: Tensor, rule: Rule) -> Callable[[int, Tensor], Tensor]:
    """What segment n of keys, through their features, and values (B, G, S, L, W) adds to a memory (B, G, W, W + 1)."""
    if rule == "linear":
        every = (keys.transpose(-1, -2) @ pad(values, (0, 1), value=1.0)).unbind(2)
        return lambda n, memory: every[n]
    pairs = list(zip(keys.unbind(2), values.unbind(2), strict=True))

    def corrected(n: int, memory: Tensor) -> Tensor:
        key, value = pairs[n]
        product = key @ memory
        known, _ = _divided(product)
        counts = torch.ones_like(product[..., -1:])
        if rule == "delta_once":
            norm = key.square().sum(-1, keepdim=True)
            counts = (1 - product[..., -1:] / torch.where(norm > 0, norm, 1.0)).clamp(min=0)
        return key.transpose(-1, -2) @ torch.cat((value - known, counts), -1)

    return corrected


def _divided(product: Tensor) -> tuple[Tensor, Tensor]:
    """Readouts (..., W) of features times memory (..., W + 1), 0 where nothing is held, and 1 where something is."""
    over, under = product[..., :-1], product[..., -1:]
    held = under > 0
    return torch.where(held, over / torch.where(held, under, 1.0), 0.0), held.to(product.dtype)


def _carry(add: Callable[[int, Tensor], Tensor], cells: Grid, state: Compressed) -> tuple[Tensor, Compressed]:
    """The memory before each segment (B, G, S, W, W + 1), and behind the last one."""
    written, running, before = state.written, state.open, []
    nothing = torch.zeros_like(written[:1])
    for n in range(cells.segments):
        written, running = (chosen(cells.begins[n], nothing, x) for x in (written, running))
        before.append(written)
        running = running + add(n, written)
        ends = cells.ends[n]
        written = written if ends is False else chosen(ends, written + running, written)
        running = chosen(ends, nothing, running)
    return torch.stack(before, 2), Compressed(written.contiguous(), running.contiguous())
