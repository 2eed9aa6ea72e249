"""Golden: what a user is told who asks a model for what it cannot do, or writes settings that do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import VOCABULARY, mapping, model_of

from farfield.architectures import KeyedSettings, build_mixer, mixer_kinds
from farfield.config import ConfigError, ModelError, read
from farfield.model import LanguageModel, ModelConfig

ATTENTION: dict[str, Any] = {"kind": "attention", "heads": 4}


def told(given: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as mistake:
        read(ModelConfig, given, "model")
    return str(mistake.value)


def with_mixer(**mixer: Any) -> dict[str, Any]:
    given = mapping(["retnet"], 2)
    given["architecture"]["layers"] = {"retnet": {"mixer": mixer}}
    return given


KEYED = ", ".join(kind for kind, settings in mixer_kinds().items() if issubclass(settings, KeyedSettings))
KINDS = ", ".join(sorted([*mixer_kinds(), "external"]))

MIXERS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown kind": (
        {"kind": "atention"},
        f": unknown kind 'atention'. Did you mean 'attention'? Known: {KINDS}.",
    ),
    "no kind": ({"heads": 4}, ": 'kind' is missing."),
    "unknown key": (
        {"kind": "retnet", "head": 4},
        ": unknown key 'head'. Did you mean 'heads'? "
        "Known: chunk, conv, decay, head_width, heads, kind, rotation, value_ratio.",
    ),
    "heads": (
        {"kind": "attention", "heads": 3},
        ".heads: 3 does not divide the width 16. Nearest that does: 2.",
    ),
    "head width": (
        {"kind": "retnet"},
        ".head_width: 32 does not divide the width 16. Nearest width: 32.",
    ),
    "heads of keys": ({**ATTENTION, "kv_heads": 3}, ".kv_heads: 3 does not divide the 4 heads."),
    "odd heads": (
        {"kind": "attention", "heads": 16},
        ".position: rope needs heads of even width, and this one is 1 wide.",
    ),
    "odd keys": (
        {"kind": "retnet", "heads": 16},
        ".heads: 16 heads of width 1 given; the rotation needs an even width.",
    ),
    "window": (
        {"kind": "longformer", "heads": 4, "window": 0},
        ".window: 0 given; at least 1 is needed.",
    ),
    "windows": (
        {"kind": "longformer", "heads": 4, "window": [4, 0]},
        ".window: (4, 0) given; at least 1 is needed.",
    ),
    "no window": ({"kind": "longformer", "heads": 4, "window": []}, ".window: () given; at least 1 is needed."),
    "dilation": (
        {"kind": "longformer", "heads": 4, "dilation": [1, -2]},
        ".dilation: (1, -2) given; at least 1 is needed.",
    ),
    "dilations": (
        {"kind": "longformer", "heads": 2, "dilation": [1, 2, 3]},
        ".dilation: 3 values for 2 heads.",
    ),
    "inner width": ({"kind": "mamba2"}, ".head_width: 64 does not divide the inner width 32 = 2 x 16."),
    "inner heads": ({"kind": "mamba2", "heads": 5}, ".heads: 5 does not divide the inner width 32 = 2 x 16."),
    "groups": ({"kind": "mamba2", "heads": 4, "groups": 3}, ".groups: 3 does not divide the 4 heads."),
    "no feature": (
        {"kind": "performer", "heads": 16, "position": "none"},
        ".count: null gives no feature to heads of width 1. Give a number.",
    ),
    "choice": (
        {**ATTENTION, "position": "rop"},
        ".position: unknown choice 'rop'. Did you mean 'rope'? Known: alibi, none, rope, xpos.",
    ),
    "range": ({**ATTENTION, "conv": 17}, ".conv: 17 given. Input should be less than or equal to 16."),
    "type": ({**ATTENTION, "heads": "4"}, '.heads: "4" given. Input should be a valid integer.'),
    "no number": ({**ATTENTION, "base": 0}, ".base: 0 given. Input should be greater than 0."),
}


@pytest.mark.parametrize("name", MIXERS)
def test_mixers(name: str) -> None:
    mixer, text = MIXERS[name]
    assert told(with_mixer(**mixer)) == f"model.architecture.layers.retnet.mixer{text}"


@pytest.mark.parametrize("name", [name for name in MIXERS if name not in ("no kind", "unknown kind")])
def test_build_mixer_tells_the_same(name: str) -> None:
    mixer, text = MIXERS[name]
    with pytest.raises(ConfigError) as mistake:
        build_mixer(mixer, width=16)
    assert str(mistake.value) == f"mixer{text}"


ARCHITECTURES: dict[str, tuple[dict[str, Any], str]] = {
    "pattern": (
        {"pattern": ["retnt"]},
        ".pattern: no layer is called 'retnt'. Did you mean 'retnet'? Known: retnet.",
    ),
    "depth": (
        {"pattern": ["retnet"] * 3, "depth": 5},
        ".pattern: 3 layers do not divide the depth 5. Nearest depth: 6.",
    ),
    "no pattern": ({"pattern": []}, ".pattern: no value given, at least 1 is needed."),
    "width": ({"width": 0}, ".width: 0 given. Input should be greater than or equal to 1."),
    "epsilon": ({"epsilon": 0}, ".epsilon: 0 given. Input should be greater than 0."),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures(name: str) -> None:
    changed, text = ARCHITECTURES[name]
    given = mapping(["retnet"], 2)
    given["architecture"] |= changed
    assert told(given) == f"model.architecture{text}"


TAKEN = "Those of attention and longformer can be, without xpos and globals."

SHARINGS: dict[str, tuple[list[str], int, dict[str, Any], str]] = {
    "unknown kind": (
        ["attention"],
        4,
        {"kind": "group"},
        ": unknown kind 'group'. Did you mean 'groups'? Known: condensed, groups, map, none, upper.",
    ),
    "size": (
        ["attention"],
        4,
        {"kind": "groups", "size": 0},
        ".size: 0 given. Input should be greater than or equal to 1.",
    ),
    "nothing to group": (
        ["retnet"],
        4,
        {"kind": "groups"},
        f".kind: 'groups' finds no layer whose keys can be taken. {TAKEN}",
    ),
    "nothing to condense": (
        ["retnet"],
        4,
        {"kind": "condensed"},
        f".kind: 'condensed' finds no layer whose keys can be taken. {TAKEN}",
    ),
    "too shallow": (
        ["attention"],
        3,
        {"kind": "condensed"},
        ".warmup: 2 of 3 layers keep their own keys, which leaves fewer than two that share. At most 1.",
    ),
    "a keeper without keys": (
        ["retnet", "attention"],
        2,
        {"kind": "map", "keys_from": [0, 0]},
        f".kind: layer 1 takes the keys of layer 0, but layer 0 is a 'retnet'. {TAKEN}",
    ),
    "a taker without queries": (
        ["attention", "retnet"],
        4,
        {"kind": "upper"},
        f".kind: layer 3 takes the keys of layer 2, but layer 3 is a 'retnet'. {TAKEN}",
    ),
    "a chain": (
        ["attention"],
        3,
        {"kind": "map", "keys_from": [0, 0, 1]},
        ".keys_from: layer 2 takes the keys of layer 1, which keeps none: it takes those of layer 0.",
    ),
    "a circle": (
        ["attention"],
        2,
        {"kind": "map", "keys_from": [1, 0]},
        ".keys_from: layer 0 takes the keys of layer 1, which keeps none: it takes those of layer 0.",
    ),
    "out of range": (
        ["attention"],
        4,
        {"kind": "map", "keys_from": [0, 2]},
        ".keys_from: layer 1 takes from 2; layers are 0 to 1.",
    ),
    "below the range": (
        ["attention"],
        2,
        {"kind": "map", "keys_from": [-1, 1]},
        ".keys_from: layer 0 takes from -1; layers are 0 to 1.",
    ),
    "length": (
        ["attention"],
        4,
        {"kind": "map", "keys_from": [0, 0, 0]},
        ".keys_from: 3 layers do not divide the depth 4.",
    ),
    "globals": (
        ["longformer"],
        4,
        {"kind": "upper"},
        ".kind: layer 3 takes the keys of layer 2, but of layer 3 globals: 2 given; global tokens have projections of "
        "their own. At most 0.",
    ),
    "xpos": (
        ["xpos"],
        4,
        {"kind": "map", "keys_from": [0, 0]},
        ".kind: layer 1 takes the keys of layer 0, but of layer 1 position: xpos scales keys from a reference that "
        "moves. Positions whose keys can be taken: rope, alibi, none.",
    ),
    "other mixers": (
        ["gelu", "window"],
        4,
        {"kind": "upper"},
        ".kind: layer 3 takes the keys of layer 2, but their mixers differ in kind: longformer and attention.",
    ),
    "other positions": (
        ["gelu", "alibi"],
        2,
        {"kind": "map", "keys_from": [0, 0]},
        ".kind: layer 1 takes the keys of layer 0, but their mixers differ in position: alibi and rope.",
    ),
    "other heads": (
        ["attention", "gelu"],
        2,
        {"kind": "map", "keys_from": [0, 0]},
        ".kind: layer 1 takes the keys of layer 0, but reads 2 heads of 8, and there are 2 of 4.",
    ),
}


@pytest.mark.parametrize("name", SHARINGS)
def test_sharings(name: str) -> None:
    pattern, depth, sharing, text = SHARINGS[name]
    assert told(mapping(pattern, depth, sharing=sharing)) == f"model.architecture.sharing{text}"


MEMORIES: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "segment beyond the window": (
        ["longformer"],
        {"segment": 7},
        "segment: 7 is longer than the window of 5 tokens allows; tokens would be lost between window and memory. "
        "At most 6.",
    ),
    "no softmax": (
        ["retnet"],
        {},
        f"name: 'knn' needs layers with softmax attention, not 'retnet'. Kinds that have it: {KEYED}.",
    ),
    "a layer without softmax": (
        ["retnet", "attention"],
        {"layers": [0, 1]},
        f"name: 'knn' needs layers with softmax attention, not 'retnet'. Kinds that have it: {KEYED}.",
    ),
    "layer": (["attention"], {"layers": [2]}, "layers: 2 given, but the model has layers 0 to 1."),
    "layer from the top": (["attention"], {"layers": [-3]}, "layers: -3 given, but the model has layers 0 to 1."),
    "no layer": (["attention"], {"layers": []}, "layers: none given. Name layers, or write 'all'."),
    "capacity": (["attention"], {"capacity": 0}, "capacity: 0 given. Input should be greater than or equal to 1."),
    "combine": (
        ["attention"],
        {"combine": "gates"},
        "combine: unknown choice 'gates'. Did you mean 'gate'? Known: gate, grouped, joint.",
    ),
}


@pytest.mark.parametrize("name", MEMORIES)
def test_memories(name: str) -> None:
    pattern, memory, text = MEMORIES[name]
    assert told(mapping(pattern, 2, memory=memory)).endswith(f"memory.{text}")


ALONE = "name: 'knn' stands around layers that keep keys for themselves alone, and layer {} shares them."


@pytest.mark.parametrize(
    ("sharing", "layers", "other"),
    [({"kind": "groups"}, "all", 0), ({"kind": "condensed"}, [0, 1], 1), ({"kind": "upper"}, [-2], 2)],
    ids=["every layer", "one that takes", "one that keeps"],
)
def test_a_memory_around_layers_that_share_keys(sharing: dict[str, Any], layers: Any, other: int) -> None:
    given = mapping(["attention"], 4, sharing=sharing, memory={"layers": layers})
    text = f"memory.{ALONE.format(other)} Use memory=none or architecture.sharing.kind=none."
    assert told(given).endswith(text)


def test_a_memory_stands_around_the_layers_that_share_none() -> None:
    config = read(ModelConfig, mapping(["attention"], 4, sharing={"kind": "condensed"}, memory={}))
    around = [hasattr(layer.mixer, "gate") for layer in LanguageModel(config).decoder.layers]
    assert around == [True, False, False, True]


def test_the_largest_segment_that_fits_is_taken() -> None:
    assert read(ModelConfig, mapping(["longformer"], 2, memory={"segment": 6})).memory is not None


CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "one dimension": (
        {"tokens": torch.zeros(5, dtype=torch.int64)},
        "tokens: shape (5,) given, (batch, time) with at least one is needed.",
    ),
    "no tokens": (
        {"tokens": torch.zeros(2, 0, dtype=torch.int64)},
        "tokens: shape (2, 0) given, (batch, time) with at least one is needed.",
    ),
    "rows": (
        {"tokens": torch.zeros(3, 1, dtype=torch.int64), "state": 2},
        "tokens: 3 rows given, but the state has 2.",
    ),
    "positions": (
        {"tokens": torch.zeros(2, 3, dtype=torch.int64), "positions": torch.zeros(2, 2, dtype=torch.int64)},
        "positions: shape (2, 2) given for tokens of (2, 3).",
    ),
    "an id beyond": (
        {"tokens": torch.full((1, 2), VOCABULARY)},
        f"tokens: ids from 0 to {VOCABULARY - 1} are known, others were given.",
    ),
    "an id below": (
        {"tokens": torch.tensor([[0, -1]])},
        f"tokens: ids from 0 to {VOCABULARY - 1} are known, others were given.",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str) -> None:
    model, (given, text) = model_of("mixture"), CALLS[name]
    state = model.start(given["state"]) if "state" in given else None
    for call in (model, model.hidden):
        with pytest.raises(ModelError) as mistake:
            call(given["tokens"], state, positions=given.get("positions"))
        assert str(mistake.value) == text
    with pytest.raises(ModelError) as mistake:
        model.loss(given["tokens"], given["tokens"], state, positions=given.get("positions"))
    assert str(mistake.value) == text


def test_the_state_of_another_model() -> None:
    model, tokens = model_of("mixture"), torch.zeros(2, 3, dtype=torch.int64)
    for other in ("retnet", "memory"):
        with pytest.raises(ModelError, match=r"^state: made by a model of other layers\.$"):
            model(tokens, model_of(other).start(2))


def test_ids_at_padding_are_not_looked_at() -> None:
    model = model_of("mixture")
    positions = torch.tensor([[-1, 0, 1]])
    logits, _ = model(torch.tensor([[10**9, 3, 4]]), positions=positions)
    expected, _ = model(torch.tensor([[3, 4]]))
    assert torch.allclose(logits[:, 1:], expected)


@pytest.mark.parametrize(
    ("positions", "good"),
    [
        ([[0, 1, 2, 3], [0, 1, 0, 1]], True),
        ([[-1, -1, 0, 1], [0, -1, -1, 0]], True),
        ([[5, 6, 7, 8], [0, 1, 2, 3]], False),
        ([[0, 1, 3, 4], [0, 1, 2, 3]], False),
        ([[0, 1, -1, 3], [0, 1, 2, 3]], False),
    ],
    ids=["packed", "padded", "starts in the middle", "gap", "gap behind padding"],
)
def test_positions_rise_by_one_within_a_document(positions: list[list[int]], good: bool) -> None:
    model = model_of("mixture")
    tokens = torch.zeros(2, 4, dtype=torch.int64)
    if good:
        model(tokens, positions=torch.tensor(positions))
        return
    with pytest.raises(ModelError, match=r"^positions: within a document they rise by 1\."):
        model(tokens, positions=torch.tensor(positions))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), r"^targets: shape \(2, 3\) given for tokens of \(2, 4\)\.$"),
        (torch.full((2, 4), 31), r"^targets: ids from 0 to 30, or -100 where not scored\.$"),
    ],
    ids=["another shape", "an id beyond"],
)
def test_targets_fit_the_tokens(targets: torch.Tensor, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        model_of("mixture").loss(torch.zeros(2, 4, dtype=torch.int64), targets)
