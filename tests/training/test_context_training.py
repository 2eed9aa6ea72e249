"""Training that goes on with a run read by a context, and the commands that read by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_commands import plain, refused

import farfield
from farfield.architectures.attention import AttentionConfig
from farfield.architectures.dual_chunk import DualChunk
from farfield.architectures.stretching import YaRN
from farfield.config import ConfigError
from farfield.memory import KeyValueMemoryConfig

MIXER = "architecture.layers.attention.mixer"
TINY = (
    "architecture=attention",
    "architecture.width=32",
    "architecture.depth=1",
    f"{MIXER}.conv=0",
    "training.threads=1",
    "training.batch=2",
    "data=reading",
    "data.validation=0",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, and one that goes on with it by YaRN."""
    folder = tmp_path_factory.mktemp("contexts")
    plain(folder, "train", *TINY, "training.steps=2", "name=reader")
    plain(folder, "train", *TINY, "training.steps=2", "name=longer", "start=runs/reader", "context=yarn")
    return folder


def mixer_of(model: Any) -> AttentionConfig:
    mixer = model.config.decoder.layers["attention"].mixer
    assert isinstance(mixer, AttentionConfig)
    return mixer


def test_what_was_trained_by_a_context_is_recorded_so(place: Path) -> None:
    """It is loaded without naming the context again, goes on from its checkpoint, and can be stretched farther."""
    length = farfield.load(place / "runs/reader").info["config"]["data"]["length"]
    longer = farfield.load(place / "runs/longer")
    assert mixer_of(longer).scaling == YaRN(factor=4, trained=length)
    told = plain(
        place, "train", *TINY, "training.steps=3", "name=longer", "start=runs/reader", "context=yarn", "resume=true"
    )
    assert told["steps"] == 3
    farther = farfield.load(place / "runs/longer", context="yarn", overrides=["context.factor=16"])
    assert mixer_of(farther).scaling == YaRN(factor=16, trained=length)
    words = ("train", *TINY, "training.steps=1", "name=other", "start=runs/longer")
    assert refused(place, *words, f"{MIXER}.head_width=16").startswith(
        "start: runs/longer was trained with another arch"
    )


def test_settings_of_both_groups(place: Path) -> None:
    def load(*overrides: str, **chosen: str) -> Any:
        return farfield.load(place / "runs/reader", overrides=overrides, **chosen)

    assert mixer_of(load("chunk=80", "context.window=10", context="dual_chunk")).extension == DualChunk(
        chunk=80, window=10
    )
    both = load("capacity=20", "memory.segment=4", "context.factor=2", memory="knn", context="ntk")
    assert isinstance(both.config.memory, KeyValueMemoryConfig)
    assert (both.config.memory.capacity, both.config.memory.segment) == (20, 4)
    assert load(context="none").config == load().config
    sinks = load(context="sinks").config.memory
    assert isinstance(sinks, KeyValueMemoryConfig)
    assert sinks.name == "sinks"
    with pytest.raises(ConfigError) as mistake:
        load("context.factor=2", memory="knn")
    assert str(mistake.value) == "overrides: settings of a context, and none is named. Add context=<name>."
    with pytest.raises(ConfigError) as mistake:
        load("factor=2")
    assert str(mistake.value) == "overrides: settings of a memory, and none is named. Add memory=<name>."


def test_a_suite_and_a_question_by_a_context(place: Path) -> None:
    words = ("suite.lengths=[128,256]", "suite.depths=2", "suite.samples=1", "suite.scoring=generate")
    for context in ("dual_chunk", "parallel"):
        told = plain(place, "evaluate", "model=runs/reader", *words, f"context={context}")
        (result,) = told["results"]  # type: ignore[misc]  # plain JSON
        assert result["finished"] == result["cells"] == 4
        assert (place / f"results/reader-{context}/needle.jsonl").is_file()
    told = plain(
        place,
        "evaluate",
        "model=runs/reader",
        "suite=perplexity",
        "suite.lengths=[64]",
        "suite.stride=32",
        "context=parallel",
    )
    assert not told["results"]
    assert told["counts"]["skipped"]  # type: ignore[index]  # plain JSON
    (place / "book.txt").write_text("The Velamo gate opens with the code 4719. " * 40, encoding="utf-8")
    asked = ("query", "Which code?", "model=runs/reader", "document=book.txt", "generation.tokens=4")
    by_windows = plain(place, *asked, "context=parallel", "context.window=100")
    assert by_windows["prompt_tokens"] == plain(place, *asked)["prompt_tokens"]
    model = farfield.load(place / "runs/reader", context="parallel", overrides=["window=100"])
    prompt = model.tokenizer.encode((place / "book.txt").read_text(encoding="utf-8"))
    prompt += model.tokenizer.encode("Question: Which code?\nAnswer:")
    with torch.no_grad():
        assert by_windows["answer"] == model.generate([prompt], tokens=4, stop=["\n"])[0].strip()


def test_a_context_that_does_not_fit_is_one_line(place: Path) -> None:
    words = ("train", *TINY, "training.steps=1", "name=none", "start=runs/reader")
    assert refused(place, *words, "context=self_extend", "context.window=4000") == (
        "context.window: 4000 given, less than the 112 trained tokens is needed."
    )
    assert refused(place, "query", "why", "model=runs/longer", "context=ntk") == (
        "context.kind: 'ntk' given, but architecture.layers.attention.mixer.scaling is yarn already, as the model was "
        "trained. dual_chunk and self_extend go with it."
    )
    assert not (place / "runs/none").exists()
