"""The contract of every backbone: how a sequence is mixed, with training, prefill and decoding as one call.

    mixer = build_mixer({"kind": "retnet"}, width=64)
    y, state = mixer(x, Rows.fresh_documents(2, 128), mixer.start(2))     # a prompt
    y, state = mixer(more, Rows.at(positions), state)                     # goes on where it stopped

Softmax attention of every kind has a seam besides where memories hook in: see `keyed`.

Shapes: B batch, T time, D width, H heads, G heads of keys and values, W width of a head.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from farfield.architectures.ops.attention import Part, attention
from farfield.architectures.ops.backend import Backend
from farfield.architectures.rows import Rows
from farfield.architectures.state import KeyValueBuffer, State
from farfield.config import Config, ModelError

__all__ = [
    "Attended",
    "Heads",
    "Kept",
    "KeyValue",
    "Mixer",
    "MixerSettings",
    "NearField",
    "Stepped",
    "head_sizes",
    "in_steps",
    "join",
    "reference_bytes",
    "softmax_sizes",
]


class MixerSettings(Config):
    """What the settings of a mixer tell without building it. `layer` of `depth` is the place in the stack."""

    form: ClassVar[str] = "see its source"
    """How it is computed in training, in a few words."""

    source: ClassVar[str] = ""
    """Where it was published: an address without https://."""

    @property
    def computed(self) -> str:
        """The form of these settings, where it depends on more than the kind."""
        return self.form

    @property
    def published(self) -> str:
        """The source of these settings, where it depends on more than the kind."""
        return self.source

    def outdated(self) -> str | None:
        """Why a state that is carried over steps of training cannot be read after some of them; None: it can.

        In words that begin with the name of a setting.
        """
        return None

    def resolved(self) -> MixerSettings:
        """The settings that these stand for: themselves, but for a mixer from outside."""
        return self

    @abc.abstractmethod
    def check(self, width: int) -> None:
        """Raise ValueError, in one line that begins with the name of a setting, where `width` does not fit."""

    @abc.abstractmethod
    def build(self, width: int, layer: int, depth: int) -> Mixer:
        """The mixer with fresh weights."""

    def joins(self) -> str | None:
        """Why states of texts that were read apart cannot be joined to one, in words that say what this is or has.

        None: they can be: see `Mixer.joined`.
        """
        return f"'{getattr(self, 'kind', type(self).__name__)}' does not keep every token of a document"

    def uncaptured(self) -> str | None:
        """Why no graph can be captured of a step that decodes, in words that say what this is or has; None: one can.

        It can where one more token (`Rows.one_more`) behind a state of a fixed size (`fixed`) is computed without a
        look at a number on the device.
        """
        return f"'{getattr(self, 'kind', type(self).__name__)}' looks up numbers on its way"

    def captured_from(self) -> int:
        """How many tokens of a document must have been read before such a step."""
        return 1

    @abc.abstractmethod
    def parameters(self, width: int, layer: int, depth: int) -> int:
        """Number of weights."""

    @abc.abstractmethod
    def state_bytes(self, width: int, tokens: int, layer: int, depth: int, element: int = 4) -> int:
        """Bytes of the state of one row after `tokens` tokens, with `element` bytes a number."""

    @abc.abstractmethod
    def flops(self, width: int, tokens: int, layer: int, depth: int) -> int:
        """Multiply-adds times two of one decoded token that comes after `tokens` others."""


