"""Killed anywhere, resumed by the same command: the same numbers, bit for bit. Ctrl-C: saved, and how to go on."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path

import pytest
from training_cases import needle, numbers, rows, run, same, signal_at, start, streams, weights, write_text

from farfield.pretrained import read_checkpoint

STEPS, EVERY = 40, 7


@pytest.mark.parametrize(("case", "kill"), [("needle", 12), ("streams", 17)])
def test_killed_and_resumed_is_as_never_killed(tmp_path: Path, case: str, kill: int) -> None:
    schedule = [f"training.steps={STEPS}", f"training.checkpoint.every={EVERY}", "training.validation.every=8"]
    more = [*schedule, "training.accumulate=2", "training.validation.batches=2"]
    words = needle(*more) if case == "needle" else streams(write_text(tmp_path / "text"), *more)
    process = start(tmp_path / "killed", words)
    signal_at(process, tmp_path / "killed" / "run", kill, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    before = rows(tmp_path / "killed" / "run")
    assert kill <= before[-1]["step"] < STEPS

    run(tmp_path / "killed", [*words, "resume=true"])
    run(tmp_path / "whole", words)
    killed, whole = tmp_path / "killed" / "run", tmp_path / "whole" / "run"
    assert len(numbers(whole)) == STEPS
    assert numbers(killed) == numbers(whole)
    for name in ("last.safetensors", "model.safetensors"):
        assert same(weights(killed, name), weights(whole, name))
    lines = (killed / "metrics.csv").read_text().splitlines()
    assert len(lines) > STEPS + 1  # the steps after the last checkpoint stand there twice


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    words = needle("training.steps=100000", "training.schedule.warmup=0", "training.schedule.floor=1")
    process = start(tmp_path, words)
    folder = tmp_path / "run"
    out, err = signal_at(process, folder, 20, signal.SIGINT)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    step = read_checkpoint(folder / "checkpoints" / "last.ckpt")["farfield"]["progress"]["step"]
    assert 20 <= step == rows(folder)[-1]["step"]
    command = shlex.join(["farfield", "train", *words, f"root={tmp_path}", "name=run", "resume=true"])
    assert f"farfield: stopped. Step {step} is saved in {folder}/checkpoints/last.ckpt. Go on with `{command}`" in err
    for noise in ("💡", "GPU available", "TPU", "Trainer.fit", "Warning", "warn", "Detected KeyboardInterrupt"):
        assert noise not in err

    result = run(tmp_path, [*words, "resume=true", f"training.steps={step + 3}"])
    assert result["steps"] == step + 3
    assert [row["step"] for row in rows(folder)] == list(range(1, step + 4))
