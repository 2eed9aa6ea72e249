"""Tiny folders of Hugging Face: written by transformers, of each family with odd settings; and by ourselves."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

import farfield
from farfield.generation import TextModel

STORIES = Path(__file__).resolve().parents[3] / "shared" / "data" / "stories260k"
needs_stories = pytest.mark.skipif(not STORIES.is_dir(), reason="no stories260k in ../shared/data")

VOCABULARY = 67
ENDS = [2, 5, 11, 17, 23, 31]
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": ENDS,
    "pad_token_id": None,
}
OF_ALL = {key: SIZES[key] for key in ("vocab_size", "num_hidden_layers", "eos_token_id", "pad_token_id")}
MAMBA = {**OF_ALL, "hidden_size": 20, "state_size": 5, "layer_norm_epsilon": 1e-3}
MAMBA2 = {**OF_ALL, "hidden_size": 24, "num_heads": 6, "head_dim": 8, "n_groups": 3, "state_size": 5, "chunk_size": 7}
JAMBA = {
    **SIZES,
    "num_hidden_layers": 4,
    "attn_layer_period": 3,
    "attn_layer_offset": 1,
    "num_experts": 3,
    "mamba_d_state": 5,
    "mamba_d_conv": 3,
    "mamba_dt_rank": 3,
}
FAMILY_SIZES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), SIZES),
    "mamba": MAMBA,
    "mamba2": MAMBA2,
    "jamba": JAMBA,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}


@dataclass(frozen=True)
class Case:
    """A model of transformers: its family, what its settings have beside `sizes`, and how its folder is written.

    `old`: with `rope_theta` and `rope_scaling`, as before transformers 5. `shards`: the weights in several files.
    `steps`: whether transformers decodes one token as it reads many: its Mamba-2 forgets the limits of steps.
    """

    family: str
    settings: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    old: bool = False
    shards: bool = False
    steps: bool = True
    sizes: dict[str, Any] = field(default_factory=lambda: SIZES)


CASES = {
    "llama": Case("Llama", {"num_key_value_heads": 1, "head_dim": 10, "rope_parameters": LLAMA3}),
    "llama-biases-tied": Case(
        "Llama",
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "rms_norm_eps": 1e-3},
        shards=True,
    ),
    "llama-linear-old": Case(
        "Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 2e4, "factor": 3.0}}, old=True
    ),
    "mistral-window": Case("Mistral", {"sliding_window": 9}),
    "mistral-whole-bfloat16": Case(
        "Mistral", {"sliding_window": None, "head_dim": 14, "hidden_size": 26}, torch.bfloat16
    ),
    "qwen2": Case("Qwen2", {"tie_word_embeddings": True, "rope_parameters": YARN, "sliding_window": 7}, old=True),
    "qwen2-windows": Case(
        "Qwen2",
        {
            "use_sliding_window": True,
            "sliding_window": 7,
            "max_window_layers": 1,
            "rope_parameters": {**YARN, "mscale": 0.8, "mscale_all_dim": 0.5, "beta_fast": 8.0, "beta_slow": 2.0},
        },
        torch.float16,
        shards=True,
    ),
    "qwen3": Case("Qwen3", {"head_dim": 10, "attention_bias": True, "rms_norm_eps": 1e-4}),
    "qwen3-windows": Case(
        "Qwen3",
        {
            "head_dim": 16,
            "use_sliding_window": True,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {**YARN, "attention_factor": 1.2, "truncate": False},
        },
    ),
    "mamba": Case("Mamba", {"expand": 3, "conv_kernel": 3, "use_bias": True, "time_step_rank": 4}, sizes=MAMBA),
    "mamba-inner-untied": Case(
        "Mamba",
        {"intermediate_size": 37, "tie_word_embeddings": False, "use_conv_bias": False, "residual_in_fp32": False},
        sizes=MAMBA,
        shards=True,
    ),
    "mamba-bfloat16": Case("Mamba", {"conv_kernel": 1}, torch.bfloat16, sizes=MAMBA),
    "mamba2": Case("Mamba2", {"use_bias": True, "use_conv_bias": False, "tie_word_embeddings": True}, sizes=MAMBA2),
    "mamba2-limits": Case(
        "Mamba2",
        {"expand": 3, "n_groups": 1, "num_heads": 9, "time_step_limit": (0.4, 0.7), "layer_norm_epsilon": 1e-3},
        sizes=MAMBA2,
        shards=True,
        steps=False,
    ),
    "mamba2-bfloat16": Case("Mamba2", {"residual_in_fp32": False, "conv_kernel": 2}, torch.bfloat16, sizes=MAMBA2),
    "jamba": Case("Jamba", {"mamba_proj_bias": True, "tie_word_embeddings": True, "rms_norm_eps": 1e-3}, sizes=JAMBA),
    "jamba-head-size": Case(
        "Jamba",
        {
            "head_dim": 7,
            "num_experts_per_tok": 1,
            "expert_layer_period": 3,
            "mamba_conv_bias": False,
            "mamba_expand": 3,
        },
        sizes=JAMBA,
        shards=True,
    ),
    "jamba-dense-bfloat16": Case("Jamba", {"num_experts": 1, "num_key_value_heads": 1}, torch.bfloat16, sizes=JAMBA),
}


@contextmanager
def silence() -> Iterator[None]:
    """Without transformers' warnings, which are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def theirs(folder: Path, dtype: torch.dtype | None = None) -> Any:
    """A folder as transformers reads it."""
    from farfield.huggingface.loading import load_hub_model

    with silence():
        return load_hub_model(str(folder), dtype, "cpu")


def written(folder: Path, case: Case) -> Path:
    """A folder as transformers writes it, none of the weights at a special value."""
    import transformers

    with silence():
        config = getattr(transformers, f"{case.family}Config")(**{**case.sizes, **case.settings})
        model = getattr(transformers, f"{case.family}ForCausalLM")(config)
        torch.manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                gain = "norm" in name
                parameter.normal_(1.0 if gain else 0.0, 0.2 if gain or parameter.ndim == 1 else 0.3)
        model.to(case.dtype).save_pretrained(folder, max_shard_size="4KB" if case.shards else "1GB")
    if case.old:
        config = json.loads((folder / "config.json").read_text())
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = {"type": rope.pop("rope_type"), **rope}
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def tiny(architecture: str = "attention", *overrides: str) -> TextModel:
    """A small model of ours, of bytes."""
    size = ["width=16", "depth=2", f"layers.{architecture}.mixer.heads=2", f"layers.{architecture}.mixer.conv=0"]
    return farfield.build(architecture, [*size, *overrides])


def changed(folder: Path, **values: Any) -> Path:
    """The folder with other values in its config.json; None takes a key out."""
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder
