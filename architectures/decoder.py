"""The decoder: a pattern of layers, each a mixer and a feed-forward on a normalised residual stream.

    x = x + mixer(norm(x))
    x = between(x)                  where something stands there: see `between`
    x = x + feedforward(norm(x))

Where `wide_residual` is set, the stream is float32 also between layers whose weights are narrower.
Layers may take the keys and values of others: see `sharing`.

Shapes: B batch, T time, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from farfield.architectures import FeedForwardConfig, MixerConfig
from farfield.architectures.between import Between
from farfield.architectures.condensed import condensed_keys
from farfield.architectures.feedforward import Auxiliary, NoFeedForward, SwiGLUConfig
from farfield.architectures.keyed import LendingMixer
from farfield.architectures.mixer import Kept, Mixer, MixerSettings
from farfield.architectures.ops.rms_norm import RMSNorm, rms_norm
from farfield.architectures.ops.uncompiled import uncompiled
from farfield.architectures.rows import Rows
from farfield.architectures.sharing import NoSharing, SharingConfig, iterated, keepers_of, mixers_of
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
    sharing: SharingConfig = Field(NoSharing(), description="which layer keeps keys and values for which")
    wide_residual: bool = Field(
        False, description="whether the residual stream is float32 also where the weights are narrower, as Mamba's"
    )

    @model_validator(mode="after")
    def _shares(self) -> DecoderConfig:
        try:
            self.mixers()
        except ValueError as error:
            raise ValueError(f".sharing.{error}") from None
        return self

    @property
    def split_exact(self) -> bool:
        """Any split into calls gives the same answer."""
        return self.sharing.exact or not iterated(self.keepers())

    def keepers(self) -> tuple[int, ...]:
        """Of each layer the one that keeps the keys that it reads: itself, but for layers that take them."""
        return keepers_of(self.sharing, self.names(), self._whole())

    def shares(self, index: int) -> bool:
        """Whether the layer takes keys, or keeps them for others."""
        keepers = self.keepers()
        return keepers[index] != index or keepers.count(index) > 1

    def mixers(self) -> tuple[MixerSettings, ...]:
        """The settings of the mixers from bottom to top, without keys where they are taken."""
        return mixers_of(self.width, self.keepers(), self._whole())

    def mixing(self) -> Sequence[MixerSettings]:
        return self.mixers()

    def _whole(self) -> list[MixerSettings]:
        return [self.layers[name].mixer.resolved() for name in self.names()]


class StreamNorm(RMSNorm):
    """The RMS norm of a stream that may be wider than the weights; its answer is as wide as they are."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) of `x` (..., D)."""
        if torch.promote_types(x.dtype, self.weight.dtype) == self.weight.dtype:
            return super().forward(x)
        return rms_norm(x, self.weight.to(x.dtype), self.epsilon).to(self.weight.dtype)


class Layer(nn.Module):
    """One mixer and one feed-forward."""

    def __init__(self, width: int, epsilon: float, mixer: Mixer, feedforward: nn.Module) -> None:
        super().__init__()
        self.mixer_norm = StreamNorm(width, epsilon)
        self.mixer = mixer
        self.feedforward_norm = None if isinstance(feedforward, NoFeedForward) else StreamNorm(width, epsilon)
        self.feedforward = feedforward

    def forward(
        self,
        x: Tensor,
        rows: Rows,
        state: State,
        taken: Kept | None,
        lends: bool,
        between: Callable[[Tensor, Any], tuple[Tensor, Any]] | None = None,
        carried: Any = None,
    ) -> tuple[Tensor, State, Auxiliary, Kept | None, Any]:
        """The stream (B, T, D), the state, what is told, what is kept for others if the layer `lends`, and `carried`.

        `between` maps the stream behind the mixer, and what it has carried from lower layers.
        """
        mixed, state, kept = self._mix(self.mixer_norm(x), rows, state, taken, lends)
        x = x + mixed
        if between is not None:
            x, carried = between(x, carried)
        if self.feedforward_norm is None:
            return x, state, Auxiliary(), kept, carried
        more, auxiliary = self.feedforward(self.feedforward_norm(x), rows)
        return x + more, state, auxiliary, kept, carried

    def keep(self, x: Tensor, rows: Rows, state: State) -> Kept:
        """What is kept for others of the stream `x` (B, T, D), without an answer."""
        assert isinstance(self.mixer, LendingMixer)
        return self.mixer.keep(self.mixer_norm(x), rows, state)

    def _mix(
        self, x: Tensor, rows: Rows, state: State, taken: Kept | None, lends: bool
    ) -> tuple[Tensor, State, Kept | None]:
        if lends:
            assert isinstance(self.mixer, LendingMixer)
            return self.mixer.lend(x, rows, state)
        mixed, state = self.mixer(x, rows, state) if taken is None else self.mixer(x, rows, state, taken)
        return mixed, state, None


