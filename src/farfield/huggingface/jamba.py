"""Jamba of transformers: Mamba with inner norms, attention without positions every so many layers, experts in others.

    attention    layers i with i % attn_layer_period == attn_layer_offset, Mamba elsewhere
    experts      layers i with i % expert_layer_period == expert_layer_offset, SwiGLU of the same width elsewhere

The weights of a token's experts are as the router's softmax has them, not made to sum to 1.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from farfield.architectures.attention import AttentionConfig
from farfield.architectures.decoder import DecoderConfig
from farfield.architectures.feedforward import MixtureConfig, SwiGLUConfig
from farfield.architectures.mamba import MambaConfig
from farfield.config import ModelError
from farfield.huggingface.given import Given
from farfield.huggingface.mambas import TAPS, agreed, mamba_pieces, rank_of
from farfield.huggingface.softmax import LAYERS, attention_pieces, plain, refuse, stacked, swiglu_pieces
from farfield.huggingface.weights import Piece
from farfield.model import ModelConfig

__all__ = ["JAMBA", "mixture_pieces"]

ATTENTION, EXPERTS = ("attn_layer", 8, 4), ("expert_layer", 2, 1)  # and the period and offset where nothing is said


@dataclass(frozen=True)
class JambaFamily:
    """See the file's head."""

    name = "jamba"
    architecture = "JambaForCausalLM"
    mixers = frozenset(("mamba", "attention"))
    dropped = ()

    def model(self, given: Given) -> ModelConfig:
        given.choice("hidden_act", ("silu",), "silu")
        given.only("mamba_inner_layernorms", True)
        given.unset("sliding_window", "its attention reads the whole document")
        given.unset("num_local_experts", "num_experts is to say how many")
        depth, epsilon = given.whole("num_hidden_layers", most=LAYERS), given.number("rms_norm_eps", 1e-6, above=0)
        mixers = {"mamba": _read_mamba(given, epsilon), "attention": _read_attention(given)}
        inner = given.whole("intermediate_size", 14336)
        feedforwards: dict[str, dict[str, Any]] = {"": {"kind": "swiglu", "inner": inner}}
        attending, expert = _places(given, *ATTENTION, depth), _places(given, *EXPERTS, depth)
        experts = given.whole("num_experts", 16)
        if experts == 1:
            expert = frozenset()
        else:
            feedforwards["_experts"] = _read_experts(given, experts, inner)
        layers = {
            f"{mixer}{feedforward}": {"mixer": mixers[mixer], "feedforward": feedforwards[feedforward]}
            for mixer in mixers
            for feedforward in feedforwards
        }
        pattern = [
            ("attention" if index in attending else "mamba") + ("_experts" if index in expert else "")
            for index in range(depth)
        ]
        return stacked(given, depth, pattern, layers, epsilon)

    def config(self, model: ModelConfig) -> dict[str, Any]:
        decoder = plain(model)
        if decoder.wide_residual:
            refuse("architecture.wide_residual", True, (False,), self.name)
        mixers = decoder.mixers()
        attending = {index for index, mixer in enumerate(mixers) if isinstance(mixer, AttentionConfig)}
        expert = {i for i in range(decoder.depth) if isinstance(decoder.layer(i).feedforward, MixtureConfig)}
        one = {"num_attention_heads": 1, "num_key_value_heads": 1}  # where no layer attends
        return {
            "hidden_act": "silu",
            "hidden_size": decoder.width,
            "num_hidden_layers": decoder.depth,
            "rms_norm_eps": decoder.epsilon,
            "tie_word_embeddings": decoder.tied,
            "vocab_size": model.vocabulary,
            **_every(decoder, ATTENTION[0], attending),
            **(_every(decoder, EXPERTS[0], expert) if expert else {"num_experts": 1}),
            **(one if not attending else {}),
            **agreed(decoder, lambda index: _told(decoder, index)),
        }

    def pieces(self, model: ModelConfig) -> list[Piece]:
        found = [
            Piece("embedding.weight", "model.embed_tokens.weight"),
            Piece("decoder.norm.weight", "model.final_layernorm.weight"),
        ]
        if not model.decoder.tied:
            found.append(Piece("output.weight", "lm_head.weight"))
        width = model.decoder.width
        for index, mixer in enumerate(model.decoder.mixers()):
            ours, theirs = f"decoder.layers.{index}", f"model.layers.{index}"
            found.append(Piece(f"{ours}.mixer_norm.weight", f"{theirs}.input_layernorm.weight"))
            found.append(Piece(f"{ours}.feedforward_norm.weight", f"{theirs}.pre_ff_layernorm.weight"))
            if isinstance(mixer, AttentionConfig):
                found += attention_pieces(mixer, width, f"{ours}.mixer", f"{theirs}.self_attn")
            else:
                assert isinstance(mixer, MambaConfig)
                found += mamba_pieces(mixer, width, f"{ours}.mixer", f"{theirs}.mamba")
            feedforward = model.decoder.layer(index).feedforward
            if isinstance(feedforward, MixtureConfig):
                found += mixture_pieces(feedforward, width, f"{ours}.feedforward", f"{theirs}.feed_forward")
            else:
                assert isinstance(feedforward, SwiGLUConfig)
                found += swiglu_pieces(feedforward, width, f"{ours}.feedforward", f"{theirs}.feed_forward")
        return found


