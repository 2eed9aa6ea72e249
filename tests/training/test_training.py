"""A run as a whole: what it learns, what it leaves, where it refuses, how it goes on."""

from __future__ import annotations

import json
import logging
import math
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_cases import NEEDLE, TINY, needle, numbers, rows, run, same, settings, streams, weights, write_text

from farfield.config import ConfigError, DataError, ModelError, TrainingError
from farfield.data import NeedleData
from farfield.data.needle import NeedleSource
from farfield.model import LanguageModel
from farfield.pretrained import read_checkpoint
from farfield.training.folder import owned
from farfield.training.saving import link
from farfield.training.schedule import share

SHORT = ["training.steps=12", "training.validation.every=4", "training.checkpoint.every=5"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The root of a finished run, not to be changed, and its result."""
    root = tmp_path_factory.mktemp("finished")
    return root, run(root, needle(*SHORT))


@pytest.fixture
def copy(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """The root of a finished run of its own."""
    shutil.copytree(finished[0], tmp_path / "runs")
    return tmp_path / "runs"


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    with owned(tmp_path / "run"), pytest.raises(TrainingError, match=r"run: another process trains there\."):
        run(tmp_path, needle(*SHORT))
    assert run(tmp_path, needle(*SHORT))["steps"] == 12


def test_a_memory_that_is_never_read_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["architecture=attention", "memory=knn", *NEEDLE[1:], *TINY, "training.steps=1"]
    words += ["architecture.layers.attention.mixer.head_width=8"]
    run(tmp_path / "short", [*words, "memory.segment=16"])
    assert "rows of 16 tokens never read it; that begins at 17" in capsys.readouterr().err
    run(tmp_path / "long", [*words, "memory.segment=8"])
    assert "never read it" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nonsense", "fsdp"])
def test_a_strategy_is_lightnings_and_one_that_shards_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises((TrainingError, ConfigError), match=rf"training\.strategy.*{name}"):
        run(tmp_path, needle(*SHORT, f"training.strategy={name}"))


def test_what_a_run_says(finished: tuple[Path, dict[str, Any]]) -> None:
    root, result = finished
    assert json.loads(json.dumps(result)) == result
    last = rows(root / "run")[-1]
    assert (result["name"], result["folder"], result["steps"]) == ("run", str(root / "run"), 12)
    assert (result["loss"], result["validation_loss"]) == (last["loss"], last["validation_loss"])
    assert result["tokens"] == last["tokens"] == 12 * 2 * 16
    assert result["parameters"] == sum(tensor.numel() for tensor in weights(root / "run").values())
    assert result["tokens_per_second"] > 0
    for path in (result["weights"], result["metrics"], result["figure"], *result["checkpoints"].values()):
        assert Path(path).stat().st_size > 0


def test_experts_tell_their_load_and_balance(tmp_path: Path) -> None:
    experts = "{kind: moe, experts: 3, top: 1, balance: 0.5}"
    words = needle("training.accumulate=2", f"architecture.layers.retnet.feedforward={experts}")
    run(tmp_path, [*words, "training.steps=2"])
    run(tmp_path, [*words, "training.steps=4", "resume=true"])
    lines = rows(tmp_path / "run")
    assert [row["step"] for row in lines] == [1, 2, 3, 4]
    for row in lines:
        assert sum(row[f"load.0.{expert}"] for expert in range(3)) == pytest.approx(1)
        assert row["balance"] >= 0.4


def test_what_a_run_leaves(finished: tuple[Path, dict[str, Any]]) -> None:
    folder = finished[0] / "run"
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    (events,) = {file for file in files if file.startswith("tensorboard/")}
    assert files - {events} == {
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "checkpoints/step-00000010.ckpt",
        "config.yaml",
        "figures/loss.png",
        "last.safetensors",
        "metrics.csv",
        "model.safetensors",
        "tokenizer/tokenizer_config.json",
    }
    assert (folder / "figures" / "loss.png").read_bytes().startswith(b"\x89PNG")
    board = EventAccumulator(str(folder / events))
    board.Reload()
    assert [event.step for event in board.Scalars("loss")] == list(range(1, 13))
    assert [event.step for event in board.Scalars("validation_loss")] == [4, 8, 12]


def test_metrics_of_a_run(finished: tuple[Path, dict[str, Any]]) -> None:
    found = rows(finished[0] / "run")
    training = settings(finished[0], needle(*SHORT)).training
    assert [row["step"] for row in found] == list(range(1, 13))
    assert [row["step"] for row in found if "validation_loss" in row] == [4, 8, 12]
    rates = [training.optimizer.learning_rate * share(training.schedule, step, 12) for step in range(12)]
    assert [row["learning_rate"] for row in found] == rates
    assert all(row["gradient_norm"] > 0 for row in found)


def test_a_line_each_so_many_steps_and_at_both_ends(tmp_path: Path) -> None:
    run(tmp_path, needle("training.steps=9", "training.log=4", "training.validation.every=6"))
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 4, 6, 8, 9]


def test_the_best_is_the_best_on_validation(finished: tuple[Path, dict[str, Any]]) -> None:
    root, result = finished
    by_step = {row["step"]: row["validation_loss"] for row in rows(root / "run") if "validation_loss" in row}
    step = min(by_step, key=lambda one: by_step[one])
    assert result["best"] == {"step": step, "loss": by_step[step], "by": "validation"}
    best = read_checkpoint(root / "run" / "checkpoints" / "best.ckpt")
    assert best["farfield"]["progress"]["step"] == step
    exported = weights(root / "run", "model.safetensors")
    assert same(exported, {name.removeprefix("model."): tensor for name, tensor in best["state_dict"].items()})


def test_a_validation_that_gets_worse_leaves_the_best(tmp_path: Path) -> None:
    """With a rate far too high, later steps are worse than the first."""
    words = needle(*SHORT, "training.validation.every=1", "training.optimizer.learning_rate=3")
    result = run(tmp_path, words)
    assert result["best"]["step"] < 12
    assert result["best"]["loss"] < result["validation_loss"]
    assert not same(weights(tmp_path / "run"), weights(tmp_path / "run", "model.safetensors"))


def test_without_validation_the_training_loss_judges(tmp_path: Path) -> None:
    result = run(tmp_path, needle("training.steps=10", "training.checkpoint.every=4", "data.validation=0"))
    losses = [row["loss"] for row in rows(tmp_path / "run")]
    means = {4: sum(losses[:4]) / 4, 8: sum(losses[4:8]) / 4, 10: sum(losses[8:]) / 2}
    step = min(means, key=lambda one: means[one])
    assert result["best"] == {"step": step, "loss": pytest.approx(means[step]), "by": "training"}
    assert result["validation_loss"] is None


@pytest.mark.parametrize(("keep", "names"), [(1, []), (3, [6, 8])])
def test_so_many_checkpoints_stay(tmp_path: Path, keep: int, names: list[int]) -> None:
    run(tmp_path, needle("training.steps=9", "training.checkpoint.every=2", f"training.checkpoint.keep={keep}"))
    checkpoints = tmp_path / "run" / "checkpoints"
    assert sorted(checkpoints.glob("step-*")) == [checkpoints / f"step-{step:08d}.ckpt" for step in names]
    for step in names:
        ours = read_checkpoint(checkpoints / f"step-{step:08d}.ckpt")["farfield"]
        assert ours["progress"]["step"] == step


@pytest.mark.parametrize("option", ["recompute=true", "precision=bf16"])
def test_ways_to_compute(tmp_path: Path, finished: tuple[Path, dict[str, Any]], option: str) -> None:
    result = run(tmp_path, needle(*SHORT, f"training.{option}"))
    if option.startswith("recompute"):
        assert numbers(tmp_path / "run") == numbers(finished[0] / "run")
    else:
        assert result["loss"] == pytest.approx(finished[1]["loss"], rel=0.05)
        assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path / "run").values())


def test_a_run_is_not_trained_over(copy: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        run(copy, needle(*SHORT))
    assert str(caught.value) == (
        f"{copy}/run: this run exists. Go on with it (resume=true), take another name=..., or remove the folder."
    )


def test_a_folder_where_nothing_was_trained_is_taken(copy: Path) -> None:
    shutil.rmtree(copy / "run" / "checkpoints")
    run(copy, needle("training.steps=3"))
    assert [row["step"] for row in rows(copy / "run")] == [1, 2, 3]


def test_resume_without_a_checkpoint_starts_anew_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, needle("training.steps=2", "resume=true"))
    assert f"{tmp_path}/run has no checkpoint to go on from: starting from the beginning." in capsys.readouterr().err
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2]


def test_a_finished_run_is_told_again(copy: Path, finished: tuple[Path, dict[str, Any]]) -> None:
    """As after a kill behind the last checkpoint: what was not written yet is."""
    lines = (copy / "run" / "metrics.csv").read_text()
    for name in ("model.safetensors", "last.safetensors", "figures/loss.png"):
        (copy / "run" / name).unlink()
    result = run(copy, needle(*SHORT, "resume=true"))
    assert {**result, "seconds": 0} == json.loads(
        json.dumps({**finished[1], "seconds": 0}).replace(str(finished[0]), str(copy))
    )
    assert (copy / "run" / "metrics.csv").read_text() == lines
    for name in ("model.safetensors", "last.safetensors"):
        assert same(weights(copy / "run", name), weights(finished[0] / "run", name))
    assert (copy / "run" / "figures" / "loss.png").is_file()


def test_more_steps(copy: Path) -> None:
    result = run(copy, needle(*SHORT, "resume=true", "training.steps=15", "training.checkpoint.keep=1"))
    assert result["steps"] == 15
    assert [row["step"] for row in rows(copy / "run")] == list(range(1, 16))
    assert result["tokens"] == 15 * 2 * 16
    with pytest.raises(TrainingError, match=r"training\.steps: 12 given, but 15 steps are done\."):
        run(copy, needle(*SHORT, "resume=true"))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("architecture.width=24", "architecture.width was 16 where it is 24 now"),
        ("memory=null", None),
        ("architecture.layers.retnet.mixer.conv=0", "architecture.layers.retnet.mixer.conv was 4 where it is 0 now"),
        ("seed=1", "seed was 0 where it is 1 now"),
        ("training.batch=4", "training.batch was 2 where it is 4 now"),
        ("training.optimizer.betas=[0.9,0.99]", "training.optimizer.betas was [0.9, 0.95] where it is [0.9, 0.99] now"),
        ("training.schedule.kind=wsd", "training.schedule.kind was cosine where it is wsd now"),
        ("data.length=20", "data.length was 16 where it is 20 now"),
        ("training.log=2", None),
        ("training.validation.every=3", None),
        ("data.vocabulary=40", "data.vocabulary was 32 where it is 40 now"),
    ],
)
def test_a_run_goes_on_with_its_own_settings(copy: Path, word: str, message: str | None) -> None:
    if message is None:
        assert run(copy, needle(*SHORT, "resume=true", word))["steps"] == 12
        return
    with pytest.raises(TrainingError) as caught:
        run(copy, needle(*SHORT, "resume=true", word))
    assert str(caught.value).startswith(f"{copy}/run: resume=true goes on with the run's own settings, and {message}.")


def test_a_run_goes_on_with_its_own_data(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text")
    run(tmp_path, streams(text, "training.steps=2"))
    (text / "more.txt").write_text("one more document")
    with pytest.raises(TrainingError) as caught:
        run(tmp_path, streams(text, "training.steps=4", "resume=true"))
    assert "the data has changed since the run began: 'documents' was 40 and is 41." in str(caught.value)


@pytest.mark.parametrize("share_left", [0.5, 0.999, 0.0])
def test_a_checkpoint_that_is_cut_short(copy: Path, share_left: float) -> None:
    last = copy / "run" / "checkpoints" / "last.ckpt"
    best = last.with_name("best.ckpt")
    best.unlink()  # the same file, as long as the last step is the best one
    size = int(last.stat().st_size * share_left)
    with last.open("r+b") as stream:
        stream.truncate(size)
    more = needle(*SHORT, "resume=true", "training.steps=14")
    with pytest.raises(TrainingError) as caught:
        run(copy, more)
    assert str(caught.value) == (
        f"{last}: cut short or damaged ({size:,} bytes). Take another one beside it: step-00000010.ckpt. "
        "Remove last.ckpt, and resume=true goes on from the newest that is left."
    )
    last.unlink()
    assert run(copy, more)["steps"] == 14
    assert len(rows(copy / "run")) == 14
    assert len((copy / "run" / "metrics.csv").read_text().splitlines()) == 1 + 12 + 4


def test_a_checkpoint_holds_plain_values_alone(finished: tuple[Path, dict[str, Any]]) -> None:
    """Another file with a class of ours in it is refused, not unpickled."""
    folder = finished[0] / "run" / "checkpoints"
    content = torch.load(folder / "last.ckpt", weights_only=True)
    assert set(content["farfield"]) == {"format", "config", "facts", "progress", "generators", "state"}
    assert "loops" not in content


def test_no_object_is_unpickled(tmp_path: Path) -> None:
    torch.save({"farfield": {"format": 1, "object": NeedleData()}}, tmp_path / "evil.ckpt")
    with pytest.raises(ModelError, match="cut short or damaged"):
        read_checkpoint(tmp_path / "evil.ckpt")


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    words = needle(*SHORT, "training.checkpoint.every=1", "training.optimizer.learning_rate=1e30")
    with pytest.raises(TrainingError) as caught:
        run(tmp_path, words)
    step = len(rows(tmp_path / "run")) + 1
    message = str(caught.value)
    assert message.startswith(f"step {step}: the ")
    assert message.endswith(
        "Training stops here; checkpoints of earlier steps, if any, stay. "
        "Try a lower training.optimizer.learning_rate (now 1e+30) or a longer training.schedule.warmup."
    )
    kept = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert kept["farfield"]["progress"]["step"] == step - 1
    assert all(tensor.isfinite().all() for tensor in kept["state_dict"].values())


def test_a_validation_that_is_no_number_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before weights that give none become a checkpoint."""
    nothing = torch.tensor([math.nan, 1.0], dtype=torch.float64)
    monkeypatch.setattr("farfield.training.learner.Learner.validation_step", lambda *batch: nothing)
    with pytest.raises(TrainingError, match=r"^step 4: the validation loss is nan\. Training stops here; checkpoints"):
        run(tmp_path, needle(*SHORT, "training.checkpoint.every=4"))
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def failing(monkeypatch: pytest.MonkeyPatch, step: int, error: Exception) -> None:
    """`error` in the midst of a step."""
    original, calls = LanguageModel.loss, []

    def loss(self: LanguageModel, *tensors: Any, **more: Any) -> Any:
        calls.append(self.training)
        if self.training and sum(calls) == step:
            raise error
        return original(self, *tensors, **more)

    monkeypatch.setattr(LanguageModel, "loss", loss)


def test_a_crash_loses_the_steps_since_the_newest_checkpoint_alone(
    tmp_path: Path, finished: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which here is the best one of step 8, and not the last one of step 5."""
    with monkeypatch.context() as patch:
        failing(patch, 10, ValueError("crash"))
        with pytest.raises(ValueError, match="crash"):
            run(tmp_path, needle(*SHORT))
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, 10))
    run(tmp_path, needle(*SHORT, "resume=true"))
    assert numbers(tmp_path / "run") == numbers(finished[0] / "run")
    assert same(weights(tmp_path / "run"), weights(finished[0] / "run"))
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 1 + 9 + 4


def test_a_kill_between_the_best_and_the_newest(
    tmp_path: Path, finished: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest one is taken up, which is then the best one alone."""

    def crash(file: Path, name: Path) -> None:
        if name.name == "last.ckpt":
            raise ValueError("crash")
        link(file, name)

    with monkeypatch.context() as patch:
        patch.setattr("farfield.training.watch.link", crash)
        with pytest.raises(ValueError, match="crash"):
            run(tmp_path, needle(*SHORT))
    checkpoints = tmp_path / "run" / "checkpoints"
    steps = {file.name: read_checkpoint(file)["farfield"]["progress"]["step"] for file in checkpoints.glob("*.ckpt")}
    assert steps == {"step-00000010.ckpt": 10, "last.ckpt": 10, "best.ckpt": 12}
    result = run(tmp_path, needle(*SHORT, "resume=true"))
    assert result["best"]["step"] == result["steps"] == 12
    assert numbers(tmp_path / "run") == numbers(finished[0] / "run")
    assert same(weights(tmp_path / "run"), weights(finished[0] / "run"))


def test_too_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, 2, torch.OutOfMemoryError("2 GiB"))
    with pytest.raises(TrainingError) as caught:
        run(tmp_path, needle(*SHORT))
    assert str(caught.value) == (
        "step 2: the device's memory is too small for this model and batch. Try a smaller training.batch (now 2) "
        "with training.accumulate, or training.recompute=true, or training.precision=bf16."
    )


def test_an_error_of_the_data_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def batch(self: NeedleSource, step: int) -> Any:
        raise DataError(f"no batch {step}")

    monkeypatch.setattr(NeedleSource, "batch", batch)
    with pytest.raises(DataError, match="no batch 0"):
        run(tmp_path, needle(*SHORT))


def interrupted(monkeypatch: pytest.MonkeyPatch, number: signal.Signals, times: int) -> None:
    """A signal, so many times, in the midst of the fifth step."""
    original, calls = LanguageModel.loss, []

    def loss(self: LanguageModel, *tensors: Any, **more: Any) -> Any:
        calls.append(self.training)
        if sum(calls) == 5 and self.training:
            for _ in range(times):
                signal.raise_signal(number)
        return original(self, *tensors, **more)

    monkeypatch.setattr(LanguageModel, "loss", loss)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_resumed_is_as_never_stopped(
    tmp_path: Path, finished: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        interrupted(patch, number, times=1)
        with pytest.raises(KeyboardInterrupt) as caught:
            run(tmp_path, needle(*SHORT))
    done = len(rows(tmp_path / "run"))
    assert done == 5
    saved = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert caught.value.args == (f"Step {done} is saved in {saved}. Go on with the same settings and resume=True.",)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
    assert not (tmp_path / "run" / "model.safetensors").exists()
    run(tmp_path, needle(*SHORT, "resume=true"))
    assert numbers(tmp_path / "run") == numbers(finished[0] / "run")
    assert same(weights(tmp_path / "run"), weights(finished[0] / "run"))


def test_the_second_ctrl_c_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    interrupted(monkeypatch, signal.SIGINT, times=2)
    with pytest.raises(KeyboardInterrupt) as caught:
        run(tmp_path, needle(*SHORT))
    assert caught.value.args == ("Nothing was saved yet.",)
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["training.carry=true"], "training.carry: a state is carried from row to row of a stream"),
        (["training.accelerator=gpu"], "training.accelerator: no GPU is found here. Use training.accelerator=cpu."),
    ],
)
def test_settings_that_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises((ConfigError, TrainingError)) as caught:
        run(tmp_path, needle(*words))
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "run").exists()


