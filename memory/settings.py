"""What every memory tells by its settings, and where it stands: around mixers, or around the whole stack.

    MixerMemory    around the mixer of each layer it names     keys and values, readouts
    StackMemory    around the stack of layers                   tokens of its own before and behind segments

Both build modules with the call of what they wrap, so that training, prefill in pieces and decoding stay one function.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import Field
from torch import Tensor

from farfield.architectures.decoder import DecoderConfig
from farfield.architectures.feedforward import Auxiliary
from farfield.architectures.keyed import KeyedSettings
from farfield.architectures.mixer import Mixer, MixerSettings
from farfield.architectures.rows import Rows
from farfield.architectures.state import State
from farfield.config import Config

__all__ = ["Beginning", "MemorySettings", "MixerMemory", "Stack", "StackMemory", "Wrapped"]


class MemorySettings(Config, abc.ABC):
    """What all memories have."""

    source: ClassVar[str] = ""
    """Where it was published: an address without https://."""

    name: str = Field(description="what tables call it")

    @property
    def published(self) -> str:
        """The source of these settings, where it depends on more than the kind."""
        return self.source

    @property
    def causal(self) -> bool:
        """The future does not change the past."""
        return True

    @property
    def split_exact(self) -> bool:
        """Any split into calls gives the same answer."""
        return True

    @property
    def row_independent(self) -> bool:
        """Rows of a batch do not see one another."""
        return True

    @property
    def trained(self) -> bool:
        """Whether it has weights of its own, without whose training it is worth nothing."""
        return False

    @property
    def grows(self) -> bool:
        """Whether its state grows with the length for as long as a document goes on."""
        return False

    def outdated(self) -> str | None:
        """Why a state that is carried over steps of training cannot be read after some of them; None: it can.

        In words that begin with the name of a setting.
        """
        return None


class MixerMemory(MemorySettings):
    """A memory around the mixers of some layers.

    Of the arguments of its methods, `mixer` are the settings of the mixer at `layer` of `depth`, `width` that of the
    residual stream.
    """

    keyed: ClassVar[bool] = True
    """Whether it needs softmax mixers, whose queries, keys and values it reads."""

    layers: Literal["all"] | tuple[int, ...] = Field(
        "all", description="layers with a memory; negative counts from the top"
    )

    def places(self, depth: int) -> list[int]:
        """Layers with a memory.

        Raises:
            ValueError: a layer that does not exist, or none at all.
        """
        if self.layers == "all":
            return list(range(depth))
        if not self.layers:
            raise ValueError("layers: none given. Name layers, or write 'all'.")
        for layer in self.layers:
            if not -depth <= layer < depth:
                raise ValueError(f"layers: {layer} given, but the model has layers 0 to {depth - 1}.")
        return sorted({layer % depth for layer in self.layers})

    def fits(self, mixer: MixerSettings) -> bool:
        """Whether it can stand around such a mixer at all."""
        return isinstance(mixer, KeyedSettings) or not self.keyed

    @abc.abstractmethod
    def check(self, mixer: MixerSettings, width: int, layer: int, depth: int) -> None:
        """Raise ValueError, in one line that begins with the name of a setting, where it does not fit the mixer."""

    def at(self, mixer: MixerSettings, width: int, layer: int, depth: int) -> MixerMemory:
        """The settings for one layer: what depends on the stack is settled in them."""
        return self

    @abc.abstractmethod
    def build(self, mixer: Mixer, settings: MixerSettings, width: int) -> Mixer:
        """`mixer`, which `settings` describe, with the memory around it; the wrapped one is its `mixer`."""

    @abc.abstractmethod
    def parameters(self, mixer: MixerSettings, width: int, layer: int, depth: int) -> int:
        """Number of weights beside the mixer's own."""

    @abc.abstractmethod
    def state_bytes(
        self, mixer: MixerSettings, width: int, tokens: int, layer: int, depth: int, element: int = 4
    ) -> int:
        """Bytes of one row's state after `tokens` tokens, the mixer's included, with `element` bytes a number."""

    @abc.abstractmethod
    def flops(self, mixer: MixerSettings, width: int, tokens: int, layer: int, depth: int) -> int:
        """Multiply-adds times two of one decoded token that comes after `tokens` others, the mixer's included."""

    @abc.abstractmethod
    def begins(self, mixer: MixerSettings, layer: int, depth: int) -> int:
        """Length in tokens from which on a document reads the memory."""


class Wrapped(Mixer):
    """A mixer with a memory around it: `mixer` is what it stands around."""

    mixer: Mixer

    @abc.abstractmethod
    def alone(self) -> Mixer:
        """The mixer without the memory: what is near is seen as before, and nothing else. The weights are shared.

        Raises:
            ModelError: near is what a call holds, so that there is no telling.
        """

    @abc.abstractmethod
    def exchanged(self, state: State, position: Tensor, seed: int) -> State:
        """`state`, of rows at `position` (B,), with what the memory's entries are bound to exchanged.

        Raises:
            ModelError: it has no entries that are bound to anything.
        """


class Stack(Protocol):
    """The layers of a language model, with or without a memory around them: the call of `Decoder`.

    With one, `stack` are the layers, and the memory's own weights are below `memory`.
    """

    checkpointing: bool

    def mixers(self) -> Iterator[Mixer]: ...

    def start(self, batch: int) -> tuple[State, ...]: ...

    def __call__(self, x: Tensor, rows: Rows, states: Any) -> tuple[Tensor, tuple[State, ...], Auxiliary]: ...


@runtime_checkable
class Beginning(Protocol):
    """A memory around layers that have been trained, whose own weights begin as some of theirs."""

    def begin(self) -> None:
        """Takes them over."""


class StackMemory(MemorySettings):
    """A memory around the stack of layers."""

    @property
    def freezes(self) -> bool:
        """Whether it is trained alone: layers, embedding and head stay as they are."""
        return False

    @abc.abstractmethod
    def check(self, architecture: DecoderConfig) -> None:
        """Raise ValueError, in one line that begins with the name of a setting, where it does not fit the layers."""

    @abc.abstractmethod
    def build(self, stack: Any, architecture: DecoderConfig) -> Any:
        """`stack`, a `Decoder`, with the memory around it: a `Stack` that keeps it as its `stack`."""

    @abc.abstractmethod
    def parameters(self, architecture: DecoderConfig) -> int:
        """Number of weights beside those of the layers."""

    @abc.abstractmethod
    def state_bytes(self, architecture: DecoderConfig, tokens: int, element: int = 4) -> int:
        """Bytes of one row's state after `tokens` tokens, the layers' included, with `element` bytes a number."""

    @abc.abstractmethod
    def flops(self, architecture: DecoderConfig, tokens: int) -> int:
        """Multiply-adds times two of decoding one token after `tokens` others in the layers, without the head."""

    @abc.abstractmethod
    def begins(self, architecture: DecoderConfig) -> int:
        """Length in tokens from which on a document reads the memory."""
