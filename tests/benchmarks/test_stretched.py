"""The comparison of contexts far beyond the trained length, on a small scale."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import farfield
from farfield.benchmarks import stretched
from farfield.generation import TextModel

STORIES = Path(__file__).parents[3] / "shared" / "data" / "stories260k"
BOOKS = STORIES.parent / "books"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of rows of 64 bytes, whose weights are fresh, and texts."""
    folder = tmp_path_factory.mktemp("stretched")
    words = ["width=32", "depth=1", "layers.attention.mixer.conv=0", "layers.attention.mixer.heads=4"]
    model = farfield.build("attention", words)
    farfield.save(TextModel(model.model, model.tokenizer, {"config": {"data": {"length": 64}}}), folder / "model")
    (folder / "texts").mkdir()
    for name in ("one", "two"):
        (folder / "texts" / f"{name}.txt").write_text(f"Once upon a time there was {name}. " * 40, encoding="utf-8")
    return folder


def test_every_way_is_measured_drawn_and_written(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--length", "300", "--json", str(place / "found.json"), "--picture", str(place / "found.png")]
    assert stretched.main([str(place / "model"), str(place / "texts"), *words]) == 0
    told = json.loads((place / "found.json").read_text(encoding="utf-8"))
    assert [row["way"] for row in told["rows"]] == list(stretched.WAYS)
    assert (told["trained"], told["length"], told["documents"]) == (64, 300, 8)
    assert "commit" in told
    by_way = {row["way"]: row["nats"] for row in told["rows"]}
    assert len(by_way["plain"]) == len(told["edges"]) - 1
    for way, nats in by_way.items():
        assert all(map(math.isfinite, nats)), way
        if way in ("windowed", "begun anew", "dual_chunk"):  # nothing changes before it has to
            assert nats[0] == pytest.approx(by_way["plain"][0], abs=1e-4), way
        if way != "plain":
            assert nats[-1] != by_way["plain"][-1], way
    assert (place / "found.png").stat().st_size > 0
    assert "dual_chunk" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--length", "64"], "{}: trained on rows of 64 tokens; texts are read beyond that. See --length."),
        (["--length", "5000"], "{texts}: no text of 5,000 tokens. Take a shorter --length."),
    ],
)
def test_a_mistake_is_one_line(place: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert stretched.main([str(place / "model"), str(place / "texts"), *words]) == 2
    line = [line for line in capsys.readouterr().err.splitlines() if line.startswith("farfield: ")]
    assert line == ["farfield: " + message.format(place / "model", texts=place / "texts")]


@pytest.mark.skipif(not BOOKS.is_dir(), reason="the model stories260k and the books are not there")
def test_a_real_model_is_read_beyond_what_it_was_trained_on() -> None:
    """At four times its length: unchanged it is worse than with sinks or dual chunks, which stay where they were."""
    task = stretched.Task(STORIES, BOOKS / "Alcott-Little-Women.txt", 1, 2048)
    found = {one.way: one.perplexities for one in stretched.measure(task, ["plain", "sinks", "dual_chunk"])}
    assert found["plain"][-1] > 1.1 * found["sinks"][-1]
    assert found["plain"][-1] > 1.1 * found["dual_chunk"][-1]
    assert found["sinks"][-1] < 1.1 * found["sinks"][-3]
