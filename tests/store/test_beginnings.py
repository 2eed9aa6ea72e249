"""The state behind fewer tokens, cut from one that has read more; and what waits to be written."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from stored import SEED, parts_of, read_all, same, size_of, text

from farfield.architectures import Rows, build_mixer
from farfield.config import read
from farfield.memory.store import StateStore, StoreConfig
from farfield.memory.store.tiers import DiskShelf
from farfield.model import LanguageModel, ModelConfig


def model_of(*layers: dict[str, Any]) -> LanguageModel:
    named = {str(number): {"mixer": layer} for number, layer in enumerate(layers)}
    architecture = {"width": 16, "depth": len(layers), "pattern": list(named), "layers": named}
    return LanguageModel(read(ModelConfig, {"architecture": architecture, "memory": None, "vocabulary": 11})).double()


@pytest.mark.parametrize("position", ["rope", "alibi", "none"])
@pytest.mark.parametrize("count", [1, 7, 20])
@torch.no_grad()
def test_attention_has_the_state_behind_every_beginning(position: str, count: int) -> None:
    layer = {"kind": "attention", "heads": 4, "kv_heads": 2, "position": position}
    model, tokens = model_of(layer, layer), torch.randint(0, 11, (2, 20))
    _, whole = model(tokens)
    cut = whole.first(count)
    assert cut is not None
    _, short = model(tokens[:, :count])
    assert cut.bytes == short.bytes
    more = torch.randint(0, 11, (2, 3))
    expected, _ = model(more, short)
    for _ in range(2):  # what goes on from it disturbs neither it nor the whole
        torch.testing.assert_close(model(more, cut)[0], expected, rtol=0, atol=1e-9)
    after, _ = model(torch.cat((tokens, more), 1))
    torch.testing.assert_close(model(more, whole)[0], after[:, 20:], rtol=0, atol=1e-9)


def test_more_than_has_been_read_is_no_beginning() -> None:
    model = model_of({"kind": "attention", "heads": 2})
    _, state = model(torch.randint(0, 11, (1, 5)))
    assert state.first(6) is None


FORGETFUL: dict[str, dict[str, Any]] = {
    "a convolution": {"kind": "attention", "heads": 2, "conv": 3},
    "xpos": {"kind": "attention", "heads": 2, "position": "xpos"},
    "a window": {"kind": "longformer", "heads": 2},
    "a recurrence": {"kind": "retnet", "heads": 2},
    "a scan": {"kind": "mamba"},
    "buckets": {"kind": "reformer", "heads": 2},
}


@pytest.mark.parametrize("kind", FORGETFUL)
def test_what_has_forgotten_its_beginnings_says_so(kind: str) -> None:
    mixer = build_mixer(FORGETFUL[kind], 16)
    x = torch.randn(1, 9, 16)
    _, state = mixer(x, Rows.fresh_documents(1, 9), mixer.start(1))
    assert state.first(4) is None
    model = model_of({"kind": "attention", "heads": 2}, FORGETFUL[kind])
    assert model(torch.randint(0, 11, (1, 9)))[1].first(4) is None


def test_a_call_waits_while_too_much_waits_to_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, write, size = threading.Event(), DiskShelf.write, size_of(text(0))

    def slow(self: DiskShelf, key: str, made: bytes) -> None:
        gate.wait(30)
        write(self, key, made)

    monkeypatch.setattr(DiskShelf, "write", slow)
    with StateStore(tmp_path, StoreConfig(buffer=2 * size)) as store:
        for number in range(2):
            store.put(SEED, text(number), parts_of(text(number)))
        assert sum(one.bytes for one in store._waiting.values()) == 2 * size
        opener = threading.Timer(0.05, gate.set)
        opener.start()
        store.put(SEED, text(2), parts_of(text(2)))  # returns once there is room
        assert gate.is_set()
        assert sum(one.bytes for one in store._waiting.values()) <= 2 * size
        opener.join()
        store.flush()
        assert len(list((tmp_path / "states").iterdir())) == 3


def test_what_waits_to_be_written_is_found_though_memory_has_no_room(tmp_path: Path) -> None:
    with StateStore(tmp_path, StoreConfig(memory=0)) as store:
        store.put(SEED, text(0), parts_of(text(0)))
        found = store.find(SEED, text(0))
        assert found is not None
        assert found.tier == "disk"
        assert same(read_all(found), parts_of(text(0)))
