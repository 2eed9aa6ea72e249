"""Trained models from disk: which file is taken, that it answers as it did, and what is refused in which words."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from training_cases import needle, run, same, weights

from farfield.config import ModelError
from farfield.pretrained import load, read_checkpoint


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs that holds one, `run`, whose best step is not its last."""
    root = tmp_path_factory.mktemp("runs")
    rising = ["training.optimizer.learning_rate=10", "training.schedule.warmup=0.9"]
    result = run(root, needle("training.steps=6", "training.validation.every=1", *rising))
    assert result["best"]["step"] < 6
    return root


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs"


def test_a_run_is_its_best_weights(trained: Path) -> None:
    model, tokenizer, info = load(trained / "run")
    best = read_checkpoint(trained / "run" / "checkpoints" / "best.ckpt")["farfield"]["progress"]["best"]
    assert same(model.state_dict(), weights(trained / "run", "model.safetensors"))
    assert (tokenizer.kind, tokenizer.vocabulary) == ("ids", 32)
    assert info["weights"] == str(trained / "run" / "model.safetensors")
    assert (info["name"], info["step"], info["loss"]) == ("run", best["step"], best["loss"])
    assert info["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert info["config"]["architecture"]["width"] == 16
    assert not model.training


def test_the_model_answers_as_it_did(trained: Path) -> None:
    tokens = torch.arange(12)[None]
    one, _ = load(trained / "run").model(tokens)
    other, _ = load(str(trained / "run" / "checkpoints" / "best.ckpt")).model(tokens)
    assert torch.equal(one, other)
    last, _ = load(trained / "run" / "last.safetensors").model(tokens)
    assert not torch.equal(one, last)


@pytest.mark.parametrize(
    ("gone", "taken"),
    [
        ([], "model.safetensors"),
        (["model.safetensors"], "checkpoints/best.ckpt"),
        (["model.safetensors", "checkpoints/best.ckpt"], "checkpoints/last.ckpt"),
    ],
)
def test_which_file_is_taken(copy: Path, gone: list[str], taken: str) -> None:
    for name in gone:
        (copy / "run" / name).unlink()
    assert load(copy / "run").info["weights"] == str(copy / "run" / taken)


def test_loading_draws_no_random_numbers(trained: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(())
    torch.manual_seed(5)
    load(trained / "run")
    assert torch.equal(torch.rand(()), expected)


def line(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_no_such_run(copy: Path) -> None:
    (copy / "other").mkdir()
    assert line(copy / "runn") == (f"{copy}/runn: no such run or file. Did you mean '{copy}/run'? Runs in {copy}: run.")
    assert line(copy / "other" / "x") == (f"{copy}/other/x: no such run or file. There is no run in {copy}/other.")


def test_not_a_run(copy: Path) -> None:
    (copy / "other").mkdir()
    assert line(copy / "other") == (
        f"{copy}/other: not a model: it has neither a config.yaml of `farfield train` nor a config.json of Hugging "
        "Face."
    )
    assert line(copy) == f"{copy}: not a run, but it holds some. Name one: {copy}/run."
    assert line(copy / "run" / "metrics.csv") == (
        f"{copy}/run/metrics.csv: not a trained model. Name a run's folder, a .ckpt or a .safetensors file."
    )


def test_nothing_trained_yet(copy: Path) -> None:
    (copy / "run" / "model.safetensors").unlink()
    shutil.rmtree(copy / "run" / "checkpoints")
    assert line(copy / "run") == (
        f"{copy}/run: nothing has been trained there yet: no model.safetensors and no checkpoint."
    )


@pytest.mark.parametrize(
    ("name", "other"),
    [("checkpoints/last.ckpt", "best.ckpt, step-"), ("model.safetensors", "last.safetensors")],
)
@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_a_file_cut_short(copy: Path, name: str, other: str, part: float) -> None:
    (copy / "run" / "checkpoints" / "step-00000003.ckpt").write_bytes(b"")
    file = copy / "run" / name
    size = int(file.stat().st_size * part)
    with file.open("r+b") as stream:
        stream.truncate(size)
    message = f"{file}: cut short or damaged ({size:,} bytes). Take another one beside it: {other}"
    assert line(file).startswith(message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "format: 1",
            "format: 2",
            "of format 2, and this version of Farfield reads format 1. Load it with the version",
        ),
        ("format: 1\n", "", "not written by `farfield train`."),
        ("vocabulary: 32\n", "", "'vocabulary' is missing."),
        (
            "kind: retnet",
            "kind: retnett",
            "made by another version of Farfield, or changed since: architecture.layers.",
        ),
        ("width: 16", "width: [", "not a run's settings: "),
        ("width: 16", "width: 24", "the weights do not fit the settings: "),
    ],
)
def test_settings_that_cannot_be_read(copy: Path, old: str, new: str, message: str) -> None:
    file = copy / "run" / "config.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    assert message in line(copy / "run")


def test_settings_or_tokenizer_that_are_gone(copy: Path) -> None:
    (copy / "run" / "config.yaml").unlink()
    assert line(copy / "run" / "model.safetensors").endswith(
        "its config.yaml is missing. It must stand beside the weights."
    )
    shutil.rmtree(copy / "run" / "tokenizer")
    assert "its tokenizer cannot be read: " in line(copy / "run" / "checkpoints" / "last.ckpt")


def test_a_checkpoint_of_another_kind(copy: Path) -> None:
    file = copy / "run" / "checkpoints" / "last.ckpt"
    content = torch.load(file, weights_only=True)
    torch.save({**content, "farfield": {**content["farfield"], "format": 7}}, file)
    assert "of format 7, and this version of Farfield reads format 1" in line(file)
    torch.save({"state_dict": {}}, file)
    assert line(file) == f"{file}: not a checkpoint of `farfield train`."