def mixture_pieces(feedforward: MixtureConfig, width: int, ours: str, theirs: str) -> list[Piece]:
    """Weights of a mixture named `ours`: gates and values of all experts are one tensor of ours."""
    inner, every = feedforward.size(width), slice(None)
    found = [Piece(f"{ours}.router.weight", f"{theirs}.router.weight")]
    for expert in range(feedforward.experts):
        name = f"{theirs}.experts.{expert}"
        parts = {"gate": slice(0, inner), "up": slice(inner, 2 * inner)}
        found += [
            Piece(f"{ours}.up", f"{name}.{part}_proj.weight", (expert, every, at), "transposed")
            for part, at in parts.items()
        ]
        found.append(Piece(f"{ours}.down", f"{name}.down_proj.weight", (expert,), "transposed"))
    return found


def _read_mamba(given: Given, epsilon: float) -> dict[str, Any]:
    expand = given.whole("mamba_expand", 2)
    return {
        "kind": "mamba",
        "state": given.whole("mamba_d_state", 16),
        "expand": expand,
        "rank": rank_of(given, "mamba_dt_rank", expand * given.whole("hidden_size")),
        "conv": given.whole("mamba_d_conv", 4, most=TAPS),
        "bias": given.flag("mamba_proj_bias", False),
        "conv_bias": given.flag("mamba_conv_bias", True),
        "inner_norm": True,
        "inner_epsilon": epsilon,
    }


