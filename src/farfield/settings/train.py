"""The settings of `farfield train`."""

from __future__ import annotations

from pydantic import Field, model_validator

from farfield.adapters import AdapterConfig
from farfield.architectures.architecture import ArchitectureConfig
from farfield.architectures.encoders.stack import EncoderConfig
from farfield.augmentation import AugmentedTraining, NeighboursTraining, OutputTraining, PromptTraining
from farfield.config import Config
from farfield.context import ContextConfig, ParallelContext
from farfield.data.facts import FactsData
from farfield.data.objective import MaskedConfig, NextTokenConfig, ObjectiveConfig
from farfield.data.settings import DataConfig
from farfield.data.text import TextData
from farfield.memory import AmortizedContextsConfig, MemoryConfig
from farfield.model import check_augmentation, check_memory
from farfield.settings.names import Name, Text
from farfield.training.options import TrainingConfig

__all__ = ["TrainSettings"]


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
