"""A state in a file belongs to one model: its settings and its weights, even where all shapes fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import farfield
from farfield.architectures.saved_state import save_state
from farfield.config import ModelError
from farfield.generation import TextModel
from farfield.model import fingerprint

OVERRIDES = ["width=32", "depth=1"]


def remembering(memory: str, *words: str, seed: int = 0) -> TextModel:
    from farfield.compose import option
    from farfield.config import read
    from farfield.model import LanguageModel, ModelConfig
    from farfield.tokenizers import BytesTokenizer

    torch.manual_seed(seed)
    architecture = option("architecture", "attention", OVERRIDES)
    mapping = {"architecture": architecture, "memory": option("memory", memory, words), "vocabulary": 257}
    return TextModel(LanguageModel(read(ModelConfig, mapping)), BytesTokenizer()).eval()


@torch.no_grad()
def saved(model: TextModel, path: Path) -> tuple[Path, torch.Tensor]:
    """The file of a state, and the logits with which the model goes on from it."""
    tokens = torch.arange(90)[None] % 7
    _, state = model(tokens[:, :80])
    model.save_state(state, path)
    return path, model(tokens[:, 80:], state)[0]


@torch.no_grad()
def test_the_same_model_goes_on(tmp_path: Path) -> None:
    model = remembering("sinks", "segment=8", "capacity=16")
    path, expected = saved(model, tmp_path / "state.safetensors")
    again = remembering("sinks", "segment=8", "capacity=16")
    found, _ = again(torch.arange(90)[None, 80:] % 7, again.load_state(path))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "other",
    [("fot", "segment=8"), ("knn", "segment=4"), ("knn", "segment=8", "capacity=20"), ("sinks", "segment=8")],
    ids=["memory", "segment", "capacity", "policy"],
)
def test_another_memory_is_told(other: tuple[str, ...], tmp_path: Path) -> None:
    """Also one whose states have the same shapes."""
    path, _ = saved(remembering("knn", "segment=8"), tmp_path / "state.safetensors")
    with pytest.raises(ModelError) as mistake:
        remembering(*other).load_state(path)
    assert str(mistake.value).startswith(f"{path}: the state of another model")
    assert "\n" not in str(mistake.value)


def test_other_weights_are_told(tmp_path: Path) -> None:
    path, _ = saved(remembering("knn", "segment=8"), tmp_path / "state.safetensors")
    with pytest.raises(
        ModelError, match=r"the state of another model, or of other settings or weights; prefill anew\.$"
    ):
        remembering("knn", "segment=8", seed=1).load_state(path)


@pytest.mark.parametrize("maker", ["", "older"])
def test_states_that_meant_something_else_are_told(maker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of an earlier version, whether files then said whose they were or not."""
    model = remembering("xl", "segment=8")
    _, state = model(torch.arange(80)[None] % 7)
    path = tmp_path / "state.safetensors"
    with monkeypatch.context() as before:
        before.setattr("farfield.model.STATES", 1)
        save_state(state, path, maker and fingerprint(model.model))
    with pytest.raises(ModelError, match=r"the state of another model, or of other settings or weights; prefill anew"):
        model.load_state(path)


def test_a_file_cut_short_is_told(tmp_path: Path) -> None:
    model = farfield.build("retnet", OVERRIDES)
    path, _ = saved(model, tmp_path / "state.safetensors")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ModelError, match=r"cut short or damaged; prefill anew\.$"):
        model.load_state(path)
