"""A stack of bidirectional mixers and feed-forwards on a normalised residual stream.

    x = x + mixer.encode(norm(x))
    x = x + feedforward(norm(x))

Shapes: B batch, T time, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from farfield.architectures import FeedForwardConfig
from farfield.architectures.encoders import Encoder, EncoderMixerConfig
from farfield.architectures.feedforward import Auxiliary, GELUConfig, NoFeedForward
from farfield.architectures.ops.rms_norm import RMSNorm
from farfield.architectures.rows import Rows
from farfield.architectures.stack import StackConfig
from farfield.config import Config

__all__ = ["EncoderConfig", "EncoderLayerConfig", "EncoderStack"]


class EncoderLayerConfig(Config):
    """A bidirectional mixer and the feed-forward behind it."""

    mixer: EncoderMixerConfig
    feedforward: FeedForwardConfig = GELUConfig()


class EncoderConfig(StackConfig[EncoderLayerConfig]):
    """A stack of mixers that read whole documents, in both directions."""

    bidirectional: Literal[True]

    @property
    def longest(self) -> int | None:
        """The most tokens that a document may have; None: any number."""
        limits = [layer.mixer.longest for layer in self.layers.values() if layer.mixer.longest is not None]
        return min(limits, default=None)


class EncoderLayer(nn.Module):
    """One mixer and one feed-forward."""

    def __init__(self, width: int, epsilon: float, mixer: Encoder, feedforward: nn.Module) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(width, epsilon)
        self.mixer = mixer
        self.feedforward_norm = None if isinstance(feedforward, NoFeedForward) else RMSNorm(width, epsilon)
        self.feedforward = feedforward

    def forward(self, x: Tensor, rows: Rows) -> tuple[Tensor, Auxiliary]:
        x = x + self.mixer.encode(self.mixer_norm(x), rows)
        if self.feedforward_norm is None:
            return x, Auxiliary()
        more, auxiliary = self.feedforward(self.feedforward_norm(x), rows)
        return x + more, auxiliary


class EncoderStack(nn.Module):
    """The layers, with the norm at their end."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        width, depth = config.width, config.depth
        chosen = [config.layer(index) for index in range(depth)]
        self.layers = nn.ModuleList(
            EncoderLayer(width, config.epsilon, layer.mixer.build(width, index, depth), layer.feedforward.build(width))
            for index, layer in enumerate(chosen)
        )
        self.norm = RMSNorm(width, config.epsilon)
        self.checkpointing = False

    def forward(self, x: Tensor, rows: Rows) -> tuple[Tensor, Auxiliary]:
        """(B, T, D) of `x` (B, T, D), and what the layers tell beside it."""
        told: list[Auxiliary] = []
        for layer in self.layers:
            if self.checkpointing and torch.is_grad_enabled():
                x, auxiliary = checkpoint(layer, x, rows, use_reentrant=False)
            else:
                x, auxiliary = layer(x, rows)
            told.append(auxiliary)
        return self.norm(x), Auxiliary.of_layers(told)
