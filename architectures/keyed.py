"""Softmax attention of every kind: its settings, and the seam where memories hook in.

    heads, state = mixer.project(x, rows, state)        queries, keys, values before rotation
    read = memory.read(heads)                           keys that are no longer in the near field
    found, state = mixer.attend(heads, rows, state, (read,))
    y = mixer.finish(found.out, x, rows)

Shapes: B batch, T time, D width, H heads, G heads of keys and values, W width of a head.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from farfield.architectures.dual_chunk import DualChunk
from farfield.architectures.mixer import (
    Attended,
    Heads,
    Kept,
    KeyValue,
    Mixer,
    MixerSettings,
    NearField,
    in_steps,
    softmax_sizes,
)
from farfield.architectures.ops.backend import Backend
from farfield.architectures.rows import Rows
from farfield.architectures.self_extend import SelfExtend
from farfield.architectures.state import KeyValueBuffer, State
from farfield.architectures.stretching import ScalingConfig, YaRN

__all__ = [
    "ExtensionConfig",
    "KeyedMixer",
    "KeyedSettings",
    "LendingMixer",
    "LendingSettings",
    "PositionedSettings",
]

ExtensionConfig = Annotated[DualChunk | SelfExtend, Field(discriminator="kind")]


class PositionedSettings(MixerSettings):
    """What the settings of every mixer have whose scores depend on positions."""

    position: Literal["rope", "xpos", "alibi", "none"] = Field(
        "rope", description="rope: rotations; xpos: those, and far tokens fade; alibi: a slope a head; none"
    )
    base: float = Field(10000.0, gt=0, description="base of the rotary frequencies")
    scaling: ScalingConfig | None = Field(
        None, description="rotary frequencies stretched beyond the trained length; null: as trained"
    )
    extension: ExtensionConfig | None = Field(
        None, description="where tokens beyond the trained length stand: dual_chunk, self_extend; null: where they are"
    )
    scale_base: float = Field(512.0, ge=1, description="xpos: tokens in which the fastest pair fades to 0.29")

    def bounded(self) -> str | None:
        """Why no distance in it grows with the document, so that there is nothing to extend; None: one does.

        In words that begin with the name of a setting.
        """
        return None

    def check_positions(self) -> None:
        """Raise ValueError, in one line that begins with the name of a setting, where nothing can be stretched."""
        for name in ("scaling", "extension"):
            if getattr(self, name) is not None and self.position != "rope":
                verb = {"scaling": "stretches", "extension": "moves"}[name]
                raise ValueError(f"{name}: {verb} rotary positions, and position is {self.position}.")
        if isinstance(self.scaling, YaRN) and self.base == 1:
            raise ValueError("base: 1 given, with which all pairs turn alike, and scaling yarn tells them apart.")
        reason = None if self.extension is None else self.bounded()
        if reason is not None:
            raise ValueError(f"extension: brings far tokens near, and none is seen from far: {reason} Take null.")

    def sharpness(self) -> float:
        """What scores are multiplied by for the scaling's sake."""
        return 1.0 if self.scaling is None else float(self.scaling.sharpness)


class KeyedSettings(PositionedSettings):
    """What the settings of every softmax mixer have."""

    heads: int | None = Field(None, ge=1, description="heads of queries; null: width / head_width")
    head_width: int = Field(32, ge=2, description="width of a head where heads is null")
    head_size: int | None = Field(None, ge=2, description="width of a head apart from the width, as of Qwen3")
    kv_heads: int | None = Field(None, ge=1, description="heads of keys and values; null: as many as heads")
    bias: Literal["none", "inputs", "all"] = Field(
        "none", description="biases of the projections: none; inputs: to queries, keys and values; all: the output too"
    )
    qk_norm: float | None = Field(
        None, gt=0, description="epsilon of RMS norms of queries and keys before rotation, as of Qwen3; null: no norms"
    )
    conv: int = Field(0, ge=0, le=16, description="taps of a short convolution on queries, keys and values; 0: none")
    backend: Backend = "auto"

    def sizes(self, width: int) -> tuple[int, int, int]:
        """Heads, heads of keys and values, width of a head.

        Raises:
            ValueError: they do not divide.
        """
        self.check_positions()
        rotated = self.position in ("rope", "xpos")
        if self.head_size is None:
            return softmax_sizes(width, self.heads, self.head_width, self.kv_heads, rotated, self.position)
        if self.heads is None:
            raise ValueError("heads: a number of heads is needed beside head_size.")
        inner = self.heads * self.head_size
        return softmax_sizes(inner, self.heads, self.head_width, self.kv_heads, rotated, self.position)

    def scale(self, width: int) -> float:
        """What products of queries and keys are multiplied by."""
        return float(self.sizes(width)[2] ** -0.5 * self.sharpness())

    @abc.abstractmethod
    def reach(self, layer: int, depth: int) -> int | None:
        """As `KeyedMixer.reach` of the layer."""

    def joins(self) -> str | None:
        return f"'{getattr(self, 'kind', type(self).__name__)}' chooses keys by where they stand in one text"

    def remembers(self) -> str | None:
        """Why no memory can stand around it, in words that begin with the name of a setting; None: one can."""
        if self.extension is None:
            return None
        return f"extension: {self.extension.kind} moves keys for its own queries alone. Take extension: null."


