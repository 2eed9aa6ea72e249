"""A trained model that reads more than it was trained on, without training: its weights as they are, other settings.

    model = stretched(model, YaRNContext(factor=8), trained=512)      # the same weights
    model = farfield.load("runs/reader", context="yarn", overrides=["context.factor=8"])

    interpolation  ntk  yarn    rotary frequencies of softmax layers, slower
    dual_chunk  self_extend     where their queries and keys stand to each other
    sinks                       the first and the newest tokens alone, at their places in the cache: any length
    parallel                    prompts in windows side by side

What is left null follows from the trained length: of a run its rows, of a Hugging Face folder its
max_position_embeddings. Layers that are no softmax attention stay as they are.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from farfield.architectures import KeyedSettings, MixerSettings, PositionedSettings, mixer_kinds
from farfield.architectures.architecture import ArchitectureConfig
from farfield.architectures.decoder import DecoderConfig
from farfield.architectures.dual_chunk import DualChunk
from farfield.architectures.extension import Extension
from farfield.architectures.self_extend import SelfExtend
from farfield.architectures.stretching import FARTHEST, NTK, SHARPEST, Interpolation, Scaling, ScalingConfig, YaRN
from farfield.config import Config, ConfigError, ModelError, read
from farfield.huggingface.given import LONGEST
from farfield.huggingface.reading import Unallocated
from farfield.memory import KeyValueMemoryConfig, MemoryConfig
from farfield.model import LanguageModel, ModelConfig
from farfield.retrofit import retrofit
from farfield.windows import ParallelWindows

__all__ = [
    "ContextConfig",
    "ParallelContext",
    "Parts",
    "beside",
    "by_context",
    "stretched",
    "trained_length",
    "unstretched",
]


@dataclass(frozen=True)
class Parts:
    """What of a model a context may change."""

    architecture: ArchitectureConfig
    memory: MemoryConfig | None
    windows: ParallelWindows | None = None

    @property
    def decoder(self) -> DecoderConfig:
        """The layers.

        Raises:
            ConfigError: an encoder.
        """
        if not isinstance(self.architecture, DecoderConfig):
            raise ConfigError("context.kind: a bidirectional architecture reads whole documents. Use context=none.")
        return self.architecture

    def with_mixers(self, change: Callable[[str, PositionedSettings], PositionedSettings]) -> Parts:
        """With the settings of each softmax mixer changed, by the name of its layer."""
        layers = {}
        for name, layer in self.decoder.layers.items():
            mixer = layer.mixer
            changed = change(name, mixer) if isinstance(mixer, PositionedSettings) else mixer
            layers[name] = layer.model_copy(update={"mixer": changed})
        return replace(self, architecture=self.decoder.model_copy(update={"layers": layers}))

    def softmax(self) -> dict[str, PositionedSettings]:
        """The softmax mixers by the names of their layers."""
        found = {name: self.decoder.layers[name].mixer for name in dict.fromkeys(self.decoder.names())}
        return {name: mixer for name, mixer in found.items() if isinstance(mixer, PositionedSettings)}


class _Context(Config, abc.ABC):
    """How a model reads more than it was trained on."""

    kind: str

    @abc.abstractmethod
    def applied(self, parts: Parts, trained: int | None) -> Parts:
        """The parts of a model of `trained` tokens, if that is known, as it is to be read.

        Raises:
            ConfigError: it does not fit the layers, or the trained length is needed and nobody says it.
        """

    def softmax(self, parts: Parts, keyed: bool = False) -> dict[str, PositionedSettings]:
        """The softmax mixers by the names of their layers; if `keyed`, those whose keys stand for single tokens.

        Raises:
            ConfigError: there are none.
        """

        def fits(settings: type[MixerSettings]) -> bool:
            return issubclass(settings, KeyedSettings) if keyed else issubclass(settings, PositionedSettings)

        found = {name: mixer for name, mixer in parts.softmax().items() if fits(type(mixer))}
        if not found:
            kinds = ", ".join(dict.fromkeys(_kind(mixer) for mixer in parts.decoder.mixers()))
            fit = ", ".join(kind for kind, settings in mixer_kinds().items() if fits(settings))
            needed = "softmax attention" + (" whose keys stand for single tokens" if keyed else "")
            raise ConfigError(
                f"context.kind: '{self.kind}' is for layers with {needed}, and these are {kinds}. Kinds that have it: "
                f"{fit}."
            )
        return found

    def rotated(self, parts: Parts) -> dict[str, PositionedSettings]:
        """The softmax mixers with rotary positions, by the names of their layers.

        Raises:
            ConfigError: there are none.
        """
        found = self.softmax(parts)
        rotary = {name: mixer for name, mixer in found.items() if mixer.position == "rope"}
        if not rotary:
            name, mixer = next(iter(found.items()))
            raise ConfigError(
                f"context.kind: '{self.kind}' is for rotary positions, and architecture.layers.{name}.mixer.position "
                f"is {mixer.position}."
            )
        return rotary


def _kind(mixer: MixerSettings) -> str:
    return str(getattr(mixer, "kind", type(mixer).__name__))


def _known(given: int | None, trained: int | None) -> int:
    """The trained length.

    Raises:
        ConfigError: nobody says it.
    """
    found = trained if given is None else given
    if found is None:
        raise ConfigError(
            "context.trained: null given, and the model does not say how many tokens it was trained on. Add "
            "context.trained=<tokens>."
        )
    return found


class _Slower(_Context):
    """Rotary frequencies are stretched."""

    factor: float = Field(4.0, ge=1, le=FARTHEST, description="how many times the trained length")

    @abc.abstractmethod
    def scaling(self, trained: int | None) -> Scaling:
        """How a model of `trained` tokens is stretched."""

    def farther(self, own: ScalingConfig, where: str) -> Scaling:
        """As it was before it was stretched by `own`, which stands at `where`, by the factor of this context.

        Raises:
            ConfigError: it is of another kind, reaches no farther than `own`, or differs from it by more.
        """
        if own.kind != self.kind:
            raise ConfigError(
                f"context.kind: '{self.kind}' given, but {where} is {own.kind} already, as the model was trained. "
                "dual_chunk and self_extend go with it."
            )
        if self.factor <= own.factor:
            length = "" if own.trained is None else f" of {own.trained:,} tokens"
            raise ConfigError(
                f"context.factor: {self.factor:g} given, but {where} is {own.kind} already, with {own.factor:g} times "
                f"the length{length} before it. Take more than that, or context=none."
            )
        return own.model_copy(update={"factor": self.factor})

    def applied(self, parts: Parts, trained: int | None) -> Parts:
        scalings = {}
        for name, mixer in self.rotated(parts).items():
            where = f"architecture.layers.{name}.mixer.scaling"
            scalings[name] = self.scaling(trained) if mixer.scaling is None else self.farther(mixer.scaling, where)
        return parts.with_mixers(
            lambda name, mixer: mixer.model_copy(update={"scaling": scalings[name]}) if name in scalings else mixer
        )


class InterpolationContext(_Slower):
    """Position interpolation."""

    kind: Literal["interpolation"] = "interpolation"

    def scaling(self, trained: int | None) -> Scaling:
        return Interpolation(factor=self.factor, trained=trained)


class NTKContext(_Slower):
    """A larger base of the rotary frequencies."""

    kind: Literal["ntk"] = "ntk"

    def scaling(self, trained: int | None) -> Scaling:
        return NTK(factor=self.factor, trained=trained)


class YaRNContext(_Slower):
    """Pairs that turn seldom are interpolated."""

    kind: Literal["yarn"] = "yarn"
    trained: int | None = Field(
        None, ge=1, le=LONGEST, description="tokens that the model was trained on; null: what it says"
    )
    fast: float = Field(32.0, gt=0, description="turns within them from which on a pair is kept")
    slow: float = Field(1.0, gt=0, description="turns up to which a pair is interpolated")
    temperature: float | None = Field(
        None, gt=0, le=SHARPEST, description="what queries and keys are multiplied by; null: 0.1 ln(factor) + 1"
    )

    def scaling(self, trained: int | None) -> Scaling:
        given = {"factor": self.factor, "fast": self.fast, "slow": self.slow, "temperature": self.temperature}
        return read(YaRN, {**given, "trained": _known(self.trained, trained)}, "context")

    def farther(self, own: ScalingConfig, where: str) -> Scaling:
        found = super().farther(own, where)
        assert isinstance(own, YaRN)
        for key in ("trained", "fast", "slow"):
            given, before = getattr(self, key), getattr(own, key)
            if given not in (None, before):
                raise ConfigError(
                    f"context.{key}: {given:g} given, but {where}.{key} is {before:g}, as the model was trained. Take "
                    "that."
                )
        if own.temperature is not None and self.temperature is None:
            raise ConfigError(
                f"context.temperature: null given, but {where}.temperature is {own.temperature:g}, for its factor of "
                f"{own.factor:g}. Name that of {self.factor:g}."
            )
        return found.model_copy(update={"temperature": self.temperature})


class _Moved(_Context):
    """Queries and keys stand elsewhere."""

    trained: int | None = Field(
        None, ge=4, le=LONGEST, description="tokens that the model was trained on; null: what it says"
    )

    @abc.abstractmethod
    def extension(self, trained: int | None) -> Extension:
        """How."""

    def applied(self, parts: Parts, trained: int | None) -> Parts:
        found = self.rotated(parts)
        far = {name for name, mixer in found.items() if mixer.bounded() is None}
        if not far:
            name, mixer = next(iter(found.items()))
            raise ConfigError(
                f"context.kind: '{self.kind}' brings far tokens near, and '{_kind(mixer)}' sees none from far, in a "
                f"text of any length: architecture.layers.{name}.mixer.{mixer.bounded()} Use context=none."
            )
        extension = self.extension(trained)
        return parts.with_mixers(
            lambda name, mixer: mixer.model_copy(update={"extension": extension}) if name in far else mixer
        )


class DualChunkContext(_Moved):
    """Positions begin anew in each chunk."""

    kind: Literal["dual_chunk"] = "dual_chunk"
    chunk: int | None = Field(
        None, ge=2, le=LONGEST, description="the longest distance; null: 3/4 of the trained length"
    )
    window: int | None = Field(
        None, ge=1, le=LONGEST, description="tokens with exact distances; null: 1/8 of the trained length"
    )

    def extension(self, trained: int | None) -> Extension:
        chunk, window = self.chunk, self.window
        if chunk is None or window is None:
            length = _known(self.trained, trained)
            chunk = max(2, length * 3 // 4) if chunk is None else chunk
            window = max(1, length // 8) if window is None else window
        return read(DualChunk, {"chunk": chunk, "window": window}, "context")


class SelfExtendContext(_Moved):
    """Far tokens share positions in groups."""

    kind: Literal["self_extend"] = "self_extend"
    factor: float = Field(4.0, ge=1, le=FARTHEST, description="how many times the trained length, where group is null")
    window: int | None = Field(
        None, ge=1, le=LONGEST, description="newest tokens that keep their positions; null: 1/4 of trained"
    )
    group: int | None = Field(
        None, ge=1, le=LONGEST, description="far tokens at one position; null: as few as the factor needs"
    )

    def extension(self, trained: int | None) -> Extension:
        window, group = self.window, self.group
        if window is None or group is None:
            length = _known(self.trained, trained)
            window = max(1, length // 4) if window is None else window
            if window >= length:
                raise ConfigError(f"context.window: {window} given, less than the {length} trained tokens is needed.")
            far = int(self.factor * length) - window
            group = max(1, -(-far // (length - window))) if group is None else group
        return read(SelfExtend, {"window": window, "group": group}, "context")


class SinksContext(_Context):
    """The first tokens and the newest ones, at their places in the cache (StreamingLLM)."""

    kind: Literal["sinks"] = "sinks"
    trained: int | None = Field(
        None, ge=4, le=LONGEST, description="tokens that the model was trained on; null: what it says"
    )
    initial: int = Field(4, ge=0, description="tokens at the document's start that stay")
    capacity: int | None = Field(None, ge=1, description="tokens that stay, the first included; null: what trained has")
    segment: int | None = Field(
        None,
        ge=1,
        description="tokens after which the oldest are dropped; 1: at each; null: 1/8 of trained, at most 64",
    )

    def applied(self, parts: Parts, trained: int | None) -> Parts:
        self.softmax(parts, keyed=True)
        if parts.memory is not None:
            raise ConfigError(
                f"context.kind: 'sinks' is a memory, and '{parts.memory.name}' is there already. Use memory=none, "
                "or context=none."
            )
        capacity, segment = self.capacity, self._segment(parts, trained)
        if capacity is None:
            capacity = _known(self.trained, trained) - segment
            if capacity <= self.initial:
                raise ConfigError(
                    f"context.segment: {segment} and initial = {self.initial} leave no room in the "
                    f"{capacity + segment} trained tokens. Take smaller ones."
                )
        given = {"name": "sinks", "paper": "arxiv.org/abs/2309.17453", "keep": "sinks", "position": "index"}
        sizes = {"capacity": capacity, "initial": self.initial, "segment": segment}
        return replace(parts, memory=read(KeyValueMemoryConfig, {**given, **sizes}, "context"))

    def _segment(self, parts: Parts, trained: int | None) -> int:
        """Tokens after which the oldest are dropped: no more than every layer sees before each token."""
        mixers = parts.decoder.mixers()
        reaches = [
            mixer.reach(layer, len(mixers)) for layer, mixer in enumerate(mixers) if isinstance(mixer, KeyedSettings)
        ]
        most = min((reach + 1 for reach in reaches if reach is not None), default=None)
        if self.segment is None:
            segment = min(64, max(1, _known(self.trained, trained) // 8))
            return segment if most is None else min(segment, most)
        if most is not None and self.segment > most:
            raise ConfigError(
                f"context.segment: {self.segment} given, and a layer sees {most - 1} tokens before each for certain: "
                f"some would be lost between it and what stays. At most {most}."
            )
        return self.segment


class ParallelContext(_Context):
    """Prompts are read in windows side by side; see `farfield.windows`."""

    kind: Literal["parallel"] = "parallel"
    trained: int | None = Field(
        None, ge=4, le=LONGEST, description="tokens that the model was trained on; null: what it says"
    )
    window: int | None = Field(None, ge=2, description="the most tokens of a window; null: 3/4 of the trained length")
    task: int = Field(64, ge=1, description="last tokens of a prompt, which see all windows")
    shared: int | None = Field(
        None,
        ge=0,
        description="first tokens, which stand before every window and count once; null: what texts begin with",
    )

    def applied(self, parts: Parts, trained: int | None) -> Parts:
        if parts.memory is not None:
            raise ConfigError(
                f"context.kind: 'parallel' reads windows that know nothing of each other, and memory "
                f"'{parts.memory.name}' goes on from one to the next. Use memory=none."
            )
        for index, mixer in enumerate(parts.decoder.mixers()):
            reason = mixer.joins()
            if reason is not None:
                raise ConfigError(
                    f"context.kind: 'parallel' joins the keys of windows, which those of layer {index} cannot be: "
                    f"{reason}. Layers that do: 'attention' with position rope or none, without a convolution."
                )
        window = _known(self.trained, trained) * 3 // 4 if self.window is None else self.window
        given = {"window": window, "task": self.task, "shared": self.shared or 0}
        return replace(parts, windows=read(ParallelWindows, given, "context"))


ContextConfig = Annotated[
    InterpolationContext
    | NTKContext
    | YaRNContext
    | DualChunkContext
    | SelfExtendContext
    | SinksContext
    | ParallelContext,
    Field(discriminator="kind"),
]


def stretched(model: LanguageModel, context: ContextConfig | None, trained: int | None = None) -> LanguageModel:
    """A model with the weights of `model`, which are shared, that reads by `context`; in the same mode.

    Args:
        model: what it is made of; it stays as it is. context: None for nothing.
        trained: tokens that the model was trained on, for what the context leaves open.

    Raises:
        ConfigError: the context does not fit the layers. ModelError: the model reads neighbours, not windows.
    """
    if context is None:
        return model
    config = model.config
    parts = context.applied(Parts(config.architecture, config.memory), trained)
    if parts.memory is not config.memory:
        return retrofit(model, parts.memory)
    if parts.windows is not None and config.neighbours is not None:
        raise ModelError("context.kind: 'parallel' given, and the model reads neighbours chunk by chunk. Use another.")
    mapping = {**config.mapping(), "architecture": parts.architecture.mapping()}
    # Weights that are all replaced take no memory, and none of the caller's random numbers.
    with torch.random.fork_rng(devices=[]), Unallocated():
        made = LanguageModel(read(ModelConfig, mapping))
    learn = [parameter.requires_grad for parameter in model.parameters()]
    made.load_state_dict(model.state_dict(keep_vars=True), assign=True)
    for parameter, learns in zip(made.parameters(), learn, strict=True):  # what loading has set anew
        parameter.requires_grad_(learns)
    made.windows = parts.windows
    return made.train(model.training)


def by_context(model: LanguageModel, context: ContextConfig | None, info: Mapping[str, Any]) -> LanguageModel:
    """As `stretched`, with what `farfield.load` tells of the model for what the context leaves open."""
    if isinstance(context, ParallelContext) and context.shared is None:
        context = context.model_copy(update={"shared": 0 if info.get("begin") is None else 1})
    return stretched(model, context, trained_length(info))


def beside(
    context: ContextConfig | None, base: ModelConfig, own: ModelConfig, trained: int | None
) -> ContextConfig | None:
    """What of `context` is still to be done to a model that an adapter, or its context, has made `own` out of `base`.

    Raises:
        ConfigError: the adapter was learnt in another context.
    """
    held = isinstance(own.memory, KeyValueMemoryConfig) and own.memory.keep == "sinks"
    if context is None or (own.architecture == base.architecture and (not held or own.memory == base.memory)):
        return context
    try:
        parts = context.applied(Parts(base.architecture, base.memory if held else own.memory), trained)
    except ConfigError:
        parts = None
    if parts is None or parts.windows is not None or parts != Parts(own.architecture, own.memory):
        raise ConfigError(
            f"context.kind: '{context.kind}' given, and the adapter brings the context that it was learnt in, which is "
            "another one. Leave it out."
        )
    return None


def unstretched(architecture: ArchitectureConfig) -> ArchitectureConfig:
    """The layers as they were before any context changed where their tokens stand: weights fit those that are alike."""
    if not isinstance(architecture, DecoderConfig):
        return architecture
    plain = {"scaling": None, "extension": None}
    parts = Parts(architecture, None).with_mixers(
        lambda _, mixer: mixer.model_copy(update={name: plain[name] for name in plain if hasattr(mixer, name)})
    )
    return parts.architecture


def trained_length(info: Mapping[str, Any]) -> int | None:
    """Tokens of the rows that a model was trained on, by what `farfield.load` tells of it; None: unknown."""
    data = info.get("config", {}).get("data", {})
    shares = [share["length"] for share in data.get("mixture", ())] or data.get("suite", {}).get("lengths", [])
    found: int | None = max(shares) if data.get("kind") == "suite" and shares else data.get("length")
    return found
