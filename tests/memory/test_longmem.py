"""A side network beside a frozen model: what learns, what it begins with, and where it cannot stand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from farfield.config import ConfigError, read
from farfield.memory.longmem import LongMem, LongMemConfig
from farfield.model import LanguageModel, ModelConfig
from farfield.retrofit import retrofit

MEMORY = {"kind": "longmem", "capacity": 32, "segment": 8, "unit": 4, "top": 2}


def mapping(kind: str = "longformer", depth: int = 4, memory: dict[str, Any] | None = None) -> dict[str, Any]:
    mixer: dict[str, Any] = {"kind": kind, "heads": 2}
    if kind == "longformer":
        mixer |= {"window": 7, "globals": 0}
    architecture = {"width": 16, "depth": depth, "pattern": ["layer"], "layers": {"layer": {"mixer": mixer}}}
    return {"architecture": architecture, "memory": memory, "vocabulary": 23}


def model_of(**values: Any) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(read(ModelConfig, mapping(**values))).double()


def tokens(rows: int, time: int) -> torch.Tensor:
    return torch.randint(23, (rows, time), generator=torch.Generator().manual_seed(2))


def side_of(model: LanguageModel) -> LongMem:
    assert isinstance(model.stack, LongMem)
    return model.stack


def test_the_backbone_stays_and_the_side_network_learns() -> None:
    """Every weight beside the frozen ones gets a gradient, and no activation of the backbone is kept for one."""
    model = model_of(memory=MEMORY)
    x = tokens(2, 40)
    model.loss(x[:, :-1], x[:, 1:]).total.backward()
    learnt = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learnt == {name for name, _ in model.named_parameters() if name.startswith("decoder.memory.")}
    assert all(bool(parameter.grad.any()) for name, parameter in model.named_parameters() if parameter.grad is not None)
    thawed = model_of(memory={**MEMORY, "frozen": False})
    thawed.loss(x[:, :-1], x[:, 1:]).total.backward()
    assert all(parameter.grad is not None for parameter in thawed.parameters())


def test_side_layers_begin_as_every_second_layer_of_a_trained_model() -> None:
    plain = model_of()
    found = retrofit(plain, LongMemConfig(capacity=32, segment=8, top=2), fresh=True)
    side = side_of(found)
    assert list(side.memory) == ["1", "3"]
    theirs = dict(plain.decoder.layers.named_parameters())
    for name, parameter in side.memory.named_parameters():
        if not name.endswith("gate"):
            assert torch.equal(parameter, theirs[name.replace("mixer.mixer.", "mixer.")]), name
    for (name, ours), (_, before) in zip(side.stack.named_parameters(), plain.decoder.named_parameters(), strict=True):
        assert torch.equal(ours, before), name
    with pytest.raises(ConfigError, match=r"^memory\.name: 'longmem' has weights of its own"):
        retrofit(plain, LongMemConfig(segment=8))


def test_what_is_kept_are_the_backbones_keys() -> None:
    """Other side weights change the answers, and nothing of what is remembered."""
    model = model_of(memory=MEMORY)
    x = tokens(1, 40)
    with torch.no_grad():
        first, before = model(x)
        for parameter in side_of(model).memory.parameters():
            parameter += 0.3
        second, after = model(x)
    banks = [state.layers[0].side[1].bank.keys for state in (before, after)]
    assert torch.equal(*banks)
    assert (second - first).abs().max() > 1e-3


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_model_with_it_goes_token_by_token(checkpointing: bool) -> None:
    model = model_of(memory={**MEMORY, "frozen": False})
    model.stack.checkpointing = checkpointing
    x = tokens(2, 30)
    whole, _ = model(x)
    state, found = None, []
    for token in x.split(1, 1):
        y, state = model(token, state)
        found.append(y)
    assert (torch.cat(found, 1) - whole).abs().max() < 1e-9
    whole.square().mean().backward()


@pytest.mark.parametrize(
    ("values", "memory", "text"),
    [
        ({"depth": 3}, {}, "memory.name: 'longmem' has a side layer for every second layer, and the depth is 3."),
        ({}, {"keeps": 4}, "memory.keeps: 4 given, but the model has layers 0 to 3."),
        ({"kind": "retnet"}, {}, "memory.keeps: layer 2 is 'retnet', which has no keys."),
        ({}, {"segment": 12}, "memory.segment: 12 is longer than the window of 7 tokens allows"),
        ({}, {"capacity": 0}, "memory.capacity: 0 given."),
        ({}, {"unit": 3}, "memory.segment: 8 is no multiple of the unit of 3 tokens."),
    ],
)
def test_mistakes_are_one_line(values: dict[str, Any], memory: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as mistake:
        read(ModelConfig, mapping(**values, memory={**MEMORY, **memory}))
    assert str(mistake.value).startswith(text)
