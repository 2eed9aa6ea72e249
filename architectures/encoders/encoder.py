"""The contract of bidirectional mixers: every token of a document sees those before it and those behind it.

    y = encoder.encode(x, Rows.at(positions))       whole documents, (B, T, D) to (B, T, D); nothing is carried on

What is not there in comparison with `Mixer`: a state, decoding, memories. What holds as it does there: padding on any
side and other documents in the row change nothing, and the output at padding is zero.

Shapes: B batch, T time, D width, N documents, S tokens of the longest of them.
"""

from __future__ import annotations

import abc
from typing import ClassVar

from torch import Tensor, nn

from farfield.architectures.rows import Rows
from farfield.config import Config

__all__ = ["Encoder", "EncoderSettings"]


class EncoderSettings(Config):
    """What the settings of a bidirectional mixer tell without building it. `layer` of `depth` is the place."""

    form: ClassVar[str] = "see its source"
    """How it is computed, in a few words; `linear` is among them where time and memory are linear in length."""

    source: ClassVar[str] = ""
    """Where it was published: an address without https://."""

    @property
    def computed(self) -> str:
        """The form of these settings, as of `MixerSettings`."""
        return self.form

    @property
    def published(self) -> str:
        """The source of these settings, as of `MixerSettings`."""
        return self.source

    @property
    def marks(self) -> bool:
        """Whether `Rows.marked` says which tokens are global."""
        return False

    @property
    def longest(self) -> int | None:
        """The most tokens that a document may have; None: any number."""
        return None

    @abc.abstractmethod
    def check(self, width: int) -> None:
        """Raise ValueError, in one line that begins with the name of a setting, where `width` does not fit."""

    @abc.abstractmethod
    def build(self, width: int, layer: int, depth: int) -> Encoder:
        """The mixer with fresh weights."""

    @abc.abstractmethod
    def parameters(self, width: int, layer: int, depth: int) -> int:
        """Number of weights."""

    @abc.abstractmethod
    def flops(self, width: int, tokens: int, layer: int, depth: int) -> int:
        """Multiply-adds times two for one token of a document of `tokens` tokens."""


class Encoder(nn.Module, abc.ABC):
    """Mixes whole documents, in both directions."""

    @abc.abstractmethod
    def encode(self, x: Tensor, rows: Rows) -> Tensor:
        """(B, T, D) of `x` (B, T, D), zero at padding.

        Args:
            rows: every document begins in this call, at position 0.

        Raises:
            ModelError: a document is longer than the settings allow.
        """
