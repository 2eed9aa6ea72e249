"""Small models of every shape: each backbone, a mixture of them, and a memory around their layers."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch

from farfield.config import read
from farfield.model import LanguageModel, ModelConfig

VOCABULARY = 31

LAYERS: dict[str, dict[str, Any]] = {
    "attention": {"mixer": {"kind": "attention", "heads": 4, "kv_heads": 2, "conv": 3}},
    "longformer": {"mixer": {"kind": "longformer", "heads": 4, "window": [5, 7], "dilation": [1, 2], "globals": 2}},
    "retnet": {
        "mixer": {"kind": "retnet", "heads": 2, "conv": 4, "chunk": 16},
        "feedforward": {"kind": "swiglu", "ratio": 1.5},
    },
    "experts": {
        "mixer": {"kind": "retnet", "heads": 2},
        "feedforward": {"kind": "moe", "experts": 5, "top": 2, "ratio": 1.0},
    },
    "window": {"mixer": {"kind": "longformer", "heads": 2, "window": 6, "conv": 2}},
    "gelu": {"mixer": {"kind": "attention", "heads": 2}, "feedforward": {"kind": "gelu"}},
    "alibi": {"mixer": {"kind": "attention", "heads": 4, "position": "alibi"}},
    "xpos": {"mixer": {"kind": "longformer", "heads": 4, "window": 5, "position": "xpos", "scale_base": 2}},
}
MEMORY = {"capacity": 20, "segment": 4, "top": 3}

MODELS: dict[str, dict[str, Any]] = {
    "attention": {"pattern": ["attention"], "depth": 2},
    "longformer": {"pattern": ["longformer"], "depth": 2},
    "retnet": {"pattern": ["retnet"], "depth": 2},
    "mixture": {"pattern": ["retnet", "attention", "longformer"], "depth": 3},
    "experts": {"pattern": ["experts", "gelu"], "depth": 4},
    "untied": {"pattern": ["retnet", "attention"], "depth": 4, "tied": False},
    "alibi": {"pattern": ["alibi"], "depth": 2},
    "positions": {"pattern": ["xpos", "alibi"], "depth": 2, "memory": {**MEMORY, "position": "original"}},
    "memory": {"pattern": ["attention"], "depth": 2, "memory": MEMORY},
    "memory-above": {
        "pattern": ["retnet", "attention"],
        "depth": 4,
        "memory": {**MEMORY, "layers": [-1], "position": "original", "gradient": True},
    },
    "cla": {"pattern": ["attention"], "depth": 4, "sharing": {"kind": "groups"}},
    "yoco": {
        "pattern": ["window", "gelu"],
        "depth": 4,
        "arrangement": "stretch",
        "sharing": {"kind": "upper"},
        "memory": {**MEMORY, "layers": [0]},
    },
    "lckv": {"pattern": ["attention"], "depth": 4, "sharing": {"kind": "condensed"}, "memory": MEMORY},
    "memory-gated": {
        "pattern": ["retnet", "attention", "longformer"],
        "depth": 3,
        "memory": {**MEMORY, "combine": "gate"},
    },
    "recurrent": {
        "pattern": ["experts", "gelu"],
        "depth": 2,
        "memory": {"kind": "recurrent", "segment": 7, "tokens": 2},
    },
    "summaries": {
        "pattern": ["retnet", "attention", "longformer"],
        "depth": 3,
        "memory": {"kind": "summaries", "segment": 9, "tokens": 2, "limit": 5, "bptt": None},
    },
}


def mapping(
    pattern: list[str], depth: int, tied: bool = True, memory: Any = None, width: int = 16, **more: Any
) -> dict[str, Any]:
    """The settings of a model as a configuration file gives them; `more` of the architecture."""
    layers = {name: deepcopy(LAYERS[name]) for name in pattern}
    architecture = {"width": width, "depth": depth, "pattern": pattern, "layers": layers, "tied": tied, **more}
    memory = None if memory is None else {"kind": "key_value", **memory}
    return {"architecture": architecture, "memory": memory, "vocabulary": VOCABULARY}


def config_of(name: str) -> ModelConfig:
    return read(ModelConfig, mapping(**MODELS[name]))


def model_of(name: str, dtype: torch.dtype = torch.float64) -> LanguageModel:
    """The model with weights that are always the same."""
    torch.manual_seed(3)
    model = LanguageModel(config_of(name))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    return model.to(dtype)
