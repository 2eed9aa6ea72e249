"""What a config.json says that our layers have no word for, or that makes no sense, is one line that names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_folders import FAMILY_SIZES, LLAMA3, SIZES, YARN
from hypothesis import given
from hypothesis import strategies as st

from farfield.architectures.ops.rotary import frequencies
from farfield.architectures.stretching import NTK, Interpolation, YaRN
from farfield.config import ModelError
from farfield.huggingface.families import FAMILIES
from farfield.huggingface.given import Given
from farfield.huggingface.rotary import read_rotary, written_rotary

GONE: Any = object()


def read(family: str = "llama", **settings: Any) -> Any:
    """Our settings of the family's sizes with others, by way of a text."""
    values = {key: value for key, value in {**FAMILY_SIZES[family], **settings}.items() if value is not GONE}
    return FAMILIES[family].model(Given(json.loads(json.dumps(values)), Path("config.json")))


NUMBER = "a finite number is needed"
WHOLE = "a whole number from 1 to 16,777,216 is needed"
WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "missing": ("llama", {"hidden_size": GONE}, "hidden_size is missing."),
    "null": ("llama", {"vocab_size": None}, "vocab_size is missing."),
    "nan": ("llama", {"hidden_size": float("nan")}, f"hidden_size: NaN given; {WHOLE}."),
    "infinite": ("llama", {"intermediate_size": float("inf")}, f"intermediate_size: Infinity given; {WHOLE}."),
    "fraction": ("llama", {"num_attention_heads": 4.5}, f"num_attention_heads: 4.5 given; {WHOLE}."),
    "true": ("llama", {"num_key_value_heads": True}, f"num_key_value_heads: true given; {WHOLE}."),
    "text": ("llama", {"hidden_size": "24"}, f'hidden_size: "24" given; {WHOLE}.'),
    "negative": ("llama", {"vocab_size": -1}, f"vocab_size: -1 given; {WHOLE}."),
    "huge": ("llama", {"hidden_size": 10**30}, f"hidden_size: {10**30} given; {WHOLE}."),
    "layers": (
        "llama",
        {"num_hidden_layers": 10**9},
        "num_hidden_layers: 1000000000 given; a whole number from 1 to 4,096 is needed.",
    ),
    "epsilon": ("llama", {"rms_norm_eps": float("nan")}, f"rms_norm_eps: NaN given; {NUMBER}."),
    "epsilon that no float holds": ("llama", {"rms_norm_eps": 10**400}, f"rms_norm_eps: {10**56}... given; {NUMBER}."),
    "base that no float holds": ("llama", {"rope_theta": 10**400}, f"rope_theta: {10**56}... given; {NUMBER}."),
    "flag": ("llama", {"attention_bias": 1}, "attention_bias: 1 given; true or false is needed."),
    "heads": (
        "llama",
        {"num_key_value_heads": 3},
        "num_key_value_heads: 3 given; a divisor of num_attention_heads = 4 is needed.",
    ),
    "odd heads": (
        "llama",
        {"head_dim": 7},
        "does not fit together: architecture.layers.attention.mixer.position: rope needs heads of even width",
    ),
    "activation": ("llama", {"hidden_act": "gelu"}, 'hidden_act: "gelu" given; nothing but "silu" is supported.'),
    "window of one": (
        "mistral",
        {"sliding_window": 1},
        "sliding_window: 1 given; a whole number from 2 to 16,777,216 is needed.",
    ),
    "kinds of layers": (
        "mistral",
        {"layer_types": ["full_attention"]},
        'layer_types: ["full_attention"] given; all layers of this family have one kind of attention.',
    ),
    "other kinds": (
        "qwen3",
        {"layer_types": ["full_attention", "full_attention", "linear_attention"]},
        "layer_types: unsupported 'linear_attention'. Did you mean 'sliding_attention'? Known: full_attention, "
        "sliding_attention.",
    ),
    "too few kinds": (
        "qwen2",
        {"layer_types": ["full_attention"]},
        'layer_types: ["full_attention"] given; a list of 3 is needed.',
    ),
    "windows that are off": (
        "qwen2",
        {"layer_types": ["full_attention", "full_attention", "sliding_attention"]},
        "layers with a window need use_sliding_window and sliding_window.",
    ),
    "partial": (
        "llama",
        {"partial_rotary_factor": 0.5},
        "partial_rotary_factor: 0.5 given; nothing but 1 is supported.",
    ),
    "partial, nested": (
        "llama",
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        "rope_parameters.partial_rotary_factor: 0.5 given; nothing but 1 is supported.",
    ),
    "dynamic": (
        "llama",
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        "rope_scaling.type: unsupported 'dynamic'. Known: default, linear, llama3, yarn.",
    ),
    "longrope": (
        "llama",
        {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
        "rope_parameters.rope_type: unsupported 'longrope'. Known: default, linear, llama3, yarn.",
    ),
    "factor": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 0.5}},
        "rope_parameters.factor: 0.5 given; at least 1 is needed.",
    ),
    "no factor": ("llama", {"rope_parameters": {"rope_type": "linear"}}, "rope_parameters.factor is missing."),
    "factor that is no number": (
        "llama",
        {"rope_parameters": {**YARN, "factor": float("nan")}},
        f"rope_parameters.factor: NaN given; {NUMBER}.",
    ),
    "base": (
        "llama",
        {"rope_theta": 0},
        "rope_theta: 0 given; more than 0 is needed.",
    ),
    "a key of another type": (
        "llama",
        {"rope_parameters": {**YARN, "low_freq_factor": 1.0}},
        "rope_parameters.low_freq_factor: 1.0 given; the rope type yarn has no such key.",
    ),
    "by kinds of layers": (
        "qwen3",
        {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
        'rope_parameters.full_attention: {"rope_type": "default"} given; the rope type default has no such key.',
    ),
    "blends": (
        "llama",
        {"rope_parameters": {**LLAMA3, "low_freq_factor": 4.0}},
        "rope_parameters.low_freq_factor: 4.0 given; less than high_freq_factor = 4 is needed.",
    ),
    "turns of one base": (
        "llama",
        {"rope_parameters": {**YARN, "rope_theta": 1.0}},
        "does not fit together: architecture.layers.attention.mixer.base: 1 given, with which all pairs turn alike, "
        "and scaling yarn tells them apart.",
    ),
    "a factor beyond all texts": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 1e300}},
        "rope_parameters.factor: 1e+300 given; at most 1,048,576 is needed.",
    ),
    "softmax that overflows": (
        "llama",
        {"rope_parameters": {**YARN, "attention_factor": 1e30}},
        "rope_parameters.attention_factor: 1e+30 given; at most 100 is needed.",
    ),
    "a length beyond all texts": (
        "llama",
        {"max_position_embeddings": 2**60},
        f"max_position_embeddings: {2**60} given; a whole number from 1 to {2**40:,} is needed.",
    ),
    "a length beyond all texts, of before": (
        "llama",
        {"rope_parameters": {**YARN, "original_max_position_embeddings": 2**60}},
        f"original_max_position_embeddings: {2**60} given; a whole number from 1 to {2**40:,} is needed.",
    ),
    "turns that no text has": (
        "llama",
        {"rope_parameters": {**YARN, "beta_fast": 1e308}},
        "rope_parameters.beta_fast: 1e+308 given; at most 1,048,576 is needed.",
    ),
    "a turn that never is": (
        "llama",
        {"rope_parameters": {**YARN, "beta_slow": 1e-320}},
        "rope_parameters.beta_slow: 1e-320 given; at least 9.53674e-07 is needed.",
    ),
    "turns": (
        "llama",
        {"rope_parameters": {**YARN, "beta_slow": 32}},
        "rope_parameters.beta_slow: 32 given; less than beta_fast = 32 is needed.",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_one_line(name: str) -> None:
    family, settings, line = WRONG[name]
    with pytest.raises(ModelError) as raised:
        read(family, **settings)
    said = str(raised.value)
    assert said.startswith("config.json: ")
    assert line in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "not JSON: "),
        ("[]", "a JSON object is needed, not list."),
        ("[" * 100_000, "not JSON: "),
        ('{"quantization_config": {"bits": 4}}', "weights as numbers are needed."),
        ('{"is_causal": false}', "is_causal: false given; nothing but true is supported."),
        ('{"auto_map": {"AutoModel": "a.py"}}', "it names code that the folder brings, and none is run."),
        (" " * (1 << 24) + "{}", "16,777,218 bytes, too many for settings."),
    ],
    ids=["empty", "list", "nested", "quantized", "future", "code", "large"],
)
def test_files_that_are_no_settings_are_one_line(text: str, line: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(ModelError) as raised:
        Given.of(file)
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_no_model_reads_is_left_alone() -> None:
    others = {"use_cache": True, "torch_dtype": "float16", "attention_dropout": 0.1, "whatever": [1]}
    assert read(**others) == read()


def test_the_form_of_before_transformers_5_means_the_same() -> None:
    old = read(rope_theta=2e4, rope_scaling={"type": "linear", "factor": 3.0})
    assert old == read(rope_parameters={"rope_type": "linear", "rope_theta": 2e4, "factor": 3.0})
    mixer = old.decoder.mixers()[0]
    assert (mixer.base, mixer.scaling) == (2e4, Interpolation(factor=3.0))


def test_an_empty_form_of_before_transformers_5_says_nothing() -> None:
    assert read(rope_scaling={}, rope_parameters=YARN) == read(rope_parameters=YARN)
    assert read(rope_scaling=YARN, rope_parameters={}) == read(rope_parameters=YARN)


def test_the_trained_length_of_yarn() -> None:
    """Stands at three places, and the first of them that is there counts."""
    bare = {key: value for key, value in YARN.items() if key != "original_max_position_embeddings"}
    for settings, trained in (
        ({"original_max_position_embeddings": 48, "rope_parameters": YARN}, 48),
        ({"rope_parameters": YARN}, 64),
        ({"rope_parameters": bare}, 256),
    ):
        scaling = read(**settings).decoder.mixers()[0].scaling
        assert isinstance(scaling, YaRN)
        assert scaling.trained == trained


@pytest.mark.parametrize("rope", [LLAMA3, YARN, {**YARN, "attention_factor": 1.5, "truncate": False}])
def test_rotary_settings_come_back_as_they_were(rope: dict[str, Any]) -> None:
    base, scaling = read_rotary(Given({"rope_parameters": rope}, Path("config.json")), 4096)
    back = written_rotary(base, scaling, 16)
    assert read_rotary(Given({"rope_parameters": back}, Path("config.json")), 4096) == (base, scaling)
    assert rope.items() <= back.items()


@pytest.mark.parametrize("scaling", [NTK(factor=4.0), Interpolation(factor=4.0)])
def test_stretched_models_are_written_as_what_they_are(scaling: NTK | Interpolation) -> None:
    """NTK by its larger base, interpolation as linear: the frequencies are the same."""
    written = written_rotary(1e4, scaling, 16)
    base, read_back = read_rotary(Given({"rope_parameters": written}, Path("config.json")), 4096)
    found = frequencies(16, "halves", base) if read_back is None else read_back.frequencies(16, base)
    torch.testing.assert_close(found, scaling.frequencies(16, 1e4), rtol=1e-14, atol=0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["yarn", "silu"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.sampled_from([*YARN]), inner),
    max_leaves=4,
)
KEYS = [*SIZES, "head_dim", "rope_parameters", "rope_scaling", "rope_theta", "layer_types", "sliding_window"]
KEYS += ["use_sliding_window", "max_window_layers", "attention_bias", "mlp_bias", "hidden_act", "rms_norm_eps"]
KEYS += ["tie_word_embeddings", "partial_rotary_factor", "original_max_position_embeddings"]


SOFTMAX = [family for family in FAMILIES if FAMILY_SIZES[family] is SIZES]


@given(family=st.sampled_from(SOFTMAX), key=st.sampled_from(KEYS), value=JSON)
def test_any_value_is_read_or_refused_in_one_line(family: str, key: str, value: Any) -> None:
    line = ""
    try:
        assert read(family, **{key: value}).parameters() > 0
    except ModelError as error:
        line = str(error)
    assert "\n" not in line
    assert not line or key.split("_")[0] in line
