"""The language model: embedding, a decoder of any pattern with a memory around its layers, and a head.

    model = LanguageModel(ModelConfig(architecture=..., memory=None, vocabulary=257))
    logits, state = model(tokens)                   # (B, T) -> (B, T, V)
    logits, state = model(more_tokens, state)       # goes on where it stopped
    loss = model.loss(tokens, targets)              # never (B, T, V) at once
    logits, state = model(tokens, passages=found)   # of a model that reads neighbours: those of the chunks that end

This is the one place that knows all kinds of mixers and memories. A bidirectional architecture has no state and no
memory: `farfield.encoding` has its model, of the same settings.
Shapes: B batch, T time, D width, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from farfield.architectures import KeyedSettings, Mixer, MixerSettings, Rows, State, mixer_kinds
from farfield.architectures.architecture import ArchitectureConfig
from farfield.architectures.arriving import kinds
from farfield.architectures.decoder import Decoder, DecoderConfig
from farfield.architectures.encoders.stack import EncoderConfig
from farfield.architectures.feedforward import Auxiliary
from farfield.architectures.ops.decoded import linear
from farfield.architectures.rows import Copies
from farfield.architectures.saved_state import checksum
from farfield.config import Config, ModelError
from farfield.inputs import check_positions, check_targets, check_tokens
from farfield.memory import (
    AugmentationConfig,
    MemoryConfig,
    MixerMemory,
    NeighboursConfig,
    OutputConfig,
    Passages,
    StackMemory,
)
from farfield.memory.neighbours import Reading
from farfield.outcome import Loss, ModelState
from farfield.windows import ParallelWindows

__all__ = [
    "LanguageModel",
    "Loss",
    "ModelConfig",
    "ModelState",
    "check_augmentation",
    "check_memory",
    "fingerprint",
]

STATES = 2  # counts up where states of the same settings come to mean something else


class ModelConfig(Config):
    """All that it takes to build the model again."""

    architecture: ArchitectureConfig
    memory: MemoryConfig | None = None
    vocabulary: int = Field(ge=1, description="number of token ids")
    augmentation: AugmentationConfig | None = Field(None, description="what of retrieved passages the model reads")

    @model_validator(mode="after")
    def _fits(self) -> ModelConfig:
        try:
            check_memory(self.architecture, self.memory)
            check_augmentation(self.architecture, self.memory, self.augmentation)
        except ValueError as error:
            raise ValueError(f".{error}") from None  # a path of its own: see farfield.config
        return self

    @property
    def decoder(self) -> DecoderConfig:
        """The architecture of a model that reads from left to right.

        Raises:
            ModelError: it is bidirectional.
        """
        if isinstance(self.architecture, EncoderConfig):
            raise ModelError(
                "architecture.bidirectional: true given, but here a model is needed that reads from left to right and "
                "writes. Encoders are for farfield.load_encoder."
            )
        return self.architecture

    @property
    def encoder(self) -> EncoderConfig:
        """The architecture of a model that reads whole documents.

        Raises:
            ModelError: it is not bidirectional.
        """
        if isinstance(self.architecture, DecoderConfig):
            raise ModelError(
                "architecture.bidirectional: false given, but here an encoder is needed. "
                "Models that read from left to right are for farfield.load."
            )
        return self.architecture

    def parameters(self) -> int:
        """Number of weights."""
        embedding = self.vocabulary * self.architecture.width
        own = self._own() + (0 if self.augmentation is None else self.augmentation.parameters(self.decoder))
        return embedding * (1 if self.architecture.tied else 2) + self.architecture.parameters() + own

    @property
    def neighbours(self) -> NeighboursConfig | None:
        """How the layers read passages, if they do."""
        return self.augmentation if isinstance(self.augmentation, NeighboursConfig) else None

    def active(self) -> int:
        """Number of weights that a token meets: all but those of other experts."""
        return self.parameters() - self.architecture.parameters() + self.architecture.active()

    def state_bytes(self, tokens: int, element: int = 4) -> int:
        """Bytes of the state of one row after `tokens` tokens, with `element` bytes a number; 0 for an encoder.

        Rows that differ in length have besides 8 bytes a row for their position, and for each buffer of keys.
        """
        if isinstance(self.architecture, EncoderConfig):
            return 0
        architecture = self.architecture
        if isinstance(self.memory, StackMemory):
            return self.memory.state_bytes(architecture, tokens, element)
        width, depth, around = architecture.width, architecture.depth, dict(self._around())
        reading = 0 if self.neighbours is None else self.neighbours.state_bytes(architecture, element)
        return reading + sum(
            around[index].state_bytes(mixer, width, tokens, index, depth, element)
            if index in around
            else mixer.state_bytes(width, tokens, index, depth, element)
            for index, mixer in _mixers(architecture)
        )

    def flops(self, tokens: int) -> int:
        """Multiply-adds times two of decoding one token after `tokens` others, the head included.

        For an encoder, those of one token of a document of `tokens` tokens.
        """
        head = 2 * self.vocabulary * self.architecture.width
        if isinstance(self.architecture, EncoderConfig):
            return head + _encoding(self.architecture, tokens)
        architecture = self.architecture
        if isinstance(self.memory, StackMemory):
            return head + self.memory.flops(architecture, tokens)
        width, depth, around = architecture.width, architecture.depth, dict(self._around())
        reading = 0 if self.neighbours is None else self.neighbours.flops(architecture, tokens)
        return (
            head
            + reading
            + sum(
                architecture.layer(index).feedforward.flops(width)
                + (
                    around[index].flops(mixer, width, tokens, index, depth)
                    if index in around
                    else mixer.flops(width, tokens, index, depth)
                )
                for index, mixer in _mixers(architecture)
            )
        )

    def memory_from(self) -> int | None:
        """Length in tokens from which on a document reads the memory; None without one."""
        if self.memory is None:
            return None
        if isinstance(self.memory, StackMemory):
            return self.memory.begins(self.decoder)
        mixers = dict(_mixers(self.decoder))
        return min(memory.begins(mixers[index], index, self.decoder.depth) for index, memory in self._around())

    def _own(self) -> int:
        """Number of the memory's own weights."""
        if self.memory is None:
            return 0
        if isinstance(self.memory, StackMemory):
            return self.memory.parameters(self.decoder)
        mixers, architecture = dict(_mixers(self.decoder)), self.decoder
        return sum(
            memory.parameters(mixers[index], architecture.width, index, architecture.depth)
            for index, memory in self._around()
        )

    def _around(self) -> list[tuple[int, MixerMemory]]:
        """Layers with a memory around their mixers, and that memory."""
        if not isinstance(self.memory, MixerMemory):
            return []
        return [(index, self.memory) for index in _places(self.decoder, self.memory)]


