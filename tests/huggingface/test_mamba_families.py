"""Mamba, Mamba-2 and Jamba folders: what is refused in reading and in writing, and what these families alone have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_folders import CASES, FAMILY_SIZES, JAMBA, VOCABULARY, changed, silence, theirs, written
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import farfield
from farfield.config import ModelError
from farfield.generation import TextModel
from farfield.huggingface.families import FAMILIES
from farfield.huggingface.given import Given
from farfield.huggingface.reading import Unallocated
from farfield.model import LanguageModel, ModelConfig

GONE: Any = object()


def read(family: str, **settings: Any) -> ModelConfig:
    """Our settings of the family's sizes with others, by way of a text."""
    values = {key: value for key, value in {**FAMILY_SIZES[family], **settings}.items() if value is not GONE}
    return FAMILIES[family].model(Given(json.loads(json.dumps(values)), Path("config.json")))


def again(config: ModelConfig, family: str) -> ModelConfig:
    """Our settings by way of theirs."""
    values = json.loads(json.dumps(FAMILIES[family].config(config)))
    return FAMILIES[family].model(Given(values, Path("config.json")))


VIEWS = {"alias", "detach", "empty", "flip", "select", "slice", "transpose", "unsqueeze"}


class Computed(TorchDispatchMode):
    """What is done with tensors without memory."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.is_meta:
            self.names.add(func.overloadpacket.__name__)
        return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_without_memory_computes_nothing(family: str) -> None:
    """The meta device computes by way of seconds of imports."""
    with Computed() as computed, Unallocated():
        LanguageModel(read(family))
    assert "empty" in computed.names
    assert computed.names <= VIEWS


LIMITS = "two numbers are needed, the first at least 0 and below the second."
WHOLE = "a whole number from 1 to 16,777,216 is needed."
WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "missing": ("mamba", {"hidden_size": GONE}, "hidden_size is missing."),
    "no layers": ("mamba2", {"num_hidden_layers": GONE}, "num_hidden_layers is missing."),
    "activation": ("mamba", {"hidden_act": "gelu"}, 'hidden_act: "gelu" given; nothing but "silu" is supported.'),
    "activation 2": ("mamba2", {"hidden_act": "relu"}, 'hidden_act: "relu" given; nothing but "silu" is supported.'),
    "inner width": ("mamba", {"intermediate_size": 3.5}, f"intermediate_size: 3.5 given; {WHOLE}"),
    "expand": ("mamba", {"expand": 1.5}, f"expand: 1.5 given; {WHOLE}"),
    "rank": ("mamba", {"time_step_rank": "all"}, f'time_step_rank: "all" given; {WHOLE}'),
    "rank above channels": (
        "mamba",
        {"time_step_rank": 41},
        "time_step_rank: 41 given; at most as many as channels (intermediate_size, hidden_size x expand), 40, are "
        "needed.",
    ),
    "taps": ("mamba", {"conv_kernel": 17}, "conv_kernel: 17 given; a whole number from 1 to 16 is needed."),
    "bias": ("mamba", {"use_bias": "yes"}, 'use_bias: "yes" given; true or false is needed.'),
    "residual": ("mamba", {"residual_in_fp32": 1}, "residual_in_fp32: 1 given; true or false is needed."),
    "epsilon": ("mamba2", {"layer_norm_epsilon": 0}, "layer_norm_epsilon: 0 given; more than 0 is needed."),
    "heads": ("mamba2", {"num_heads": 5}, "head_dim: 8 given; hidden_size x expand = 48 over num_heads = 5 is needed."),
    "groups": ("mamba2", {"n_groups": 4}, "n_groups: 4 given; a divisor of num_heads = 6 is needed."),
    "no norm": ("mamba2", {"rms_norm": False}, "rms_norm: false given; nothing but true is supported."),
    "one limit": ("mamba2", {"time_step_limit": [0.1]}, f"time_step_limit: [0.1] given; {LIMITS}"),
    "crossed": ("mamba2", {"time_step_limit": [0.2, 0.1]}, f"time_step_limit: [0.2, 0.1] given; {LIMITS}"),
    "below zero": ("mamba2", {"time_step_limit": [-1, 1]}, f"time_step_limit: [-1, 1] given; {LIMITS}"),
    "no limit": ("mamba2", {"time_step_limit": [0, float("nan")]}, f"time_step_limit: [0, NaN] given; {LIMITS}"),
    "a limit that no float holds": (
        "mamba2",
        {"time_step_limit": [0, 10**400]},
        f"time_step_limit: [0, {10**52}... given; {LIMITS}",
    ),
    "true limit": ("mamba2", {"time_step_limit": [0, True]}, f"time_step_limit: [0, true] given; {LIMITS}"),
    "text limit": ("mamba2", {"time_step_limit": "0"}, f'time_step_limit: "0" given; {LIMITS}'),
    "no inner norms": (
        "jamba",
        {"mamba_inner_layernorms": False},
        "mamba_inner_layernorms: false given; nothing but true is supported.",
    ),
    "window": ("jamba", {"sliding_window": 9}, "sliding_window: 9 given; its attention reads the whole document."),
    "other name": ("jamba", {"num_local_experts": 3}, "num_local_experts: 3 given; num_experts is to say how many."),
    "top": ("jamba", {"num_experts_per_tok": 4}, "num_experts_per_tok: 4 given; at most num_experts = 3 is needed."),
    "attention": (
        "jamba",
        {"attn_layer_offset": 3},
        "attn_layer_offset: 3 given; less than attn_layer_period = 3 is needed.",
    ),
    "experts": (
        "jamba",
        {"expert_layer_period": 1},
        "expert_layer_offset: null given; less than expert_layer_period = 1 is needed.",
    ),
    "shared": (
        "jamba",
        {"num_key_value_heads": 3},
        "num_key_value_heads: 3 given; a divisor of num_attention_heads = 4 is needed.",
    ),
    "balance": ("jamba", {"router_aux_loss_coef": -1}, "router_aux_loss_coef: -1 given; at least 0 is needed."),
}


TOLD = {
    "mamba": ["expand", "intermediate_size", "time_step_rank", "conv_kernel", "use_bias", "use_conv_bias"],
    "mamba2": ["expand", "time_step_limit", "conv_kernel", "use_bias", "residual_in_fp32", "rms_norm", "hidden_act"],
    "jamba": ["head_dim", "mamba_expand", "mamba_proj_bias", "router_aux_loss_coef", "num_experts_per_tok"]
    + ["expert_layer_period", "expert_layer_offset", "num_local_experts", "sliding_window", "rms_norm_eps"],
}
"""By family: keys beside those of its sizes."""

NUMBER = st.integers(-2, 50) | st.floats() | st.sampled_from([1 << 19, 1 << 25, 10**30])
VALUE = st.none() | st.booleans() | NUMBER | st.text(max_size=4) | st.lists(NUMBER, max_size=3) | st.just({"a": 1})


@given(st.sampled_from([(family, key) for family in TOLD for key in (*FAMILY_SIZES[family], *TOLD[family])]), VALUE)
def test_any_value_is_read_or_refused_in_one_line(place: tuple[str, str], value: Any) -> None:
    """That names the key, or another one in the folder that does not fit it."""
    family, key = place
    try:
        config = read(family, **{key: value})
    except ModelError as error:
        line = str(error)
        assert "\n" not in line
        assert key in line or line.split(":")[1].strip() in FAMILY_SIZES[family]
    else:
        assert again(config, family).parameters() == config.parameters() > 0


@pytest.mark.parametrize("name", WRONG)
def test_a_setting_without_a_word_of_ours_is_one_line(name: str) -> None:
    family, settings, line = WRONG[name]
    with pytest.raises(ModelError) as raised:
        read(family, **settings)
    assert str(raised.value) == f"config.json: {line}"


def test_what_is_not_said_is_as_in_transformers(tmp_path: Path) -> None:
    """Each key that may be missing: its default is that of the class of theirs."""
    transformers = pytest.importorskip("transformers", reason="pip install 'farfield[hf]'")
    needed = {"hidden_size": 4096, "num_hidden_layers": 8, "vocab_size": 67}
    for family, name in (("mamba", "Mamba"), ("mamba2", "Mamba2"), ("jamba", "Jamba")):
        with silence():
            getattr(transformers, f"{name}Config")(**needed).save_pretrained(tmp_path / family)
        told = FAMILIES[family].model(Given.of(tmp_path / family / "config.json"))
        assert told == FAMILIES[family].model(Given(needed, Path("config.json")))


def test_limits_may_be_infinite_in_each_way_that_json_has_for_it() -> None:
    for high in ({"__float__": "Infinity"}, float("inf")):
        assert read("mamba2", time_step_limit=[0.0, high]) == read("mamba2")
    (mixer, *_) = read("mamba2", time_step_limit=[0.25, {"__float__": "Infinity"}]).decoder.mixers()
    assert (mixer.step_low, mixer.step_high) == (0.25, None)  # type: ignore[attr-defined]
    config = read("mamba2", time_step_limit=[0.25, {"__float__": "Infinity"}])
    assert again(config, "mamba2") == config


def test_keys_of_older_folders_change_nothing() -> None:
    """The model of transformers reads none of them, whatever they say."""
    assert read("mamba2", rms_norm=True, norm_before_gate=True) == read("mamba2")
    assert read("mamba", d_inner=99, fused_add_norm=True, n_layer=7, use_mambapy=True) == read("mamba")
    assert read("jamba", use_mamba_kernels=False, sliding_window=None, attention_dropout=0.1) == read("jamba")


@pytest.mark.parametrize("depth", [1, 4, 5])
def test_layers_of_jamba_come_back_by_some_period(depth: int) -> None:
    """Not always by the one that was given: of three layers 9 and 8 mean the same as 4 and 3."""
    for period in range(1, 8):
        for offset in range(period):
            attention = {"attn_layer_period": period, "attn_layer_offset": offset}
            config = read("jamba", num_hidden_layers=depth, **attention)
            assert again(config, "jamba").decoder.names() == config.decoder.names()
            experts = {"expert_layer_period": period, "expert_layer_offset": offset}
            config = read("jamba", num_hidden_layers=depth, **experts)
            assert again(config, "jamba").decoder.names() == config.decoder.names()
            attends = [getattr(mixer, "kind", "") == "attention" for mixer in config.decoder.mixers()]
            assert attends == [index % 3 == 1 for index in range(depth)]
            mixed = [name.endswith("_experts") for name in config.decoder.names()]
            assert mixed == [index % period == offset for index in range(depth)]


REFUSED: dict[str, tuple[str, list[str], str]] = {
    "feed-forward": (
        "mamba",
        [],
        "architecture.layers.mamba.feedforward.kind: swiglu given; a folder of the family mamba says nothing but none.",
    ),
    "feed-forward 2": (
        "mamba2",
        [],
        "architecture.layers.mamba2.feedforward.kind: swiglu given; a folder of the family mamba2 says nothing but "
        "none.",
    ),
    "epsilon": (
        "mamba2",
        ["~layers.mamba2.feedforward.ratio", "layers.mamba2.feedforward.kind=none", "+epsilon=1e-3"],
        "architecture.layers.mamba2.mixer.epsilon: 1e-05 given; a folder of the family mamba2 says nothing but that of "
        "the other norms, 0.001.",
    ),
    "inner norms": (
        "mamba",
        ["layers.mamba.mixer.inner_norm=true", "~layers.mamba.feedforward.ratio", "layers.mamba.feedforward.kind=none"],
        "architecture.layers.mamba.mixer.inner_norm: True given; a folder of the family mamba says nothing but False.",
    ),
    "two kinds": (
        "mamba",
        [
            "pattern=[mamba,other]",
            "~layers.mamba.feedforward.ratio",
            "layers.mamba.feedforward.kind=none",
            "+layers.other={mixer:{kind:mamba,state:3},feedforward:{kind:none}}",
        ],
        "architecture.layers.other: state_size would be 3, and is 16 in layers below; a Hugging Face folder has one "
        "for all.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_families_have_no_word_for_is_one_line(name: str, tmp_path: Path) -> None:
    architecture, overrides, line = REFUSED[name]
    width = "width=64" if architecture == "mamba2" else "width=16"
    with pytest.raises(ModelError) as raised:
        farfield.save(farfield.build(architecture, [width, "depth=2", *overrides]), tmp_path / "folder")
    assert str(raised.value) == line


NO_JAMBA = {
    "layers.attention.mixer.position=rope": "architecture.layers.attention.mixer.position: rope given; a folder of "
    "the family jamba says nothing but none.",
    "+layers.attention.mixer.qk_norm=1e-6": "architecture.layers.attention.mixer.qk_norm: 1e-06 given; a folder of "
    "the family jamba says nothing but None.",
    "+layers.mamba.mixer.inner=17": "architecture.layers.mamba.mixer.inner: 17 given; a folder of the family jamba "
    "says nothing but a multiple of the width 16.",
    "+layers.mamba_experts.feedforward.renormalise=true": "architecture.layers.mamba_experts.feedforward.renormalise: "
    "True given; a folder of the family jamba says nothing but False.",
    "layers.mamba.feedforward.ratio=2": "architecture.layers.mamba_experts: intermediate_size would be 48, and is 32 "
    "in layers below; a Hugging Face folder has one for all.",
    "layers.mamba.feedforward={kind:gelu}": "architecture.layers.mamba.feedforward.kind: gelu given; a folder of the "
    "family jamba says nothing but swiglu or moe.",
    "pattern=[mamba,attention,attention,mamba]": "architecture.pattern: attn_layers at [1, 2, 5, 6] given; a folder of "
    "the family jamba has them once in a period.",
    "+wide_residual=true": "architecture.wide_residual: True given; a folder of the family jamba says nothing but "
    "False.",
}


def jamba(*overrides: str) -> TextModel:
    """Ours, small."""
    small = ["width=16", "layers.attention.mixer.head_width=4", "+epsilon=1e-6"]
    return farfield.build("jamba", [*small, "layers.mamba_experts.feedforward.experts=3", *overrides])


@pytest.mark.parametrize("override", NO_JAMBA)
def test_what_jamba_has_no_word_for_is_one_line(override: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as raised:
        farfield.save(jamba(override), tmp_path / "folder")
    assert str(raised.value) == NO_JAMBA[override]


OURS = {
    "mamba": [
        "width=16",
        "depth=2",
        "~layers.mamba.feedforward.ratio",
        "layers.mamba.feedforward.kind=none",
        "+wide_residual=true",
    ],
    "mamba2": [
        "width=64",
        "depth=2",
        "~layers.mamba2.feedforward.ratio",
        "layers.mamba2.feedforward.kind=none",
        "+layers.mamba2.mixer.chunk=0",
    ],
}


@pytest.mark.parametrize("family", ["mamba", "mamba2", "jamba"])
def test_models_of_ours_run_in_transformers(family: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="pip install 'farfield[hf]'")
    model = jamba() if family == "jamba" else farfield.build(family, OURS[family])
    folder = farfield.save(model, tmp_path / "folder")
    assert json.loads((folder / "config.json").read_text())["model_type"] == family
    tokens = torch.randint(257, (2, 40))
    back = farfield.load(folder, layers="farfield")
    with torch.no_grad(), silence():
        torch.testing.assert_close(model(tokens)[0], theirs(folder)(tokens).logits, rtol=0, atol=1e-4)
        assert torch.equal(back(tokens)[0], model(tokens)[0])
    assert back.generate("Once", tokens=9) == model.generate("Once", tokens=9)


def test_jamba_without_attention_or_with_nothing_but_it(tmp_path: Path) -> None:
    """Transformers reads the first of them only without a cache."""
    pytest.importorskip("transformers", reason="pip install 'farfield[hf]'")
    tokens = torch.randint(VOCABULARY, (2, 40))
    for name, places in (("none", {"attn_layer_period": 9, "attn_layer_offset": 8}), ("all", {"attn_layer_period": 1})):
        case = CASES["jamba"]
        places = {"attn_layer_offset": 0, **places, "num_hidden_layers": 2}
        folder = written(tmp_path / name, type(case)("Jamba", {**case.settings, **places}, sizes=JAMBA))
        model = farfield.load(folder, layers="farfield")
        farfield.save(model, tmp_path / f"{name}-back")
        with torch.no_grad(), silence():
            found = model(tokens)[0]
            for one in (folder, tmp_path / f"{name}-back"):
                expected = theirs(one)(tokens, use_cache=False).logits
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("name", ["mamba-bfloat16", "mamba2-bfloat16", "jamba-dense-bfloat16"])
def test_half_precision_is_as_near_to_the_truth_as_theirs(name: str, wide: bool, tmp_path: Path) -> None:
    """With a residual stream as wide as config.json says; Jamba's is always as wide as the weights."""
    pytest.importorskip("transformers", reason="pip install 'farfield[hf]'")
    folder, tokens = written(tmp_path / "folder", CASES[name]), torch.randint(VOCABULARY, (2, 63))
    model = farfield.load(changed(folder, residual_in_fp32=wide), layers="farfield")
    assert model.config.decoder.wide_residual == (wide and "jamba" not in name)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    with torch.no_grad(), silence():
        truth = farfield.load(folder, dtype=torch.float64, layers="farfield")(tokens)[0]
        found, other = (one.double() for one in (model(tokens)[0], theirs(folder)(tokens).logits))
    assert (found - truth).square().mean() <= 2 * (other - truth).square().mean()


def test_weights_that_do_not_decay_are_known_as_such_when_read(tmp_path: Path) -> None:
    model = farfield.build("mamba", OURS["mamba"])
    back = farfield.load(farfield.save(model, tmp_path / "folder"), layers="farfield")
    free = [name for name, weight in back.model.named_parameters() if getattr(weight, "_no_weight_decay", False)]
    assert free == [f"decoder.layers.{layer}.mixer.{name}" for layer in (0, 1) for name in ("A_log", "D")]


def test_a_checkpoint_of_mamba_ssm_is_refused_by_name(tmp_path: Path) -> None:
    """Its weights are a pickle, which stays closed."""
    said = {"d_model": 768, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {}, "rms_norm": True}
    (tmp_path / "config.json").write_text(json.dumps(said))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    line = (
        "ssm_cfg: {} given; mamba_ssm's own checkpoint, whose weights are a pickle. Take the folder for transformers, "
    )
    with pytest.raises(ModelError) as raised:
        farfield.load(tmp_path)
    assert str(raised.value) == f"{tmp_path}/config.json: {line}...-hf."
