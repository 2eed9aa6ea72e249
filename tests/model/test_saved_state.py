"""States on disk: the same answers when read back, an error for anything damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from farfield.api import build
from farfield.architectures.saved_state import load_state, save_state
from farfield.config import ModelError

KINDS = [("attention", None), ("longformer", "knn"), ("retnet", None)]


@pytest.mark.parametrize(("architecture", "memory"), KINDS)
@torch.no_grad()
def test_a_saved_state_goes_on_as_if_never_stopped(architecture: str, memory: str | None, tmp_path: Path) -> None:
    model = build(architecture, ["width=32", "depth=2"], memory=memory)
    tokens = torch.randint(0, 257, (2, 50))
    _, state = model(tokens[:, :40])
    file = tmp_path / "state.safetensors"
    save_state(state, file)
    restored = load_state(file, model.start(2))
    assert restored.bytes == state.bytes
    expected, _ = model(tokens[:, 40:], state)
    torch.testing.assert_close(model(tokens[:, 40:], restored)[0], expected, rtol=0, atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


def test_a_damaged_state_is_one_line(tmp_path: Path) -> None:
    model = build("attention", ["width=32", "depth=1"])
    _, state = model(torch.randint(0, 257, (1, 20)))
    file = tmp_path / "state.safetensors"
    save_state(state, file)
    whole = file.read_bytes()
    file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(ModelError, match="its checksum does not fit"):
        load_state(file, model.start(1))
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cut short or damaged"):
        load_state(file, model.start(1))
    with pytest.raises(ModelError, match="no such file"):
        load_state(tmp_path / "other", model.start(1))


def test_the_state_of_another_model_is_refused(tmp_path: Path) -> None:
    _, state = build("attention", ["width=32", "depth=1"])(torch.randint(0, 257, (1, 20)))
    save_state(state, tmp_path / "state.safetensors")
    with pytest.raises(ModelError, match="the state of another model"):
        load_state(tmp_path / "state.safetensors", build("retnet", ["width=32", "depth=1"]).start(1))