def _mixers(architecture: DecoderConfig) -> list[tuple[int, MixerSettings]]:
    """The settings of the mixers from bottom to top."""
    return list(enumerate(architecture.mixers()))


def _encoding(architecture: EncoderConfig, tokens: int) -> int:
    """Work of the layers for one token of a document of `tokens` tokens."""
    width, depth = architecture.width, architecture.depth
    layers = [architecture.layer(index) for index in range(depth)]
    return sum(
        layer.mixer.flops(width, tokens, index, depth) + layer.feedforward.flops(width)
        for index, layer in enumerate(layers)
    )


def check_memory(architecture: ArchitectureConfig, memory: MemoryConfig | None) -> None:
    """Raise ValueError where the memory does not fit the layers."""
    if memory is None:
        return
    if isinstance(architecture, EncoderConfig):
        raise ValueError(
            f"memory.name: '{memory.name}' keeps the past, and a bidirectional architecture reads whole documents. "
            "Use memory=none."
        )
    try:
        if isinstance(memory, StackMemory):
            memory.check(architecture)
            return
        mixers = dict(_mixers(architecture))
        for index in _places(architecture, memory):
            mixer = mixers[index]
            reason = mixer.remembers() if isinstance(mixer, KeyedSettings) else None
            if reason is not None:
                raise ValueError(f"name: '{memory.name}' cannot stand around layer {index}, of which {reason}")
            memory.check(mixer, architecture.width, index, architecture.depth)
    except ValueError as error:
        raise ValueError(f"memory.{error}") from None


