"""Queries, keys and values of softmax attention, with an optional short convolution on each, and the way back.

Grouped-query attention (https://arxiv.org/abs/2305.13245): G heads of keys and values serve H heads of queries.

Shapes: B batch, T time, D width, H heads, G heads of keys and values, W width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from farfield.architectures.mixer import Heads
from farfield.architectures.ops.decoded import Linear
from farfield.architectures.ops.heads import turned_heads
from farfield.architectures.ops.rotary import angles, frequencies, powers, rotate, scales
from farfield.architectures.ops.short_convolution import ConvolutionState, short_convolution
from farfield.architectures.rows import Rows
from farfield.architectures.state import KeyValueBuffer
from farfield.architectures.stretching import Scaling

__all__ = ["Projection", "Rotation", "Turned"]

SPAN = 16  # xPos's powers run over at most this many times its scale base of tokens: 20 nats of float32's 88


class Projection(nn.Module):
    """x (B, T, D) to heads and back.

    `bias` stands at the inputs, at the inputs and the output (all), or nowhere. `qk_norm` is the epsilon of RMS norms
    of the queries and keys, each with a gain a dimension of a head (https://arxiv.org/abs/2505.09388).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        head_width: int,
        conv: int,
        bias: Literal["none", "inputs", "all"] = "none",
        qk_norm: float | None = None,
    ) -> None:
        super().__init__()
        self.sizes = [heads * head_width, kv_heads * head_width, kv_heads * head_width]
        self.head_width, self.conv = head_width, conv
        self.qkv = Linear(width, sum(self.sizes), bias=bias != "none")
        self.out = Linear(heads * head_width, width, bias=bias == "all")
        self.epsilon = qk_norm
        self.query_gain = None if qk_norm is None else nn.Parameter(torch.ones(head_width))
        self.key_gain = None if qk_norm is None or not kv_heads else nn.Parameter(torch.ones(head_width))
        self.taps = nn.Parameter(torch.empty(sum(self.sizes), conv)) if conv else None
        self.reset_parameters()

    @staticmethod
    def of(settings: Projected, width: int, kv_heads: int | None = None) -> Projection:
        """As the settings of a mixer say; with another number of heads of keys and values if one is given."""
        heads, own, head_width = settings.sizes(width)
        chosen = own if kv_heads is None else kv_heads
        return Projection(width, heads, chosen, head_width, settings.conv, settings.bias, settings.qk_norm)

    @staticmethod
    def weights(settings: Projected, width: int, kv_heads: int | None = None) -> int:
        """Number of weights of `of`."""
        heads, own, head_width = settings.sizes(width)
        chosen = own if kv_heads is None else kv_heads
        biases = (heads + 2 * chosen) * head_width * (settings.bias != "none") + width * (settings.bias == "all")
        gains = 0 if settings.qk_norm is None else head_width * (2 if chosen else 1)
        return Projection.count(width, heads, chosen, head_width, settings.conv) + biases + gains

    def reset_parameters(self) -> None:
        """The convolution begins as the identity plus a little of each earlier token."""
        if self.taps is not None:
            nn.init.uniform_(self.taps, -(self.conv**-0.5), self.conv**-0.5)
            with torch.no_grad():
                self.taps[:, 0] += 1.0

    def start(self, batch: int) -> ConvolutionState | None:
        if not self.conv:
            return None
        return ConvolutionState.empty(batch, self.conv, sum(self.sizes), self.qkv.weight)

    def inputs(self, x: Tensor, rows: Rows, state: ConvolutionState | None) -> tuple[Tensor, ConvolutionState | None]:
        """Queries, keys and values of a token side by side (B, T, (H + 2 G) W), before their norms."""
        qkv = self.qkv(x)
        if self.taps is not None and state is not None:
            qkv, state = short_convolution(qkv, self.taps.to(qkv.dtype), rows, state)
        return qkv, state

    def split(self, x: Tensor, rows: Rows, state: ConvolutionState | None) -> tuple[Heads, ConvolutionState | None]:
        """Queries (B, H, T, W), keys and values (B, G, T, W)."""
        qkv, state = self.inputs(x, rows, state)
        return self.heads(qkv), state

    def heads(self, qkv: Tensor) -> Heads:
        """Of what `inputs` makes."""
        batch, time, width = *qkv.shape[:2], self.head_width  # views, as cheap as they can be: a token waits for them
        q, k, v = (p.view(batch, time, -1, width).transpose(1, 2) for p in qkv.split(self.sizes, dim=-1))
        if v.device.type == "cpu":  # kernels read a head at a time, and a view would keep all of qkv
            v = v.contiguous()
        return Heads(self._normed(q, self.query_gain), self._normed(k, self.key_gain), v)

    def turned(self, qkv: Tensor, rotation: Rotation, rows: Rows) -> tuple[Turned, Tensor] | None:
        """Turned queries and keys, and values, of what `inputs` makes, in one pass; None where that cannot be."""
        if self.epsilon is not None or rotation.scale is not None or rows.time == 1:
            return None
        found = rotation.angles(rows, qkv.dtype)
        heads, groups = (size // self.head_width for size in self.sizes[:2])
        made = None if found is None else turned_heads(qkv, *found, (heads, groups, self.head_width))
        return None if made is None else (Turned(*made[:2]), made[2])

    def _normed(self, heads: Tensor, gain: Tensor | None) -> Tensor:
        """Queries or keys (B, H, T, W) with their norm, where they have one."""
        return heads if gain is None else rms_norm(heads, heads.shape[-1:], gain.to(heads.dtype), self.epsilon)

    def join(self, out: Tensor, rows: Rows) -> Tensor:
        """(B, T, D) of attention's output (B, H, T, W); zero at padding."""
        return rows.masked(self.out(out.transpose(1, 2).flatten(2)))

    @staticmethod
    def count(width: int, heads: int, kv_heads: int, head_width: int, conv: int) -> int:
        """Number of weights without biases and norms."""
        channels = (heads + 2 * kv_heads) * head_width
        return channels * (width + conv) + heads * head_width * width

    @staticmethod
    def state_bytes(heads: int, kv_heads: int, head_width: int, conv: int, element: int) -> int:
        """Bytes of the convolution's inputs of one row."""
        return (heads + 2 * kv_heads) * head_width * max(conv - 1, 0) * element


class Projected(Protocol):
    """Settings that say how queries, keys and values are made."""

    @property
    def conv(self) -> int:
        """Taps of the short convolution."""

    @property
    def bias(self) -> Literal["none", "inputs", "all"]:
        """Where biases stand."""

    @property
    def qk_norm(self) -> float | None:
        """Epsilon of the norms of queries and keys."""

    def sizes(self, width: int) -> tuple[int, int, int]:
        """Heads, heads of keys and values, width of a head."""


class Positioned(Protocol):
    """Settings that say what attention sees of positions."""

    @property
    def position(self) -> str:
        """rope, xpos, alibi or none."""

    @property
    def base(self) -> float:
        """Of the rotary frequencies."""

    @property
    def scale_base(self) -> float:
        """Of xPos's scales."""


class Kept(Protocol):
    """A state that holds turned keys."""

    def scaled(self: K, factor: Tensor) -> K:
        """The same tokens on memory of their own, their keys times `factor` (B, 1, 1, W)."""


K = TypeVar("K", bound=Kept)


@dataclass(frozen=True, eq=False)
class Turned:
    """A call's queries (B, H, T, W) and keys (B, G, T, W), turned, and what xPos counts its powers from.

    `power` (B, T): tokens between each token and the reference of its document. `reference` (B,): that of the document
    that stands open behind the call, None but for xPos. `factor` (B, 1, 1, W): what kept keys are multiplied by, where
    their reference has moved.
    """

    queries: Tensor
    keys: Tensor
    power: Tensor | None = None
    reference: Tensor | None = None
    factor: Tensor | None = None

    def moved(self, kept: K) -> K:
        """Kept keys as the call's queries need them."""
        return kept if self.factor is None else kept.scaled(self.factor)


class Rotation:
    """Rotary positions with halves as pairs, with xPos's scales or without, or none; layers of a call share angles."""

    def __init__(
        self, width: int, base: float | None, scale_base: float | None = None, scaling: Scaling | None = None
    ) -> None:
        self.frequency = None if base is None else frequencies(width, "halves", base)
        if base is not None and scaling is not None:
            self.frequency = scaling.frequencies(width, base)
        self.key = ("rotation", width, base, scaling)
        self.scale = None if scale_base is None else scales(width, scale_base)
        self.span = None if scale_base is None else max(1, int(SPAN * scale_base))

    @staticmethod
    def of(settings: Positioned, width: int) -> Rotation:
        """As the settings of a mixer say."""
        rotated = settings.position in ("rope", "xpos")
        scaled = settings.position == "xpos"
        scaling = getattr(settings, "scaling", None)
        return Rotation(width, settings.base if rotated else None, settings.scale_base if scaled else None, scaling)

    def start(self, batch: int, like: Tensor) -> Tensor | None:
        """The reference (B,) of an empty state on the device of `like`; None but for xPos."""
        return None if self.scale is None else torch.zeros(batch, dtype=torch.int64, device=like.device)

    def rows(self, x: Tensor, rows: Rows, power: Tensor | None = None) -> Tensor:
        """`x` (B, H, T, W) turned to the phase of `rows`; with xPos, scaled by zeta^power, power (B, T)."""
        found = self.angles(rows, x.dtype)
        return x if found is None else rotate(x, *self._scaled(*found, power), "halves")

    def angles(self, rows: Rows, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        """Cosine and sine (B, 1, T, W / 2) of the phase of `rows`, in `dtype` or wider; None where nothing turns."""
        if self.frequency is None:
            return None
        kind, frequency = torch.promote_types(dtype, torch.float32), self.frequency
        return rows.once((*self.key, kind), lambda: angles(rows.phase, rows.here(frequency), kind))

    def at(self, x: Tensor, phase: Tensor, power: Tensor | None = None) -> Tensor:
        """`x` (B, H, T, W) turned to phase (B, T); with xPos, scaled by zeta^power, power (B, T)."""
        if self.frequency is None:
            return x
        cos, sin = angles(phase, self.frequency, torch.promote_types(x.dtype, torch.float32))
        return rotate(x, *self._scaled(cos, sin, power), "halves")

    def renumbered(self, kept: KeyValueBuffer, dropped: Tensor) -> KeyValueBuffer:
        """Turned keys as they are `dropped` (B,) positions earlier; xPos's powers are from a reference that moves too.

        To be used in place of `kept`, whose values it holds.
        """
        return kept if self.frequency is None else replace(kept, keys=self.at(kept.keys, -dropped[:, None]))

    def turned(self, queries: Tensor, keys: Tensor, rows: Rows, reference: Tensor | None) -> Turned:
        """The call's queries and keys, at most `span` tokens behind a state whose keys have `reference` (B,).

        A document that begins in the call is counted from its beginning. The reference of one that goes on moves up
        where the call ends more than `span` tokens behind it: rarely, so that decoding does not touch the kept keys.
        """
        if self.scale is None or self.span is None or reference is None:
            return Turned(self.rows(queries, rows), self.rows(keys, rows))
        ahead = torch.where(rows.continued, rows.phase - reference[:, None], 0)
        far = ahead.amax(1) > self.span
        moved = torch.where(far, rows.phase.gather(1, rows.continued.int().argmax(1, keepdim=True))[:, 0], reference)
        factor = None
        if bool(far.any()):
            kind = torch.promote_types(keys.dtype, torch.float32)
            factor = powers((moved - reference)[:, None], self.scale, kind).repeat(1, 1, 1, 2)
        origin = torch.where(rows.document == 0, moved[:, None], rows.first_phase)
        power = torch.where(rows.real, rows.phase - origin, 0)
        queries, keys = self.rows(queries, rows, power), self.rows(keys, rows, -power)
        after = torch.where(rows.last_document == 0, moved, rows.first_phase[:, -1])
        return Turned(queries, keys, power, after, factor)

    def _scaled(self, cos: Tensor, sin: Tensor, power: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.scale is None or power is None:
            return cos, sin
        scale = powers(power, self.scale, cos.dtype)
        return cos * scale, sin * scale
