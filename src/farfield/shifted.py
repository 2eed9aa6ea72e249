"""A model whose full attention attends in shifted groups, of the same weights: how LongLoRA trains.

    practice = shifted(model, group=512)      # trained in groups; `model` answers with full attention

The two share their modules, so that what one learns the other knows: neither has a switch, and which of them a step
takes is decided where it is taken. The groups are those of `farfield.architectures.s2`, counted from each document's
start, without the wrapped one of the released code, which lets the first tokens see the last.

Chen et al., https://arxiv.org/abs/2309.12307, whose groups are a quarter of the row.
"""

from __future__ import annotations

import torch
from torch import nn

from farfield.architectures import MixerSettings
from farfield.architectures.attention import Attention, AttentionConfig
from farfield.architectures.decoder import DecoderConfig, Layer
from farfield.architectures.derived import DerivedAttention
from farfield.architectures.s2 import S2Config
from farfield.architectures.sharing import NoSharing
from farfield.config import read
from farfield.model import LanguageModel, ModelConfig

__all__ = ["in_groups", "shifted"]


def in_groups(model: ModelConfig, group: int) -> ModelConfig:
    """The settings of the model whose layers of full attention attend in groups of so many tokens.

    Raises:
        ValueError: it has none, or they cannot, in words that begin with a setting's path.
    """
    architecture = model.decoder
    if model.memory is not None:
        raise ValueError(
            f"memory.name: '{model.memory.name}' brings back what groups leave out. Use adapter.shifted=null, or "
            "memory=none."
        )
    if not isinstance(architecture.sharing, NoSharing):
        raise ValueError(
            "adapter.shifted: groups are of layers that keep keys for themselves alone, and architecture.sharing.kind "
            f"is '{architecture.sharing.kind}'. Use adapter.shifted=null."
        )
    layers = {}
    for name, layer in architecture.layers.items():
        layers[name] = layer.model_copy(update={"mixer": _grouped(name, layer.mixer, architecture.width, group)})
    if not any(isinstance(layers[name].mixer, S2Config) for name in architecture.names()):
        raise ValueError("adapter.shifted: no layer has full attention (kind: attention). Use adapter.shifted=null.")
    mapping = {**architecture.mapping(), "layers": {name: layer.mapping() for name, layer in layers.items()}}
    return model.model_copy(update={"architecture": read(DecoderConfig, mapping, "architecture")})


def _grouped(name: str, mixer: MixerSettings, width: int, group: int) -> MixerSettings:
    """The settings of full attention in groups; those of any other mixer as they are."""
    if not isinstance(mixer, AttentionConfig):
        return mixer
    if mixer.extension is not None:
        raise ValueError(
            f"adapter.shifted: groups see no far tokens, which architecture.layers.{name}.mixer.extension moves. Use "
            "interpolation, ntk or yarn, or adapter.shifted=null."
        )
    given = {**mixer.mapping(), "kind": "s2", "group": group}
    grouped = read(S2Config, given, f"architecture.layers.{name}.mixer")
    try:
        grouped.check(width)
    except ValueError as error:
        raise ValueError(f"adapter.shifted: of architecture.layers.{name}.mixer, {error}") from None
    return grouped


def shifted(model: LanguageModel, group: int) -> LanguageModel:
    """A model of the modules of `model`, in the same mode, with groups of so many tokens for full attention.

    Raises:
        ValueError: as `in_groups`.
    """
    with torch.random.fork_rng(devices=[]):  # weights that are all replaced take none of the caller's random numbers
        made = LanguageModel(in_groups(model.config, group)).to(model.device)
    _share(made, model, apart="decoder")
    _share(made.stack, model.stack, apart="layers")
    for own, theirs in zip(made.stack.layers, model.stack.layers, strict=True):
        assert isinstance(own, Layer)
        assert isinstance(theirs, Layer)
        if not isinstance(own.mixer, DerivedAttention) or not isinstance(theirs.mixer, Attention):
            _share(own, theirs)
            continue
        _share(own, theirs, apart="mixer")
        own.mixer.projection = theirs.mixer.projection
    return made.train(model.training)


def _share(own: nn.Module, theirs: nn.Module, apart: str | None = None) -> None:
    """Gives `own` the modules of the other, but for the one that is named."""
    for name, module in theirs.named_children():
        if name != apart:
            setattr(own, name, module)