def check_augmentation(
    architecture: ArchitectureConfig, memory: MemoryConfig | None, augmentation: AugmentationConfig | None
) -> None:
    """Raise ValueError where the layers, with this memory, cannot read what is retrieved."""
    if augmentation is None:
        return
    if isinstance(architecture, EncoderConfig):
        raise ValueError(
            f"augmentation.kind: '{augmentation.kind}' is read from left to right, and a bidirectional architecture "
            "reads whole documents. Use augmentation=none."
        )
    if isinstance(memory, StackMemory) and isinstance(augmentation, NeighboursConfig):
        raise ValueError(
            f"augmentation.kind: '{augmentation.kind}' counts chunks from a document's start, and the layers in memory "
            f"'{memory.name}' count from that of a segment. Use memory=none, or a memory around single layers."
        )
    try:
        augmentation.check(architecture)
    except ValueError as error:
        raise ValueError(f"augmentation.{error}") from None


def _places(architecture: DecoderConfig, memory: MixerMemory) -> list[int]:
    """The layers that get the memory: of those it names, the ones whose mixers it can stand around.

    Not those that share keys: what a memory makes of a layer's keys is that layer's alone.
    """
    mixers = dict(_mixers(architecture))
    named = memory.places(architecture.depth)
    alone = [index for index in named if not architecture.shares(index)]
    found = [index for index in alone if memory.fits(mixers[index])]
    if not alone or (memory.layers != "all" and len(alone) < len(named)):
        other = next(index for index in named if architecture.shares(index))
        raise ValueError(
            f"name: '{memory.name}' stands around layers that keep keys for themselves alone, and layer {other} shares "
            "them. Use memory=none or architecture.sharing.kind=none."
        )
    if not found or (memory.layers != "all" and len(found) < len(named)):
        kind = next(_kind(mixers[index]) for index in alone if not memory.fits(mixers[index]))
        fit = ", ".join(kind for kind, settings in mixer_kinds().items() if issubclass(settings, KeyedSettings))
        raise ValueError(
            f"name: '{memory.name}' needs layers with softmax attention, not '{kind}'. Kinds that have it: {fit}."
        )
    return found


def _kind(mixer: MixerSettings) -> str:
    return str(getattr(mixer, "kind", type(mixer).__name__))


