"""The parts of training that need no Lightning: learning rates, decay, metrics, whole files, generators, Ctrl-C."""

from __future__ import annotations

import random
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch import nn

from farfield.architectures import build_mixer
from farfield.config import TrainingError, read
from farfield.data import Batch
from farfield.model import LanguageModel, ModelConfig
from farfield.training import generators
from farfield.training.feed import shard
from farfield.training.interrupt import Interrupt, command_again
from farfield.training.metrics import COLUMNS, Metrics, read_metrics
from farfield.training.optimizer import build_optimizer, decayed
from farfield.training.options import CosineConfig, OptimizerConfig, WsdConfig
from farfield.training.progress import Best, Progress
from farfield.training.saving import link, replacing, save_checkpoint, write_text
from farfield.training.schedule import share

COSINE, WSD = CosineConfig(warmup=0.1, floor=0.1), WsdConfig(warmup=0.1, decay=0.5, floor=0.2)


def test_cosine() -> None:
    rates = [share(COSINE, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[54] == pytest.approx(0.55)
    assert rates[99] == pytest.approx(0.1)
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_wsd_stays_and_falls_in_a_straight_line() -> None:
    rates = [share(WSD, step, 100) for step in range(100)]
    assert rates[9:50] == [1.0] * 41
    assert np.diff(rates[49:]) == pytest.approx([-0.8 / 50] * 50)
    assert rates[99] == pytest.approx(0.2)


@given(some.integers(1, 300), some.floats(0, 0.5), some.floats(0.01, 0.5), some.floats(0, 1), some.booleans())
def test_a_rate_is_between_nothing_and_the_peak(
    steps: int, warmup: float, part: float, floor: float, wsd: bool
) -> None:
    config = WsdConfig(warmup=warmup, decay=part, floor=floor) if wsd else CosineConfig(warmup=warmup, floor=floor)
    rates = [share(config, step, steps) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates[:-1])
    assert rates[-1] == pytest.approx(floor)
    assert share(config, steps + 5, steps) == pytest.approx(floor)


def model(architecture: str, **more: object) -> LanguageModel:
    mixer = {"kind": architecture, "head_width": 8, "conv": 4}
    layers = {"only": {"mixer": mixer}}
    mapping = {"width": 16, "depth": 1, "pattern": ["only"], "layers": layers, **more}
    return LanguageModel(read(ModelConfig, {"architecture": mapping, "vocabulary": 32}))


def test_what_is_decayed() -> None:
    found = decayed(model("retnet", tied=False))
    ours = "decoder.layers.0."
    assert found == {
        *(f"{ours}mixer.{name}.weight" for name in ("qkv", "gate", "out")),
        *(f"{ours}feedforward.{name}.weight" for name in ("up", "down")),
        "output.weight",
    }


def test_decays_steps_and_skips_of_a_state_space_are_not_decayed() -> None:
    found = {name.removeprefix("decoder.layers.0.mixer.") for name in decayed(model("mamba2"))}
    assert {"into.weight", "out.weight"} <= found
    assert not found & {"A_log", "D", "dt_bias", "gain", "taps", "taps_bias"}


def test_decay_is_kept_from_what_asks_for_it() -> None:
    made = nn.Linear(4, 4)
    assert decayed(made) == {"weight"}
    made.weight._no_weight_decay = True  # type: ignore[assignment]  # a mark, as published models set it
    assert decayed(made) == set()


def test_rates_of_state_spaces_are_not_decayed() -> None:
    found = decayed(build_mixer({"kind": "mamba"}, 32))
    assert found == {f"{name}.weight" for name in ("input", "select", "step", "out")}


def test_every_parameter_is_in_one_group() -> None:
    made = model("attention")
    optimizer = build_optimizer(made, OptimizerConfig(weight_decay=0.3))
    decay, none = optimizer.param_groups
    assert (decay["weight_decay"], none["weight_decay"]) == (0.3, 0.0)
    assert {id(p) for p in (*decay["params"], *none["params"])} == {id(p) for p in made.parameters()}
    assert any(p is made.embedding.weight for p in none["params"])


def test_metrics_read_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    third = 1 / 3
    with Metrics(file) as metrics:
        metrics.append({"step": 1, "loss": third, "tokens": 64})
        metrics.append({"step": 2, "loss": 2.5, "validation_loss": 1e-9})
    assert file.read_text().splitlines()[0] == ",".join(COLUMNS)
    assert read_metrics(file) == [
        {"step": 1, "loss": third, "tokens": 64},
        {"step": 2, "loss": 2.5, "validation_loss": 1e-9},
    ]


def test_metrics_are_appended_and_the_last_line_of_a_step_counts(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    for value in (1.0, 2.0):
        with Metrics(file) as metrics:
            metrics.append({"step": 1, "loss": 9.0})
            metrics.append({"step": 2, "loss": value})
    assert len(file.read_text().splitlines()) == 5
    assert read_metrics(file) == [{"step": 1, "loss": 9.0}, {"step": 2, "loss": 2.0}]


@pytest.mark.parametrize("torn", ["2,", "2,3.", "2,3.5,,,,", "x,,,,,,\n", ",,,,,,\n"])
def test_a_torn_line_is_passed_over(tmp_path: Path, torn: str) -> None:
    file = tmp_path / "metrics.csv"
    with Metrics(file) as metrics:
        metrics.append({"step": 1, "loss": 1.0})
    with file.open("a") as stream:
        stream.write(torn)
    assert read_metrics(file) == [{"step": 1, "loss": 1.0}]
    with Metrics(file) as metrics:
        metrics.append({"step": 2, "loss": 2.0})
    assert read_metrics(file) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}]


def test_no_metrics(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "none.csv") == []
    (tmp_path / "empty.csv").touch()
    assert read_metrics(tmp_path / "empty.csv") == []


def write_half(file: Path) -> None:
    with replacing(file) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_text(file, "old")
    with pytest.raises(ZeroDivisionError):
        write_half(file)
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    write_text(file, "new")
    assert file.read_text() == "new"


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"file/x: cannot be written: "):
        write_text(tmp_path / "file" / "x", "text")
    with pytest.raises(TrainingError, match=r"file/x: cannot be written: "):
        save_checkpoint({}, tmp_path / "file" / "x")


