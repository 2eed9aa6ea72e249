"""Mamba and Mamba-2 of transformers: decoders of one mixer a layer, without feed-forwards.

    mamba     in_proj: channels, gate; x_proj: ranks of steps, inputs, outputs; dt_proj: the steps of each channel
    mamba2    in_proj: gate, channels, inputs, outputs, steps of each head; a norm over each group's gated channels

The residual stream of both is float32 unless `residual_in_fp32` says otherwise. `time_step_limit` limits the steps of
every token; transformers forgets it where it decodes one token. Checkpoints of mamba_ssm itself (d_model, ssm_cfg,
pytorch_model.bin) are pickles, and are not read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from farfield.architectures.decoder import DecoderConfig
from farfield.architectures.feedforward import NoFeedForwardConfig
from farfield.architectures.mamba import MambaConfig
from farfield.architectures.mamba2 import Mamba2Config
from farfield.config import ModelError
from farfield.huggingface.given import Given, finite
from farfield.huggingface.softmax import LAYERS, plain, refuse, stacked
from farfield.huggingface.weights import Piece, fused
from farfield.model import ModelConfig

__all__ = ["MAMBA", "MAMBA2", "TAPS", "agreed", "mamba2_pieces", "mamba_pieces", "rank_of", "refuse_original"]

TAPS = 16  # of a convolution of ours at most
CHUNK = 256  # of theirs, where nothing says how long
INFINITY = {"__float__": "Infinity"}  # as transformers writes it: JSON has no such number


@dataclass(frozen=True)
class BareFamily:
    """One of the two.

    `settings` is the class of its mixers' settings; `read` makes them of config.json and the epsilon of the norms but
    for their kind; `told` is what config.json says of them, by the width, the epsilon and where they stand; `weights`
    are their pieces. `tied`: whether the head is the embedding where config.json says nothing.
    """

    name: str
    architecture: str
    tied: bool
    settings: type[MambaConfig] | type[Mamba2Config]
    read: Callable[[Given, float], dict[str, Any]]
    told: Callable[[Any, DecoderConfig, str], dict[str, Any]]
    weights: Callable[[Any, int, str, str], list[Piece]]

    dropped = ()

    @property
    def mixers(self) -> frozenset[str]:
        return frozenset((self.name,))

    def model(self, given: Given) -> ModelConfig:
        given.choice("hidden_act", ("silu",), "silu")
        epsilon, depth = (
            given.number("layer_norm_epsilon", 1e-5, above=0),
            given.whole("num_hidden_layers", most=LAYERS),
        )
        layer = {"mixer": {"kind": self.name, **self.read(given, epsilon)}, "feedforward": {"kind": "none"}}
        wide = given.flag("residual_in_fp32", True)
        return stacked(given, depth, [self.name] * depth, {self.name: layer}, epsilon, tied=self.tied, wide=wide)

    def config(self, model: ModelConfig) -> dict[str, Any]:
        decoder = plain(model)
        return {
            "hidden_act": "silu",
            "hidden_size": decoder.width,
            "num_hidden_layers": decoder.depth,
            "layer_norm_epsilon": decoder.epsilon,
            "residual_in_fp32": decoder.wide_residual,
            "tie_word_embeddings": decoder.tied,
            "vocab_size": model.vocabulary,
            **agreed(decoder, lambda index: self._told(decoder, index)),
        }

    def _told(self, decoder: DecoderConfig, index: int) -> dict[str, Any]:
        mixer, layer = decoder.mixers()[index], f"architecture.layers.{decoder.names()[index]}"
        if not isinstance(mixer, self.settings):
            refuse(f"{layer}.mixer.kind", getattr(mixer, "kind", "?"), (self.name,), self.name)
        feedforward = decoder.layer(index).feedforward
        if not isinstance(feedforward, NoFeedForwardConfig):
            refuse(f"{layer}.feedforward.kind", feedforward.kind, ("none",), self.name)
        return self.told(mixer, decoder, f"{layer}.mixer")

    def pieces(self, model: ModelConfig) -> list[Piece]:
        found = [
            Piece("embedding.weight", "backbone.embeddings.weight"),
            Piece("decoder.norm.weight", "backbone.norm_f.weight"),
        ]
        if not model.decoder.tied:
            found.append(Piece("output.weight", "lm_head.weight"))
        for index, mixer in enumerate(model.decoder.mixers()):
            ours, theirs = f"decoder.layers.{index}", f"backbone.layers.{index}"
            found.append(Piece(f"{ours}.mixer_norm.weight", f"{theirs}.norm.weight"))
            found += self.weights(mixer, model.decoder.width, f"{ours}.mixer", f"{theirs}.mixer")
        return found


def refuse_original(given: Given) -> None:
    """Raises a ModelError where the settings are those of a checkpoint of mamba_ssm, which names no `model_type`."""
    if "d_model" in given.values and "ssm_cfg" in given.values:
        why = "mamba_ssm's own checkpoint, whose weights are a pickle. Take the folder for transformers, ...-hf"
        given.refuse("ssm_cfg", why)


def rank_of(given: Given, key: str, channels: int) -> int | None:
    """The rank of the steps of `channels`; None: a sixteenth of the width, which `auto` stands for."""
    usual = math.ceil(given.whole("hidden_size") / 16)
    if given.values.get(key) == "auto":
        return None
    rank = given.whole(key, usual)
    if rank > channels:
        given.refuse(
            key, f"at most as many as channels (intermediate_size, hidden_size x expand), {channels}, are needed"
        )
    return None if rank == usual else rank


def agreed(decoder: DecoderConfig, told: Callable[[int], Mapping[str, object]]) -> dict[str, Any]:
    """What is `told` of the layers by their index, which must be one for all that say anything of a key.

    Raises:
        ModelError: it is not.
    """
    found: dict[str, Any] = {}
    for index, name in enumerate(decoder.names()):
        for key, value in told(index).items():
            if found.setdefault(key, value) != value:
                raise ModelError(
                    f"architecture.layers.{name}: {key} would be {value}, and is {found[key]} in layers below; a "
                    "Hugging Face folder has one for all."
                )
    return found


def _read_mamba(given: Given, epsilon: float) -> dict[str, Any]:
    expand = given.whole("expand", 2)
    usual = expand * given.whole("hidden_size")
    inner = usual if given.values.get("intermediate_size") is None else given.whole("intermediate_size")
    return {
        "state": given.whole("state_size", 16),
        "expand": expand,
        "inner": None if inner == usual else inner,
        "rank": rank_of(given, "time_step_rank", inner),
        "conv": given.whole("conv_kernel", 4, most=TAPS),
        "bias": given.flag("use_bias", False),
        "conv_bias": given.flag("use_conv_bias", True),
    }


def _told_mamba(mixer: MambaConfig, decoder: DecoderConfig, where: str) -> dict[str, Any]:
    if mixer.inner_norm:
        refuse(f"{where}.inner_norm", True, (False,), "mamba")
    channels, rank, states = mixer.sizes(decoder.width)
    return {
        "state_size": states,
        "expand": mixer.expand,
        "intermediate_size": channels,
        "time_step_rank": rank,
        "conv_kernel": mixer.conv,
        "use_bias": mixer.bias,
        "use_conv_bias": mixer.conv_bias,
    }


def mamba_pieces(mixer: MambaConfig, width: int, ours: str, theirs: str) -> list[Piece]:
    """Weights of a Mamba mixer named `ours`; Jamba's inner norms are one gain of ours."""
    maps = {"input": "in_proj", "out": "out_proj", "select": "x_proj", "step": "dt_proj"}
    biased = {"input": mixer.bias, "out": mixer.bias, "select": False, "step": True}
    found = [Piece(f"{ours}.{name}.weight", f"{theirs}.{other}.weight") for name, other in maps.items()]
    found += [Piece(f"{ours}.{name}.bias", f"{theirs}.{other}.bias") for name, other in maps.items() if biased[name]]
    found += [Piece(f"{ours}.{name}", f"{theirs}.{name}") for name in ("A_log", "D")]
    found.append(Piece(f"{ours}.taps", f"{theirs}.conv1d.weight", form="taps"))
    if mixer.conv_bias:
        found.append(Piece(f"{ours}.conv_bias", f"{theirs}.conv1d.bias"))
    if mixer.inner_norm:
        _, rank, states = mixer.sizes(width)
        sizes = {"dt": rank, "b": states, "c": states}
        found += fused(f"{ours}.gain", [(f"{theirs}.{name}_layernorm.weight", size) for name, size in sizes.items()])
    return found


