"""The settings of each command, made of the parts' own: what `farfield.compose` composes is read into these.

    read(TrainSettings, compose("train", ["architecture=retnet", "size=tiny", "data=needle"]))

Reading them may import torch, for the architectures are among them, but never lightning; no file is opened.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from farfield.adapters import AdapterConfig
from farfield.architectures.architecture import ArchitectureConfig
from farfield.architectures.encoders.stack import EncoderConfig
from farfield.augmentation import AugmentedTraining, NeighboursTraining, OutputTraining, PromptTraining
from farfield.benchmarks.settings import (
    EndpointConfig,
    HuggingFaceConfig,
    Suite,
    endpoint_mistake,
    kind_of,
    url_mistake,
    url_name,
)
from farfield.config import Config
from farfield.context import ContextConfig, ParallelContext
from farfield.data.facts import FactsData
from farfield.data.objective import MaskedConfig, NextTokenConfig, ObjectiveConfig
from farfield.data.settings import DataConfig
from farfield.data.text import TextData
from farfield.generation import GenerationConfig
from farfield.huggingface.settings import ChatConfig, OwnFolderConfig
from farfield.memory import AmortizedContextsConfig, MemoryConfig
from farfield.model import check_augmentation, check_memory
from farfield.retrieval.filters import Scalar
from farfield.retrieval.prompt import PLACELESS, PromptConfig
from farfield.retrieval.settings import IngestConfig as IngestSettings
from farfield.retrieval.settings import RetrievalConfig
from farfield.sessions import SessionsConfig
from farfield.training.options import TrainingConfig

__all__ = [
    "DeviceConfig",
    "EvaluateSettings",
    "ExportSettings",
    "IngestSettings",
    "QuerySettings",
    "ReportSettings",
    "SpeedSettings",
    "TrainSettings",
]


def _name(name: str) -> str:
    """A name that is one folder below another, wherever it comes from."""
    if not re.fullmatch(r"\w[\w.=+,-]{0,199}", name):
        raise ValueError(
            f"'{name}' names no folder. Use letters, digits, '_', '-', '.', '=', beginning with a letter or digit."
        )
    return name


def _spelled(name: object) -> object:
    """A name that reads as a number, 2026, is a name."""
    return str(name) if type(name) is int else name


Name = Annotated[str, BeforeValidator(_spelled), AfterValidator(_name)]
Text = Annotated[str, Field(min_length=1)]


class DeviceConfig(Config):
    """Where and in what precision a trained model runs."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
    threads: int | None = Field(None, ge=1, le=1024, description="threads of the CPU; null: PyTorch's choice")

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}[self.precision]


class TrainSettings(Config):
    """`farfield train`. With a `start`, weights begin as those of another run, whose memory may be another."""

    name: Name
    root: Text = "runs"
    seed: int = Field(0, ge=0, lt=2**63)
    resume: bool = False
    start: Text | None = None
    architecture: ArchitectureConfig
    memory: MemoryConfig | None = None
    context: ContextConfig | None = None
    adapter: AdapterConfig | None = None
    augmentation: AugmentedTraining | None = None
    objective: ObjectiveConfig | None = None
    data: DataConfig
    training: TrainingConfig = TrainingConfig()

    @property
    def learnt(self) -> NextTokenConfig | MaskedConfig:
        """The objective; where none is given, what the architecture is for."""
        if self.objective is not None:
            return self.objective
        return MaskedConfig() if isinstance(self.architecture, EncoderConfig) else NextTokenConfig()

    @model_validator(mode="after")
    def _fit(self) -> TrainSettings:
        try:
            check_memory(self.architecture, self.memory)
            if self.augmentation is not None:
                _check_augmentation(self.augmentation, self.architecture, self.memory, self.data)
            _check_objective(self.architecture, self.learnt)
            _check_context(self.context, self.memory, self.start)
            _check_length(self.architecture, self.data.length)
            if isinstance(self.data, FactsData):
                _check_sets(self.data, self.memory, self.training)
        except ValueError as error:
            raise ValueError(f".{error}") from None  # a path of its own: see farfield.config
        return self