@dataclass(frozen=True, eq=False)
class _Passed:
    """Behind some layers: the stream, their states, what they told, what is kept by layer, what `between` carries."""

    x: Tensor
    states: tuple[State, ...]
    told: tuple[Auxiliary, ...]
    kept: Mapping[int, Kept]
    between: Between | None = None
    carried: Any = None


class Decoder(nn.Module):
    """The stack, with the norm at its end. `build(index)` makes the mixer of a layer: a memory may be around it."""

    def __init__(self, config: DecoderConfig, build: Callable[[int], Mixer]) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(
            Layer(config.width, config.epsilon, build(i), config.layer(i).feedforward.build(config.width))
            for i in range(config.depth)
        )
        self.norm = StreamNorm(config.width, config.epsilon)
        self.keepers = config.keepers()
        self.lends = [keeper == index and self.keepers.count(index) > 1 for index, keeper in enumerate(self.keepers)]
        self.iterated = iterated(self.keepers)
        self.checkpointing = False

    def mixers(self) -> Iterator[Mixer]:
        """The mixers from bottom to top, memories around them included."""
        for layer in self.layers:
            assert isinstance(layer, Layer)
            yield layer.mixer

    def start(self, batch: int) -> tuple[State, ...]:
        """The empty state of each layer."""
        return tuple(mixer.start(batch) for mixer in self.mixers())

    def stream(self, x: Tensor) -> Tensor:
        """Embeddings as wide as the residual stream that they begin."""
        return x.to(torch.promote_types(x.dtype, torch.float32)) if self.config.wide_residual else x

    def forward(
        self, x: Tensor, rows: Rows, states: Sequence[State], between: Between | None = None
    ) -> tuple[Tensor, tuple[State, ...], Auxiliary]:
        """(B, T, D) of `x` (B, T, D), the states behind it, and what the layers tell beside it.

        The states are those of the layers, and behind them that of what stands `between`, if anything does.
        """
        depth = len(self.layers)
        assert len(states) == depth + (between is not None)
        carried = None if between is None else between.begin(states[depth])
        start = _Passed(self.stream(x), (), (), {}, between, carried)
        found = self._condensed(start, rows, states) if self.iterated else self._run(range(depth), start, rows, states)
        after = found.states if between is None else (*found.states, between.end(found.carried))
        return self.norm(found.x), after, Auxiliary.of_layers(found.told)

    @uncompiled  # how many passes there are is decided by numbers
    def _condensed(self, start: _Passed, rows: Rows, states: Sequence[State]) -> _Passed:
        """Behind all layers, where keys are taken from above."""
        found = self._run(range(self.iterated.start), start, rows, states)
        kept = {**found.kept, **self._from_above(found, rows, states)}
        above = range(self.iterated.start, len(self.layers))
        return self._run(above, replace(found, kept=kept), rows, states)

    def _from_above(self, below: _Passed, rows: Rows, states: Sequence[State]) -> dict[int, Kept]:
        """What keepers keep of the call for layers under them."""
        mixers, before = list(self.mixers()), {}
        for index in sorted({keeper for layer, keeper in enumerate(self.keepers) if keeper > layer}):
            mixer = mixers[index]
            assert isinstance(mixer, LendingMixer)
            before[index] = mixer.before(states[index])

        top = self.iterated[-1]
        highest = self.layers[top]
        assert isinstance(highest, Layer)

        def run(kept: Mapping[int, Kept]) -> Mapping[int, Kept]:
            start = replace(below, kept={**below.kept, **kept})
            found = self._run(self.iterated[:-1], start, rows, states)
            return {**found.kept, top: highest.keep(found.x, rows, states[top])}

        return condensed_keys(run, before, rows, self.config.sharing.plan)

    def _run(self, layers: range, below: _Passed, rows: Rows, states: Sequence[State]) -> _Passed:
        """Behind some layers on top of `below`."""
        x, kept, after, told = below.x, dict(below.kept), list(below.states), list(below.told)
        between, carried = below.between, below.carried
        for index in layers:
            keeper = self.keepers[index]
            taken = None if keeper == index else kept[keeper]
            reader = None if between is None else between.at(index)
            given = (x, rows, states[index], taken, self.lends[index], reader, carried)
            if self.checkpointing and torch.is_grad_enabled():
                x, state, auxiliary, own, carried = checkpoint(self.layers[index], *given, use_reentrant=False)
            else:
                x, state, auxiliary, own, carried = self.layers[index](*given)
            if own is not None:
                kept[index] = own
            after.append(state)
            told.append(auxiliary)
        return _Passed(x, tuple(after), tuple(told), kept, between, carried)
