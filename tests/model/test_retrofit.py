"""Another memory on a trained model: the weights stay, whatever stood around them before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models import VOCABULARY, model_of

import farfield
from farfield.compose import compose
from farfield.config import Config, ConfigError, read
from farfield.memory import MemoryConfig
from farfield.retrofit import retrofit
from farfield.settings import EvaluateSettings, QuerySettings


class One(Config):
    memory: MemoryConfig | None


def tokens(rows: int, time: int) -> torch.Tensor:
    return torch.randint(VOCABULARY, (rows, time), generator=torch.Generator().manual_seed(7))


def memory_of(**values: Any) -> MemoryConfig | None:
    return read(One, {"memory": {"kind": "key_value", "segment": 4, "capacity": 20, "top": 3, **values}}).memory


@pytest.mark.parametrize("name", ["longformer", "memory", "memory-above", "mixture"])
def test_the_weights_are_those_of_a_model_without_memory(name: str) -> None:
    """Off and on again gives the same answers; off gives those of a model built without."""
    model = model_of(name)
    bare = retrofit(model, None)
    assert bare.config.memory is None
    assert bare.config.architecture == model.config.architecture
    theirs = {key: value for key, value in model.state_dict().items() if not key.endswith("gate")}
    assert sorted(value.sum().item() for value in theirs.values()) == sorted(
        value.sum().item() for value in bare.state_dict().values()
    )
    x = tokens(2, 40)
    with torch.no_grad():
        again = retrofit(bare, model.config.memory)
        assert torch.equal(again(x)[0], model(x)[0])
        if model.config.memory is not None:
            assert (bare(x)[0] - model(x)[0]).abs().max() > 1e-4


def test_a_memory_around_a_window_changes_what_comes_after_the_first_segment() -> None:
    """There the dilated heads of the window have left something out."""
    model = model_of("longformer")
    with torch.no_grad():
        plain, _ = model(tokens(1, 60))
        found, _ = retrofit(model, memory_of())(tokens(1, 60))
    differs = (found - plain).abs().amax(-1)[0] > 1e-6
    first = int(differs.nonzero()[0])
    assert first >= 4
    assert differs[first:].float().mean() > 0.9


def test_what_a_memory_has_learnt_stays_with_its_kind() -> None:
    """A trained gate goes on at another capacity, and cannot be made up where there was none."""
    model = model_of("memory-gated")
    larger = retrofit(model, memory_of(capacity=200, combine="gate", layers="all"))
    gates = [value for key, value in larger.state_dict().items() if key.endswith("gate") and value.ndim == 1]
    assert gates
    assert all(gate.any() for gate in gates)
    with pytest.raises(ConfigError) as mistake:
        retrofit(model_of("longformer"), memory_of(combine="gate", name="mine"))
    assert str(mistake.value) == (
        "memory.name: 'mine' has weights of its own, and this model was not trained with them. "
        "Train one: farfield train ... memory=mine."
    )


def test_vectors_in_front_of_segments_have_to_be_learnt() -> None:
    """They are not made up; what has learnt them goes on with other segments, and without them."""
    memory = {"kind": "recurrent", "segment": 4, "tokens": 2}
    with pytest.raises(ConfigError) as mistake:
        retrofit(model_of("longformer"), read(One, {"memory": memory}).memory)
    assert str(mistake.value).startswith("memory.name: 'rmt' has weights of its own")
    model = model_of("recurrent")
    longer, none = retrofit(model, read(One, {"memory": memory}).memory), retrofit(model, None)
    for name, weight in model.state_dict().items():
        assert torch.equal(longer.state_dict()[name], weight)
        if "decoder.memory" not in name:
            assert torch.equal(none.state_dict()[name.replace("decoder.stack.", "decoder.")], weight)


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("retnet", {}, "memory.name: 'knn' needs layers with softmax attention, not 'retnet'."),
        ("longformer", {"segment": 30}, "memory.segment: 30 is longer than the window of "),
    ],
)
def test_a_memory_that_does_not_fit_is_one_line(name: str, values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as mistake:
        retrofit(model_of(name), memory_of(**values))
    assert str(mistake.value).startswith(text)


def test_device_dtype_and_mode_stay() -> None:
    model = model_of("longformer").to(torch.bfloat16)
    for training in (True, False):
        found = retrofit(model.train(training), memory_of())
        assert found.training is training
        assert {parameter.dtype for parameter in found.parameters()} == {torch.bfloat16}


def test_settings_tell_the_trained_memory_from_none() -> None:
    """Not named: as trained; none: without; another: that, and results of a name of their own."""
    words = ["model=runs/mine", "suite=needle"]
    trained = read(EvaluateSettings, compose("evaluate", words))
    assert trained.remembered == "trained"
    assert str(trained.folder) == "results/mine"
    none = read(EvaluateSettings, compose("evaluate", [*words, "memory=none"]))
    assert none.remembered is None
    assert str(none.folder) == "results/mine-none"
    other = read(EvaluateSettings, compose("evaluate", [*words, "memory=knn", "memory.capacity=99"]))
    assert other.memory is not None
    assert other.remembered == other.memory
    assert str(other.folder) == "results/mine-knn"
    asked = read(QuerySettings, compose("query", ["question=what", "model=runs/mine", "memory=knn"]))
    assert asked.remembered == asked.memory


def test_a_setting_of_no_memory_is_told() -> None:
    with pytest.raises(ConfigError) as mistake:
        compose("evaluate", ["model=m", "memory.capacity=9"])
    assert str(mistake.value).startswith("memory.capacity=9: no memory is chosen. Add memory=<name>. Known: ")


def test_overrides_without_a_memory_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^overrides: settings of a memory, and none is named"):
        farfield.load(tmp_path, overrides=["capacity=9"])
