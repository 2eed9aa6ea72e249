"""What the settings tell of a model before it is built: weights, bytes of state, work."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import torch
from models import LAYERS, MEMORY, MODELS, VOCABULARY, config_of, mapping, model_of
from torch.utils.flop_counter import FlopCounterMode

from farfield.architectures.longformer import LongformerConfig
from farfield.config import read
from farfield.encoding import EncoderModel
from farfield.model import LanguageModel, ModelConfig


@pytest.mark.parametrize("name", MODELS)
def test_parameters(name: str) -> None:
    assert sum(p.numel() for p in model_of(name).parameters()) == config_of(name).parameters()


@pytest.mark.parametrize("bidirectional", [False, True])
def test_layers_without_a_feedforward(bidirectional: bool) -> None:
    """As Mamba is published: no weights, no norm, no work, and every weight that is there gets a gradient."""
    layer = {"mixer": {"kind": "attention", "heads": 2}, "feedforward": {"kind": "none"}}
    architecture = {"width": 16, "depth": 2, "pattern": ["layer"], "layers": {"layer": layer}}
    config = read(
        ModelConfig, {"architecture": {**architecture, "bidirectional": bidirectional}, "vocabulary": VOCABULARY}
    )
    model = EncoderModel(config) if bidirectional else LanguageModel(config)
    assert sum(p.numel() for p in model.parameters()) == config.parameters() == config.active()
    assert not any("feedforward" in name for name, _ in model.named_parameters())
    tokens = torch.randint(0, VOCABULARY, (2, 9))
    gradients = torch.autograd.grad(model.loss(tokens, tokens).total, list(model.parameters()))
    assert all(gradient.any() for gradient in gradients)


def test_a_token_meets_its_own_experts_only() -> None:
    layer = {"mixer": {"kind": "attention", "heads": 2}, "feedforward": {"kind": "moe", "experts": 8, "top": 2}}
    architecture = {"width": 16, "depth": 2, "pattern": ["layer"], "layers": {"layer": layer}}
    config = read(ModelConfig, {"architecture": architecture, "vocabulary": VOCABULARY})
    feedforward = LanguageModel(config).decoder.layers[0].feedforward
    idle = sum(p[2:].numel() for p in (feedforward.up, feedforward.down))
    assert config.parameters() - config.active() == 2 * idle


def test_an_untied_head_has_weights_of_its_own() -> None:
    tied, untied = (read(ModelConfig, mapping(["retnet"], 1, tied=tied)) for tied in (True, False))
    assert untied.parameters() - tied.parameters() == VOCABULARY * 16
    assert LanguageModel(tied).output is None
    model = LanguageModel(untied).double()
    tokens = torch.randint(0, VOCABULARY, (1, 5))
    hidden, _ = model.hidden(tokens)
    assert torch.equal(model.head(hidden), hidden @ model.output.weight.T)
    assert torch.equal(model(tokens)[0], model.head(hidden))
    gradient = torch.autograd.grad(model.loss(tokens, tokens).total, [model.embedding.weight, model.output.weight])
    assert all(part.any() for part in gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_bytes_of_the_state(name: str, dtype: torch.dtype) -> None:
    """At the start, about the ends of segments, windows and banks, and well beyond."""
    model, config = model_of(name, dtype), config_of(name)
    tokens, state, before = torch.randint(0, VOCABULARY, (2, 130)), model.start(2), 0
    assert state.bytes == 2 * config.state_bytes(0, dtype.itemsize)
    with torch.no_grad():
        for length in (1, 3, 4, 5, 8, 14, 24, 25, 63, 130):
            _, state = model(tokens[:, before:length], state)
            before = length
            assert state.bytes == 2 * config.state_bytes(length, dtype.itemsize)
            assert state.compact().bytes == state.bytes


def blocked(layers: dict[str, Any]) -> dict[str, Any]:
    """The same layers by matrix products alone, which is what PyTorch counts; without convolutions."""
    found = {}
    for name, layer in layers.items():
        forced = {} if layer["mixer"]["kind"] == "retnet" else {"backend": "blocked"}
        found[name] = {**layer, "mixer": {**layer["mixer"], **forced, "conv": 0}}
    return found


def elementwise(config: ModelConfig) -> int:
    """Work that PyTorch's counter, which knows matrix products only, does not see: retention's S + k^T v."""
    architecture, total = config.architecture, 0
    for index in range(architecture.depth):
        mixer = architecture.layer(index).mixer
        if mixer.kind == "retnet":
            heads, key, value = mixer.sizes(architecture.width)
            total += 2 * heads * key * value
    return total


FLOPS: dict[str, dict[str, Any]] = {
    "attention": {"pattern": ["attention"], "depth": 2},
    "retnet": {"pattern": ["retnet"], "depth": 2},
    "longformer": {"pattern": ["longformer"], "depth": 2},
    "mixture": {"pattern": ["retnet", "attention", "longformer"], "depth": 3, "tied": False},
    "cla": {"pattern": ["attention"], "depth": 4, "sharing": {"kind": "groups"}},
    "yoco": {
        "pattern": ["window", "gelu"],
        "depth": 4,
        "arrangement": "stretch",
        "sharing": {"kind": "upper"},
    },
    "lckv": {"pattern": ["attention"], "depth": 4, "sharing": {"kind": "condensed"}},
    # One key of so many that they are gathered: few are read by a mask over all, which is more work but less time.
    "memory": {"pattern": ["attention"], "depth": 2, "memory": {"capacity": 100, "segment": 4, "top": 1}},
    "memory-gated": {
        "pattern": ["longformer"],
        "depth": 2,
        "memory": {"capacity": 200, "segment": 5, "top": 2, "combine": "gate", "position": "original"},
    },
}


@pytest.mark.parametrize("tokens", [70, 130, 400])
@pytest.mark.parametrize("name", FLOPS)
def test_work_of_a_decoded_token(name: str, tokens: int) -> None:
    """What the settings say is what the built model does, by PyTorch's own count of its matrix products.

    Windows without dilation: a dilated one is computed as all of its columns under a mask.
    """
    given = mapping(**FLOPS[name])
    given["architecture"]["layers"] = blocked(given["architecture"]["layers"])
    for layer in given["architecture"]["layers"].values():
        if layer["mixer"]["kind"] == "longformer":
            layer["mixer"]["dilation"] = 1
    config = read(ModelConfig, given)
    model = LanguageModel(config)
    with torch.no_grad():
        _, state = model(torch.randint(0, VOCABULARY, (1, tokens)))
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 1, dtype=torch.int64), state)
    assert counter.get_total_flops() == config.flops(tokens) - elementwise(config)


@pytest.mark.parametrize("name", MODELS)
def test_work_never_shrinks_but_where_a_segment_ends(name: str) -> None:
    config = config_of(name)
    segment = getattr(config.memory, "segment", MEMORY["segment"])
    work = [config.flops(tokens) for tokens in range(0, 400, segment)]
    assert all(after >= before for before, after in itertools.pairwise(work))
    kinds = {LAYERS[layer]["mixer"]["kind"] for layer in MODELS[name]["pattern"]}
    if "attention" not in kinds:
        assert work[-1] == work[len(work) // 2]


@pytest.mark.parametrize("name", MODELS)
def test_settings_survive_their_mapping(name: str) -> None:
    """What a checkpoint stores gives the same model again."""
    config = config_of(name)
    stored = json.loads(json.dumps(config.mapping()))
    assert read(ModelConfig, stored) == config
    shapes = [
        {key: value.shape for key, value in LanguageModel(c).state_dict().items()}
        for c in (config, read(ModelConfig, stored))
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", MODELS)
def test_fresh_logits_have_variance_one_and_come_from_the_seed(name: str) -> None:
    given = mapping(**{**MODELS[name], "width": 64})
    models = []
    for _ in range(2):
        torch.manual_seed(4)
        models.append(LanguageModel(read(ModelConfig, given)))
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))
    logits, _ = models[0](torch.randint(0, VOCABULARY, (4, 63)))
    assert 0.7 < logits.std() < 1.4


def test_lists_are_spread_over_the_layers() -> None:
    config = read(ModelConfig, mapping(["longformer"], 4))
    assert [layer.mixer.window for layer in LanguageModel(config).decoder.layers] == [5, 5, 7, 7]
    three = LongformerConfig(window=(1, 2, 3))
    assert [three.layer_window(layer, 6) for layer in range(6)] == [1, 1, 2, 2, 3, 3]
    assert [three.layer_window(layer, 4) for layer in range(4)] == [1, 1, 2, 3]


def test_a_memory_stands_where_the_settings_say() -> None:
    found = [hasattr(layer.mixer, "mixer") for layer in model_of("memory-above").decoder.layers]
    assert found == [False, False, False, True]
    assert [hasattr(layer.mixer, "mixer") for layer in model_of("memory-gated").decoder.layers] == [False, True, True]
