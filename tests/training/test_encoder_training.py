"""Encoders in training: hidden tokens are learnt, a run resumed sees the same, and what does not fit is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training_cases import TINY, numbers, run, same, weights, write_text

import farfield
from farfield.compose import compose
from farfield.config import ConfigError, ModelError, read
from farfield.settings import TrainSettings
from farfield.training.folder import choose_start


def words(text: Path, *more: str) -> list[str]:
    return [
        "architecture=attention_encoder",
        "data=text",
        *TINY,
        "architecture.layers.attention.mixer.head_width=8",
        f"data.path={text}",
        f"data.cache={text.parent / 'cache'}",
        "data.length=24",
        "training.optimizer.learning_rate=1e-2",
        "training.validation.every=20",
        *more,
    ]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "texts")


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("finished")
    return root, run(root, words(text, "training.steps=60", "training.batch=8"))


def test_hidden_tokens_are_learnt(finished: tuple[Path, dict[str, Any]]) -> None:
    root, result = finished
    before, after = numbers(root / "run")[0]["loss"], result["validation_loss"]
    assert before > 5
    assert after < 3.5
    assert (root / "run/config.yaml").read_text().count("bidirectional: true") == 1


def test_a_run_is_loaded_as_an_encoder(finished: tuple[Path, dict[str, Any]]) -> None:
    folder = finished[0] / "run"
    encoder = farfield.load_encoder(folder)
    assert encoder.mask == 257
    assert encoder.config.vocabulary == 258
    assert [tuple(one.shape) for one in encoder.encode(["stone", "river lamp"])] == [(5, 16), (10, 16)]
    assert len(encoder.fill("sto[MASK]e river")) == len("stone river")
    with pytest.raises(ModelError, match=r"an encoder, which writes no text\. Load it with farfield\.load_encoder\.$"):
        farfield.load(folder)


def test_stopped_and_resumed_is_as_never_stopped(text: Path, tmp_path: Path) -> None:
    """The masks of a step do not depend on where the run began."""
    whole = words(text, "training.steps=10", "training.checkpoint.every=5", "training.schedule.floor=1")
    run(tmp_path / "one", whole)
    run(tmp_path / "two", [*whole, "training.steps=5"])
    run(tmp_path / "two", [*whole, "resume=true"])
    ours, theirs = numbers(tmp_path / "one/run"), numbers(tmp_path / "two/run")
    assert [row["loss"] for row in ours] == [row["loss"] for row in theirs]
    assert same(weights(tmp_path / "one/run"), weights(tmp_path / "two/run"))
    assert choose_start(tmp_path / "one/run", resume=True) is not None


def test_recomputed_activations_give_the_same_losses(text: Path, tmp_path: Path) -> None:
    run(tmp_path / "one", words(text, "training.steps=3"))
    run(tmp_path / "two", words(text, "training.steps=3", "training.recompute=true"))
    assert [row["loss"] for row in numbers(tmp_path / "one/run")] == pytest.approx(
        [row["loss"] for row in numbers(tmp_path / "two/run")], rel=1e-5
    )


def test_what_is_hidden_is_part_of_what_a_run_is(text: Path, tmp_path: Path) -> None:
    run(tmp_path, words(text, "training.steps=2", "objective=masked"))
    with pytest.raises(farfield.config.TrainingError, match=r"objective\.share was 0\.15 where it is 0\.3 now"):
        run(tmp_path, words(text, "training.steps=4", "objective=masked", "objective.share=0.3", "resume=true"))


MISTAKES = {
    "a decoder for hidden tokens": (
        ["architecture=retnet", "objective=masked"],
        "objective: masked tokens are told by both sides, and this architecture reads from left to right. "
        "Use objective=next_token, or a bidirectional architecture.",
    ),
    "an encoder for the next token": (
        ["architecture=attention_encoder", "objective=next_token"],
        "objective: a bidirectional architecture sees the next token. Use objective=masked.",
    ),
    "an encoder with a memory": (
        ["architecture=attention_encoder", "memory=knn"],
        "memory.name: 'knn' keeps the past, and a bidirectional architecture reads whole documents. Use memory=none.",
    ),
    "longer than an encoder reads": (
        ["architecture=linformer_encoder", "data.length=100000"],
        "data.length: 100000 tokens given, but the architecture reads at most 2048.",
    ),
    "a causal mixer in an encoder": (
        ["architecture=retnet", "architecture.bidirectional=true"],
        "architecture.layers.retnet.mixer.kind: 'retnet' reads from left to right only. "
        "Set architecture.bidirectional=false, or take one of: {encoders}.",
    ),
    "an encoder's mixer in a decoder": (
        ["architecture=bigbird_encoder", "architecture.bidirectional=false"],
        "architecture.layers.bigbird.mixer.kind: 'bigbird' is bidirectional only. "
        "Set architecture.bidirectional=true, or take one of: {mixers}.",
    ),
    "an encoder's setting in a decoder": (
        ["architecture=linformer", "architecture.layers.linformer.mixer.length=64"],
        "architecture.layers.linformer.mixer.length: a setting of the 'linformer' that is bidirectional. "
        "Known here: {linformer}.",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line(mistake: str) -> None:
    from farfield.architectures import mixer_kinds
    from farfield.architectures.encoders import encoder_kinds

    given, message = MISTAKES[mistake]
    known = {"encoders": ", ".join(encoder_kinds()), "mixers": ", ".join(mixer_kinds())}
    known["linformer"] = ", ".join(sorted(mixer_kinds()["linformer"].model_fields))
    with pytest.raises(ConfigError) as raised:
        read(TrainSettings, compose("train", ["data=text", "data.path=books", *given]))
    assert str(raised.value) == message.format(**known)


def test_an_encoder_carries_nothing(text: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^training\.carry: a bidirectional architecture reads whole documents"):
        run(tmp_path, words(text, "training.carry=true", "data.order=streams"))
