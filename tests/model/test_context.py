"""Trained models that read more than they were trained on: the same weights, other settings."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from contract.runs import cut
from models import VOCABULARY, model_of
from torch import Tensor

from farfield.architectures import Rows
from farfield.architectures.attention import AttentionConfig
from farfield.architectures.dual_chunk import DualChunk
from farfield.architectures.ops.rotary import rotate_definition
from farfield.architectures.projection import Projection
from farfield.architectures.self_extend import SelfExtend
from farfield.architectures.stretching import NTK, Interpolation, Llama3, Scaling, YaRN
from farfield.compose import group_options, option
from farfield.config import Config, ConfigError, read
from farfield.context import ContextConfig, stretched, trained_length, unstretched
from farfield.memory import KeyValueMemoryConfig, Wrapped
from farfield.model import LanguageModel, ModelConfig

TRAINED = 32
MIXER = {"kind": "attention", "heads": 4, "kv_heads": 2}


class One(Config):
    context: ContextConfig | None


@functools.cache
def told(name: str) -> Mapping[str, Any]:
    """The option of the group."""
    found: Mapping[str, Any] = option("context", name)
    return found


def context_of(name: str, **values: Any) -> Any:
    return read(One, {"context": {**told(name), **values}}).context


def small(depth: int = 2, memory: Any = None, **mixer: Any) -> LanguageModel:
    """With weights that are always the same, float64."""
    architecture = {
        "width": 32,
        "depth": depth,
        "pattern": ["a"],
        "layers": {"a": {"mixer": {**MIXER, **mixer}, "feedforward": {"kind": "swiglu"}}},
    }
    torch.manual_seed(0)
    config = {"architecture": architecture, "memory": memory, "vocabulary": VOCABULARY}
    return LanguageModel(read(ModelConfig, config)).double().eval()


def tokens(rows: int, time: int) -> Tensor:
    return torch.randint(VOCABULARY, (rows, time), generator=torch.Generator().manual_seed(3))


def mixer_of(model: LanguageModel) -> AttentionConfig:
    mixer = model.config.decoder.layers["a"].mixer
    assert isinstance(mixer, AttentionConfig)
    return mixer


STRETCHING = [name for name in group_options("context") if name not in ("none", "parallel")]


def as_in_pieces(model: LanguageModel, x: Tensor) -> Tensor:
    """The logits of x (B, T) in one call, which those of pieces are compared with."""
    whole, outputs, state = model(x)[0], [], None
    for piece in cut(torch.arange(x.shape[1])[None], [50, 1, 1, 30, 17]):
        y, state = model(x[:, piece[0]], state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=0, atol=1e-10)
    return whole


@pytest.mark.parametrize("name", STRETCHING)
@torch.no_grad()
def test_a_stretched_model_reads_in_pieces_and_decodes(name: str) -> None:
    """As in one call; and its answers are others than those of the model as it was, beyond the trained length."""
    model = small()
    found = stretched(model, context_of(name), TRAINED)
    x = tokens(2, 150)
    whole = as_in_pieces(found, x)
    plain, _ = model(x)
    differs = (plain - whole).abs().amax(-1).amin(0) > 1e-6
    assert differs[2 * TRAINED :].all()
    if name in ("dual_chunk", "self_extend", "sinks"):  # of which the first tokens know nothing
        assert not differs[: TRAINED // 4].any()


@pytest.mark.parametrize("name", [name for name in STRETCHING if name != "sinks"])
def test_weights_are_shared(name: str) -> None:
    model = small().train()
    found = stretched(model, context_of(name), TRAINED)
    assert found.training
    ours = dict(found.named_parameters())
    assert all(parameter is ours[key] for key, parameter in model.named_parameters())
    assert unstretched(found.config.architecture) == model.config.architecture


@pytest.mark.parametrize(
    "name",
    ["longformer", "mixture", "memory", "memory-above", "memory-gated", "yoco", "lckv", "recurrent", "summaries"],
)
@torch.no_grad()
def test_a_factor_of_one_changes_nothing(name: str) -> None:
    """Whatever stands around the layers; what is frozen stays so."""
    model = model_of(name)
    model.embedding.weight.requires_grad_(False)
    found = stretched(model, context_of("ntk", factor=1))
    assert found.config != model.config
    assert torch.equal(found(tokens(2, 40))[0], model(tokens(2, 40))[0])
    assert [parameter.requires_grad for parameter in found.parameters()] == [
        parameter.requires_grad for parameter in model.parameters()
    ]
    assert not found.embedding.weight.requires_grad


CHOOSING: dict[str, dict[str, Any]] = {
    "longformer": {"window": 5, "globals": 6},
    "sparse-strided": {"pattern": "strided", "stride": 6},
    "sparse-fixed": {"pattern": "fixed", "stride": 6},
    "sparse-bigbird": {"pattern": "bigbird", "stride": 6},
    "reformer": {"buckets": 2, "window": 64},
    "linformer": {"segment": 4, "rows": 2},
}


@pytest.mark.parametrize("name", [name for name in STRETCHING if name != "sinks"])
@pytest.mark.parametrize("kind", CHOOSING)
@torch.no_grad()
def test_every_mixer_with_a_softmax_is_stretched(kind: str, name: str) -> None:
    """Whichever keys it chooses: in pieces as in one call, and far tokens are seen otherwise than they were."""
    model = with_kind(kind=kind.partition("-")[0], heads=4, **CHOOSING[kind]).double().eval()
    found = stretched(model, context_of(name), TRAINED)
    x = tokens(2, 100)
    whole = as_in_pieces(found, x)
    plain, _ = model(x)
    differs = (plain - whole).abs().amax(-1).amin(0) > 1e-9
    assert differs[3 * TRAINED :].float().mean() > 0.9  # a hashed token may have no far one in its bucket
    if name in ("dual_chunk", "self_extend"):  # of which the first tokens know nothing
        assert not differs[: TRAINED // 4].any()


@pytest.mark.parametrize("kind", ["longformer", "sparse-strided", "sparse-fixed", "sparse-bigbird"])
@torch.no_grad()
def test_sinks_drop_no_more_than_a_layer_sees(kind: str) -> None:
    """What is left open fits each layer, and any length is read."""
    model = with_kind(kind=kind.partition("-")[0], heads=4, **CHOOSING[kind]).double().eval()
    found = stretched(model, context_of("sinks"), 64)
    assert isinstance(found.config.memory, KeyValueMemoryConfig)
    assert (
        found.config.memory.segment
        == {"longformer": 6, "sparse-strided": 7, "sparse-fixed": 1, "sparse-bigbird": 7}[kind]
    )
    assert found(tokens(1, 150))[0].isfinite().all()


@pytest.mark.parametrize("name", ["dual_chunk", "self_extend"])
@pytest.mark.parametrize("kind", ["attention", *CHOOSING])
@torch.no_grad()
def test_a_call_of_nothing_but_padding(kind: str, name: str) -> None:
    """Of an empty state and behind a document: it is as if it had not been."""
    settings = {"kind": kind.partition("-")[0], "heads": 4, **CHOOSING.get(kind, {})}
    model = stretched(with_kind(**settings).double().eval(), context_of(name), 8)
    x, padding = tokens(2, 40), torch.full((2, 3), -1)
    _, state = model(x[:, :3], positions=padding)
    before, state = model(x[:, :20], state, positions=torch.arange(20).expand(2, -1))
    _, state = model(x[:, :3], state, positions=padding)
    after, _ = model(x[:, 20:], state)
    torch.testing.assert_close(torch.cat((before, after), 1), model(x)[0], rtol=0, atol=1e-10)


def test_nothing_is_drawn_from_the_callers_random_numbers() -> None:
    model = small()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    stretched(model, context_of("yarn"), TRAINED)
    assert torch.equal(torch.rand(1), expected)


def test_what_is_left_open_follows_from_the_trained_length() -> None:
    def settings(name: str, **values: Any) -> AttentionConfig:
        return mixer_of(stretched(small(), context_of(name, **values), 512))

    assert settings("interpolation", factor=3).scaling == Interpolation(factor=3, trained=512)
    assert settings("ntk").scaling == NTK(factor=4, trained=512)
    assert settings("yarn", factor=8, slow=2).scaling == YaRN(factor=8, trained=512, slow=2)
    assert settings("yarn", trained=100).scaling == YaRN(factor=4, trained=100)
    assert settings("dual_chunk").extension == DualChunk(chunk=384, window=64)
    assert settings("dual_chunk", chunk=400).extension == DualChunk(chunk=400, window=64)
    assert settings("self_extend", factor=8).extension == SelfExtend(
        window=128, group=11
    )  # (512 - 128) 11 >= 4096 - 128
    assert settings("self_extend", window=50, group=3).extension == SelfExtend(window=50, group=3)
    memory = stretched(small(), context_of("sinks"), 512).config.memory
    assert isinstance(memory, KeyValueMemoryConfig)
    assert (memory.keep, memory.position, memory.capacity, memory.segment, memory.initial) == (
        "sinks",
        "index",
        448,
        64,
        4,
    )
    windows = stretched(small(), context_of("parallel"), 512).windows
    assert windows is not None
    assert (windows.window, windows.task, windows.shared) == (384, 64, 0)


def test_an_extension_goes_with_frequencies_that_were_trained_so() -> None:
    """A Llama 3.1 with dual chunk; and what was stretched may be stretched farther."""
    llama = small(scaling=Llama3(factor=8, trained=16).mapping())
    found = mixer_of(stretched(llama, context_of("dual_chunk"), 128))
    assert found.scaling == Llama3(factor=8, trained=16)
    assert found.extension == DualChunk(chunk=96, window=16)


@pytest.mark.parametrize(
    ("own", "name", "values", "found"),
    [
        (YaRN(factor=4, trained=64), "yarn", {}, YaRN(factor=8, trained=64)),
        (
            YaRN(factor=4, trained=64, fast=8, temperature=1.2, whole=False),
            "yarn",
            {"trained": 64, "fast": 8, "temperature": 1.3},
            YaRN(factor=8, trained=64, fast=8, temperature=1.3, whole=False),
        ),
        (Interpolation(factor=2), "interpolation", {}, Interpolation(factor=8)),
        (NTK(factor=2, trained=64), "ntk", {}, NTK(factor=8, trained=64)),
    ],
    ids=["yarn", "yarn-own", "interpolation", "ntk"],
)
def test_what_was_trained_stretched_is_stretched_from_where_it_began(
    own: Any, name: str, values: dict[str, Any], found: Scaling
) -> None:
    """A folder of YaRN 4 over 64 tokens says 256 of itself: a factor of 8 is 8 times the 64."""
    model = small(scaling=own.mapping())
    assert mixer_of(stretched(model, context_of(name, factor=8, **values), 256)).scaling == found


def test_other_layers_stay_as_they_are() -> None:
    """A mixture: retention stays, and windows without global tokens see no far token that could be brought near."""

    def changed(model: LanguageModel, name: str) -> set[str]:
        layers = stretched(model, context_of(name), TRAINED).config.decoder.layers
        return {name for name, layer in layers.items() if layer != model.config.decoder.layers[name]}

    model = model_of("mixture")
    assert changed(model, "dual_chunk") == changed(model, "ntk") == {"attention", "longformer"}
    mapping = model.config.mapping()
    mapping["architecture"]["layers"]["longformer"]["mixer"]["globals"] = 0
    model = LanguageModel(read(ModelConfig, mapping))
    assert changed(model, "dual_chunk") == {"attention"}
    assert changed(model, "ntk") == {"attention", "longformer"}


POSITIONED = "Kinds that have it: attention, dilated, linformer, longformer, reformer, s2, sparse."
KEYED = "Kinds that have it: attention, dilated, longformer, s2, sparse."


def with_kind(**mixer: Any) -> LanguageModel:
    mapping = small().config.mapping()
    mapping["architecture"]["layers"]["a"]["mixer"] = mixer
    return LanguageModel(read(ModelConfig, mapping))


MISTAKES: dict[str, tuple[Any, str]] = {
    "a factor below 1": (
        lambda: context_of("yarn", factor=0.5),
        "context.factor: 0.5 given. Input should be greater than or equal to 1.",
    ),
    "a factor beyond all texts": (
        lambda: context_of("ntk", factor=1e300),
        "context.factor: 1e+300 given. Input should be less than or equal to 1048576.",
    ),
    "a factor beyond all groups": (
        lambda: context_of("self_extend", factor=1e300),
        "context.factor: 1e+300 given. Input should be less than or equal to 1048576.",
    ),
    "a softmax that overflows": (
        lambda: context_of("yarn", temperature=1e30),
        "context.temperature: 1e+30 given. Input should be less than or equal to 100.",
    ),
    "a length beyond all texts": (
        lambda: context_of("self_extend", trained=10**400),
        f"context.trained: {10**400} given. Input should be less than or equal to {2**40}.",
    ),
    "pairs that turn alike": (
        lambda: stretched(small(base=1), context_of("yarn"), 32),
        "architecture.layers.a.mixer.base: 1 given, with which all pairs turn alike, and scaling yarn tells them "
        "apart.",
    ),
    "no softmax": (
        lambda: stretched(with_kind(kind="retnet", heads=4), context_of("yarn"), 32),
        f"context.kind: 'yarn' is for layers with softmax attention, and these are retnet. {POSITIONED}",
    ),
    "no softmax, sinks": (
        lambda: stretched(with_kind(kind="mamba"), context_of("sinks", segment=4), 32),
        "context.kind: 'sinks' is for layers with softmax attention whose keys stand for single tokens, and these are "
        f"mamba. {KEYED}",
    ),
    "no rotary positions": (
        lambda: stretched(small(position="alibi"), context_of("self_extend"), 32),
        "context.kind: 'self_extend' is for rotary positions, and architecture.layers.a.mixer.position is alibi.",
    ),
    "windows alone": (
        lambda: stretched(with_kind(kind="longformer", heads=4), context_of("dual_chunk"), 32),
        "context.kind: 'dual_chunk' brings far tokens near, and 'longformer' sees none from far, in a text of any "
        "length: architecture.layers.a.mixer.globals: 0 given, and a window has a longest distance. Use context=none.",
    ),
    "segments alone": (
        lambda: stretched(with_kind(kind="dilated", heads=4), context_of("self_extend"), 32),
        "context.kind: 'self_extend' brings far tokens near, and 'dilated' sees none from far, in a text of any "
        "length: architecture.layers.a.mixer.branches: the longest segment has 16 tokens. Use context=none.",
    ),
    "groups alone": (
        lambda: stretched(with_kind(kind="s2", heads=4), context_of("dual_chunk"), 32),
        "context.kind: 'dual_chunk' brings far tokens near, and 's2' sees none from far, in a text of any length: "
        "architecture.layers.a.mixer.group: 16 tokens see each other. Use context=none.",
    ),
    "a band alone": (
        lambda: stretched(with_kind(kind="sparse", heads=4), context_of("dual_chunk"), 32),
        "context.kind: 'dual_chunk' brings far tokens near, and 'sparse' sees none from far, in a text of any length: "
        "architecture.layers.a.mixer.pattern: local sees 16 tokens. Use context=none.",
    ),
    "an extension of what is never far": (
        lambda: with_kind(kind="sparse", heads=4, extension={"kind": "dual_chunk", "chunk": 12, "window": 4}),
        "architecture.layers.a.mixer.extension: brings far tokens near, and none is seen from far: pattern: local sees "
        "16 tokens. Take null.",
    ),
    "sinks in hashed buckets": (
        lambda: stretched(with_kind(kind="reformer", heads=4), context_of("sinks", segment=4), 32),
        "context.kind: 'sinks' is for layers with softmax attention whose keys stand for single tokens, and these are "
        f"reformer. {KEYED}",
    ),
    "stretched otherwise": (
        lambda: stretched(small(scaling={"kind": "llama3", "factor": 8}), context_of("yarn"), 32),
        "context.kind: 'yarn' given, but architecture.layers.a.mixer.scaling is llama3 already, as the model was "
        "trained. dual_chunk and self_extend go with it.",
    ),
    "no farther than it was stretched": (
        lambda: stretched(small(scaling={"kind": "yarn", "factor": 4, "trained": 64}), context_of("yarn"), 256),
        "context.factor: 4 given, but architecture.layers.a.mixer.scaling is yarn already, with 4 times the length of "
        "64 tokens before it. Take more than that, or context=none.",
    ),
    "less than it was stretched": (
        lambda: stretched(small(scaling={"kind": "interpolation", "factor": 8}), context_of("interpolation"), 256),
        "context.factor: 4 given, but architecture.layers.a.mixer.scaling is interpolation already, with 8 times the "
        "length before it. Take more than that, or context=none.",
    ),
    "another blend than it was stretched by": (
        lambda: stretched(
            small(scaling={"kind": "yarn", "factor": 2, "trained": 64, "fast": 8}), context_of("yarn"), 128
        ),
        "context.fast: 32 given, but architecture.layers.a.mixer.scaling.fast is 8, as the model was trained. Take "
        "that.",
    ),
    "another length than it was stretched from": (
        lambda: stretched(
            small(scaling={"kind": "yarn", "factor": 2, "trained": 64}), context_of("yarn", trained=128), 128
        ),
        "context.trained: 128 given, but architecture.layers.a.mixer.scaling.trained is 64, as the model was trained. "
        "Take that.",
    ),
    "a temperature of another factor": (
        lambda: stretched(
            small(scaling={"kind": "yarn", "factor": 2, "trained": 64, "temperature": 1.5}), context_of("yarn"), 128
        ),
        "context.temperature: null given, but architecture.layers.a.mixer.scaling.temperature is 1.5, for its factor "
        "of 2. Name that of 4.",
    ),
    "sinks around a memory": (
        lambda: stretched(small(memory={"kind": "key_value"}), context_of("sinks"), 32),
        "context.kind: 'sinks' is a memory, and 'knn' is there already. Use memory=none, or context=none.",
    ),
    "an unknown length": (
        lambda: stretched(small(), context_of("dual_chunk")),
        "context.trained: null given, and the model does not say how many tokens it was trained on. Add "
        "context.trained=<tokens>.",
    ),
    "a segment beyond what a layer sees": (
        lambda: stretched(
            with_kind(kind="sparse", pattern="fixed", heads=4), context_of("sinks", segment=9, capacity=20), 64
        ),
        "context.segment: 9 given, and a layer sees 0 tokens before each for certain: some would be lost between it "
        "and what stays. At most 1.",
    ),
    "windows of patterns": (
        lambda: stretched(with_kind(kind="sparse", pattern="bigbird", heads=4), context_of("parallel"), 32),
        "context.kind: 'parallel' joins the keys of windows, which those of layer 0 cannot be: 'sparse' chooses keys "
        "by where they stand in one text. Layers that do: 'attention' with position rope or none, without a "
        "convolution.",
    ),
    "a chunk beyond all texts": (
        lambda: context_of("dual_chunk", chunk=10**30),
        f"context.chunk: {10**30} given. Input should be less than or equal to {2**40}.",
    ),
    "no room beside the sinks": (
        lambda: stretched(small(), context_of("sinks", segment=64), 64),
        "context.segment: 64 and initial = 4 leave no room in the 64 trained tokens. Take smaller ones.",
    ),
    "a window as long as what was trained": (
        lambda: stretched(small(), context_of("self_extend", window=32), 32),
        "context.window: 32 given, less than the 32 trained tokens is needed.",
    ),
    "a chunk as short as its window": (
        lambda: stretched(small(), context_of("dual_chunk", chunk=4), 32),
        "context.window: 4 given, less than chunk = 4 is needed.",
    ),
    "a memory around an extension": (
        lambda: stretched(small(memory={"kind": "key_value"}), context_of("dual_chunk"), 32),
        "memory.name: 'knn' cannot stand around layer 0, of which extension: dual_chunk moves keys for its own queries "
        "alone. Take extension: null.",
    ),
    "windows with a memory": (
        lambda: stretched(small(memory={"kind": "key_value"}), context_of("parallel"), 32),
        "context.kind: 'parallel' reads windows that know nothing of each other, and memory 'knn' goes on from one to "
        "the next. Use memory=none.",
    ),
    "windows of a recurrence": (
        lambda: stretched(model_of("untied"), context_of("parallel"), 32),
        "context.kind: 'parallel' joins the keys of windows, which those of layer 0 cannot be: 'retnet' does not keep "
        "every token of a document. Layers that do: 'attention' with position rope or none, without a convolution.",
    ),
    "windows with a convolution": (
        lambda: stretched(small(conv=3), context_of("parallel"), 32),
        "context.kind: 'parallel' joins the keys of windows, which those of layer 0 cannot be: 'attention' with conv: "
        "3 goes on with the last tokens of one text. Layers that do: 'attention' with position rope or none, without a "
        "convolution.",
    ),
}


@pytest.mark.parametrize("name", ["yarn", "dual_chunk", "self_extend", "sinks"])
def test_layers_that_do_not_fit_are_told_before_a_length_is_asked_for(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' is for layers with softmax attention.*, and these are mamba"):
        stretched(with_kind(kind="mamba"), context_of(name))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str) -> None:
    act, message = MISTAKES[mistake]
    with pytest.raises(ConfigError) as found:
        act()
    assert str(found.value) == message


@pytest.mark.parametrize(
    ("data", "length"),
    [
        ({"kind": "text", "length": 96}, 96),
        ({"kind": "suite", "mixture": [{"length": 8}, {"length": 40}]}, 40),
        ({"kind": "suite", "suite": {"lengths": [64, 16]}}, 64),
        ({}, None),
    ],
)
def test_the_trained_length_is_that_of_the_rows(data: dict[str, Any], length: int | None) -> None:
    assert trained_length({"config": {"data": data}}) == length
    assert trained_length({}) is None


@pytest.mark.parametrize(("initial", "capacity", "segment"), [(4, 12, 1), (2, 9, 4), (0, 8, 1)])
@torch.no_grad()
def test_sinks_stand_at_their_places_in_the_cache(initial: int, capacity: int, segment: int) -> None:
    """Each step anew: attention over [first, newest, own segment] with positions 0, 1, ... in that order."""
    model = stretched(
        small(depth=1, kv_heads=4), context_of("sinks", initial=initial, capacity=capacity, segment=segment)
    )
    mixer = next(model.stack.mixers())
    assert isinstance(mixer, Wrapped)
    x = torch.randn(1, 50, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found, _ = mixer(x, Rows.fresh_documents(1, 50), mixer.start(1))
    projection = mixer.mixer.get_submodule("projection")
    assert isinstance(projection, Projection)
    q, k, v = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in projection.qkv(x).chunk(3, -1))
    outputs = []
    for time in range(50):
        written = time // segment * segment
        kept = list(range(written))
        if written > capacity:
            kept = [*range(initial), *range(written - capacity + initial, written)]
        seen = [*kept, *range(written, time + 1)]
        place = torch.arange(len(seen))[None]
        keys = rotate_definition(k[:, :, seen], place, "halves")
        query = rotate_definition(q[:, :, [time]], place[:, -1:], "halves")
        weights = (query @ keys.transpose(-1, -2) / 8**0.5).softmax(-1)
        outputs.append((weights @ v[:, :, seen]).transpose(1, 2).flatten(2))
    torch.testing.assert_close(found, projection.out(torch.cat(outputs, 1)), rtol=0, atol=1e-12)
