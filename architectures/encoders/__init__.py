"""Bidirectional mixers, for models that read whole documents: one file a kind.

Adding one: its file, its name in `EncoderMixerConfig` below, one yaml file in configs/architecture/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import Field

from farfield.architectures.encoders.attention import AttentionEncoderConfig
from farfield.architectures.encoders.bigbird import BigBirdEncoderConfig
from farfield.architectures.encoders.dilated import DilatedEncoderConfig
from farfield.architectures.encoders.encoder import Encoder, EncoderSettings
from farfield.architectures.encoders.linformer import LinformerEncoderConfig
from farfield.architectures.encoders.longformer import LongformerEncoderConfig
from farfield.architectures.encoders.performer import PerformerEncoderConfig
from farfield.architectures.encoders.reformer import ReformerEncoderConfig
from farfield.config import Config, ConfigError, read

__all__ = ["Encoder", "EncoderMixerConfig", "EncoderSettings", "build_encoder", "encoder_kinds"]

EncoderMixerConfig = Annotated[
    AttentionEncoderConfig
    | BigBirdEncoderConfig
    | DilatedEncoderConfig
    | LinformerEncoderConfig
    | LongformerEncoderConfig
    | PerformerEncoderConfig
    | ReformerEncoderConfig,
    Field(discriminator="kind"),
]


class _One(Config):
    mixer: EncoderMixerConfig


def encoder_kinds() -> dict[str, type[EncoderSettings]]:
    """The settings class of every bidirectional mixer by its kind, as the union lists them."""
    return {kind.model_fields["kind"].default: kind for kind in get_args(get_args(EncoderMixerConfig)[0])}


def build_encoder(config: EncoderSettings | Mapping[str, Any], width: int, layer: int = 0, depth: int = 1) -> Encoder:
    """The encoder of `config` (settings, or a mapping with its `kind`) with fresh weights, for a layer of `depth`.

    Raises:
        ConfigError: an unknown kind or key, or sizes that do not fit `width`.
    """
    settings = config if isinstance(config, EncoderSettings) else read(_One, {"mixer": dict(config)}).mixer
    try:
        settings.check(width)
    except ValueError as error:
        raise ConfigError(f"mixer.{error}") from None
    return settings.build(width, layer, depth)
