"""Training with a memory in front of segments: runs go on bit for bit, and a frozen model stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_cases import needle, numbers, run, same, streams, weights, write_text

from farfield.config import ConfigError

MEMORIES = {
    "rmt": ["memory=rmt", "memory.tokens=2", "memory.bptt=2"],
    "autocompressor": ["memory=autocompressor", "memory.tokens=2", "memory.limit=4", "memory.spread=2"],
    "mac": ["memory=mac", "memory.tokens=2", "memory.limit=4", "memory.blocks=1", "memory.heads=2", "memory.lift=0.5"],
}


@pytest.mark.parametrize("name", MEMORIES)
def test_a_run_in_two_parts_is_the_run_at_once(name: str, tmp_path: Path) -> None:
    """Also what is drawn anew after every step: lengths of segments, entries that gradients reach."""
    constant = ["training.schedule.warmup=0", "training.schedule.floor=1"]
    words = needle(*MEMORIES[name], "memory.segment=5", *constant)
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    run(whole, [*words, "training.steps=4"])
    run(parts, [*words, "training.steps=2"])
    run(parts, [*words, "training.steps=4", "resume=true"])
    assert [row["loss"] for row in numbers(whole / "run")] == [row["loss"] for row in numbers(parts / "run")]
    assert same(weights(whole / "run"), weights(parts / "run"))


FACTS = ["data=facts", "data.vocabulary=64", "data.documents=[2,3]", "data.length=4", "data.questions=2"]


@pytest.mark.parametrize("recompute", [False, True])
def test_a_run_on_sets_of_documents_is_resumed_bit_for_bit(recompute: bool, tmp_path: Path) -> None:
    """With a share of the documents that gradients reach, drawn anew after every step."""
    mac = [*MEMORIES["mac"], "memory.limit=8", "memory.segment=5", f"training.recompute={str(recompute).lower()}"]
    constant = ["training.schedule.warmup=0", "training.schedule.floor=1"]
    words = [word for word in needle(*mac, *constant) if not word.startswith("data")] + FACTS
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    found = run(whole, [*words, "training.steps=4"])
    run(parts, [*words, "training.steps=2"])
    run(parts, [*words, "training.steps=4", "resume=true"])
    assert [row["loss"] for row in numbers(whole / "run")] == [row["loss"] for row in numbers(parts / "run")]
    assert same(weights(whole / "run"), weights(parts / "run"))
    assert found["validation_loss"] > 0


def test_a_frozen_model_learns_to_ask_sets_of_documents(tmp_path: Path) -> None:
    ids = ["data.vocabulary=64"]
    run(tmp_path / "plain", needle(*ids, "training.steps=1"))
    words = [word for word in needle(*MEMORIES["mac"]) if not word.startswith("data")] + FACTS
    words += ["memory.limit=8", "memory.segment=5", "memory.frozen=true", f"start={tmp_path / 'plain' / 'run'}"]
    run(tmp_path / "short", [*words, "training.steps=1"])
    run(tmp_path / "long", [*words, "training.steps=6"])
    short, long = (weights(tmp_path / name / "run") for name in ("short", "long"))
    for name, tensor in long.items():
        own = name.startswith("decoder.memory.") and not name.endswith(".seed")
        assert torch.equal(short[name], tensor) != own, name


def test_a_frozen_model_stays_as_it_is_and_its_memory_learns(tmp_path: Path) -> None:
    run(tmp_path / "plain", needle("training.steps=2"))
    plain = weights(tmp_path / "plain" / "run")
    words = needle(*MEMORIES["mac"], "memory.segment=5", f"start={tmp_path / 'plain' / 'run'}")
    run(tmp_path / "short", [*words, "memory.frozen=true", "training.steps=1"])
    run(tmp_path / "long", [*words, "memory.frozen=true", "training.steps=3"])
    short, long = (weights(tmp_path / name / "run") for name in ("short", "long"))
    kept = {name.replace("decoder.stack.", "decoder."): tensor for name, tensor in long.items()}
    assert same({name: kept[name] for name in plain}, plain)
    own = [name for name in long if name.startswith("decoder.memory.") and long[name].is_floating_point()]
    assert own
    assert all(not torch.equal(short[name], long[name]) for name in own)


def test_fresh_layers_are_not_frozen(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run(tmp_path, needle(*MEMORIES["mac"], "memory.frozen=true"))
    assert str(caught.value) == (
        "memory.frozen: true given, but layers with fresh weights would never learn. "
        "Use start=<a run without the memory>, or memory.frozen=false."
    )


def test_states_of_random_segments_are_not_carried(tmp_path: Path) -> None:
    words = [word for word in streams(write_text(tmp_path / "text")) if not word.startswith("memory")]
    with pytest.raises(ConfigError) as caught:
        run(tmp_path, [*words, "memory=autocompressor"])
    assert str(caught.value) == (
        "memory.spread: 128 given, but a carried state is of the lengths it was made with. "
        "Use spread=0, or training.carry=false."
    )
    result = run(tmp_path, [*words, "memory=autocompressor", "memory.spread=0", "memory.segment=8", "training.steps=3"])
    assert result["steps"] == 3