def test_streams_need_a_carried_state(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data\.order: .*Use training\.carry=true, or data\.order=shuffled\.$"):
        run(tmp_path, streams(tmp_path, "training.carry=false"))


def test_states_are_carried_on_one_device(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"^training\.carry: .*Use training\.devices=1\.$"):
        run(tmp_path, streams(tmp_path, "training.devices=2"))


def test_a_run_leaves_the_process_as_it_was(
    tmp_path: Path, finished: tuple[Path, dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(11)
    random.seed(11)
    expected = (float(torch.rand(())), random.random())
    torch.manual_seed(11)
    random.seed(11)
    torch.set_num_threads(2)
    level = logging.getLogger("lightning.pytorch").level
    run(tmp_path, needle(*SHORT))
    assert (float(torch.rand(())), random.random()) == expected
    assert torch.get_num_threads() == 2
    assert logging.getLogger("lightning.pytorch").level == level
    assert numbers(tmp_path / "run") == numbers(finished[0] / "run")
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("run: 12/12 steps, ")
    assert len(err.splitlines()) == 1


LIGHT = """
import sys
from pathlib import Path
import farfield.training
assert not {"torch", "lightning", "numpy"} & set(sys.modules)
from farfield.pretrained import load
load(sys.argv[1])
assert "hydra" not in sys.modules
from farfield.cli import main
assert main(["train", *sys.argv[2:]]) == 2
heavy = {"lightning", "pytorch_lightning", "matplotlib", "tensorboard"} & set(sys.modules)
assert not heavy, heavy
"""


def test_loading_and_mistakes_wait_for_no_lightning(copy: Path) -> None:
    words = [*needle(*SHORT), f"root={copy}", "name=run"]
    found = subprocess.run(
        [sys.executable, "-c", LIGHT, str(copy / "run"), *words], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert found.stderr.startswith(f"farfield: {copy}/run: this run exists.")
