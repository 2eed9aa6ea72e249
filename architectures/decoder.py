"""The decoder: a pattern of layers, each a mixer and a feed-forward on a normalised residual stream.

    x = x + mixer(norm(x))
    x = x + feedforward(norm(x))

Shapes: B batch, T time, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from farfield.architectures import FeedForwardConfig, MixerConfig
from farfield.architectures.feedforward import Auxiliary, NoFeedForward, SwiGLUConfig
from farfield.architectures.mixer import Mixer
from farfield.architectures.rows import Rows
from farfield.architectures.stack import StackConfig
from farfield.architectures.state import State
from farfield.config import Config

__all__ = ["Decoder", "DecoderConfig", "Layer", "LayerConfig"]


class LayerConfig(Config):
    """A mixer and the feed-forward behind it."""

    mixer: MixerConfig
    feedforward: FeedForwardConfig = SwiGLUConfig()


class DecoderConfig(StackConfig[LayerConfig]):
    """A stack of mixers that read from left to right."""

    bidirectional: Literal[False] = False


class Layer(nn.Module):
    """One mixer and one feed-forward."""

    def __init__(self, width: int, epsilon: float, mixer: Mixer, feedforward: nn.Module) -> None:
        super().__init__()
        self.mixer_norm = nn.RMSNorm(width, eps=epsilon)
        self.mixer = mixer
        self.feedforward_norm = None if isinstance(feedforward, NoFeedForward) else nn.RMSNorm(width, eps=epsilon)
        self.feedforward = feedforward

    def forward(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State, Auxiliary]:
        mixed, state = self.mixer(self.mixer_norm(x), rows, state)
        x = x + mixed
        if self.feedforward_norm is None:
            return x, state, Auxiliary()
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
        """(B, T, D) of `x` (B, T, D), the states behind it, and what the layers tell beside it."""
        after: list[State] = []
        told: list[Auxiliary] = []
        for layer, state in zip(self.layers, states, strict=True):
            if self.checkpointing and torch.is_grad_enabled():
                x, state, auxiliary = checkpoint(layer, x, rows, state, use_reentrant=False)
            else:
                x, state, auxiliary = layer(x, rows, state)
            after.append(state)
            told.append(auxiliary)
        return self.norm(x), tuple(after), Auxiliary.of_layers(told)
