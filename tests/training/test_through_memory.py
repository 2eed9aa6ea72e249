"""Training through memory: gradients that are cut within a row, and tokens that only fill the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_cases import needle, run, streams, write_text

from farfield.architectures.ops.cross_entropy import IGNORED
from farfield.config import ConfigError, TrainingError, read
from farfield.model import LanguageModel, Loss, ModelConfig
from farfield.training.feed import Fed
from farfield.training.learner import Learner
from farfield.training.options import TrainingConfig

VOCABULARY = 11


def model_of(kind: str, memory: dict[str, Any] | None = None) -> LanguageModel:
    torch.manual_seed(0)
    layer = {"mixer": {"kind": kind, "heads": 2}, "feedforward": {"kind": "moe", "experts": 3, "top": 2}}
    architecture = {"width": 16, "depth": 2, "pattern": ["layer"], "layers": {"layer": layer}}
    mapping = {"architecture": architecture, "memory": memory, "vocabulary": VOCABULARY}
    return LanguageModel(read(ModelConfig, mapping)).double()


MODELS = {
    "retnet": ("retnet", None),
    "memory": ("attention", {"kind": "key_value", "segment": 4, "capacity": 20, "top": 20, "gradient": True}),
}


def batch_of(rows: int = 2, time: int = 24) -> Fed:
    torch.manual_seed(1)
    positions = torch.arange(time).repeat(rows, 1)
    positions[1, 10:] = torch.arange(time - 10)
    positions[1, -2:] = -1
    tokens = torch.randint(VOCABULARY, (rows, time))
    targets = torch.randint(VOCABULARY, (rows, time)).masked_fill(positions < 0, IGNORED)
    return Fed(tokens, targets, positions, int((positions >= 0).sum()))


def learnt(model: LanguageModel, batch: Fed, **training: Any) -> tuple[Loss, dict[str, Tensor]]:
    """The loss as training has it, and its gradients."""
    learner = Learner(model, TrainingConfig(**training), {})
    loss = learner._loss(model, batch, None)
    model.zero_grad()
    loss.total.backward()
    return loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def expected_of(model: LanguageModel, batch: Fed, cut: int) -> dict[str, Tensor]:
    """By a plain loop: pieces one after another, each with its own backward pass, the state between them cut off."""
    model.zero_grad()
    state, scored = None, int((batch.targets != IGNORED).sum())
    pieces = range(0, batch.tokens.shape[1], cut)
    for begin in pieces:
        at = slice(begin, begin + cut)
        loss = model.loss(batch.tokens[:, at], batch.targets[:, at], state, positions=batch.positions[:, at])
        (loss.nll * loss.tokens / scored + sum(loss.auxiliary.values()) / len(pieces)).backward()
        assert loss.state is not None
        state = loss.state.detach()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("cut", [1, 5, 8])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_cut_and_values_are_not(name: str, cut: int) -> None:
    model, batch = model_of(*MODELS[name]), batch_of()
    whole, through = learnt(model, batch)
    loss, found = learnt(model, batch, cut=cut)
    assert abs(float(loss.nll.detach() - whole.nll.detach())) < 1e-12
    assert loss.tokens == whole.tokens
    for name, gradient in expected_of(model, batch, cut).items():
        assert (found[name] - gradient).abs().max() < 1e-12, name
    assert max(float((found[name] - through[name]).abs().max()) for name in found) > 1e-6


@pytest.mark.parametrize("cut", [None, 7])
def test_a_cut_beyond_the_row_is_none(cut: int | None) -> None:
    """And what is scored is a mean over tokens, wherever pieces end."""
    model, batch = model_of("retnet"), batch_of()
    loss, _ = learnt(model, batch, cut=24)
    plain = model.loss(batch.tokens, batch.targets, positions=batch.positions)
    assert torch.equal(loss.total, plain.total)
    pieces, _ = learnt(model, batch, cut=cut)
    assert abs(float((pieces.nll - plain.nll).detach())) < 1e-12


def test_tokens_that_fill_the_memory_are_read_and_not_scored() -> None:
    """Of every document in the row; what comes after them is scored as if they had been."""
    model, batch = model_of(*MODELS["memory"]), batch_of()
    loss, _ = learnt(model, batch, fill=6)
    targets = batch.targets.clone()
    for row, column in (batch.positions < 6).nonzero().tolist():
        targets[row, column] = IGNORED
    expected = model.loss(batch.tokens, targets, positions=batch.positions)
    assert torch.equal(loss.total, expected.total)
    assert loss.tokens == 24 - 6 + 10 - 6 + 12 - 6


def test_a_stream_fills_its_memory_once(tmp_path: Path) -> None:
    """With carried states longer than a row: documents of 30 tokens and more are scored from their 20th token on."""
    words = streams(write_text(tmp_path / "text"), "training.fill=20", "training.cut=5", "training.steps=4")
    assert run(tmp_path, words)["steps"] == 4


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["training.fill=16"], "training.fill: 16 given, but rows have 16 tokens, of which none would be scored."),
        (["training.cut=0"], "training.cut: 0 given."),
        (["training.fill=-1"], "training.fill: -1 given."),
    ],
)
def test_mistakes(words: list[str], text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as mistake:
        run(tmp_path, needle(*words))
    assert str(mistake.value).startswith(text)


def test_a_run_begins_with_the_weights_of_another(tmp_path: Path) -> None:
    """And with a memory that the other did not have: it goes on where the other ended."""
    text = write_text(tmp_path / "text")
    plain = [word for word in streams(text) if not word.startswith(("memory", "training.carry", "data.order"))]
    first = run(tmp_path / "first", [*plain, "training.steps=30"])
    words = [*plain, "memory=knn", "memory.segment=8", "memory.combine=gate", f"start={tmp_path}/first/run"]
    begun = run(tmp_path / "second", [*words, "training.steps=1"])
    fresh = run(tmp_path / "third", [*plain, "training.steps=1"])
    assert begun["loss"] < fresh["loss"] - 0.3
    assert abs(begun["loss"] - first["loss"]) < 0.5 * (fresh["loss"] - first["loss"])


def test_a_run_of_another_architecture_cannot_be_begun_with(tmp_path: Path) -> None:
    run(tmp_path, needle("training.steps=1"))
    with pytest.raises(TrainingError) as mistake:
        run(tmp_path / "other", needle("training.steps=1", f"start={tmp_path}/run", "architecture.width=32"))
    assert str(mistake.value).startswith(f"start: {tmp_path}/run was trained with another architecture.")
    with pytest.raises(TrainingError) as mistake:
        run(tmp_path / "other", needle("training.steps=1", f"start={tmp_path}/run", "data.vocabulary=40"))
    assert str(mistake.value).startswith(f"start: {tmp_path}/run was trained with another vocabulary: ")


def test_a_run_of_an_older_version_goes_on(tmp_path: Path) -> None:
    """Settings that are younger than the run count as their defaults; one that is given otherwise is told."""
    run(tmp_path, needle("training.steps=2"))
    file = tmp_path / "run/checkpoints/last.ckpt"
    content = torch.load(file, weights_only=True)
    for key in ("cut", "fill"):
        del content["farfield"]["config"]["training"][key]
    del content["farfield"]["config"]["start"]
    torch.save(content, file)
    assert run(tmp_path, needle("training.steps=3", "resume=true"))["steps"] == 3
    with pytest.raises(TrainingError, match=r"training\.cut was None where it is 5 now"):
        run(tmp_path, needle("training.steps=4", "resume=true", "training.cut=5"))
