"""The settings of `farfield query`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from farfield.augmentation import OutputTraining
from farfield.config import Config
from farfield.context import ContextConfig, ParallelContext
from farfield.generation import GenerationConfig
from farfield.huggingface.settings import ChatConfig
from farfield.memory import MemoryConfig
from farfield.retrieval.filters import Scalar
from farfield.retrieval.prompt import PLACELESS, PromptConfig
from farfield.retrieval.settings import RetrievalConfig
from farfield.sessions import SessionsConfig
from farfield.settings.device import DeviceConfig
from farfield.settings.names import Name, Text

__all__ = ["WRITE_IT", "QuerySettings"]


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
