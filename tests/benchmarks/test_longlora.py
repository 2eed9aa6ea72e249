"""The comparison of LongLoRA on a small scale: what is read, what is trained, what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from farfield.benchmarks import longlora
from farfield.benchmarks.longlora import Task, costs, held_out, main, measure
from farfield.pretrained import load

WORDS = ["stone", "river", "lamp", "north", "seven", "glass", "window"]


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve texts, of which a tenth is held out."""
    folder = tmp_path_factory.mktemp("books")
    draw = torch.Generator().manual_seed(0)
    for number in range(12):
        chosen = torch.randint(len(WORDS), (400,), generator=draw).tolist()
        (folder / f"{number}.txt").write_text(" ".join(WORDS[one] for one in chosen))
    return folder


def small(books: Path, **given: Any) -> Task:
    sizes = {"trained": 16, "steps": 2, "more": 2, "width": 16, "depth": 1, "head_width": 8, "vocabulary": 280}
    return Task(str(books), **{**sizes, "windows": 3, **given})


def test_windows_are_held_out_and_far_apart(books: Path, tmp_path: Path) -> None:
    task = small(books)
    tokens = held_out(task, tmp_path)
    assert tokens.shape == (3, task.length + 1)
    assert not torch.equal(tokens[0], tokens[1])
    with pytest.raises(longlora.DataError, match="too little is held out for 9999 windows of 64 tokens"):
        held_out(small(books, windows=9999), tmp_path)


def test_every_way_starts_from_the_same_model(books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what the untrained ways cost is what the model says; a second call takes finished runs as they are."""
    some = ("plain", "interpolated", "longlora")
    monkeypatch.setattr(longlora, "WAYS", {way: longlora.WAYS[way] for way in some})
    task = small(books)
    found = list(measure(task, tmp_path))
    assert [one.way for one in found] == list(some)
    assert [one.trained > 0 for one in found] == [False, False, True]
    tokens = held_out(task, tmp_path / "data")
    for way, context in (("plain", None), ("interpolated", "interpolation")):
        model = longlora.load(tmp_path / "base", layers="farfield", context=context).model
        expected = model.loss(tokens[:, :-1], tokens[:, 1:]).nll
        one = next(read for read in found if read.way == way)
        widths = [high - low for low, high in zip(task.edges, task.edges[1:], strict=False)]
        mean = sum(nats * width for nats, width in zip(one.nats, widths, strict=True)) / task.length
        assert mean == pytest.approx(float(expected.detach()), abs=1e-5)
    assert torch.allclose(costs(model, tokens).mean(), expected, atol=1e-5)
    scaling = load(tmp_path / "longlora").info["config"]["architecture"]["layers"]["attention"]["mixer"]["scaling"]
    assert scaling["factor"] == 4
    checkpoint = (tmp_path / "longlora" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    again = list(measure(task, tmp_path))
    assert [one.nats for one in again] == [one.nats for one in found]
    assert (tmp_path / "longlora" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == checkpoint


def test_figures_are_drawn_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "way": "plain",
        "nats": [1.0, 2.0],
        "half": [0.1, 0.1],
        "trained": 0,
        "weights": 5,
        "tokens": 9,
        "seconds": 1,
    }
    told = {"task": {"edges": [0, 8, 16], "trained": 8}, "rows": [{**row, "perplexity": [2.7, 7.4]}]}
    (tmp_path / "x.json").write_text(json.dumps(told))
    assert main(["books", "--draw", str(tmp_path / "x.json"), "--picture", str(tmp_path / "x.png")]) == 0
    assert "7.4" in capsys.readouterr().out
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "x.json").write_text("{}")
    assert main(["books", "--draw", str(tmp_path / "x.json")]) == 2
    assert capsys.readouterr().err.startswith(f"farfield: {tmp_path}/x.json: not figures of this comparison: ")