def _check_objective(architecture: ArchitectureConfig, objective: NextTokenConfig | MaskedConfig) -> None:
    """Raise ValueError where a model would see what it is to predict, or could not see what it needs."""
    if isinstance(architecture, EncoderConfig) and isinstance(objective, NextTokenConfig):
        raise ValueError("objective: a bidirectional architecture sees the next token. Use objective=masked.")
    if not isinstance(architecture, EncoderConfig) and isinstance(objective, MaskedConfig):
        raise ValueError(
            "objective: masked tokens are told by both sides, and this architecture reads from left to right. Use "
            "objective=next_token, or a bidirectional architecture."
        )


def _check_context(context: ContextConfig | None, memory: MemoryConfig | None, start: str | None) -> None:
    """Raise ValueError where a context has no trained model to stretch, or nothing that is learnt."""
    if context is None:
        return
    if isinstance(context, ParallelContext):
        raise ValueError("context.kind: 'parallel' is how prompts are read, and training has none. Leave it out.")
    if start is None:
        raise ValueError(f"context.kind: '{context.kind}' is for a trained model. Add start=<a run>.")
    if context.kind == "sinks" and memory is not None:
        raise ValueError(f"memory.name: '{memory.name}' given, and context=sinks is a memory. Give one of them.")


def _check_length(architecture: ArchitectureConfig, length: int) -> None:
    """Raise ValueError where rows are longer than the architecture can read."""
    longest = architecture.longest if isinstance(architecture, EncoderConfig) else None
    if longest is not None and length > longest:
        raise ValueError(f"data.length: {length} tokens given, but the architecture reads at most {longest}.")


def _check_augmentation(
    augmentation: NeighboursTraining | PromptTraining | OutputTraining,
    architecture: ArchitectureConfig,
    memory: MemoryConfig | None,
    data: DataConfig,
) -> None:
    """Raise ValueError where passages have no texts to be found for, or nobody who would read them."""
    check_augmentation(architecture, memory, augmentation.model)
    kind = augmentation.kind
    if isinstance(architecture, EncoderConfig):
        raise ValueError(
            f"augmentation.kind: '{kind}' puts passages before what is predicted, and a bidirectional architecture "
            "predicts what was hidden. Use augmentation=none."
        )
    if not isinstance(data, TextData):
        raise ValueError(
            f"augmentation.kind: '{kind}' finds passages for texts, and this data has none. Use data=text."
        )
    if isinstance(augmentation, PromptTraining) and data.order == "streams":
        raise ValueError(
            "augmentation.kind: 'prompt' puts passages before rows, and those of streams go on with a past. Use "
            "data.order=shuffled, or augmentation=neighbours."
        )


