from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from farfield.benchmarks import mqar
from farfield.benchmarks.mqar import FAMILIES, GRID, MIXTURE, WEIGHTS, Point, Row, Task
from farfield.compose import compose
from farfield.config import read
from farfield.settings import TrainSettings

ROW = Row("retnet", 8, 4e-3, 0, 80_000, 1.0, dict.fromkeys(GRID, 0.5), dict.fromkeys(GRID, 4096))


MODELS = {point: mqar._model(point.architecture(64)) for point in Task().points()}


def test_models_have_as_many_weights_two_layers_and_a_short_convolution() -> None:
    for model in MODELS.values():
        assert model.parameters() == pytest.approx(WEIGHTS, rel=0.025)
        assert model.architecture.depth == 2
        assert all(layer["mixer"]["conv"] == 4 for layer in model.mapping()["architecture"]["layers"].values())
    assert len({point.name for point in MODELS}) == len(MODELS)


def test_larger_sizes_have_larger_states() -> None:
    for family, (_, sizes) in FAMILIES.items():
        states = [MODELS[Point(family, size)].state_bytes(128) for size in sorted(sizes)]
        assert states == sorted(set(states))


def test_first_come_all_families_once() -> None:
    assert [point.family for point in Task().points()][: len(FAMILIES)] == list(FAMILIES)


def test_training_draws_what_is_asked_of_but_for_pairs_between() -> None:
    settings = read(TrainSettings, compose("train", ["architecture=attention", *Task().words(4e-3, 0)]))
    source = settings.data.open(0, 2)
    assert source.tokenizer.vocabulary == mqar.VOCABULARY
    assert source.describe()["tasks"] == "mqar_4 64, mqar_8 64, mqar_16 64, mqar_32 128"
    assert all(GRID[pairs] == length for pairs, length, _ in MIXTURE)


def test_the_rate_with_the_lowest_loss_over_seeds_counts() -> None:
    rows = [
        ROW,
        replace(ROW, seed=1, loss=3.0),
        replace(ROW, rate=8e-3, loss=1.5),
        replace(ROW, rate=8e-3, seed=1, loss=1.6),
        replace(ROW, size=16, loss=9.0),
    ]
    assert mqar.best(rows) == {Point("retnet", 8): rows[2:4], Point("retnet", 16): rows[4:]}


def test_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--out", str(tmp_path), "--steps", "2", "--batch", "2", "--samples", "2", "--rates", "0.004"]
    assert mqar.main([*words, "--models", "mamba2 + attention"]) == 0
    told = json.loads((tmp_path / "mqar.json").read_text(encoding="utf-8"))
    (row,) = told["rows"]
    assert (row["family"], row["rate"], row["seed"]) == ("mamba2 + attention", 0.004, 0)
    assert set(row["accuracy"]) == {str(pairs) for pairs in GRID}
    assert all(0 <= share <= 1 for share in row["accuracy"].values())
    assert row["state_bytes"]["32"] > row["state_bytes"]["16"]
    assert str(tmp_path) not in json.dumps(told)
    assert (tmp_path / "mqar.png").stat().st_size > 10_000
    table = capsys.readouterr().out
    assert "mamba2 + attention" in table
    metrics = tmp_path / "runs" / "mamba2-attention-16-rate0.004-seed0" / "metrics.csv"
    before = metrics.read_bytes()
    assert mqar.main([*words, "--models", "mamba2 + attention"]) == 0
    assert json.loads((tmp_path / "mqar.json").read_text(encoding="utf-8"))["rows"] == told["rows"]
    assert metrics.read_bytes() == before
    assert mqar.main(["--show", str(tmp_path / "mqar.json"), "--picture", str(tmp_path / "again.png")]) == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "mqar.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--models", "retnett"],
            "farfield: --models: unknown model 'retnett'. Did you mean 'retnet'? Known: attention, gated_deltanet, "
            "gated_deltanet + window, mamba2, mamba2 + attention, retnet, window.\n",
        ),
        (["--steps", "0"], "farfield: --steps: 0 given. At least 1.\n"),
        (["--rates", "0"], "farfield: --rates: 0 given. Above 0.\n"),
        (["--show", "none.json"], "farfield: --show: none.json: No such file or directory.\n"),
        (["--show", __file__], f"farfield: --show: {__file__}: has no rows of this comparison.\n"),
        (["--seeds", "-1"], "farfield: --seeds: -1 given. At least 0.\n"),
    ],
)
def test_mistakes_are_said_in_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert mqar.main(words) == 2
    assert capsys.readouterr().err == line
