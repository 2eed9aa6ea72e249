"""What a run takes over from the model that it starts from, where its user names nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training_cases import TINY, needle, run, write_text

from farfield import cli
from farfield.compose import combinations, compose
from farfield.config import ConfigError
from farfield.pretrained import load
from farfield.training.beginning import completed

ATTENTION = ["architecture=attention", *TINY, "architecture.layers.attention.mixer.head_width=8"]
SMALL = [word for word in TINY if not word.startswith("architecture.")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on text with a tokenizer of its own."""
    root = tmp_path_factory.mktemp("base")
    text = write_text(root / "text")
    run(root, [*ATTENTION, *data(text), "data.tokenizer={kind: bpe, vocabulary: 300}", "training.steps=2"])
    return root / "run"


def data(text: Path) -> list[str]:
    return ["data=text", f"data.path={text}", f"data.cache={text.parent / 'cache'}", "data.length=12"]


def found(*words: str) -> dict[str, Any]:
    return completed(compose("train", list(words)))


def test_architecture_and_tokenizer_follow(base: Path, tmp_path: Path) -> None:
    result = run(tmp_path, [*data(base.parent / "text"), *SMALL, f"start={base}", "training.steps=1"])
    model, tokenizer, info = load(tmp_path / "run")
    before = load(base)
    assert model.config == before.model.config
    assert tokenizer.encode("the river lamp") == before.tokenizer.encode("the river lamp")
    assert result["loss"] < 5.7  # of fresh weights: log 300
    assert info["config"]["start"] == str(base)


def test_single_settings_are_changed_on_top(base: Path) -> None:
    text = data(base.parent / "text")
    plain = found(*text, f"start={base}")["architecture"]
    changed = found(*text, f"start={base}", "architecture.layers.attention.mixer.backend=chunked")["architecture"]
    assert changed["layers"]["attention"]["mixer"].pop("backend") == "chunked"
    assert plain["layers"]["attention"]["mixer"].pop("backend") == "auto"
    assert changed == plain


@pytest.mark.parametrize("file", ["", "model.safetensors", "checkpoints/last.ckpt"])
def test_a_file_of_a_run_tells_as_much(base: Path, file: str) -> None:
    told = found(*data(base.parent / "text"), f"start={base / file}")
    assert told["architecture"]["width"] == 16
    assert told["data"]["tokenizer"] == {"kind": "folder", "path": str(base / "tokenizer")}
    assert told["name"] == "run-text"


def test_what_is_named_stays(base: Path) -> None:
    text = data(base.parent / "text")
    named = found(*text, f"start={base}", "architecture=retnet")
    assert named["architecture"]["pattern"] == ["retnet"]
    assert named["data"]["tokenizer"] == {"kind": "bytes"}
    assert found(*text, f"start={base}", "data.tokenizer.kind=bytes")["data"]["tokenizer"] == {"kind": "bytes"}
    assert found(*text, "start=null")["architecture"]["pattern"] == ["retnet"]


def test_bytes_are_bytes(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text")
    run(tmp_path, [*ATTENTION, *data(text), "training.steps=1"])
    assert found(*data(text), f"start={tmp_path / 'run'}")["data"]["tokenizer"] == {"kind": "bytes"}


def test_data_without_a_tokenizer(tmp_path: Path) -> None:
    run(tmp_path, needle("training.steps=1"))
    words = [word for word in needle() if not word.startswith("architecture")]
    told = found(*words, f"start={tmp_path / 'run'}", "memory=none", "name=null")
    assert told["architecture"]["layers"]["retnet"]["mixer"]["head_width"] == 8
    assert "tokenizer" not in told["data"]
    assert told["name"] == "run-needle"


def test_every_job_of_a_sweep_follows_its_own(base: Path) -> None:
    jobs = combinations("train", ["data=needle", f"start={base},runs/other", "adapter=none,lora"])
    assert [(job["name"], "architecture" in job) for job in jobs] == [
        ("run-needle", False),
        ("run-lora-needle", False),
        ("other-needle", False),
        ("other-lora-needle", False),
    ]


def test_a_size_beside_a_start() -> None:
    with pytest.raises(ConfigError) as caught:
        compose("train", ["data=needle", "start=runs/reader", "size=tiny"])
    assert str(caught.value) == (
        "size=tiny: the model that start names has a size. Leave it out, or name an architecture."
    )


def test_a_start_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, before anything is made."""
    status = cli.main(["train", "data=needle", f"start={tmp_path}/nothing", f"root={tmp_path}/runs"])
    assert status == 2
    message = f"farfield: start: {tmp_path}/nothing: no such run or file. There is no run in {tmp_path}.\n"
    assert capsys.readouterr().err == message
    assert not (tmp_path / "runs").exists()
