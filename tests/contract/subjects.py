"""What the contract suite is run on: every kind of mixer in the union, and every memory around every softmax mixer.

A kind that is added to the union is a subject by that alone, with its default settings. `EXTRA` adds settings that
reach its other paths.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from contract import families
from farfield.architectures import KeyedMixer, Mixer, MixerSettings, Rows, State, build_mixer, mixer_kinds
from farfield.architectures.decoder import Decoder
from farfield.architectures.dual_chunk import DualChunk
from farfield.architectures.external import ExternalConfig
from farfield.architectures.feedforward import NoFeedForwardConfig
from farfield.architectures.self_extend import SelfExtend
from farfield.architectures.stretching import NTK, Llama3, YaRN
from farfield.config import Config, read
from farfield.memory import KeyValueMemoryConfig, MemoryConfig, MixerMemory, StackMemory
from farfield.model import ModelConfig

EXTRA: dict[str, dict[str, dict[str, Any]]] = {
    "attention": {
        "grouped-conv": {"heads": 4, "kv_heads": 2, "conv": 4},
        "nope": {"heads": 2, "position": "none"},
        "alibi": {"heads": 6, "kv_heads": 3, "position": "alibi"},
        "xpos": {"heads": 4, "kv_heads": 2, "position": "xpos", "scale_base": 2},
        "xpos-far": {"heads": 2, "conv": 3, "position": "xpos"},
        "own-size": {"heads": 4, "kv_heads": 2, "head_size": 6, "bias": "all", "qk_norm": 1e-6},
        "yarn": {"heads": 4, "bias": "inputs", "scaling": YaRN(factor=4, trained=40)},
        "dual-chunk": {"heads": 4, "kv_heads": 2, "extension": DualChunk(chunk=12, window=4)},
        "dual-chunk-llama3": {
            "heads": 2,
            "conv": 3,
            "extension": DualChunk(chunk=6, window=1),
            "scaling": Llama3(factor=4, trained=40),
        },
        "self-extend": {"heads": 4, "kv_heads": 2, "extension": SelfExtend(window=5, group=3)},
        "self-extend-yarn": {
            "heads": 2,
            "conv": 3,
            "extension": SelfExtend(window=11, group=8),
            "scaling": YaRN(factor=4, trained=40),
        },
    },
    "longformer": {
        "window": {"heads": 2, "window": 5},
        "own-size": {"heads": 4, "kv_heads": 2, "window": 9, "head_size": 6, "bias": "inputs", "qk_norm": 1e-6},
        "biases": {"heads": 2, "window": 4, "globals": 3, "bias": "all", "scaling": NTK(factor=4)},
        "globals": {"heads": 2, "window": 4, "globals": 3},
        "dilated": {"heads": 6, "kv_heads": 3, "window": 3, "dilation": [1, 3, 2], "globals": 2},
        "listed-conv": {"heads": 4, "kv_heads": 1, "window": [3, 70], "conv": 3, "globals": 70, "position": "none"},
        "alibi": {"heads": 6, "kv_heads": 3, "window": 3, "dilation": [1, 3, 2], "globals": 2, "position": "alibi"},
        "xpos": {"heads": 4, "kv_heads": 2, "window": 9, "globals": 40, "position": "xpos", "scale_base": 2},
        "dual-chunk": {"heads": 2, "window": 4, "globals": 9, "extension": DualChunk(chunk=6, window=2)},
        "self-extend": {
            "heads": 6,
            "kv_heads": 3,
            "window": 3,
            "dilation": [1, 3, 2],
            "globals": 2,
            "extension": SelfExtend(window=5, group=3),
        },
        "xpos-dilated": {"heads": 4, "window": 4, "dilation": [1, 2], "position": "xpos", "scale_base": 1.5},
    },
    "retnet": {
        "conv-chunk": {"heads": 4, "conv": 4, "chunk": 16},
        "narrow": {"heads": 2, "value_ratio": 1, "chunk": 1000},
        "linspace-halves": {"heads": 3, "decay": "linspace", "rotation": "halves"},
        "one-linspace": {"heads": 1, "decay": "linspace"},
    },
    **families.EXTRA,
}
"""By kind and name: further settings. A list of windows makes the subject the upper layer of two."""

AROUND: dict[str, dict[str, Any]] = {
    "attention": {"heads": 4, "kv_heads": 2, "conv": 4},
    "longformer": {"heads": 4, "kv_heads": 2, "window": 7, "dilation": [1, 2], "globals": 2},
    "sparse": {"heads": 4, "kv_heads": 2, "pattern": "bigbird", "stride": 4, "globals": 3},
}
"""By kind: the settings of the mixer that memories are put around; the default ones for a kind that is not listed."""

MEMORIES: dict[str, dict[str, Any]] = {
    "joint-none": {"capacity": 24, "segment": 4, "top": 3},
    "joint-original": {"capacity": 9, "segment": 5, "top": 4, "position": "original", "gradient": True},
    "gate-none": {"capacity": 7, "segment": 3, "top": 2, "combine": "gate", "gradient": True},
    "gate-original": {"capacity": 500, "segment": 8, "top": 500, "combine": "gate", "position": "original"},
    "least": {"capacity": 1, "segment": 1, "top": 1},
}


POSITIONED = {"alibi": {"position": "alibi"}, "xpos": {"position": "xpos", "scale_base": 3}}
"""By name: positions of the mixers in `AROUND`, around which the memories in `OF_POSITIONS` are put too."""

OF_POSITIONS = ("joint-none", "joint-original", "gate-original")


class _Memory(Config):
    memory: MemoryConfig


class StackAsMixer(Mixer):
    """Layers with a memory around them, called as a mixer is: vectors in, vectors out, one state."""

    def __init__(self, stack: Any) -> None:
        super().__init__()
        self.stack = stack

    @property
    def mixer(self) -> Mixer:
        """The mixer of the one layer."""
        return next(self.stack.mixers())  # type: ignore[no-any-return]

    def start(self, batch: int) -> State:
        return self.stack.start(batch)[0]  # type: ignore[no-any-return]

    def forward(self, x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        y, (state,), _ = self.stack(x, rows, (state,))
        return y, state


@dataclass(frozen=True)
class Subject:
    """Settings of a mixer, its place in the stack, and the memory around it."""

    name: str
    settings: MixerSettings
    width: int
    memory: MixerMemory | StackMemory | None = None
    layer: int = 0
    depth: int = 1

    @property
    def group(self) -> str:
        """What the count of cases calls it."""
        return self.settings.kind + ("+memory" if self.memory else "")  # type: ignore[attr-defined]

    def build(self, dtype: torch.dtype = torch.float64, settings: MixerSettings | None = None) -> Mixer:
        """The mixer with weights that are always the same, none of them at a special value."""
        mixer = self.fresh(1, settings)
        with torch.no_grad():
            for parameter in mixer.parameters():
                parameter += 0.1 * torch.randn(parameter.shape)
        return mixer.to(dtype)

    def fresh(self, seed: int, settings: MixerSettings | None = None) -> Mixer:
        """The mixer with fresh weights, the memory around it where there is one."""
        torch.manual_seed(seed)
        mixer = (settings or self.settings).build(self.width, self.layer, self.depth)
        if isinstance(self.memory, StackMemory):
            architecture = self.model().decoder
            above = [
                mixer,
                *((settings or self.settings).build(self.width, n, self.depth) for n in range(1, self.depth)),
            ]
            return StackAsMixer(self.memory.build(Decoder(architecture, lambda index: above[index]), architecture))
        return mixer if self.memory is None else self.memory.build(mixer, self.settings, self.width)

    def parameters(self) -> int:
        """Number of weights, as the settings say."""
        place = self.width, self.layer, self.depth
        if isinstance(self.memory, StackMemory):
            model = self.model()
            return model.parameters() - model.vocabulary * self.width
        own = 0 if self.memory is None else self.memory.parameters(self.settings, *place)
        return self.settings.parameters(*place) + own

    def model(self) -> ModelConfig:
        """The settings of a model all of whose layers are this one, without a feed-forward."""
        layer = {"mixer": self.settings, "feedforward": NoFeedForwardConfig()}
        return ModelConfig.model_validate(
            {
                "architecture": {
                    "width": self.width,
                    "depth": self.depth,
                    "pattern": ("layer",),
                    "layers": {"layer": layer},
                },
                "memory": self.memory,
                "vocabulary": 7,
            }
        )

    def state_bytes(self, tokens: int, element: int) -> int:
        """Bytes of one row's state, as the settings say."""
        if self.memory is None:
            return self.settings.state_bytes(self.width, tokens, self.layer, self.depth, element)
        assert self.depth == 1 or isinstance(self.memory, StackMemory)
        return self.model().state_bytes(tokens, element)


