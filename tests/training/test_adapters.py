"""Adapters: what they compute, what stays as it was, what a run with one leaves; shifted groups in training alone."""

from __future__ import annotations

import math
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from training_cases import TINY, numbers, rows, run, same, settings, weights, write_text

import farfield
from farfield.adapters import Adapted, AdapterConfig, adapt, merged, read_adapter, trained, with_adapter
from farfield.architectures.projection import Projection
from farfield.architectures.rows import Rows
from farfield.config import ConfigError, ModelError, TrainingError, read
from farfield.context import trained_length
from farfield.data import open_source
from farfield.data.objective import NextTokenConfig
from farfield.model import LanguageModel, ModelConfig
from farfield.pretrained import load, read_checkpoint
from farfield.shifted import shifted

VOCABULARY = 31
GROUP = 6
NEEDLE = ["data=needle", "data.vocabulary=32", "data.length=16", "data.pairs=2", "data.validation=1"]
SMALL = [word for word in TINY if not word.startswith("architecture.")]
BASE = ["architecture=attention", *NEEDLE, *TINY, "architecture.layers.attention.mixer.head_width=8"]
LORA = ["adapter=lora", "adapter.rank=2"]
LONGLORA = ["adapter=longlora", "adapter.rank=2"]


def model_of(feedforward: str = "swiglu", **mixer: Any) -> LanguageModel:
    """With weights that are always the same, float64, its head apart from its embedding."""
    layer = {"mixer": {"kind": "attention", "heads": 4, "kv_heads": 2, **mixer}, "feedforward": {"kind": feedforward}}
    architecture = {"width": 32, "depth": 2, "tied": False, "pattern": ["only"], "layers": {"only": layer}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return LanguageModel(read(ModelConfig, {"architecture": architecture, "vocabulary": VOCABULARY})).double()


def learnt_of(model: LanguageModel, **given: Any) -> LanguageModel:
    """With an adapter whose matrices are no longer zero."""
    adapt(model, read(AdapterConfig, {"rank": 3, **given}))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(4)
        for name, parameter in model.named_parameters():
            if ".up." in name and "low_rank" in name:
                parameter.normal_(std=0.3)
    return model


def packed() -> tuple[Tensor, Tensor]:
    """Tokens and positions (2, 40) of documents of many lengths."""
    lengths = [[1, 17, 7, 15], [23, 2, 12, 3]]
    positions = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in lengths])
    return torch.randint(VOCABULARY, positions.shape, generator=torch.Generator().manual_seed(5)), positions


def test_a_fresh_adapter_changes_nothing() -> None:
    model, (tokens, positions) = model_of(), packed()
    before, _ = model(tokens, positions=positions)
    adapt(model, read(AdapterConfig, {"maps": ["attention", "feedforward"]}))
    after, _ = model(tokens, positions=positions)
    assert torch.equal(before, after)


def test_each_map_in_one_has_matrices_of_its_own() -> None:
    model, x = learnt_of(model_of(bias="all"), alpha=5.0), torch.randn(2, 3, 32, dtype=torch.float64)
    module = next(module for module in model.modules() if isinstance(module, Projection))
    qkv = module.qkv
    assert isinstance(qkv, Adapted)
    found = qkv(x).split(module.sizes, -1)
    for part, (plain, weight, bias) in enumerate(
        zip(found, qkv.weight.split(module.sizes), qkv.bias.split(module.sizes), strict=True)
    ):
        down, up = qkv.low_rank.down[3 * part : 3 * part + 3], qkv.low_rank.up[part]
        assert (plain - (x @ (weight + 5.0 / 3 * up @ down).mT + bias)).abs().max() < 1e-12


@pytest.mark.parametrize("feedforward", ["swiglu", "gelu"])
def test_merged_weights_answer_as_the_adapter(feedforward: str) -> None:
    model, (tokens, positions) = learnt_of(model_of(feedforward), maps=["attention", "feedforward"]), packed()
    plain = model_of(feedforward)
    unlike, _ = plain(tokens, positions=positions)
    plain.load_state_dict(merged(model.state_dict()))
    expected, _ = model(tokens, positions=positions)
    found, _ = plain(tokens, positions=positions)
    assert (found - expected).abs().max() < 1e-12
    assert (found - unlike).abs().max() > 1e-2


