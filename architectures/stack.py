"""What every stack of layers is described by: width, depth, and a pattern of named layers.

width: 256
depth: 6
pattern: [retnet, retnet, attention]        from bottom to top; must divide depth
arrangement: repeat                         or stretch: two thirds retnet, and above it attention
layers:
  retnet:    {mixer: {...}, feedforward: {...}}
  attention: {mixer: {...}, feedforward: {...}}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar, cast

from pydantic import Field, model_validator

from farfield.architectures.feedforward import FeedForwardSettings
from farfield.config import Config, unknown

__all__ = ["LayerSettings", "MixingSettings", "StackConfig"]


class MixingSettings(Protocol):
    """What a stack asks of the settings of its mixers."""

    def check(self, width: int) -> None: ...

    def parameters(self, width: int, layer: int, depth: int) -> int: ...


class LayerSettings(Protocol):
    """A mixer and the feed-forward behind it."""

    @property
    def mixer(self) -> MixingSettings: ...

    @property
    def feedforward(self) -> FeedForwardSettings: ...


L = TypeVar("L")


class StackConfig(Config, Generic[L]):
    """Width, depth, and which layer (an L, which offers what `LayerSettings` asks) stands where."""

    width: int = Field(ge=1, description="width of the residual stream")
    depth: int = Field(ge=1, description="number of layers")
    pattern: tuple[str, ...] = Field(min_length=1, description="names of layers from bottom to top")
    arrangement: Literal["repeat", "stretch"] = Field(
        "repeat", description="repeat: the pattern again and again; stretch: once, each name for as many layers"
    )
    layers: dict[str, L]
    tied: bool = Field(True, description="whether the head shares the embedding's weights")
    epsilon: float = Field(1e-5, gt=0, description="epsilon of the norms")
    source: str | None = Field(None, description="where the pattern was published; null: as its mixers were")

    @model_validator(mode="after")
    def _fits(self) -> Any:
        for name in self.pattern:
            if name not in self.layers:
                raise ValueError(".pattern: " + unknown("no layer is called", name, self.layers))
        if self.depth % len(self.pattern):
            near = max(1, round(self.depth / len(self.pattern))) * len(self.pattern)
            raise ValueError(
                f".pattern: {len(self.pattern)} layers do not divide the depth {self.depth}. Nearest depth: {near}."
            )
        for name, layer in self._settings().items():
            try:
                layer.mixer.check(self.width)
            except ValueError as error:
                raise ValueError(f".layers.{name}.mixer.{error}") from None
            try:
                layer.feedforward.check(self.width)
            except ValueError as error:
                raise ValueError(f".layers.{name}.feedforward.{error}") from None
        return self

    def layer(self, index: int) -> L:
        """The layer at `index` from the bottom."""
        return self.layers[self.names()[index]]

    def names(self) -> tuple[str, ...]:
        """The names of the layers from bottom to top."""
        times = self.depth // len(self.pattern)
        if self.arrangement == "repeat":
            return self.pattern * times
        return tuple(name for name in self.pattern for _ in range(times))

    def mixing(self) -> Sequence[MixingSettings]:
        """The mixers from bottom to top."""
        return [layer.mixer for layer in self._stacked()]

    def _settings(self) -> dict[str, LayerSettings]:
        """The layers as what this class asks of them: pydantic takes no protocol for the bound of L."""
        return cast(dict[str, LayerSettings], self.layers)

    def _stacked(self) -> list[LayerSettings]:
        """The layers from bottom to top."""
        layers = self._settings()
        return [layers[name] for name in self.names()]

    def told(self) -> list[str]:
        """What the layers tell beside their output, a name for each number: balance, load.<layer>.<expert>."""
        layers = [(index, layer.feedforward) for index, layer in enumerate(self._stacked())]
        losses = dict.fromkeys(name for _, feedforward in layers for name in feedforward.losses())
        metrics = [(index, *metric) for index, feedforward in layers for metric in feedforward.metrics().items()]
        return [*losses, *(f"{name}.{index}.{place}" for index, name, count in metrics for place in range(count))]

    def parameters(self) -> int:
        """Number of weights of the layers and the last norm."""
        return self._weights(lambda feedforward: feedforward.parameters(self.width))

    def active(self) -> int:
        """Number of those that a token meets: of a mixture, its own experts' only."""
        return self._weights(lambda feedforward: feedforward.active(self.width))

    def _weights(self, of: Callable[[FeedForwardSettings], int]) -> int:
        layers, mixers = self._stacked(), self.mixing()
        norms = (1 + sum(1 if layer.feedforward.absent else 2 for layer in layers)) * self.width
        return norms + sum(
            mixer.parameters(self.width, index, self.depth) + of(layer.feedforward)
            for index, (layer, mixer) in enumerate(zip(layers, mixers, strict=True))
        )
