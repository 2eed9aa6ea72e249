"""Llama, Mistral, Qwen2 and Qwen3: decoders of softmax attention and SwiGLU, which differ by few settings.

             biases                     window                        norms of queries and keys
    llama    attention_bias, mlp_bias   none                          no
    mistral  none                       sliding_window, each layer    no
    qwen2    queries, keys, values      sliding_window, some layers   no
    qwen3    attention_bias             sliding_window, some layers   yes

A window of theirs counts the token itself: it is one more than ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from farfield.architectures.attention import AttentionConfig
from farfield.architectures.decoder import DecoderConfig
from farfield.architectures.feedforward import SwiGLUConfig
from farfield.architectures.keyed import KeyedSettings
from farfield.architectures.longformer import LongformerConfig
from farfield.config import ConfigError, ModelError, read
from farfield.huggingface.given import LONGEST, Given
from farfield.huggingface.rotary import read_rotary, written_rotary
from farfield.huggingface.weights import Piece, fused
from farfield.model import ModelConfig

__all__ = [
    "LLAMA",
    "MISTRAL",
    "QWEN2",
    "QWEN3",
    "SoftmaxFamily",
    "attention_pieces",
    "plain",
    "refuse",
    "stacked",
    "swiglu_pieces",
]

LAYERS = 1 << 12
KINDS = ("full_attention", "sliding_attention")


@dataclass(frozen=True)
class SoftmaxFamily:
    """One of the four. `kv_heads`, `head_dim`, `window` and `longest` stand where config.json says nothing.

    `kv_heads` and `head_dim` None: as many as heads, and the width over them. `windows`: whether layers have windows,
    and where that is said. `bias`: where attention has biases; told: as `attention_bias` says.
    """

    name: str
    architecture: str
    longest: int
    bias: Literal["none", "inputs", "told"] = "none"
    mlp_bias: bool = False
    norms: bool = False
    windows: Literal["none", "all", "some"] = "none"
    window: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None

    dropped = ("rotary_emb.inv_freq", "self_attn.masked_bias", "self_attn.bias")

    @property
    def mixers(self) -> frozenset[str]:
        return frozenset(("attention",) if self.windows == "none" else ("attention", "longformer"))

    def model(self, given: Given) -> ModelConfig:
        given.choice("hidden_act", ("silu",), "silu")
        depth, epsilon = given.whole("num_hidden_layers", most=LAYERS), given.number("rms_norm_eps", 1e-6, above=0)
        base, scaling = read_rotary(given, given.whole("max_position_embeddings", self.longest, most=LONGEST))
        heads = given.whole("num_attention_heads")
        kv_heads = given.whole("num_key_value_heads", self.kv_heads or heads)
        if heads % kv_heads:
            given.refuse("num_key_value_heads", f"a divisor of num_attention_heads = {heads} is needed")
        mixer = {
            "heads": heads,
            "kv_heads": kv_heads,
            "head_size": self._head_size(given, heads),
            "bias": self._bias(given),
            "qk_norm": epsilon if self.norms else None,
            "base": base,
            "scaling": None if scaling is None else scaling.mapping(),
        }
        bias = self.mlp_bias and given.flag("mlp_bias", False)
        feedforward = {"kind": "swiglu", "inner": given.whole("intermediate_size"), "bias": bias}
        layers = {
            "attention": {"mixer": {"kind": "attention", **mixer}, "feedforward": feedforward},
        }
        windows = self._windows(given, depth)
        window = next((one for one in windows if one is not None), None)
        if window is not None:
            layers["window"] = {
                "mixer": {"kind": "longformer", "window": window - 1, **mixer},
                "feedforward": feedforward,
            }
        pattern = ["attention" if one is None else "window" for one in windows]
        return stacked(given, depth, pattern, layers, epsilon)

    def _head_size(self, given: Given, heads: int) -> int | None:
        """The width of a head where it is none of the width's equal parts."""
        size = given.whole("head_dim", self.head_dim or given.whole("hidden_size") // heads)
        return None if size * heads == given.whole("hidden_size") else size

    def _bias(self, given: Given) -> str:
        if self.bias == "told":
            return "all" if given.flag("attention_bias", False) else "none"
        return self.bias

    def _windows(self, given: Given, depth: int) -> list[int | None]:
        """The window of each layer, the token itself included; None: the whole document."""
        if self.windows == "none":
            return [None] * depth
        used = self.windows == "all" or given.flag("use_sliding_window", False)
        if "sliding_window" in given.values and given.values["sliding_window"] is None:
            used = False
        window = given.whole("sliding_window", self.window, least=2) if used else None
        if self.windows == "all":
            given.unset("layer_types", "all layers of this family have one kind of attention")
            return [window] * depth
        kinds = given.texts("layer_types", KINDS, depth)
        if kinds is None:
            first = given.whole("max_window_layers", 28, least=0)
            kinds = tuple(KINDS[index >= first and window is not None] for index in range(depth))
        if window is None and KINDS[1] in kinds:
            given.refuse("layer_types", "layers with a window need use_sliding_window and sliding_window")
        return [window if kind == KINDS[1] else None for kind in kinds]

    def config(self, model: ModelConfig) -> dict[str, Any]:
        decoder = plain(model)
        if decoder.wide_residual:
            refuse("architecture.wide_residual", True, (False,), self.name)
        for index in range(decoder.depth):
            self._check(decoder, index)
        first, feedforward = _same(decoder)
        heads, kv_heads, head = first.sizes(decoder.width)
        if self.name == "llama" and decoder.width % heads:
            raise ModelError(f"architecture.width: {decoder.width} given; a llama's heads, here {heads}, divide it.")
        told: dict[str, Any] = {"attention_bias": first.bias == "all"} if self.bias == "told" else {}
        told |= {"mlp_bias": feedforward.bias} if self.mlp_bias else {}
        if first.scaling is not None and first.scaling.trained is not None:
            told["max_position_embeddings"] = int(first.scaling.trained * first.scaling.factor)
        return {
            "hidden_act": "silu",
            "hidden_size": decoder.width,
            "intermediate_size": feedforward.size(decoder.width),
            "num_hidden_layers": decoder.depth,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head,
            "rms_norm_eps": decoder.epsilon,
            "rope_parameters": written_rotary(first.base, first.scaling, head),
            "tie_word_embeddings": decoder.tied,
            "vocab_size": model.vocabulary,
            **told,
            **self._written_windows(decoder),
        }

    def _check(self, decoder: DecoderConfig, index: int) -> None:
        """Raises a ModelError where a layer is none of this family's."""
        layer, mixer = f"architecture.layers.{decoder.names()[index]}", decoder.mixers()[index]
        if not isinstance(mixer, AttentionConfig | LongformerConfig) or mixer.kind not in self.mixers:
            refuse(f"{layer}.mixer.kind", getattr(mixer, "kind", "?"), sorted(self.mixers), self.name)
        biases = {"told": ("none", "all"), "inputs": ("inputs",), "none": ("none",)}[self.bias]
        allowed: dict[str, tuple[Any, ...]] = {
            "position": ("rope",),
            "conv": (0,),
            "bias": biases,
            "qk_norm": (decoder.epsilon if self.norms else None,),
            "globals": (0,),
            "dilation": (1,),
        }
        for key, values in allowed.items():
            if getattr(mixer, key, values[0]) not in values:
                refuse(f"{layer}.mixer.{key}", getattr(mixer, key), values, self.name)
        feedforward = decoder.layer(index).feedforward
        if not isinstance(feedforward, SwiGLUConfig):
            refuse(f"{layer}.feedforward.kind", feedforward.kind, ("swiglu",), self.name)
        if feedforward.bias and not self.mlp_bias:
            refuse(f"{layer}.feedforward.bias", True, (False,), self.name)

    def _written_windows(self, decoder: DecoderConfig) -> dict[str, Any]:
        windows = [
            mixer.layer_window(index, decoder.depth) + 1 if isinstance(mixer, LongformerConfig) else None
            for index, mixer in enumerate(decoder.mixers())
        ]
        found = sorted({window for window in windows if window is not None})
        several = len(found) > 1 or (self.windows == "all" and bool(found) and None in windows)
        if several:
            values = [None if window is None else window - 1 for window in windows]
            refuse("the windows of the layers", values, ("one for all of them",), self.name)
        window = found[0] if found else None
        if self.windows == "none":
            return {}
        if self.windows == "all":
            return {"sliding_window": window}
        kinds = [KINDS[one is not None] for one in windows]
        return {"use_sliding_window": bool(found), "sliding_window": window, "layer_types": kinds}

    def pieces(self, model: ModelConfig) -> list[Piece]:
        found = [
            Piece("embedding.weight", "model.embed_tokens.weight"),
            Piece("decoder.norm.weight", "model.norm.weight"),
        ]
        if not model.decoder.tied:
            found.append(Piece("output.weight", "lm_head.weight"))
        for index, mixer in enumerate(model.decoder.mixers()):
            ours, theirs = f"decoder.layers.{index}", f"model.layers.{index}"
            assert isinstance(mixer, KeyedSettings)
            found += attention_pieces(mixer, model.decoder.width, f"{ours}.mixer", f"{theirs}.self_attn")
            feedforward = model.decoder.layer(index).feedforward
            assert isinstance(feedforward, SwiGLUConfig)
            found += swiglu_pieces(feedforward, model.decoder.width, f"{ours}.feedforward", f"{theirs}.mlp")
            found.append(Piece(f"{ours}.mixer_norm.weight", f"{theirs}.input_layernorm.weight"))
            found.append(Piece(f"{ours}.feedforward_norm.weight", f"{theirs}.post_attention_layernorm.weight"))
        return found


def stacked(
    given: Given,
    depth: int,
    pattern: Sequence[str],
    layers: dict[str, Any],
    epsilon: float,
    *,
    tied: bool = False,
    wide: bool = False,
) -> ModelConfig:
    """The model of named layers, with the width, the vocabulary and the head that `given` tells.

    `tied`: whether the head is the embedding where nothing is said. `wide`: a residual stream of float32.

    Raises:
        ModelError: sizes that do not fit one another.
    """
    used = {name: layers[name] for name in dict.fromkeys(pattern)}
    architecture = {
        "width": given.whole("hidden_size"),
        "depth": depth,
        "pattern": list(pattern) if len(used) > 1 else [pattern[0]],
        "layers": used,
        "tied": given.flag("tie_word_embeddings", tied),
        "epsilon": epsilon,
        "wide_residual": wide,
    }
    try:
        return read(ModelConfig, {"architecture": architecture, "vocabulary": given.whole("vocab_size")})
    except ConfigError as error:
        raise ModelError(f"{given.file}: does not fit together: {error}") from None


def plain(model: ModelConfig) -> DecoderConfig:
    """The layers of a model that has nothing around them.

    Raises:
        ModelError: it has, or layers take the keys of others.
    """
    decoder = model.decoder
    if model.memory is not None:
        raise ModelError(f"memory.name: '{model.memory.name}' given; no Hugging Face family has one. Take memory=none.")
    if model.augmentation is not None:
        raise ModelError(
            f"augmentation.kind: '{model.augmentation.kind}' given; no Hugging Face family reads passages."
        )
    if any(decoder.shares(index) for index in range(decoder.depth)):
        kind = decoder.sharing.kind
        raise ModelError(f"architecture.sharing.kind: '{kind}' given; no Hugging Face family here shares keys.")
    for name, layer in decoder.layers.items():
        if isinstance(layer.mixer, AttentionConfig) and layer.mixer.extension is not None:
            given = f"architecture.layers.{name}.mixer.extension: {layer.mixer.extension.kind} given"
            raise ModelError(f"{given}; no Hugging Face family has one. Export the model without context.")
    return decoder


def refuse(setting: str, given: object, allowed: Sequence[object], family: str) -> NoReturn:
    """Raises a ModelError: a family has no word for a setting."""
    known = " or ".join(str(one) for one in allowed)
    raise ModelError(f"{setting}: {given} given; a folder of the family {family} says nothing but {known}.")


def _same(decoder: DecoderConfig) -> tuple[KeyedSettings, SwiGLUConfig]:
    """The attention and the feed-forward of all layers, which differ by their windows alone.

    Raises:
        ModelError: they differ by more.
    """
    found: list[tuple[KeyedSettings, SwiGLUConfig]] = []
    for index, mixer in enumerate(decoder.mixers()):
        feedforward = decoder.layer(index).feedforward
        assert isinstance(mixer, KeyedSettings)
        assert isinstance(feedforward, SwiGLUConfig)
        found.append((mixer, feedforward))
    first, feedforward = found[0]
    for index, (mixer, other) in enumerate(found):
        pairs = {f"mixer.{key}": (getattr(mixer, key), getattr(first, key)) for key in ("base", "scaling", "bias")}
        pairs["mixer.heads"] = mixer.sizes(decoder.width), first.sizes(decoder.width)
        pairs["feedforward.inner"] = other.size(decoder.width), feedforward.size(decoder.width)
        pairs["feedforward.bias"] = other.bias, feedforward.bias
        for key, (one, all_others) in pairs.items():
            if one != all_others:
                where = f"architecture.layers.{decoder.names()[index]}.{key}"
                raise ModelError(
                    f"{where}: {one} given, and {all_others} below; a Hugging Face folder has one for all."
                )
    return first, feedforward


def attention_pieces(mixer: KeyedSettings, width: int, ours: str, theirs: str) -> list[Piece]:
    """Weights of a softmax mixer named `ours`: queries, keys and values of theirs are one tensor of ours."""
    heads, kv_heads, head = mixer.sizes(width)
    sizes = (("q", heads * head), ("k", kv_heads * head), ("v", kv_heads * head))
    projection, found = f"{ours}.projection", []
    for kind in ("weight", "bias"):
        if kind == "weight" or mixer.bias != "none":
            found += fused(f"{projection}.qkv.{kind}", [(f"{theirs}.{name}_proj.{kind}", size) for name, size in sizes])
        if kind == "weight" or mixer.bias == "all":
            found.append(Piece(f"{projection}.out.{kind}", f"{theirs}.o_proj.{kind}"))
    if mixer.qk_norm is not None:
        found += [Piece(f"{projection}.{name}_gain", f"{theirs}.{name[0]}_norm.weight") for name in ("query", "key")]
    return found


def swiglu_pieces(feedforward: SwiGLUConfig, width: int, ours: str, theirs: str) -> list[Piece]:
    """Weights of a SwiGLU named `ours`: gate and value of theirs are one tensor of ours."""
    inner, found = feedforward.size(width), []
    for kind in ("weight", "bias") if feedforward.bias else ("weight",):
        found += fused(f"{ours}.up.{kind}", [(f"{theirs}.{name}_proj.{kind}", inner) for name in ("gate", "up")])
        found.append(Piece(f"{ours}.down.{kind}", f"{theirs}.down_proj.{kind}"))
    return found


LLAMA = SoftmaxFamily("llama", "LlamaForCausalLM", 2048, bias="told", mlp_bias=True)
MISTRAL = SoftmaxFamily("mistral", "MistralForCausalLM", 131072, windows="all", window=4096, kv_heads=8)
QWEN2 = SoftmaxFamily("qwen2", "Qwen2ForCausalLM", 32768, bias="inputs", windows="some", window=4096, kv_heads=32)
QWEN3 = SoftmaxFamily(
    "qwen3", "Qwen3ForCausalLM", 32768, bias="told", norms=True, windows="some", window=4096, kv_heads=32, head_dim=128
)