def test_a_link_keeps_its_content(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    write_text(one, "a")
    link(one, two)
    write_text(one, "b")
    assert (one.read_text(), two.read_text()) == ("b", "a")
    link(one, two)
    assert two.read_text() == "b"


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_generators_go_on_where_they_were() -> None:
    with generators.seeded(3):
        draws()
        state = generators.capture()
        following = draws()
        generators.restore(state)
        assert draws() == following
    with generators.seeded(3):
        assert draws() != following
        assert draws() == following


def test_generators_are_given_back() -> None:
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    expected = draws()
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    with generators.seeded(1):
        draws()
    assert draws() == expected


def test_progress_is_what_it_was_read_from() -> None:
    progress = Progress(step=4, tokens=9, seconds=1.5, recent=2.0, counted=1, best=Best(3, 0.5, "validation"))
    assert Progress.read(progress.mapping()) == progress
    assert Progress.read(Progress().mapping()) == Progress()


def test_the_best_is_the_first_to_reach_a_loss() -> None:
    progress = Progress()
    progress.count(4.0, 10, 0.1)
    progress.count(2.0, 10, 0.1)
    assert progress.improved(progress.drain(), "training")
    assert progress.best == Best(2, 3.0, "training")
    progress.count(3.0, 10, 0.1)
    assert not progress.improved(progress.drain(), "training")
    assert progress.best.step == 2


def test_devices_share_the_rows() -> None:
    tokens = np.arange(12).reshape(4, 3)
    batch = Batch(tokens, tokens + 1, np.where(tokens % 3 == 2, -1, tokens % 3))
    one, two = shard(batch, 0, 2), shard(batch, 1, 2)
    assert torch.equal(torch.cat((one.tokens, two.tokens)), torch.from_numpy(tokens))
    assert (one.read, two.read) == (4, 4)
    assert torch.equal(two.targets, two.tokens + 1)


def test_first_interrupt_asks_and_the_second_stops(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        assert not interrupt.asked
        signal.raise_signal(signal.SIGINT)
        assert interrupt.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopping after this step" in capsys.readouterr().err


def test_interrupts_are_for_the_main_thread() -> None:
    seen: list[bool] = []

    def work() -> None:
        with Interrupt() as interrupt:
            seen.append(interrupt.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["/bin/farfield", "train", "size=tiny"], "`farfield train size=tiny resume=true`"),
        (["/x/farfield/__main__.py", "train", "name=a b", "resume=false"], "`farfield train 'name=a b' resume=true`"),
        (["farfield train", "seed=1,2", "--multirun"], "`farfield train seed=1,2 --multirun resume=true`"),
        (["script.py"], "the same settings and resume=True."),
        (["pytest", "train"], "the same settings and resume=True."),
    ],
)
def test_the_command_that_goes_on(monkeypatch: pytest.MonkeyPatch, argv: list[str], command: str) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert command_again() == command