class LendingSettings(KeyedSettings):
    """What the settings of softmax mixers have whose keys and values other layers may take."""

    @abc.abstractmethod
    def near_field(self, width: int, layer: int, depth: int) -> NearField:
        """How queries see what the layer keeps."""

    @abc.abstractmethod
    def pairs(self, width: int, tokens: int, layer: int, depth: int) -> int:
        """Scores that all heads of one token make of the `tokens` tokens before it, without its own."""

    @abc.abstractmethod
    def lends(self) -> str | None:
        """Why no layer can take these keys, in words that begin with the name of a setting; None: they can be taken."""


class KeyedMixer(Mixer):
    """Softmax attention of every kind: the seam where memories hook in."""

    reach: int | None
    """How many tokens before its own a query sees in the near field at least; None: back to the document's start."""

    extent: tuple[int, int | None] = (0, None)
    """The near field holds nothing but so many positions at a document's start, and so many tokens before a query's
    own; None: any."""

    span: int | None = None
    """The most tokens of one step, of which longer calls are made; None: any number."""

    slopes: Tensor | None = None
    """ALiBi's (H,), float64, where scores fall with distance."""

    apart: int = 0
    """Positions at the start of a document whose queries are projected by weights of their own and read no memory."""

    kv_heads: int
    head_width: int
    scale: float

    @abc.abstractmethod
    def project(self, x: Tensor, rows: Rows, state: State) -> tuple[Heads, State]:
        """Queries, keys and values of `x` (B, T, D) before rotation, and the state with their part renewed."""

    @abc.abstractmethod
    def attend(self, heads: Heads, rows: Rows, state: State, reads: Sequence[KeyValue] = ()) -> tuple[Attended, State]:
        """The near field joined with `reads`, and the state behind it."""

    @abc.abstractmethod
    def finish(self, out: Tensor, x: Tensor, rows: Rows) -> Tensor:
        """(B, T, D) of attention's output (B, H, T, W): gate and output projection; zero at padding."""

    @abc.abstractmethod
    def rotate(self, x: Tensor, phase: Tensor, power: Tensor | None = None) -> Tensor:
        """Queries or keys (B, H, T, W) turned to where they stand, phase (B, T); unchanged without rotation.

        With xPos they are scaled by zeta^power, power (B, T): queries by the tokens from a reference to their own
        position, keys by those from theirs to the reference, so that a product depends on the difference only.
        """

    @abc.abstractmethod
    def near(self, query_position: Tensor, key_position: Tensor) -> Tensor:
        """Which keys a query sees in the near field: bool (B, H or 1, T, S) of positions (B, T) and (B, S)."""

    def forward(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        return in_steps(self._step, x, rows, state, self.span)

    def attended(self, x: Tensor, rows: Rows, state: State) -> tuple[Attended, State]:
        """`project` and `attend` with nothing between them."""
        heads, state = self.project(x, rows, state)
        return self.attend(heads, rows, state)

    def _step(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        found, state = self.attended(x, rows, state)
        return self.finish(found.out, x, rows), state


class LendingMixer(KeyedMixer):
    """Softmax attention whose keys and values other layers may take."""

    field: NearField

    @abc.abstractmethod
    def before(self, state: State) -> KeyValueBuffer:
        """The keys and values of earlier calls."""

    def keep(self, x: Tensor, rows: Rows, state: State) -> Kept:
        """What other layers may take, without an answer."""
        heads, _ = self.project(x, rows, state)
        return Kept(self.field.turn(heads.keys, rows), heads.values, self.before(state))

    def lend(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State, Kept]:
        """As `forward`, and what other layers may take."""
        found, state = self.attended(x, rows, state)
        assert found.kept is not None
        return self.finish(found.out, x, rows), state, found.kept
