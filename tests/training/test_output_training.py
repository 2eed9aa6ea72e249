"""augmentation=output: only the weight of what a datastore finds is learned; the run is asked with its datastore."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import farfield
from farfield import cli
from farfield.compose import compose
from farfield.config import read
from farfield.settings import TrainSettings
from farfield.training import train

TINY = ["architecture=retnet", "architecture.width=32", "architecture.depth=2", "training.threads=1"]


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    for name in ("books", "others"):
        (tmp_path / name).mkdir()
        text = "\n".join(f"The {name} gate number {n} opens with the code {n * 7919 % 1000}." for n in range(60))
        (tmp_path / name / "text.txt").write_text(text, encoding="utf-8")
    return [*TINY, "data=text", "data.path=others", "data.length=64", "data.cache=cache", "training.batch=4"]


def run(words: list[str], *more: str) -> None:
    train(read(TrainSettings, compose("train", [*words, *more])))


def test_the_weight_is_learned_and_nothing_else(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run(words, "name=base", "training.steps=3")
    output = ["augmentation=output", "augmentation.datastore=store", "augmentation.texts=books", "augmentation.k=8"]
    run(words, "name=knn", "start=runs/base", *output, "training.steps=6")
    base, made = farfield.load("runs/base"), farfield.load("runs/knn")
    before, after = base.model.state_dict(), made.model.state_dict()
    own = {name for name in after if name.startswith("mixing.")}
    assert set(after) - own == set(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert len(own) == 5
    assert bool((made.model.mixing.outer.weight != 0).any())  # type: ignore[union-attr]
    used = made.open_datastore()
    assert used.config.weight == "learned"
    assert isinstance(made.generate("The books gate", tokens=8, datastore=used), str)
    shared = base.open_datastore({"datastore": "store", "weight": 0.5})  # of the same layers: built once
    assert len(shared.store) == len(used.store) > 1000
    run(words, "name=knn", "start=runs/base", *output, "training.steps=8", "resume=true")

    capsys.readouterr()
    mixed = ["augmentation=output", "augmentation.datastore=store", "augmentation.weight=0.9", "augmentation.least=1"]
    asked = [
        "query",
        "The books gate number 7",
        "generation.tokens=8",
        'prompt.prompt="{passages}{question}"',
        "--json",
    ]
    answers = []
    for more in (
        ["model=runs/base"],
        ["model=runs/base", *mixed],
        ["model=runs/knn"],
        ["model=runs/knn", "augmentation=none"],
    ):
        assert cli.main([*asked, *more]) == 0
        told = json.loads(capsys.readouterr().out)
        answers.append((told["answer"], told["datastore"], "open datastore" in told["seconds"]))
    plain, mix, own, without = answers
    assert (plain[1:], mix[1:], own[1:], without[1:]) == ((None, False), ("store", True), (None, True), (None, False))
    assert without[0] == plain[0] != mix[0]


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ([], "augmentation.kind: 'output' is of a trained model, whose keys the datastore keeps. Use start=<a run>."),
        (["augmentation.weight=0.5"], "augmentation.weight: 0.5 given, which leaves nothing to learn."),
        (["augmentation.weight=2"], "augmentation.weight: 2.0 given. It should be a share from 0 to 1, or learned."),
        (["augmentation.least=1"], "augmentation.least: 1 given, and in training every token searches."),
        (["start=runs/base"], "augmentation.datastore: there is none at 'store'. Name texts to build it from."),
    ],
)
def test_mistakes_are_one_line(
    more: list[str], line: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if more == ["start=runs/base"]:
        run(words, "name=base", "training.steps=1")
        capsys.readouterr()
    assert cli.main(["train", *words, "augmentation=output", "augmentation.datastore=store", *more]) == 2
    said = [one for one in capsys.readouterr().err.splitlines() if one.startswith("farfield: ")]
    assert len(said) == 1
    assert said[0].startswith(f"farfield: {line}")
