"""Modules that change by steps: told after each, and on resuming as if never stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_cases import TINY, run, same, weights, write_text

from farfield.config import ConfigError

DRAWS = "decoder.layers.0.mixer.random.draws"


def performer(*words: str) -> list[str]:
    mixer = ["head_width=8", "count=6", "redraw=2"]
    return ["architecture=performer", *TINY, *(f"architecture.layers.performer.mixer.{word}" for word in mixer), *words]


def test_features_are_drawn_anew_as_steps_go_by_and_go_on_as_never_stopped(tmp_path: Path) -> None:
    data = ["data=needle", "data.vocabulary=32", "data.length=16", "data.pairs=2", "data.validation=1"]
    flat = ["training.schedule.warmup=0", "training.schedule.floor=1"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(whole, performer(*data, *flat, "training.steps=7"))
    run(parts, performer(*data, *flat, "training.steps=3"))
    assert int(weights(parts / "run")[DRAWS]) == 1
    run(parts, performer(*data, *flat, "training.steps=7", "resume=true"))
    assert int(weights(whole / "run")[DRAWS]) == 3
    assert same(weights(parts / "run"), weights(whole / "run"))
    assert torch.equal(weights(parts / "run")[DRAWS], torch.tensor(3))


def test_carried_states_and_new_features_do_not_go_together(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text")
    streams = ["data=text", f"data.path={text}", f"data.cache={tmp_path / 'cache'}", "data.length=12"]
    words = performer(*streams, "data.order=streams", "training.carry=true")
    with pytest.raises(ConfigError, match=r"layers\.performer\.mixer\.redraw: 2 given, but a carried state"):
        run(tmp_path, words)
    assert run(tmp_path, [*words, "architecture.layers.performer.mixer.redraw=0", "training.steps=2"])["steps"] == 2
