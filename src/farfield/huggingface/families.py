"""Families of Hugging Face models that our layers cover, by their `model_type`.

    family = FAMILIES[given.choice("model_type", tuple(FAMILIES))]
    config = family.model(given)            # config.json to our settings
    pieces = family.pieces(config)          # which weights of ours are which of theirs
    values = family.config(config)          # and the settings back

A family is a module with a class of one instance here; what it cannot say it refuses, naming the key or the setting.
"""

from __future__ import annotations

from typing import Any, Protocol

from farfield.config import ModelError
from farfield.huggingface.given import Given
from farfield.huggingface.jamba import JAMBA
from farfield.huggingface.mambas import MAMBA, MAMBA2
from farfield.huggingface.softmax import LLAMA, MISTRAL, QWEN2, QWEN3
from farfield.huggingface.weights import Piece
from farfield.model import ModelConfig

__all__ = ["FAMILIES", "Family", "family_of"]


class Family(Protocol):
    """One `model_type`: its config.json, and the names of its weights."""

    @property
    def name(self) -> str:
        """The `model_type`."""

    @property
    def architecture(self) -> str:
        """The class of transformers: what stands in `architectures`."""

    @property
    def mixers(self) -> frozenset[str]:
        """The kinds of our mixers that its layers are made of."""

    @property
    def dropped(self) -> tuple[str, ...]:
        """Ends of names of tensors that files may hold and no model reads, such as rotary frequencies."""

    def model(self, given: Given) -> ModelConfig:
        """Our settings.

        Raises:
            ModelError: what is missing, of a wrong type, or not supported, by its key.
        """

    def config(self, model: ModelConfig) -> dict[str, Any]:
        """What config.json says of the model, without ids of tokens, its trained length and the dtype.

        Raises:
            ModelError: what the family cannot say, by its setting.
        """

    def pieces(self, model: ModelConfig) -> list[Piece]:
        """Our weights as parts of theirs: each of ours is covered once, each of theirs named once."""


FAMILIES: dict[str, Family] = {family.name: family for family in (LLAMA, MISTRAL, QWEN2, QWEN3, MAMBA, MAMBA2, JAMBA)}


def family_of(model: ModelConfig, first: str | None = None) -> Family:
    """The family that has a word for each setting of the model; `first` is tried before the others.

    Raises:
        ModelError: none has, with the setting that the most likely one lacks.
    """
    layers = zip(model.decoder.mixers(), model.decoder.names(), strict=True)
    kinds = {str(getattr(mixer, "kind", type(mixer).__name__)): name for mixer, name in layers}
    known = sorted({kind for family in FAMILIES.values() for kind in family.mixers})
    fitting = [family for family in FAMILIES.values() if kinds.keys() <= family.mixers]
    if not fitting:
        kind = next((one for one in kinds if one not in known), "+".join(kinds))
        where = f"architecture.layers.{kinds.get(kind, next(iter(kinds.values())))}.mixer.kind"
        raise ModelError(
            f"{where}: '{kind}' given; no family of Hugging Face here has such layers. Known: {', '.join(known)}."
        )
    refused = []
    for family in sorted(fitting, key=lambda one: one.name != first):
        try:
            family.config(model)
        except ModelError as error:
            refused.append(error)
        else:
            return family
    raise refused[0]