def test_what_is_trained() -> None:
    """The adapter, and what is named: not the head that has weights of its own."""

    def names(**given: Any) -> set[str]:
        return {name.removeprefix("decoder.layers.0.") for name in trained(learnt_of(model_of(qk_norm=1e-6), **given))}

    matrices = {f"mixer.projection.{name}.low_rank.{part}" for name in ("qkv", "out") for part in ("down", "up.0")}
    matrices |= {"mixer.projection.qkv.low_rank.up.1", "mixer.projection.qkv.low_rank.up.2"}
    norms = {"mixer_norm.weight", "feedforward_norm.weight", "decoder.norm.weight"}
    norms |= {"mixer.projection.query_gain", "mixer.projection.key_gain"}

    def first(found: set[str]) -> set[str]:
        return {name for name in found if not name.startswith("decoder.layers")}

    assert first(names()) == matrices
    assert first(names(whole=["norms"])) == matrices | norms
    assert first(names(whole=["embeddings", "norms"])) == matrices | norms | {"embedding.weight"}
    assert len(names()) == 2 * len(matrices)


def dense(projection: Projection, x: Tensor, positions: Tensor, group: int) -> Tensor:
    """The published formula as one mask: half of the heads in groups, half in groups shifted by a half."""
    q, k, v = (
        part.unflatten(-1, (-1, projection.head_width)).transpose(1, 2)
        for part in projection.qkv(x).split(projection.sizes, -1)
    )
    k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], 1) for part in (k, v))
    document = (positions == 0).cumsum(1)
    shift = torch.tensor([0, 0, group // 2, group // 2])[:, None]
    place = torch.stack([(row + shift) // group for row in positions])  # (B, H, T)
    seen = (place[..., :, None] == place[..., None, :]) & (document[:, None, :, None] == document[:, None, None, :])
    seen &= torch.ones(positions.shape[1], positions.shape[1], dtype=torch.bool).tril()
    scores = (q @ k.mT / math.sqrt(projection.head_width)).masked_fill(~seen, -math.inf)
    return projection.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def test_groups_are_the_published_formula_and_validation_is_full() -> None:
    """Values and gradients, documents packed; the groups have no weights of their own."""
    model, positions = learnt_of(model_of(position="none")), packed()[1]
    practice = shifted(model, GROUP)
    assert [id(one) for one in practice.parameters()] == [id(one) for one in model.parameters()]
    own, theirs = (next(iter(one.stack.mixers())) for one in (practice, model))
    x = torch.randn(*positions.shape, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    learnt = [parameter for parameter in own.parameters() if parameter.requires_grad]

    def compared(mixer: Any, group: int) -> None:
        found, _ = mixer(x, Rows.at(positions), mixer.start(len(x)))
        expected = dense(mixer.projection, x, positions, group)
        assert (found - expected).abs().max() < 1e-12
        weight = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
        both = [torch.autograd.grad((out * weight).sum(), learnt) for out in (found, expected)]
        for one, other in zip(*both, strict=True):
            assert other.abs().max() > 1e-3
            assert (one - other).abs().max() < 1e-10

    compared(own, GROUP)
    compared(theirs, 1000)  # one group: full attention


def test_groups_leave_other_layers_as_they_are() -> None:
    """A hybrid's recurrent layers, feed-forwards and norms are the same modules."""
    architecture = {
        "width": 32,
        "depth": 2,
        "pattern": ["retnet", "attention"],
        "layers": {name: {"mixer": {"kind": name, "heads": 2}} for name in ("retnet", "attention")},
    }
    model = LanguageModel(read(ModelConfig, {"architecture": architecture, "vocabulary": VOCABULARY}))
    practice = shifted(model, 4)
    assert practice.stack.layers[0] is not model.stack.layers[0]
    assert next(iter(practice.stack.mixers())) is next(iter(model.stack.mixers()))
    assert practice.train().training
    assert not model.eval().training


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that others start from."""
    root = tmp_path_factory.mktemp("base")
    run(root, [*BASE, "training.steps=8"])
    return root / "run"


def adapted(root: Path, base: Path, *words: str) -> dict[str, Any]:
    return run(root, [*NEEDLE, *SMALL, f"start={base}", "training.steps=6", *words])


def test_a_run_trains_in_groups_and_validates_with_full_attention(tmp_path: Path, base: Path) -> None:
    """At a rate of nothing: the losses are those of the model that it starts from."""
    words = [*LONGLORA, "adapter.shifted=4", "training.optimizer.learning_rate=1e-30", "training.steps=1"]
    result = adapted(tmp_path, base, *words)
    given = settings(tmp_path, [*NEEDLE, *SMALL, f"start={base}", *words])
    source = NextTokenConfig().source(open_source(given.data, given.seed, 2), given.seed)
    model = load(base).model

    def loss(one: LanguageModel, batch: Any) -> float:
        tensors = [torch.from_numpy(getattr(batch, name)) for name in ("tokens", "targets", "positions")]
        return float(one.loss(tensors[0], tensors[1], positions=tensors[2]).nll.detach())

    assert result["loss"] == pytest.approx(loss(shifted(model, 4), source.batch(0)), abs=1e-6)
    assert result["loss"] != pytest.approx(loss(model, source.batch(0)), abs=1e-4)
    held = [loss(model, source.validation(index)) for index in range(source.validation_batches)]
    assert result["validation_loss"] == pytest.approx(sum(held) / len(held), abs=1e-5)


def test_what_a_run_leaves(tmp_path: Path, base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Merged weights that load like any others, an adapter that is small, an optimiser that knows of nothing else."""
    result = adapted(tmp_path, base, *LORA, "training.optimizer.learning_rate=1e-2")
    folder = tmp_path / "run"
    told = f"farfield: adapter=lora: {result['trained']} of {result['parameters'] + result['trained']:,} weights are"
    assert told in capfd.readouterr().err
    before, after = load_file(base / "model.safetensors"), weights(folder, "last.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"decoder.layers.0.mixer.projection.{name}.weight" for name in ("qkv", "out")}

    own = load_file(folder / "adapter.safetensors")
    assert sum(tensor.numel() for name, tensor in own.items() if not name.endswith("scale")) == result["trained"]
    assert all("low_rank" in name for name in own)
    checkpoint = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    states = checkpoint["optimizer_states"][0]["state"]
    assert sum(state["exp_avg"].numel() for state in states.values()) == result["trained"]

    tokens = torch.arange(12)[None]
    expected, _ = load(folder).model(tokens)
    assert same(load(folder / "checkpoints" / "best.ckpt").model.state_dict(), weights(folder, "model.safetensors"))
    found = farfield.load(base, adapter=folder / "adapter.safetensors")
    assert torch.equal(found(tokens)[0], expected)
    assert found.info["parameters"] == result["parameters"]


@pytest.mark.parametrize("words", [[*LONGLORA, "context=interpolation"], [*LORA, "context=sinks"]])
def test_an_adapter_is_read_in_the_context_that_it_was_learnt_in(tmp_path: Path, base: Path, words: list[str]) -> None:
    adapted(tmp_path, base, *words)
    file, tokens = tmp_path / "run" / "adapter.safetensors", torch.arange(24)[None]
    found, run_ = farfield.load(base, adapter=file), farfield.load(tmp_path / "run")
    assert found.config == run_.config
    assert trained_length(found.info) == trained_length(run_.info) == 16
    assert torch.equal(found(tokens)[0], run_(tokens)[0])
    half = farfield.load(base, "cpu", torch.bfloat16, adapter=file)
    assert same(half.model.state_dict(), run_.model.to(torch.bfloat16).state_dict())
    with pytest.raises(ModelError, match="learnt in a model of other settings, of its context or its memory for one"):
        with_adapter(load(base).model, read_adapter(file))


@pytest.mark.parametrize(("kind", "other"), [("yarn", "ntk"), ("self_extend", "parallel"), ("sinks", "yarn")])
def test_an_adapter_brings_its_context(tmp_path: Path, base: Path, kind: str, other: str) -> None:
    """The same given again is no second one; another is refused; one without any is stretched as it was asked for."""
    adapted(tmp_path, base, *LORA, f"context={kind}")
    file = tmp_path / "run" / "adapter.safetensors"
    found, again = farfield.load(base, adapter=file), farfield.load(base, adapter=file, context=kind)
    assert again.config == found.config
    stretch = {"yarn": "context.factor=8", "self_extend": "context.window=3", "sinks": "context.initial=2"}
    for name, words in ((kind, [stretch[kind]]), (other, [])):
        with pytest.raises(ConfigError, match=f"'{name}' given, and the adapter brings the context that it was learnt"):
            farfield.load(base, adapter=file, context=name, overrides=words)
    adapted(tmp_path / "plain", base, *LORA)
    plain = tmp_path / "plain" / "run" / "adapter.safetensors"
    assert farfield.load(base, adapter=plain, context=kind).config == found.config


def test_what_an_adapter_is_not_read_beside(tmp_path: Path, base: Path) -> None:
    adapted(tmp_path, base, *LORA)
    file = tmp_path / "run" / "adapter.safetensors"
    for key, word in (("architecture", "architecture.width=24"), ("vocabulary", "data.vocabulary=34")):
        run(tmp_path / key, [*BASE, word, "training.steps=1"])
        with pytest.raises(ModelError, match=f"learnt beside a model with another {key} than .*/{key}/run has"):
            farfield.load(tmp_path / key / "run", adapter=file)
    with pytest.raises(ModelError, match=r"adapter.safetensors: an adapter, which is read beside the model that it"):
        farfield.load(file)


def test_an_adapter_of_other_weights_is_refused(tmp_path: Path, base: Path) -> None:
    adapted(tmp_path, base, *LONGLORA)
    file, model = tmp_path / "run" / "adapter.safetensors", load(base).model
    saved = read_adapter(file)
    with torch.no_grad():
        model.embedding.weight[0, 0] += 1  # which the adapter has whole
    with_adapter(model, saved)
    with torch.no_grad():
        model.get_submodule("decoder.layers.0.feedforward.up").weight[0, 0] += 1  # type: ignore[index, operator]
    with pytest.raises(ModelError, match="made beside other weights than those of this model"):
        with_adapter(model, saved)
    with pytest.raises(ModelError, match="not an adapter of `farfield train`, or damaged"):
        read_adapter(base / "model.safetensors")
    (tmp_path / "cut").write_bytes(file.read_bytes()[:-9])
    save_file({"x": torch.zeros(1)}, tmp_path / "other")
    (tmp_path / "folder").mkdir()
    for name, words in (
        ("cut", "cut: cut short or damaged."),
        ("none", "none: no such file. An adapter is the adapter.safetensors of a run that was trained with adapter="),
        ("other", "not an adapter"),
        ("a" * 300, ": cannot be read: "),
        ("run", f"run: a folder, and an adapter is a file: {file}."),
        ("folder", "folder: a folder, and an adapter is a file: adapter.safetensors of a run."),
    ):
        with pytest.raises(ModelError, match=re.escape(words)):
            read_adapter(tmp_path / name)


def test_stopped_and_resumed_is_as_never_stopped(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*LONGLORA, "adapter.dropout=0.2"]
    adapted(tmp_path / "whole", base, *words)
    original, calls = LanguageModel.loss, []

    def loss(self: LanguageModel, *tensors: Any, **more: Any) -> Any:
        calls.append(self.training)
        if sum(calls) == 3 and self.training:
            signal.raise_signal(signal.SIGINT)
        return original(self, *tensors, **more)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "loss", loss)
        with pytest.raises(KeyboardInterrupt, match="Step 3 is saved"):
            adapted(tmp_path / "stopped", base, *words)
    assert len(rows(tmp_path / "stopped" / "run")) == 3
    adapted(tmp_path / "stopped", base, *words, "resume=true")
    assert numbers(tmp_path / "stopped" / "run") == numbers(tmp_path / "whole" / "run")
    for name in ("last.safetensors", "adapter.safetensors"):
        assert same(weights(tmp_path / "stopped" / "run", name), weights(tmp_path / "whole" / "run", name))
    with pytest.raises(
        TrainingError, match=r"resume=true goes on with the run's own settings, and adapter\.rank was 2"
    ):
        adapted(tmp_path / "stopped", base, *words, "adapter.rank=3", "training.steps=9", "resume=true")


def test_in_half_precision_what_is_not_trained_stays(tmp_path: Path, base: Path) -> None:
    adapted(tmp_path, base, *LONGLORA, "training.precision=bf16", "training.recompute=true")
    before, after = load_file(base / "model.safetensors"), weights(tmp_path / "run")
    assert all(tensor.dtype == torch.float32 for tensor in after.values())
    name = "decoder.layers.0.feedforward.up.weight"
    assert torch.equal(before[name], after[name])
    assert not torch.equal(before["embedding.weight"], after["embedding.weight"])


MISTAKES = {
    "nothing to start from": (
        [*BASE, *LORA],
        "adapter.kind: 'lora' given, but it learns beside weights that stay, and fresh ones never would. Use "
        "start=<a trained model>, or adapter=none.",
    ),
    "an odd group": (
        ["adapter=longlora", "adapter.shifted=5"],
        "adapter.shifted: 5 given; groups are shifted by half, so an even number of tokens is needed.",
    ),
    "a memory with groups": (
        ["adapter=longlora", "memory=knn"],
        "memory.name: 'knn' brings back what groups leave out. Use adapter.shifted=null, or memory=none.",
    ),
    "a memory with weights": (
        ["adapter=lora", "memory=infini"],
        "memory.name: 'infini' has weights of its own, which an adapter would leave as they are. Use adapter=none, or "
        "a memory without weights.",
    ),
    "no maps": (
        ["adapter=lora", "adapter.maps=[]"],
        "adapter.maps: no value given, at least 1 is needed.",
    ),
    "odd heads": (
        ["adapter=longlora", "architecture.layers.attention.mixer.heads=1"],
        "adapter.shifted: of architecture.layers.attention.mixer, heads: 1 given; half of them are shifted, so an even "
        "number is needed.",
    ),
    "positions that groups do not know": (
        ["adapter=longlora", "context=self_extend", "context.window=4", "context.group=2"],
        "adapter.shifted: groups see no far tokens, which architecture.layers.attention.mixer.extension moves. Use "
        "interpolation, ntk or yarn, or adapter.shifted=null.",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_adapters_that_do_not_fit(tmp_path: Path, base: Path, mistake: str) -> None:
    words, message = MISTAKES[mistake]
    begun = [] if words[0] == BASE[0] else [*NEEDLE, *SMALL, f"start={base}"]
    with pytest.raises((ConfigError, TrainingError)) as caught:
        run(tmp_path, [*begun, *words])
    assert str(caught.value) == message
    assert not (tmp_path / "run").exists()


def test_layers_without_what_an_adapter_names(tmp_path: Path) -> None:
    mamba = ["architecture=mamba", *NEEDLE, *TINY, "training.steps=1"]
    run(tmp_path / "base", mamba)
    for words, message in (
        (
            LORA,
            "adapter.maps: 'attention' given, and no layer of the model has softmax attention with a key for each "
            "token.",
        ),
        (LONGLORA, "adapter.shifted: no layer has full attention (kind: attention). Use adapter.shifted=null."),
    ):
        with pytest.raises((ConfigError, ModelError)) as caught:
            adapted(tmp_path, tmp_path / "base" / "run", *words)
        assert str(caught.value) == message


def test_a_stretched_model_trains(tmp_path: Path, base: Path) -> None:
    """On rows eight times as long, by what follows from its start."""
    words = ["context=yarn", "context.factor=8", "data.length=128", "training.steps=1", *LONGLORA]
    run(tmp_path, [*NEEDLE, *SMALL, f"start={base}", *words])
    config = load(tmp_path / "run").info["config"]
    assert config["architecture"]["layers"]["attention"]["mixer"]["scaling"]["factor"] == 8
    assert config["architecture"]["width"] == 16
    assert config["adapter"]["shifted"] == 0.25


STORIES = Path(__file__).parents[2].parent / "shared" / "data" / "stories260k"


@pytest.mark.skipif(not STORIES.is_dir(), reason="the small model of stories is not here: ../shared/data/stories260k")
def test_a_folder_of_hugging_face_is_trained_on(tmp_path: Path) -> None:
    """Its architecture and its tokenizer; what comes out is a run like any other."""
    text = write_text(tmp_path / "text")
    data = ["data=text", f"data.path={text}", f"data.cache={tmp_path / 'cache'}", "data.length=24"]
    result = run(tmp_path, [*data, *SMALL, f"start={STORIES}", *LONGLORA, "training.steps=2"])
    model, tokenizer, info = load(tmp_path / "run")
    assert model.config.architecture == load(STORIES).model.config.architecture
    assert tokenizer.encode("Once upon a time") == load(STORIES).tokenizer.encode("Once upon a time")
    assert info["config"]["data"]["tokenizer"] == {"kind": "folder", "path": str(STORIES), "begin": True}
    assert info["begin"] == load(STORIES).info["begin"] == 1  # a run that goes on from it is asked as it is
    assert result["trained"] < result["parameters"] / 4


def test_a_run_can_be_moved_away_from_its_start(tmp_path: Path, base: Path) -> None:
    """Merged weights need nothing of what they were made of."""
    shutil.copytree(base, tmp_path / "gone")
    adapted(tmp_path, tmp_path / "gone", *LORA)
    shutil.rmtree(tmp_path / "gone")
    load(tmp_path / "run" / "checkpoints" / "last.ckpt")
    load(tmp_path / "run")
