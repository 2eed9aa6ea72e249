"""How a sequence is mixed: one file a backbone, and the decoder that stacks them.

Adding a backbone: its file, one name in `MixerConfig` below, one yaml file in configs/architecture/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import Field

from farfield.architectures.attention import AttentionConfig
from farfield.architectures.dilated import DilatedConfig
from farfield.architectures.external import ExternalConfig
from farfield.architectures.feedforward import FeedForwardConfig
from farfield.architectures.gated_deltanet import GatedDeltaNetConfig
from farfield.architectures.gss import GSSConfig
from farfield.architectures.keyed import KeyedMixer, KeyedSettings, PositionedSettings
from farfield.architectures.lightning import LightningConfig
from farfield.architectures.linformer import LinformerConfig
from farfield.architectures.longformer import LongformerConfig
from farfield.architectures.mamba import MambaConfig
from farfield.architectures.mamba2 import Mamba2Config
from farfield.architectures.mixer import Heads, KeyValue, Mixer, MixerSettings
from farfield.architectures.performer import PerformerConfig
from farfield.architectures.reformer import ReformerConfig
from farfield.architectures.retnet import RetNetConfig
from farfield.architectures.rows import Rows
from farfield.architectures.s2 import S2Config
from farfield.architectures.sparse import SparseConfig
from farfield.architectures.state import State
from farfield.config import Config, ConfigError, read

__all__ = [
    "FeedForwardConfig",
    "Heads",
    "KeyValue",
    "KeyedMixer",
    "KeyedSettings",
    "Mixer",
    "MixerConfig",
    "MixerSettings",
    "PositionedSettings",
    "Rows",
    "State",
    "build_mixer",
    "mixer_kinds",
]

MixerConfig = Annotated[
    AttentionConfig
    | DilatedConfig
    | GSSConfig
    | GatedDeltaNetConfig
    | LightningConfig
    | LinformerConfig
    | LongformerConfig
    | Mamba2Config
    | MambaConfig
    | PerformerConfig
    | ReformerConfig
    | RetNetConfig
    | S2Config
    | SparseConfig
    | ExternalConfig,
    Field(discriminator="kind"),
]


class _One(Config):
    mixer: MixerConfig


def mixer_kinds() -> dict[str, type[MixerSettings]]:
    """The settings class of every mixer of ours by its kind, as the union lists them."""
    kinds = {kind.model_fields["kind"].default: kind for kind in get_args(get_args(MixerConfig)[0])}
    return {name: kind for name, kind in kinds.items() if kind is not ExternalConfig}


def build_mixer(config: MixerSettings | Mapping[str, Any], width: int, layer: int = 0, depth: int = 1) -> Mixer:
    """The mixer of `config` (settings, or a mapping with its `kind`) with fresh weights, for layer `layer` of `depth`.

    Raises:
        ConfigError: an unknown kind or key, or sizes that do not fit `width`.
    """
    settings = config if isinstance(config, MixerSettings) else read(_One, {"mixer": dict(config)}).mixer
    try:
        settings.check(width)
    except ValueError as error:
        raise ConfigError(f"mixer.{error}") from None
    return settings.build(width, layer, depth)
