"""The decoder: a pattern of layers, each a mixer and a feed-forward on a normalised residual stream.

    x = x + mixer(norm(x))
    x = x + feedforward(norm(x))

    pattern: [retnet, retnet, attention]     repeats over the depth, which it must divide

Shapes: B batch, T time, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from farfield.architectures import FeedForwardConfig, MixerConfig
from farfield.architectures.feedforward import Auxiliary, SwiGLUConfig
from farfield.architectures.mixer import Mixer
from farfield.architectures.rows import Rows
from farfield.architectures.state import State
from farfield.config import Config, unknown

__all__ = ["Decoder", "DecoderConfig", "Layer", "LayerConfig"]


class LayerConfig(Config):
    """A mixer and the feed-forward behind it."""

    mixer: MixerConfig
    feedforward: FeedForwardConfig = SwiGLUConfig()


class DecoderConfig(Config):
    """Width, depth, and which layer stands where."""

    width: int = Field(ge=1, description="width of the residual stream")
    depth: int = Field(ge=1, description="number of layers")
    pattern: tuple[str, ...] = Field(min_length=1, description="names of layers from bottom to top; repeats")
    layers: dict[str, LayerConfig]
    tied: bool = Field(True, description="whether the head shares the embedding's weights")
    epsilon: float = Field(1e-5, gt=0, description="epsilon of the norms")

    @model_validator(mode="after")
    def _fits(self) -> DecoderConfig:
        for name in self.pattern:
            if name not in self.layers:
                raise ValueError(".pattern: " + unknown("no layer is called", name, self.layers))
        if self.depth % len(self.pattern):
            near = max(1, round(self.depth / len(self.pattern))) * len(self.pattern)
            raise ValueError(
                f".pattern: {len(self.pattern)} layers do not divide the depth {self.depth}. Nearest depth: {near}."
            )
        for name, layer in self.layers.items():
            try:
                layer.mixer.check(self.width)
            except ValueError as error:
                raise ValueError(f".layers.{name}.mixer.{error}") from None
            try:
                layer.feedforward.check(self.width)
            except ValueError as error:
                raise ValueError(f".layers.{name}.feedforward.{error}") from None
        return self

    def layer(self, index: int) -> LayerConfig:
        """The layer at `index` from the bottom."""
        return self.layers[self.pattern[index % len(self.pattern)]]

    def told(self) -> list[str]:
        """What the layers tell beside their output, a name for each number: balance, load.<layer>.<expert>."""
        layers = [(index, self.layer(index).feedforward) for index in range(self.depth)]
        losses = dict.fromkeys(name for _, feedforward in layers for name in feedforward.losses())
        metrics = [(index, *metric) for index, feedforward in layers for metric in feedforward.metrics().items()]
        return [*losses, *(f"{name}.{index}.{place}" for index, name, count in metrics for place in range(count))]

    def parameters(self) -> int:
        """Number of weights of the layers and the last norm."""
        norms = (2 * self.depth + 1) * self.width
        return norms + sum(
            self.layer(i).mixer.parameters(self.width, i, self.depth) + self.layer(i).feedforward.parameters(self.width)
            for i in range(self.depth)
        )


class Layer(nn.Module):
    """One mixer and one feed-forward."""

    def __init__(self, width: int, epsilon: float, mixer: Mixer, feedforward: nn.Module) -> None:
        super().__init__()
        self.mixer_norm = nn.RMSNorm(width, eps=epsilon)
        self.mixer = mixer
        self.feedforward_norm = nn.RMSNorm(width, eps=epsilon)
        self.feedforward = feedforward

    def forward(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State, Auxiliary]:
        mixed, state = self.mixer(self.mixer_norm(x), rows, state)
        x = x + mixed
        more, auxiliary = self.feedforward(self.feedforward_norm(x), rows)
        return x + more, state, auxiliary


class Decoder(nn.Module):
    """The stack, with the norm at its end. `build(index)` makes the mixer of a layer: a memory may be around it."""

    def __init__(self, config: DecoderConfig, build: Callable[[int], Mixer]) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(
            Layer(config.width, config.epsilon, build(i), config.layer(i).feedforward.build(config.width))
            for i in range(config.depth)
        )
        self.norm = nn.RMSNorm(config.width, eps=config.epsilon)
        self.checkpointing = False

    def mixers(self) -> Iterator[Mixer]:
        """The mixers from bottom to top, memories around them included."""
        for layer in self.layers:
            assert isinstance(layer, Layer)
            yield layer.mixer

    def start(self, batch: int) -> tuple[State, ...]:
        """The empty state of each layer."""
        return tuple(mixer.start(batch) for mixer in self.mixers())

    def forward(self, x: Tensor, rows: Rows, states: Sequence[State]) -> tuple[Tensor, tuple[State, ...], Auxiliary]:
        """(B, T, D) of `x` (B, T, D), the states behind it, and what the layers tell beside it.

        Losses of one name are summed; metrics are called `<layer>.<name>`.
        """
        after: list[State] = []
        losses: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        for index, (layer, state) in enumerate(zip(self.layers, states, strict=True)):
            if self.checkpointing and torch.is_grad_enabled():
                x, state, auxiliary = checkpoint(layer, x, rows, state, use_reentrant=False)
            else:
                x, state, auxiliary = layer(x, rows, state)
            after.append(state)
            for name, loss in auxiliary.losses.items():
                losses[name] = losses[name] + loss if name in losses else loss
            metrics |= {f"{index}.{name}": metric for name, metric in auxiliary.metrics.items()}
        return self.norm(x), tuple(after), Auxiliary(losses, metrics)
