"""LongMem: a frozen model remembers its own keys and values, and a side network learns to read them.

    backbone    layer 0   layer 1   layer 2   layer 3   ...        as it was trained, its weights fixed
                   |         |         |         |
    side        ladder  +  layer 0'        ladder + layer 1'       one for every second layer

    h_0 = x,   h_(l+1) = f_l(h_l) + (H_(2l+2) - H_(2l))            the ladder carries what the backbone adds

One backbone layer's keys and values, before rotation, are kept: in chunks, found by their mean key, the best of them
for each query and head of the side network, and read behind a gate by one of its layers. What is remembered never goes
stale, for what made it does not change.

Wang et al., https://arxiv.org/abs/2306.07174. There side layers are a model of their own beside a vendored GPT-2; here
they are layers as the backbone's, and begin as every second one of them. As published the memory is one for all rows of
a batch, and nothing empties it: here rows are apart, and a document that begins empties its own.

State: that of both stacks, and (capacity + segment) 2 G W numbers.
Shapes: B batch, T time, D width, H heads, G heads of keys and values, S slots, W width of a head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from farfield.architectures.decoder import Decoder, DecoderConfig, Layer
from farfield.architectures.feedforward import Auxiliary
from farfield.architectures.keyed import KeyedMixer, KeyedSettings
from farfield.architectures.mixer import Heads, Mixer, MixerSettings
from farfield.architectures.ops.uncompiled import uncompiled
from farfield.architectures.rows import Rows
from farfield.architectures.state import State
from farfield.memory.forgetting import near_field
from farfield.memory.key_value import KeyValueMemoryConfig, MemoryState, WithMemory
from farfield.memory.settings import StackMemory

__all__ = ["LongMem", "LongMemConfig", "LongMemState"]


class LongMemConfig(StackMemory):
    """A side network that reads the keys and values of a frozen backbone."""

    source = "arxiv.org/abs/2306.07174"

    kind: Literal["longmem"] = "longmem"
    name: str = Field("longmem", description="what tables call it")
    capacity: int = Field(8192, ge=1, description="tokens that are kept; the oldest are forgotten first")
    segment: int = Field(32, ge=1, description="tokens in a segment; a segment is written when it is complete")
    unit: int = Field(4, ge=1, description="tokens in a chunk, which is found by the mean of its keys")
    top: int = Field(16, ge=1, description="chunks that a token reads, a head at a time")
    keeps: int = Field(-2, description="backbone layer whose keys and values are kept; negative counts from the top")
    frozen: bool = Field(True, description="whether the backbone's weights stay as they are in training")

    @model_validator(mode="after")
    def _whole(self) -> LongMemConfig:
        for name in ("segment", "capacity"):
            given: int = getattr(self, name)
            if given % self.unit:
                near = max(1, round(given / self.unit)) * self.unit
                raise ValueError(f".{name}: {given} is no multiple of the unit of {self.unit} tokens. Nearest: {near}.")
        return self

    @property
    def trained(self) -> bool:
        return True

    @property
    def freezes(self) -> bool:
        return self.frozen

    @property
    def bank(self) -> KeyValueMemoryConfig:
        """The memory that a side layer reads."""
        return KeyValueMemoryConfig(
            name=self.name,
            capacity=self.capacity,
            segment=self.segment,
            unit=self.unit,
            key="mean" if self.unit > 1 else "raw",
            top=self.top,
            combine="gate",
        )

    def kept(self, depth: int) -> int:
        """The backbone layer whose keys and values are kept."""
        return self.keeps % depth

    def check(self, architecture: DecoderConfig) -> None:
        depth = architecture.depth
        if architecture.sharing.kind != "none":
            raise ValueError(
                f"name: '{self.name}' keeps the keys of a layer, and the layers here share them. "
                "Use architecture.sharing.kind=none."
            )
        if depth < 2 or depth % 2:
            raise ValueError(f"name: '{self.name}' has a side layer for every second layer, and the depth is {depth}.")
        if not -depth <= self.keeps < depth:
            raise ValueError(f"keeps: {self.keeps} given, but the model has layers 0 to {depth - 1}.")
        for index in (self.kept(depth), self.fuses(depth)):
            mixer = architecture.layer(index).mixer.resolved()
            if not isinstance(mixer, KeyedSettings):
                kind = getattr(mixer, "kind", type(mixer).__name__)
                raise ValueError(f"keeps: layer {index} is '{kind}', which has no keys. Name one of softmax attention.")
            self.bank.check(mixer, architecture.width, index, depth)
        shapes = [self._keyed(architecture, index).sizes(architecture.width)[1:] for index in self._read(depth)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"keeps: layers {self._read(depth)} have heads of other shapes.")

    def build(self, stack: Any, architecture: DecoderConfig) -> Any:
        return LongMem(self, stack, architecture)

    def parameters(self, architecture: DecoderConfig) -> int:
        width, depth = architecture.width, architecture.depth
        gates = self._keyed(architecture, self.fuses(depth)).sizes(width)[0]
        total = gates
        for index in self.beside(depth):
            layer = architecture.layer(index)
            norms = width if layer.feedforward.absent else 2 * width
            total += norms + layer.mixer.parameters(width, index, depth) + layer.feedforward.parameters(width)
        return total

    def state_bytes(self, architecture: DecoderConfig, tokens: int, element: int = 4) -> int:
        width, depth = architecture.width, architecture.depth
        fuses = self.fuses(depth)
        total = self.bank.state_bytes(self._keyed(architecture, fuses), width, tokens, fuses, depth, element)
        for index in (*range(depth), *(index for index in self.beside(depth) if index != fuses)):
            mixer = architecture.layer(index).mixer.resolved()
            near = _near(mixer, tokens, self.segment, index, depth)
            total += mixer.state_bytes(width, near, index, depth, element)
        return total

    def flops(self, architecture: DecoderConfig, tokens: int) -> int:
        width, depth = architecture.width, architecture.depth
        fuses = self.fuses(depth)
        total = self.bank.flops(self._keyed(architecture, fuses), width, tokens, fuses, depth)
        for index in (*range(depth), *(index for index in self.beside(depth) if index != fuses)):
            mixer = architecture.layer(index).mixer.resolved()
            full = isinstance(mixer, KeyedSettings) and mixer.reach(index, depth) is None
            total += mixer.flops(width, tokens % self.segment if full else tokens, index, depth)
        layers = [*range(depth), *self.beside(depth)]
        return total + sum(architecture.layer(index).feedforward.flops(width) for index in layers)

    def begins(self, architecture: DecoderConfig) -> int:
        index = self.fuses(architecture.depth)
        return self.bank.begins(architecture.layer(index).mixer.resolved(), index, architecture.depth)

    @staticmethod
    def beside(depth: int) -> list[int]:
        """The backbone layers that side layers are made as: every second one."""
        return list(range(1, depth, 2))

    def fuses(self, depth: int) -> int:
        """The backbone layer as which the side layer that reads is made: at or next above the one that is kept."""
        return min(index for index in self.beside(depth) if index >= self.kept(depth))

    def _read(self, depth: int) -> tuple[int, int]:
        return self.kept(depth), self.fuses(depth)

    @staticmethod
    def _keyed(architecture: DecoderConfig, index: int) -> KeyedSettings:
        mixer = architecture.layer(index).mixer.resolved()
        assert isinstance(mixer, KeyedSettings)
        return mixer


def _near(mixer: MixerSettings, tokens: int, segment: int, layer: int, depth: int) -> int:
    """How many of `tokens` tokens a layer has in its near field: of full attention, the open segment."""
    if isinstance(mixer, KeyedSettings) and mixer.reach(layer, depth) is None and tokens:
        return (tokens - 1) % segment + 1
    return tokens


Ran = tuple[Tensor, State, Auxiliary]
Run = Callable[[Layer, Tensor, Rows, State], Ran]


@dataclass(frozen=True, eq=False)
class LongMemState(State):
    """The states of both stacks; that of the side layer that reads has the bank in it."""

    layers: tuple[State, ...]
    side: tuple[State, ...]


class LongMem(nn.Module):
    """See the file's head."""

    def __init__(self, config: LongMemConfig, stack: Decoder, architecture: DecoderConfig) -> None:
        super().__init__()
        self.config, self.stack = config, stack
        width, depth = architecture.width, architecture.depth
        self.kept, self.fuses = config.kept(depth), config.fuses(depth)
        self.memory = nn.ModuleDict()  # side layers, by the backbone layers that they are made as
        for index in config.beside(depth):
            layer, mixer = architecture.layer(index), architecture.layer(index).mixer.resolved()
            own = mixer.build(width, index, depth)
            around = config.bank.build(own, mixer, width) if index == self.fuses else own
            self.memory[str(index)] = Layer(width, architecture.epsilon, around, layer.feedforward.build(width))
        spans = [mixer.span for mixer in self.mixers() if isinstance(mixer, KeyedMixer) and mixer.span is not None]
        self.span = min(spans) if spans else None
        self.checkpointing = False

    def mixers(self) -> Iterator[Mixer]:
        """The backbone's mixers from bottom to top."""
        return self.stack.mixers()

    def begin(self) -> None:
        """The side layers begin as the backbone layers that they are made as."""
        for index, side in self.memory.items():
            weights = dict(self.stack.layers[int(index)].state_dict())
            if int(index) == self.fuses:
                weights = {_within(name): weight for name, weight in weights.items()}
            side.load_state_dict(weights, strict=int(index) != self.fuses)

    def alone(self) -> Decoder:
        """The backbone; full attention sees the open segment alone, as beside the memory."""
        for layer in self.stack.layers:
            assert isinstance(layer, Layer)
            layer.mixer = near_field(layer.mixer, self.config.segment)
        return self.stack

    def exchanged(self, states: Sequence[State], seed: int) -> tuple[State, ...]:
        """See `Apart.exchanged`."""
        (state,) = states
        assert isinstance(state, LongMemState)
        side = list(state.side)
        for place, name in enumerate(self.memory):
            reader, kept = self._beside(name).mixer, side[place]
            if isinstance(reader, WithMemory) and isinstance(kept, MemoryState):
                side[place] = reader.exchanged(kept, kept.bank.length, seed)
        return (replace(state, side=tuple(side)),)

    def start(self, batch: int) -> tuple[State, ...]:
        side = tuple(self._beside(name).mixer.start(batch) for name in self.memory)
        return (LongMemState(self.stack.start(batch), side),)

    @uncompiled(recursive=False)  # what is read is decided by numbers
    def forward(self, x: Tensor, rows: Rows, states: Sequence[State]) -> tuple[Tensor, tuple[State, ...], Auxiliary]:
        if self.span is None or rows.time <= self.span:
            return self._step(x, rows, states)
        outputs, told, begin = [], [], 0
        for piece in x.split(self.span, 1):
            y, states, auxiliary = self._step(piece, rows.part(begin, begin + piece.shape[1]), states)
            outputs.append(y)
            told.append(auxiliary)
            begin += piece.shape[1]
        return torch.cat(outputs, 1), tuple(states), told[-1]

    def _step(self, x: Tensor, rows: Rows, states: Sequence[State]) -> tuple[Tensor, tuple[State, ...], Auxiliary]:
        (state,) = states
        assert isinstance(state, LongMemState)
        x = self.stack.stream(x)
        outputs, layers, kept, auxiliary = self._backbone(x, rows, state)
        h, side, told = x, [], []
        for place, name in enumerate(self.memory):
            index, layer = int(name), self._beside(name)
            run = partial(self._reading, kept) if index == self.fuses else self._plain
            h, after, own = self._again(run, layer, h, rows, state.side[place])
            h = h + (outputs[index + 1] - outputs[index - 1])
            side.append(after)
            told.append(own)
        losses = Auxiliary.of_layers(told).losses
        y = rows.masked(self.stack.norm(h))
        return y, (LongMemState(tuple(layers), tuple(side)),), Auxiliary(losses, auxiliary.metrics)

    def _backbone(
        self, x: Tensor, rows: Rows, state: LongMemState
    ) -> tuple[list[Tensor], list[State], Heads, Auxiliary]:
        """Input and output of every layer, the states, and what is kept of the call; all constant where frozen."""
        outputs, layers, told = [x], [], []
        heads: Heads | None = None
        with torch.no_grad() if self.config.frozen else contextlib.nullcontext():
            for index, layer in enumerate(self.stack.layers):
                assert isinstance(layer, Layer)
                if index == self.kept:
                    assert isinstance(layer.mixer, KeyedMixer)
                    heads, _ = layer.mixer.project(layer.mixer_norm(outputs[-1]), rows, state.layers[index])
                y, after, auxiliary = self._again(self._plain, layer, outputs[-1], rows, state.layers[index])
                outputs.append(y)
                layers.append(after)
                told.append(auxiliary)
        assert heads is not None
        kept = Heads(heads.queries, heads.keys.detach(), heads.values.detach())
        return outputs, layers, kept, Auxiliary.of_layers(told)

    def _again(self, run: Run, layer: Layer, x: Tensor, rows: Rows, state: State) -> Ran:
        """`run(layer, x, rows, state)`, its activations computed again in the backward pass if asked for."""
        if self.checkpointing and torch.is_grad_enabled():
            found: Ran = checkpoint(run, layer, x, rows, state, use_reentrant=False)
            return found
        return run(layer, x, rows, state)

    def _plain(self, layer: Layer, x: Tensor, rows: Rows, state: State) -> Ran:
        """A layer as it is; full attention sees the open segment alone."""
        mixer = layer.mixer
        if not isinstance(mixer, KeyedMixer) or mixer.reach is not None:
            y, state, auxiliary, *_ = layer(x, rows, state, None, False)
            return y, state, auxiliary
        normed = layer.mixer_norm(x)
        heads, state = mixer.project(normed, rows, state)
        attended, state = mixer.attend(heads, rows.segmented(self.config.segment), state)
        return self._behind(layer, x + mixer.finish(attended.out, normed, rows), rows, state)

    def _reading(self, kept: Heads, layer: Layer, x: Tensor, rows: Rows, state: State) -> Ran:
        """The side layer that reads: its own queries, the backbone's keys and values."""
        reader = layer.mixer
        assert isinstance(reader, WithMemory)
        assert isinstance(state, MemoryState)
        normed = layer.mixer_norm(x)
        heads, inner = reader.mixer.project(normed, rows, state.mixer)
        state = replace(state, mixer=inner)
        attended, state = reader.attended(normed, heads, kept.keys, kept.values, rows, state)
        return self._behind(layer, x + reader.mixer.finish(attended.out, normed, rows), rows, state)

    @staticmethod
    def _behind(layer: Layer, x: Tensor, rows: Rows, state: State) -> Ran:
        """The layer's feed-forward, if it has one, behind what was mixed."""
        if layer.feedforward_norm is None:
            return x, state, Auxiliary()
        more, auxiliary = layer.feedforward(layer.feedforward_norm(x), rows)
        return x + more, state, auxiliary

    def _beside(self, name: str) -> Layer:
        layer = self.memory[name]
        assert isinstance(layer, Layer)
        return layer


def _within(name: str) -> str:
    """A backbone layer's weight by its name in the side layer that has a memory around its mixer."""
    return f"mixer.{name}" if name.startswith("mixer.") else name
