"""Stacks of layers that share keys, as what the contract suite is run on: x in, y out, and a state that is a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from farfield.architectures import Mixer, Rows, State
from farfield.architectures.decoder import Decoder
from farfield.config import read
from farfield.model import ModelConfig

ATTENTION = {"kind": "attention", "heads": 4, "kv_heads": 2}
WINDOW = {"kind": "longformer", "heads": 4, "kv_heads": 2, "window": 5}
RETNET = {"kind": "retnet", "heads": 2, "chunk": 16}

STACKS: dict[str, dict[str, Any]] = {
    "cla": {"mixers": {"a": {**ATTENTION, "conv": 3}}, "sharing": {"kind": "groups"}},
    "cla-3-alibi": {
        "mixers": {"a": {**ATTENTION, "position": "alibi"}, "r": RETNET},
        "pattern": ["a", "r", "a", "a"],
        "sharing": {"kind": "groups", "size": 3},
    },
    "cla-windows": {
        "mixers": {"a": {**WINDOW, "window": [3, 9], "dilation": [1, 2], "position": "alibi"}},
        "depth": 3,
        "sharing": {"kind": "map", "keys_from": [0, 0, 0]},
    },
    "mixed": {
        "mixers": {"a": {**ATTENTION, "position": "none"}, "w": {**WINDOW, "conv": 2}},
        "pattern": ["w", "a"],
        "sharing": {"kind": "groups"},
    },
    "yoco": {
        "mixers": {"w": {**WINDOW, "conv": 3}, "a": ATTENTION},
        "pattern": ["w", "a"],
        "arrangement": "stretch",
        "sharing": {"kind": "upper"},
    },
    "yoco-retnet": {
        "mixers": {"r": RETNET, "a": ATTENTION},
        "pattern": ["r", "a"],
        "arrangement": "stretch",
        "sharing": {"kind": "upper"},
    },
    "lckv": {"mixers": {"a": ATTENTION}, "sharing": {"kind": "condensed"}},
    "lckv-conv-alibi": {
        "mixers": {"a": {**ATTENTION, "position": "alibi", "conv": 3}},
        "depth": 3,
        "sharing": {"kind": "condensed", "warmup": 0},
    },
    "lckv-windows": {
        "mixers": {"w": {**WINDOW, "position": "none", "dilation": [1, 2]}},
        "depth": 3,
        "sharing": {"kind": "condensed", "warmup": 1},
    },
    "lckv-retnet": {
        "mixers": {"a": ATTENTION, "r": RETNET},
        "pattern": ["a", "r", "a"],
        "sharing": {"kind": "condensed", "warmup": 0},
    },
    "crossed": {"mixers": {"a": {**ATTENTION, "conv": 2}}, "sharing": {"kind": "map", "keys_from": [3, 2, 2, 3]}},
    "published": {"mixers": {"a": ATTENTION}, "sharing": {"kind": "condensed", "passes": 2, "backward": 2}},
}
"""By name: mixers by the name of the layer, pattern, depth and sharing."""


@dataclass(frozen=True, eq=False)
class StackState(State):
    """The states of the layers."""

    layers: tuple[State, ...]


class StackMixer(Mixer):
    """A decoder with the call of a mixer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        architecture = config.decoder
        mixers = architecture.mixers()
        self.decoder = Decoder(
            architecture, lambda index: mixers[index].build(architecture.width, index, architecture.depth)
        )

    def start(self, batch: int) -> StackState:
        return StackState(self.decoder.start(batch))

    def forward(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, StackState)
        y, layers, _ = self.decoder(x, rows, state.layers)
        return rows.masked(y), StackState(layers)


def config_of(name: str, width: int = 16) -> ModelConfig:
    """The settings of a model with this stack."""
    stack = STACKS[name]
    mixers = stack["mixers"]
    pattern = stack.get("pattern", list(mixers))
    layers = {name: {"mixer": mixer, "feedforward": {"kind": "swiglu", "ratio": 1.0}} for name, mixer in mixers.items()}
    architecture = {
        "width": width,
        "depth": stack.get("depth", 4 if 4 % len(pattern) == 0 else len(pattern)),
        "pattern": pattern,
        "arrangement": stack.get("arrangement", "repeat"),
        "sharing": stack["sharing"],
        "layers": layers,
    }
    return read(ModelConfig, {"architecture": architecture, "vocabulary": 7})


@dataclass(frozen=True)
class Stack:
    """As a subject of the contract suite."""

    name: str
    width: int = 16
    memory: None = None
    group: str = "sharing stack"

    @property
    def config(self) -> ModelConfig:
        return config_of(self.name, self.width)

    def build(self, dtype: torch.dtype = torch.float64) -> StackMixer:
        """The stack with weights that are always the same, none of them at a special value."""
        torch.manual_seed(1)
        stack: nn.Module = StackMixer(self.config)
        with torch.no_grad():
            for parameter in stack.parameters():
                parameter += 0.1 * torch.randn(parameter.shape)
        made = stack.to(dtype)
        assert isinstance(made, StackMixer)
        return made

    def state_bytes(self, tokens: int, element: int) -> int:
        """Bytes of one row's state, as the settings say."""
        return self.config.state_bytes(tokens, element)