def _check_sets(data: FactsData, memory: MemoryConfig | None, training: TrainingConfig) -> None:
    """Raise ValueError where sets of documents have nowhere to go, or rows that ask them would lose them."""
    if not isinstance(memory, AmortizedContextsConfig):
        name = memory.name if memory else "none"
        raise ValueError(f"memory.name: '{name}' keeps no sets of documents, and this data has them. Use memory=mac.")
    entries = data.documents[1] * -(-data.length // memory.segment) + 1
    if entries * memory.tokens > memory.limit:
        raise ValueError(
            f"memory.limit: {memory.limit} given, but {data.documents[1]} documents and a question leave "
            f"{entries * memory.tokens} vectors. At least as many."
        )
    for name, given in (("fill", training.fill), ("cut", training.cut)):
        if given:
            raise ValueError(f"training.{name}: {given} given, but rows that ask sets of documents are read whole.")


class EvaluateSettings(Config):
    """`farfield evaluate`. Without a name, results are called as the model is.

    The model is one of Farfield's, of Hugging Face, an endpoint's, or none: see
    `farfield.benchmarks.subjects.subject_settings`.
    A `memory` that is given, none included, stands in the place of the one that the model was trained with.
    """

    name: Name | None = None
    label: Name | None = Field(None, description="stands behind the name; a sweep over other settings makes one")
    root: Text = "results"
    model: Text | None = None
    memory: MemoryConfig | None = None
    context: ContextConfig | None = None
    adapter_file: Text | None = Field(None, description="an adapter that was learnt beside the model's weights")
    suite: Suite
    device: DeviceConfig = DeviceConfig()
    processes: int = Field(1, ge=1, le=256, description="processes that work off a suite that asks, each with a model")
    retries: int = Field(3, ge=0, le=100, description="how often a model that cannot answer for now is asked again")
    endpoint: EndpointConfig = EndpointConfig()
    hf: HuggingFaceConfig = HuggingFaceConfig()

    @model_validator(mode="after")
    def _askable(self) -> EvaluateSettings:
        if self.model is None and self.suite.needs_model:
            raise ValueError(
                f".model: null given, and the suite {self.suite.name} asks a model. Add model=runs/<name>, the folder "
                "of a Hugging Face model, or the URL of an endpoint."
            )
        wrong = url_mistake(self.model) if self.kind == "endpoint" and self.model else None
        if wrong:
            raise ValueError(f".model: {wrong}")
        unread = endpoint_mistake(self.model, self.hf) if self.kind == "endpoint" and self.model else None
        if unread:
            raise ValueError(f".hf{unread}")
        if self.kind == "endpoint" and self.processes > 1:
            raise ValueError(
                f".processes: {self.processes} given, and an endpoint is asked by one. Use endpoint.concurrency."
            )
        if self.remembered != "trained" and (self.kind == "endpoint" or self.hf.layers == "transformers"):
            raise ValueError(f".memory: memories go into our own layers, and {self.model} has none. Leave it out.")
        if self.context is not None and (self.kind == "endpoint" or self.hf.layers == "transformers"):
            raise ValueError(f".context: our own layers read by it, and {self.model} has none. Leave it out.")
        if self.adapter_file is not None and (self.kind == "endpoint" or self.hf.layers == "transformers"):
            raise ValueError(f".adapter_file: read by our own layers, and {self.model} has none. Leave it out.")
        return self

    @property
    def kind(self) -> Literal["farfield", "huggingface", "endpoint"]:
        """What kind of model is asked."""
        if self.model is None:
            return "farfield"
        hub = self.hf.online and not Path(self.model).expanduser().exists()
        return "huggingface" if hub and kind_of(self.model) == "farfield" else kind_of(self.model)

    @property
    def folder(self) -> PurePath:
        """Where results go: <root>/<name>."""
        name = self.name or self._called() or "model"
        return PurePath(self.root) / (name if self.label is None else f"{name}-{self.label}")

    def _called(self) -> str:
        """The model's name; of a checkpoint the run's too, of an endpoint the name that it goes by there."""
        if self.model is None:
            return self.suite.name
        if self.kind == "endpoint":
            return url_name(self.model, self.endpoint.model)
        called = _called(PurePath(self.model))
        if self.adapter_file is not None:
            called = "-".join(part for part in (called, _called(PurePath(self.adapter_file))) if part)
        if self.remembered != "trained":
            called = "-".join(part for part in (called, self.memory.name if self.memory else "none") if part)
        return called if self.context is None else "-".join(part for part in (called, self.context.kind) if part)

    @property
    def remembered(self) -> MemoryConfig | Literal["trained"] | None:
        """The memory that the model gets; trained: its own."""
        return self.memory if "memory" in self.model_fields_set else "trained"


def _called(file: PurePath) -> str:
    """A model's name, or a file's: runs/<name>/checkpoints/last.ckpt and runs/<name>/last.safetensors as the run's."""
    if file.suffix not in (".ckpt", ".safetensors"):
        return file.name
    run = file.parent.parent if file.parent.name == "checkpoints" else file.parent
    return "-".join(part for part in (run.name, file.stem) if part)


class ExportSettings(Config):
    """`farfield export`: a trained model as a folder of Hugging Face."""

    model: Text
    adapter_file: Text | None = Field(None, description="an adapter that was learnt beside the model's weights")
    to: Text
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    shard: int = Field(2 << 30, ge=1 << 20, description="the most bytes of weights in one file")
    hf: OwnFolderConfig = OwnFolderConfig()

    @property
    def dtype(self) -> torch.dtype | None:
        """Of the weights; None: as they are stored."""
        kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        return None if self.precision is None else kinds[self.precision]


class StepConfig(Config):
    """The shape of the models whose training steps are measured, which is Llama's; the head is tied."""

    depth: int = Field(4, ge=1)
    width: int = Field(256, ge=2)
    inner: int = Field(688, ge=1, description="inner width of the feed-forwards")
    heads: int = Field(4, ge=1)
    vocabulary: int = Field(8192, ge=2)
    length: int = Field(2048, ge=2, description="tokens of a row")
    batch: int = Field(4, ge=1, description="rows")
    compile: bool = Field(False, description="whether each model is measured compiled too: minutes of compiling")
    curve: int = Field(36, ge=0, description="steps of the loss curves")
    curve_length: int = Field(512, ge=2, description="tokens of a row there")

    @model_validator(mode="after")
    def _divides(self) -> StepConfig:
        _check_heads(self.width, self.heads)
        return self


class DecodingConfig(Config):
    """The shape of the models whose decoding is measured; by default 110 million weights."""

    depth: int = Field(12, ge=1)
    width: int = Field(768, ge=2)
    inner: int = Field(2048, ge=1, description="inner width of the feed-forwards")
    heads: int = Field(12, ge=1)
    vocabulary: int = Field(32000, ge=2)
    length: int = Field(512, ge=1, description="tokens before the one that is measured")
    batch: int = Field(1, ge=1, description="rows")

    @model_validator(mode="after")
    def _divides(self) -> DecodingConfig:
        _check_heads(self.width, self.heads)
        return self


def _check_heads(width: int, heads: int) -> None:
    if width % (2 * heads):
        raise ValueError(f".heads: {heads} given, and the width {width} is not so many heads of even width.")


class SpeedSettings(Config):
    """`farfield speed`."""

    name: Name = "speed"
    root: Text = "results"
    seed: int = Field(0, ge=0, lt=2**63)
    what: tuple[Literal["mixers", "decoder", "step", "decoding"], ...] = Field(("mixers", "decoder"), min_length=1)
    mixers: tuple[str, ...] | None = Field(None, min_length=1)
    architectures: tuple[str, ...] = Field(("attention", "longformer", "retnet"), min_length=1)
    width: int = Field(256, ge=2)
    heads: int = Field(4, ge=1)
    depth: int = Field(4, ge=1)
    measures: tuple[Literal["train", "prefill", "decode"], ...] = Field(("train", "prefill", "decode"), min_length=1)
    lengths: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    batch: int = Field(1, ge=1)
    repeats: int = Field(3, ge=1)
    peers: bool = True
    limit: float = Field(12.0, gt=0)
    threads: tuple[Annotated[int, Field(ge=1, le=1024)], ...] | None = Field(None, min_length=1)
    step: StepConfig = StepConfig()
    decoding: DecodingConfig = DecodingConfig()
    device: DeviceConfig = DeviceConfig()

    @model_validator(mode="after")
    def _consistent(self) -> SpeedSettings:
        if "mixers" in self.what:
            _check_heads(self.width, self.heads)
        if self.threads is not None and self.device.threads is not None:
            raise ValueError(".threads: given, and device.threads too. Give one of them.")
        return self


WRITE_IT = "Write it behind the verb: farfield query 'Who signs for it?' index=handbook"


class QuerySettings(Config):
    """`farfield query`. Without a model the answer is the passages alone; without an index it has no sources.

    With a folder of sessions, a session goes on where it stopped, and a document is read once. With documents, or a
    bank of them, the question asks the model's memory of amortized contexts. A model that reads neighbours is given
    those of the database that is named, or of the one it was trained with; what a datastore finds is mixed into the
    answer, where one is named or was trained with. A question may be missing where somebody sits at a terminal.
    """

    question: str | None = None
    model: Text | None = None
    memory: MemoryConfig | None = None
    context: ContextConfig | None = None
    adapter_file: Text | None = Field(None, description="an adapter that was learnt beside the model's weights")
    index: Text | None = None
    root: Text = "indexes"
    document: Text | None = None
    documents: Text | None = None
    bank: Text | None = None
    neighbours: Text | None = None
    augmentation: OutputTraining | None = None
    session: Name | None = None
    sessions: Text | None = None
    store: SessionsConfig = SessionsConfig()
    where: dict[str, Scalar | tuple[Scalar, ...]] = Field(default_factory=dict)
    explain: bool = False
    retrieval: RetrievalConfig = RetrievalConfig()
    prompt: PromptConfig = PromptConfig()
    generation: GenerationConfig = GenerationConfig(stop=("\n",))
    device: DeviceConfig = DeviceConfig()
    hf: ChatConfig = ChatConfig()

    @property
    def remembered(self) -> MemoryConfig | Literal["trained"] | None:
        """The memory that the model gets; trained: its own."""
        return self.memory if "memory" in self.model_fields_set else "trained"

    @property
    def mixed(self) -> OutputTraining | Literal["trained"] | None:
        """The datastore that is mixed in; trained: that of the model's training."""
        return self.augmentation if "augmentation" in self.model_fields_set else "trained"

    @field_validator("augmentation", mode="before")
    @classmethod
    def _mixes(cls, given: Any) -> Any:
        kind = given.get("kind", "output") if isinstance(given, dict) else "output"
        if kind != "output":
            raise ValueError(
                f".kind: '{kind}' given. Here it is output or none; what a model trained with '{kind}' reads is named "
                "by neighbours=<folder>, its training's own if not."
            )
        return given

    @field_validator("question")
    @classmethod
    def _asked(cls, question: str | None) -> str | None:
        if question is not None and not question.strip():
            raise ValueError(f"nothing is asked. {WRITE_IT}")
        return None if question is None else question.strip()

    @model_validator(mode="after")
    def _answerable(self) -> QuerySettings:
        if self.model is None and self.index is None:
            raise ValueError(
                ".model: neither a model nor an index is given. Add model=runs/<name>, index=<name>, or both."
            )
        read = ("adapter_file", "document", "documents", "bank", "neighbours", "sessions", "session")
        for name, given in ((name, getattr(self, name)) for name in read):
            if given is not None and self.model is None:
                raise ValueError(f".{name}: '{given}' given, but no model that would read it. Add model=runs/<name>.")
        for name, given in (("document", self.document), ("sessions", self.sessions), ("index", self.index)):
            if given is not None and (self.documents is not None or self.bank is not None):
                raise ValueError(f".{name}: '{given}' given, and a bank of documents is asked. Give one of them.")
        if self.neighbours is not None and self.sessions is not None:
            raise ValueError(
                f".neighbours: '{self.neighbours}' given, and sessions, which keep none. Give one of them."
            )
        if self.context is not None and self.model is None:
            raise ValueError(
                f".context: '{self.context.kind}' given, but no model that would read by it. Add model=runs/<name>."
            )
        if isinstance(self.context, ParallelContext) and self.sessions is not None:
            raise ValueError(
                f".sessions: '{self.sessions}' given, which go on where they stopped, and context=parallel reads whole "
                "prompts. Give one of them."
            )
        if self.index is not None and self.model is not None and not self.prompt.shows_passages:
            raise ValueError(f".{PLACELESS}")
        if self.hf.chat and (self.model is None or self.sessions is not None):
            why = "no model that is asked" if self.model is None else "sessions, whose turns have no template"
            raise ValueError(f".hf.chat: true given, and {why}. Leave it out.")
        if self.session is not None and self.sessions is None:
            raise ValueError(f".session: '{self.session}' given, but nowhere to keep it. Add sessions=<folder>.")
        if self.sessions is not None and self.session is None and self.document is None:
            raise ValueError(
                f".sessions: '{self.sessions}' given, but nothing to keep there. Add session=<name>, document=<file>, "
                "or both."
            )
        return self


class ReportSettings(Config):
    """`farfield report`."""

    results: tuple[Text, ...] = Field(("results",), min_length=1)
    compare: tuple[Text, Text] | None = None
    out: Text | None = None
    threshold: float = Field(0.856, ge=0, le=1)

    @field_validator("results", mode="before")
    @classmethod
    def _listed(cls, given: object) -> object:
        """One place is a list of one; a tuple in any case, for JSON has none."""
        return (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list) else given

    @field_validator("compare", mode="before")
    @classmethod
    def _two(cls, given: object) -> object:
        places = (given,) if isinstance(given, str) else given
        if isinstance(places, list | tuple) and len(places) != 2:
            said = f"{len(places) or 'no'} value{'s' * (len(places) > 1)}"
            raise ValueError(f"{said} given. Give two: compare=first,second.")
        return tuple(places) if isinstance(places, list) else places