class Mixer(nn.Module, abc.ABC):
    """Mixes a sequence along time. Training, prefill in pieces and decoding one token are the same call."""

    @abc.abstractmethod
    def start(self, batch: int) -> State:
        """The empty state of `batch` rows, on the module's device."""

    @abc.abstractmethod
    def forward(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        """The mixed sequence (B, T, D) of `x` (B, T, D), zero at padding, and the state behind it."""

    def newest(self, state: State, count: int, dropped: Tensor) -> State:
        """`state` with its newest `count` tokens alone, whose positions begin anew at 0.

        What is kept of them is as it was computed, when the older tokens were still seen; keys stand at new positions.
        So this comes near to a state that has never seen the older tokens, and is not equal to it.

        Args:
            state: on which the document goes on; the result takes its place.
            count: tokens to keep. dropped: (B,) int64, how many each row loses.

        Raises:
            ModelError: single tokens cannot be told apart in such a state, or positions count for more than distances.
        """
        raise ModelError(
            "its state does not hold single tokens, so that the oldest ones cannot be dropped. That of softmax "
            "attention by distances does: attention, longformer, sparse (local, strided)."
        )

    def joined(self, states: Sequence[State], owner: Tensor, dropped: Tensor, count: int) -> State:
        """One state of `count` rows of the rows of `states`: each sees the tokens of all rows that are its own.

        They keep the phase that they were read with. See `KeyValueBuffer.joined`, and `MixerSettings.joins` for where.

        Raises:
            ModelError: states cannot be joined.
        """
        raise ModelError("its states cannot be joined: they do not hold every token of a document.")


@runtime_checkable
class Stepped(Protocol):
    """A module that changes by more than gradients, such as random features that are drawn anew."""

    def stepped(self, step: int) -> None:
        """Called by training after each step, with how many are done: what it does is a function of that number."""


@dataclass(frozen=True, eq=False)
class Heads:
    """Queries (B, H, T, W), keys and values (B, G, T, W), before rotation."""

    queries: Tensor
    keys: Tensor
    values: Tensor


@dataclass(frozen=True, eq=False)
class KeyValue:
    """What a memory hands to attention: a part of the softmax, or, with a gate, a softmax of its own.

    `part` holds queries (B, H, T, W) and, by a layout, the keys that each of them reads. `gate` (H,) None joins the
    part with the near field in one softmax; a tensor blends the two as sigmoid(gate) memory + (1 - sigmoid(gate)) near
    (Memorizing Transformers, https://arxiv.org/abs/2203.08913). A query that reads nothing is left to the near field.
    """

    part: Part
    gate: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Kept:
    """What a layer keeps for its own queries and for layers that take it: keys and values, turned.

    `keys` and `values` (B, G, T, W) are the call's, `before` holds those of earlier calls, and `after` both, where it
    has been made. `own` says whether a query sees the key of its own token; if not, it sees those before it.
    """

    keys: Tensor
    values: Tensor
    before: KeyValueBuffer
    after: KeyValueBuffer | None = None
    own: bool = True

    def cast(self, dtype: torch.dtype) -> Kept:
        """The same as numbers of `dtype`: under autocast what is kept is wider than the queries."""
        if self.keys.dtype == self.before.keys.dtype == dtype:
            return self
        after = None if self.after is None else self.after.cast(dtype)
        return Kept(self.keys.to(dtype), self.values.to(dtype), self.before.cast(dtype), after, self.own)


@dataclass(frozen=True, eq=False)
class Attended:
    """Output (B, H, T, W) of attention and the log-sum-exp (B, H, T) of its near field and joined reads.

    `kept` is what other layers may take, of mixers that lend.
    """

    out: Tensor
    lse: Tensor
    kept: Kept | None = None

    @staticmethod
    def nothing(queries: Tensor) -> Attended:
        """Of queries (B, H, T, W) that see no key."""
        kind = torch.promote_types(queries.dtype, torch.float32)
        return Attended(torch.zeros_like(queries), queries.new_full(queries.shape[:3], -math.inf, dtype=kind))


class NearField(Protocol):
    """How queries see what a layer keeps, whichever layer they are of."""

    def queries(self, x: Tensor, rows: Rows) -> Tensor:
        """Queries (B, H, T, W) as `attend` takes them: turned to where they stand, if that is one place."""

    def turn(self, x: Tensor, rows: Rows) -> Tensor:
        """Keys (B, G, T, W) turned to where they stand, as they are kept."""

    def attend(self, queries: Tensor, kept: Kept, rows: Rows, reads: Sequence[KeyValue] = ()) -> Attended:
        """Queries (B, H, T, W), of this field's `queries`, over what is kept, joined with `reads`."""


Step = Callable[[Tensor, Rows, State], tuple[Tensor, State]]


def in_steps(step: Step, x: Tensor, rows: Rows, state: State, span: int | None) -> tuple[Tensor, State]:
    """What `step` makes of `x` (B, T, D), at most `span` tokens at a time, and the state behind it."""
    if span is None or rows.time <= span:
        return step(x, rows, state)
    outputs, begin = [], 0
    for piece in x.split(span, dim=1):
        y, state = step(piece, rows.part(begin, begin + piece.shape[1]), state)
        outputs.append(y)
        begin += piece.shape[1]
    return torch.cat(outputs, 1), state


def reference_bytes(position: str) -> int:
    """Bytes of one row's reference position in the states of xPos."""
    return 8 if position == "xpos" else 0


def join(near: Sequence[Part], reads: Sequence[KeyValue], scale: float, backend: Backend) -> Attended:
    """The near field's parts and the reads: joint ones in the same softmax, gated ones blended in after it."""
    out, lse = attention([*near, *(read.part for read in reads if read.gate is None)], scale, backend)
    for read in reads:
        if read.gate is not None:
            remembered, found = attention([read.part], scale, backend)
            weight = torch.sigmoid(read.gate)[None, :, None] * ~found.isneginf()
            out = out + weight[..., None].to(out.dtype) * (remembered - out)
    return Attended(out, lse)


def softmax_sizes(
    width: int, heads: int | None, head_width: int, kv_heads: int | None, rotated: bool, position: str = "rope"
) -> tuple[int, int, int]:
    """Heads, heads of keys and values, width of a head; what is None follows from the others.

    Raises:
        ValueError: they do not divide, or heads of odd width are to be rotated.
    """
    heads, head_width = head_sizes(width, heads, head_width)
    kv_heads = kv_heads or heads
    if heads % kv_heads:
        raise ValueError(f"kv_heads: {kv_heads} does not divide the {heads} heads.")
    if rotated and head_width % 2:
        raise ValueError(f"position: {position} needs heads of even width, and this one is {head_width} wide.")
    return heads, kv_heads, head_width


def head_sizes(width: int, heads: int | None, head_width: int) -> tuple[int, int]:
    """Number of heads and width of a head; heads follow from the head width where they are not given.

    Raises:
        ValueError: the sizes do not divide.
    """
    if heads is None:
        if width % head_width:
            near = max(head_width, round(width / head_width) * head_width)
            raise ValueError(f"head_width: {head_width} does not divide the width {width}. Nearest width: {near}.")
        return width // head_width, head_width
    if width % heads:
        fits = [n for n in range(1, width + 1) if width % n == 0]
        nearest = min(fits, key=lambda n: abs(n - heads))
        raise ValueError(f"heads: {heads} does not divide the width {width}. Nearest that does: {nearest}.")
    return heads, width // heads
