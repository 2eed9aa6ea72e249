"""The comparison of a datastore: every token once, the best of what was tried, and each way what it says it is."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from farfield.benchmarks.augmented.__main__ import main
from farfield.benchmarks.augmented.output import FEW, TEMPERATURES, WEIGHTS, Reading, cut, mixtures, tuned
from farfield.compose import compose
from farfield.config import read
from farfield.memory.knn_lm import Found
from farfield.settings import TrainSettings
from farfield.training import train


def test_what_is_tuned_is_the_best_of_all_that_is_tried() -> None:
    source = torch.Generator().manual_seed(0)
    values = torch.randint(0, 3, (50, 128), generator=source)
    distances = torch.rand(50, 128, generator=source).sort(1).values
    targets = torch.where(torch.rand(50, generator=source) < 0.7, values[:, 0], torch.zeros(50, dtype=torch.int64))
    own = -torch.rand(50, generator=source) * 3
    reading = Reading(np.zeros((50, 4), np.float32), targets.numpy(), own, np.zeros(50, np.int64))
    found = Found(values, distances)
    k, weight, temperature = tuned(reading, found, 128)
    best = float(mixtures(reading, cut(found, k), weight, temperature).mean())
    assert best > float(own.mean())
    tried = [
        float(mixtures(reading, cut(found, few), w, t).mean())
        for few in (*FEW, 128)
        for w in WEIGHTS
        for t in TEMPERATURES
    ]
    assert best == max(tried)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("texts", 7919), ("held", 104729), ("test", 1299709)):
        (tmp_path / name).mkdir()
        for part in range(2):
            lines = [f"The {name} gate number {n} opens with the code {n * seed % 1000}." for n in range(part, 40, 2)]
            (tmp_path / name / f"{part}.txt").write_text("\n".join(lines), encoding="utf-8")
    words = ["architecture=retnet", "architecture.width=32", "architecture.depth=1", "data=text", "data.path=texts"]
    more = ["data.length=64", "data.cache=cache", "training.batch=4", "training.steps=30", "training.threads=1"]
    train(read(TrainSettings, compose("train", [*words, *more, "name=base"])))
    return tmp_path / "runs" / "base"


def test_every_way_reads_the_same_tokens(run: Path, tmp_path: Path) -> None:
    words = ["--model", str(run), "--texts", "texts", "--validation", "held", "--test", "test", "--out", "out"]
    sizes = ["--k", "80", "--length", "400", "--steps", "2", "--batch", "2", "--threads", "1"]
    assert main(["output", *words, *sizes]) == 0
    told = json.loads((tmp_path / "out" / "output.json").read_text(encoding="utf-8"))
    rows = told["rows"]
    assert (tmp_path / "out" / "output.png").stat().st_size > 0
    assert {row["tokens"] for row in rows} == {2 * 399}
    assert {row["documents"] for row in rows} == {2}
    alone, *others = rows
    assert (alone["way"], alone["weight"], alone["gain"], alone["saved"]) == ("model alone", 0.0, 0.0, 0.0)
    for row in others:
        assert math.isclose(alone["bits"] - row["bits"], row["gain"], abs_tol=1e-6)
    best = next(row for row in rows if row["way"] == "fixed weight")
    assert best["gain"] > 0.1  # sentences that differ in a word and a number
    stepped = [row for row in rows if row["least"] is not None]
    saved = [row["saved"] for row in stepped]
    assert saved == sorted(saved, reverse=True)
    assert saved[0] > 0.3
    learned = next(row for row in rows if row["way"] == "learned weight")
    assert learned["weight"] is None
    assert learned["gain"] > 0