class LanguageModel(nn.Module):
    """Tokens in, logits out, with a state that is a value.

    `windows` says how prompts are read that are longer than the trained length, if by windows side by side: see
    `farfield.windows`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        architecture = config.decoder
        self.embedding = nn.Embedding(config.vocabulary, architecture.width)
        self.decoder = Decoder(architecture, self._mixer)
        if isinstance(config.memory, StackMemory):
            self.decoder = config.memory.build(self.decoder, architecture)
        self.output = None if architecture.tied else nn.Linear(architecture.width, config.vocabulary, bias=False)
        reads, mixes = config.neighbours, config.augmentation
        self.augmentation = None if reads is None else reads.build(architecture)
        self.mixing = mixes.build(architecture) if isinstance(mixes, OutputConfig) else None
        self.windows: ParallelWindows | None = None
        self.reset_parameters()
        if isinstance(config.memory, StackMemory) and config.memory.freezes:
            self._train_only(self.decoder.get_submodule("memory"))
        if self.augmentation is not None and self.augmentation.config.freeze:
            self._train_only(self.augmentation)
        if self.mixing is not None:  # the keys of a datastore are those of the model as it was
            self._train_only(self.mixing)

    def _train_only(self, part: nn.Module) -> None:
        """Leaves all other weights as they are."""
        own = {id(parameter) for parameter in part.parameters()}
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) in own)

    def _mixer(self, index: int) -> Mixer:
        """The mixer of layer `index`, with the memory around it where it has one."""
        architecture, memory = self.config.decoder, self.config.memory
        settings = architecture.mixers()[index]
        mixer = settings.build(architecture.width, index, architecture.depth)
        if not isinstance(memory, MixerMemory) or index not in _places(architecture, memory):
            return mixer
        place = architecture.width, index, architecture.depth
        return memory.at(settings, *place).build(mixer, settings, architecture.width)

    def reset_parameters(self) -> None:
        """Logits begin with variance 1: the head sees normalised vectors."""
        nn.init.normal_(self.embedding.weight, std=self.config.architecture.width**-0.5)
        if self.output is not None:
            nn.init.normal_(self.output.weight, std=self.config.architecture.width**-0.5)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    @property
    def stack(self) -> Decoder:
        """The layers."""
        return self.decoder

    @cached_property
    def _state_kinds(self) -> tuple[type[State], ...]:
        return tuple(map(type, self.start(1).layers))

    def start(self, batch: int) -> ModelState:
        """The empty state of `batch` rows."""
        position = torch.zeros(batch, dtype=torch.int64, device=self.device)
        layers = self.decoder.start(batch)
        if self.augmentation is not None:
            layers = (*layers, self.augmentation.start(batch))
        return ModelState(position, layers, None if self.windows is None else position.clone())

    def forward(
        self,
        tokens: Tensor,
        state: ModelState | None = None,
        *,
        positions: Tensor | None = None,
        passages: Passages | None = None,
    ) -> tuple[Tensor, ModelState]:
        """Logits (B, T, V) of tokens (B, T) int64, and the state behind them. See `hidden` for the arguments."""
        hidden, state = self.hidden(tokens, state, positions=positions, passages=passages)
        return self.head(hidden), state

    def hidden(
        self,
        tokens: Tensor,
        state: ModelState | None = None,
        *,
        positions: Tensor | None = None,
        passages: Passages | None = None,
    ) -> tuple[Tensor, ModelState]:
        """Normalised output of the last layer (B, T, D), zero at padding, and the state behind it.

        Args:
            tokens: (B, T) int64; at padding any id.
            state: what an earlier call returned; None begins anew.
            positions: (B, T) int64: 0 starts a document, -1 is padding; None goes on from the state.
            passages: of a model that reads neighbours, those of the chunks that end in this call; None: none.

        Raises:
            ModelError: shapes that do not fit, an id outside the vocabulary, no tokens at all, or passages that the
                model does not read.
        """
        hidden, state, _ = self._run(tokens, state, positions, passages)
        return hidden, state

    def step(self, tokens: Tensor, state: ModelState, least: int, copies: Copies) -> tuple[Tensor, ModelState]:
        """Logits (B, V) of one more token (B,) of each row, and the state behind it, as a graph captures them.

        Nothing is checked and no number is looked up: see `Rows.one_more`, and `farfield.captured` for where.

        Args:
            tokens: ids of the vocabulary. state: a state of a fixed size, whose memory is written to: see
                `farfield.architectures.fixed`. least: tokens, at least one, that every row has read or more.
            copies: of constants, for as many steps as one likes.
        """
        phase = state.position if state.ahead is None else state.position - state.ahead
        rows = Rows.one_more(state.position, phase, least, copies)
        x, layers, _ = self.decoder(self.embedding(tokens[:, None]), rows, state.layers)
        return self.head(x[:, 0]), ModelState(state.position + 1, layers, state.ahead)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of `hidden` (..., D)."""
        return linear(hidden, self._head_weight())

    def loss(
        self,
        tokens: Tensor,
        targets: Tensor,
        state: ModelState | None = None,
        *,
        positions: Tensor | None = None,
        passages: Passages | None = None,
        piece: int = 1024,
    ) -> Loss:
        """The loss of predicting `targets` (B, T), where logits[b, t] predict targets[b, t] and -100 is not scored."""
        hidden, state, auxiliary = self._run(tokens, state, positions, passages)
        check_targets(tokens, targets, self.config.vocabulary)
        return Loss.of(hidden, self._head_weight(), targets, auxiliary, state, piece)

    def _head_weight(self) -> Tensor:
        return self.embedding.weight if self.output is None else self.output.weight

    def _run(
        self, tokens: Tensor, state: ModelState | None, positions: Tensor | None, passages: Passages | None
    ) -> tuple[Tensor, ModelState, Auxiliary]:
        """The decoder on tokens whose padding, if any, has been moved behind the real tokens of its row."""
        state = self.start(tokens.shape[0]) if state is None else state
        self._check(tokens, state, positions)
        checked = positions is not None
        if positions is None:
            positions = state.position[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
        rows = _rows(positions, state)
        order = rows.padding_last()
        if order is not None:
            tokens, rows = tokens.gather(1, order), _rows(positions.gather(1, order), state)
        if checked:
            check_positions(rows, state.position)
        rows.settle()
        x = self.embedding(torch.where(rows.real, tokens, 0) if rows.padded else tokens)
        x, layers, auxiliary = self.decoder(x, rows, state.layers, *self._between(rows, passages))
        x = rows.masked(x)
        if order is not None:
            x = x.gather(1, order.argsort(dim=1)[..., None].expand_as(x))
        ahead = None if state.ahead is None else torch.where(rows.last_document > 0, 0, state.ahead)
        return x, ModelState(_following(rows, state.position), layers, ahead), auxiliary

    def _between(self, rows: Rows, passages: Passages | None) -> tuple[Reading, ...]:
        """What stands between mixers and feed-forwards, if anything does."""
        if self.augmentation is not None:
            return (self.augmentation.reading(rows, passages, self.embedding),)
        if passages is not None:
            raise ModelError("passages: given, but this model reads none. Train one with augmentation=neighbours.")
        return ()

    def _check(self, tokens: Tensor, state: ModelState, positions: Tensor | None) -> None:
        check_tokens(tokens, positions, self.config.vocabulary)
        if tokens.shape[0] != state.position.shape[0]:
            raise ModelError(f"tokens: {tokens.shape[0]} rows given, but the state has {state.position.shape[0]}.")
        if kinds(state.layers) != self._state_kinds:
            raise ModelError("state: made by a model of other layers.")


def fingerprint(model: LanguageModel) -> str:
    """What stands for a model and its states: its settings, its weights, and what states of this version mean.

    What is mixed with its output leaves no trace in either.
    """
    mapping = model.config.mapping()
    if model.config.neighbours is None:  # as before there were any: states of such a model mean what they did
        del mapping["augmentation"]
    settings = json.dumps([STATES, mapping], sort_keys=True)
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("mixing.")}
    weights = checksum({name: tensor.detach().cpu().contiguous() for name, tensor in own.items()})
    return hashlib.sha256(f"{settings} {weights}".encode()).hexdigest()


def _rows(positions: Tensor, state: ModelState) -> Rows:
    """Rows at positions (B, T), those that go on behind windows with the phase that follows the longest of them."""
    rows = Rows.at(positions)
    return rows if state.ahead is None else Rows(positions, positions - rows.continued * state.ahead[:, None])


def _following(rows: Rows, before: Tensor) -> Tensor:
    """The position (B,) after each row's last real token; as before where a row has none."""
    count = rows.real.sum(1)
    last = rows.positions.gather(1, (count - 1).clamp(min=0)[:, None])[:, 0]
    return torch.where(count > 0, last + 1, before)