def _read_attention(given: Given) -> dict[str, Any]:
    heads, width = given.whole("num_attention_heads", 32), given.whole("hidden_size")
    kv_heads = given.whole("num_key_value_heads", heads if "num_key_value_heads" in given.values else 8)
    if heads % kv_heads:
        given.refuse("num_key_value_heads", f"a divisor of num_attention_heads = {heads} is needed")
    if given.values.get("head_dim") is None and width < 2 * heads:
        given.refuse("num_attention_heads", f"at most half of hidden_size, {width // 2}, is needed without head_dim")
    size = given.whole("head_dim", width // heads, least=2)
    own = {"head_size": None if size * heads == width else size}
    return {"kind": "attention", "heads": heads, "kv_heads": kv_heads, "position": "none", **own}


def _read_experts(given: Given, experts: int, inner: int) -> dict[str, Any]:
    top = given.whole("num_experts_per_tok", 2)
    if top > experts:
        given.refuse("num_experts_per_tok", f"at most num_experts = {experts} is needed")
    balance = given.number("router_aux_loss_coef", 0.001, least=0)
    return {"kind": "moe", "experts": experts, "top": top, "inner": inner, "balance": balance}


def _places(given: Given, name: str, period: int, offset: int, depth: int) -> frozenset[int]:
    """The layers that come once in a period."""
    period = given.whole(f"{name}_period", period)
    offset = given.whole(f"{name}_offset", offset, least=0)
    if offset >= period:
        given.refuse(f"{name}_offset", f"less than {name}_period = {period} is needed")
    return frozenset(range(offset, depth, period))


def _every(decoder: DecoderConfig, name: str, places: Collection[int]) -> dict[str, int]:
    """The shortest period, and its offset, that these layers come in.

    Raises:
        ModelError: they come in none.
    """
    depth = decoder.depth
    for period in range(1, depth + 2):
        for offset in range(period):
            if places == set(range(offset, depth, period)):
                return {f"{name}_period": period, f"{name}_offset": offset}
    raise ModelError(
        f"architecture.pattern: {name}s at {sorted(places)} given; a folder of the family jamba has them once in a "
        "period."
    )


def _told(decoder: DecoderConfig, index: int) -> dict[str, Any]:
    """What config.json says of a layer.

    Raises:
        ModelError: the family has no such layer.
    """
    where = f"architecture.layers.{decoder.names()[index]}"
    mixer, feedforward = decoder.mixers()[index], decoder.layer(index).feedforward
    if isinstance(mixer, MambaConfig):
        told = _told_mamba(mixer, decoder, f"{where}.mixer")
    elif isinstance(mixer, AttentionConfig):
        told = _told_attention(mixer, decoder, f"{where}.mixer")
    else:
        refuse(f"{where}.mixer.kind", getattr(mixer, "kind", "?"), ("mamba", "attention"), "jamba")
    if not isinstance(feedforward, SwiGLUConfig | MixtureConfig):
        refuse(f"{where}.feedforward.kind", feedforward.kind, ("swiglu", "moe"), "jamba")
    told["intermediate_size"] = feedforward.size(decoder.width)
    if isinstance(feedforward, SwiGLUConfig):
        _only(f"{where}.feedforward", feedforward, bias=False)
        return told
    _only(f"{where}.feedforward", feedforward, renormalise=False)
    if feedforward.experts == 1:
        refuse(f"{where}.feedforward.experts", 1, ("2 or more",), "jamba")
    told |= {"num_experts": feedforward.experts, "num_experts_per_tok": feedforward.top}
    return {**told, "router_aux_loss_coef": feedforward.balance}


def _told_mamba(mixer: MambaConfig, decoder: DecoderConfig, where: str) -> dict[str, Any]:
    _only(where, mixer, inner_norm=True, inner_epsilon=decoder.epsilon)
    channels, rank, states = mixer.sizes(decoder.width)
    if channels % decoder.width:
        refuse(f"{where}.inner", channels, (f"a multiple of the width {decoder.width}",), "jamba")
    return {
        "mamba_d_state": states,
        "mamba_expand": channels // decoder.width,
        "mamba_dt_rank": rank,
        "mamba_d_conv": mixer.conv,
        "mamba_proj_bias": mixer.bias,
        "mamba_conv_bias": mixer.conv_bias,
    }


def _told_attention(mixer: AttentionConfig, decoder: DecoderConfig, where: str) -> dict[str, Any]:
    _only(where, mixer, position="none", bias="none", qk_norm=None, conv=0)
    heads, kv_heads, head = mixer.sizes(decoder.width)
    own = {} if head == decoder.width // heads else {"head_dim": head}
    return {"num_attention_heads": heads, "num_key_value_heads": kv_heads, **own}


def _only(where: str, settings: object, **allowed: object) -> None:
    """Raises a ModelError where a setting is none that the family has a word for."""
    for name, value in allowed.items():
        if getattr(settings, name) != value:
            refuse(f"{where}.{name}", getattr(settings, name), (value,), "jamba")


JAMBA = JambaFamily()
