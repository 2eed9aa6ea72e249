"""The settings of `farfield evaluate`."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Literal

from pydantic import Field, model_validator

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
from farfield.context import ContextConfig
from farfield.memory import MemoryConfig
from farfield.settings.device import DeviceConfig
from farfield.settings.names import Name, Text

__all__ = ["EvaluateSettings"]


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
