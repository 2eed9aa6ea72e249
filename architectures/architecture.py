"""An architecture is one of two: a stack that reads from left to right, or one that reads whole documents.

`bidirectional: true` says which; everything else of an architecture is the same for both.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Discriminator, Tag

from farfield.architectures import mixer_kinds
from farfield.architectures.decoder import DecoderConfig
from farfield.architectures.encoders import encoder_kinds
from farfield.architectures.encoders.stack import EncoderConfig
from farfield.config import ConfigError

__all__ = ["ArchitectureConfig"]


def _tag(value: Any) -> str:
    """The name of the class that `value`, a mapping or settings, is to be read as.

    Raises:
        ConfigError: a mixer of the other direction, or a setting that only the other direction of its kind has. It is
            told here, where both are known; the field of the model is called `architecture` wherever it stands.
    """
    given = value if isinstance(value, dict) else {}
    told = given.get("bidirectional", getattr(value, "bidirectional", False))
    layers = given.get("layers")
    for name, layer in layers.items() if isinstance(layers, dict) else ():
        mixer = layer.get("mixer") if isinstance(layer, dict) else None
        if isinstance(mixer, dict) and isinstance(mixer.get("kind"), str):
            _check_direction(f"architecture.layers.{name}.mixer", mixer, told is True)
    return EncoderConfig.__name__ if told is True else DecoderConfig.__name__


def _check_direction(path: str, mixer: dict[str, Any], bidirectional: bool) -> None:
    """Raise ConfigError where the settings of a mixer are those of the other direction."""
    causal: dict[str, type[BaseModel]] = dict(mixer_kinds())
    both_ways: dict[str, type[BaseModel]] = dict(encoder_kinds())
    own, other = (both_ways, causal) if bidirectional else (causal, both_ways)
    reads = "reads from left to right" if bidirectional else "is bidirectional"
    kind = mixer["kind"]
    if kind not in other:
        return
    if kind not in own:
        instead = f"Set architecture.bidirectional={str(not bidirectional).lower()}, or take one of: {', '.join(own)}."
        raise ConfigError(f"{path}.kind: '{kind}' {reads} only. {instead}")
    for key in sorted(mixer.keys() - own[kind].model_fields.keys()):
        if key in other[kind].model_fields:
            known = ", ".join(sorted(own[kind].model_fields))
            raise ConfigError(f"{path}.{key}: a setting of the '{kind}' that {reads}. Known here: {known}.")


ArchitectureConfig = Annotated[
    Annotated[DecoderConfig, Tag("DecoderConfig")] | Annotated[EncoderConfig, Tag("EncoderConfig")],
    Discriminator(_tag),
]