def settings_of(kind: str, **values: Any) -> MixerSettings:
    """Settings from plain values, as a configuration file gives them."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return mixer_kinds()[kind](**values)


def _plain() -> list[Subject]:
    found = []
    for kind in mixer_kinds():
        found.append(Subject(f"{kind}.default", settings_of(kind), width=64))
        for name, values in EXTRA.get(kind, {}).items():
            width = 4 * values.get("heads", 4)
            listed = any(isinstance(values.get(key), list) for key in ("window",))
            place = {"layer": 1, "depth": 2} if listed else {}
            if f"{kind}.{name}" in families.PLACES:
                place = dict(zip(("layer", "depth"), families.PLACES[f"{kind}.{name}"], strict=True))
            found.append(Subject(f"{kind}.{name}", settings_of(kind, **values), width, **place))
    return found


def _remembering() -> list[Subject]:
    found = []
    for kind in mixer_kinds():
        width = 16 if kind in AROUND else 64
        settings = settings_of(kind, **AROUND.get(kind, {}))
        if not isinstance(build_mixer(settings, width), KeyedMixer):
            continue
        found += [_around(kind, name, settings, width) for name in MEMORIES]
        for position, values in POSITIONED.items() if kind in AROUND else ():
            placed = settings_of(kind, **AROUND[kind], **values)
            found += [_around(f"{kind}-{position}", name, placed, width) for name in OF_POSITIONS]
    return found


def _around(called: str, memory: str, settings: MixerSettings, width: int) -> Subject:
    """The memory with segments that the mixer's reach allows."""
    values, reach = MEMORIES[memory], settings.reach(0, 1)  # type: ignore[attr-defined]  # a KeyedMixer's settings
    if reach is not None:
        values = {**values, "segment": min(values["segment"], reach + 1)}
    return Subject(f"{called}+{memory}", settings, width, KeyValueMemoryConfig(**values))


def _own() -> list[Subject]:
    """The memories of the families, around the kinds of mixers that they name."""
    found = []
    for name, (kinds, values) in families.MEMORIES.items():
        memory = read(_Memory, {"memory": values}).memory
        for kind in kinds:
            width = 16 if kind in AROUND else 64
            settings, depth = settings_of(kind, **AROUND.get(kind, {})), families.DEPTHS.get(name, 1)
            found.append(Subject(f"{kind}+{name}", settings, width, memory, depth=depth))
    return found


def _external() -> list[Subject]:
    """A mixer from outside, by FARFIELD_CONTRACT='module:Class {"setting": value}'; see docs."""
    given = os.environ.get("FARFIELD_CONTRACT")
    if not given:
        return []
    path, _, settings = given.partition(" ")
    return [Subject("external", ExternalConfig(path=path, settings=json.loads(settings or "{}")), width=16)]


SUBJECTS = [*_plain(), *_remembering(), *_own(), *_external()]