def _read_mamba2(given: Given, epsilon: float) -> dict[str, Any]:
    given.only("rms_norm", True)  # said by older folders, which have `norm_before_gate` too: their model reads neither
    expand, heads = given.whole("expand", 2), given.whole("num_heads", 128)
    groups, inner = given.whole("n_groups", 8), expand * given.whole("hidden_size")
    if heads * given.whole("head_dim", 64) != inner:
        given.refuse("head_dim", f"hidden_size x expand = {inner} over num_heads = {heads} is needed")
    if heads % groups:
        given.refuse("n_groups", f"a divisor of num_heads = {heads} is needed")
    low, high = _limits(given)
    return {
        "expand": expand,
        "heads": heads,
        "state": given.whole("state_size", 128),
        "groups": groups,
        "conv": given.whole("conv_kernel", 4, most=TAPS),
        "bias": given.flag("use_bias", False),
        "conv_bias": given.flag("use_conv_bias", True),
        "chunk": given.whole("chunk_size", CHUNK),
        "epsilon": epsilon,
        "step_low": low,
        "step_high": high,
    }


def _limits(given: Given) -> tuple[float, float | None]:
    """The least and the largest step; None: any."""
    value = given.values.get("time_step_limit")
    if value is None:
        return 0.0, None
    limits = [math.inf if one == INFINITY else one for one in value] if isinstance(value, list) else []
    numbers = [float(one) for one in limits if finite(one) or one == math.inf]
    if len(limits) != 2 or len(numbers) != 2 or not 0 <= numbers[0] < numbers[1]:
        given.refuse("time_step_limit", "two numbers are needed, the first at least 0 and below the second")
    return numbers[0], None if math.isinf(numbers[1]) else numbers[1]


def _told_mamba2(mixer: Mamba2Config, decoder: DecoderConfig, where: str) -> dict[str, Any]:
    if mixer.epsilon != decoder.epsilon:
        refuse(f"{where}.epsilon", mixer.epsilon, (f"that of the other norms, {decoder.epsilon}",), "mamba2")
    heads, head = mixer.sizes(decoder.width)
    return {
        "expand": mixer.expand,
        "num_heads": heads,
        "head_dim": head,
        "state_size": mixer.state,
        "n_groups": mixer.groups,
        "conv_kernel": mixer.conv,
        "use_bias": mixer.bias,
        "use_conv_bias": mixer.conv_bias,
        "chunk_size": mixer.chunk or CHUNK,
        "time_step_limit": [mixer.step_low, INFINITY if mixer.step_high is None else mixer.step_high],
    }


def mamba2_pieces(mixer: Mamba2Config, width: int, ours: str, theirs: str) -> list[Piece]:
    """Weights of a Mamba-2 mixer named `ours`."""
    maps = {"into": "in_proj", "out": "out_proj"}
    found = [Piece(f"{ours}.{name}.weight", f"{theirs}.{other}.weight") for name, other in maps.items()]
    if mixer.bias:
        found += [Piece(f"{ours}.{name}.bias", f"{theirs}.{other}.bias") for name, other in maps.items()]
    found += [Piece(f"{ours}.{name}", f"{theirs}.{name}") for name in ("A_log", "D", "dt_bias")]
    found.append(Piece(f"{ours}.taps", f"{theirs}.conv1d.weight", form="taps"))
    if mixer.conv_bias:
        found.append(Piece(f"{ours}.taps_bias", f"{theirs}.conv1d.bias"))
    found.append(Piece(f"{ours}.gain", f"{theirs}.norm.weight"))
    return found


MAMBA = BareFamily("mamba", "MambaForCausalLM", True, MambaConfig, _read_mamba, _told_mamba, mamba_pieces)
MAMBA2 = BareFamily("mamba2", "Mamba2ForCausalLM", False, Mamba2Config, _read_mamba2, _told_mamba2, mamba2_pieces)
