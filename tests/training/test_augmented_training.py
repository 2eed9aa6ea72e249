"""Training with passages: by config, resumed, cut, frozen; what a run keeps of it; what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from training_cases import TINY, numbers, run, same, settings, weights, write_text

import farfield
from farfield.compose import compose, group_options
from farfield.config import ConfigError, TrainingError, read
from farfield.data import Batch
from farfield.memory import NeighboursConfig, Passages
from farfield.model import LanguageModel, ModelConfig
from farfield.query import query_command
from farfield.retrieval.neighbours import Wanted
from farfield.settings import QuerySettings, TrainSettings
from farfield.training.feed import shard
from farfield.training.learner import Learner

SMALL = [
    "augmentation.chunk=8",
    "augmentation.continuation=4",
    "augmentation.head_width=8",
    "augmentation.dimension=64",
]


def words_of(text: Path, *words: str, kind: str = "neighbours") -> list[str]:
    """A RetNet on text with passages."""
    small = [word for word in SMALL if kind == "neighbours" or "head_width" not in word]
    return [
        "architecture=retnet",
        f"augmentation={kind}",
        f"augmentation.database={text.parent / 'database'}",
        *small,
        "data=text",
        f"data.path={text}",
        f"data.cache={text.parent / 'cache'}",
        "data.length=24",
        "data.validation=0.2",
        *TINY,
        "architecture.layers.retnet.mixer.head_width=8",
        "training.validation.every=4",
        "training.checkpoint.every=4",
        *words,
    ]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "documents")


@pytest.mark.parametrize(
    "more", [[], ["data.order=streams", "training.carry=true", "data.length=12"]], ids=["", "streams"]
)
def test_a_run_learns_to_read_and_goes_on_as_if_never_stopped(text: Path, tmp_path: Path, more: list[str]) -> None:
    words = words_of(text, "training.schedule.kind=wsd", "training.schedule.decay=0.5", *more)
    run(tmp_path / "whole", [*words, "training.steps=8"])
    again = settings(tmp_path / "parts", words)
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    folder = tmp_path / "parts" / "run"
    (folder / "checkpoints" / "last.ckpt").unlink()
    (folder / "checkpoints" / "best.ckpt").unlink(missing_ok=True)
    result = run(tmp_path / "parts", [*words, "training.steps=8", "resume=true"])
    assert result["steps"] == 8
    assert again.augmentation is not None
    whole = tmp_path / "whole" / "run"
    assert same(weights(whole), weights(folder))
    assert numbers(whole)[-1] == numbers(folder)[-1]
    model = farfield.load(whole)
    assert model.config.augmentation == again.augmentation.model
    assert model.info["config"]["augmentation"]["database"] == str(text.parent / "database")
    validated = [row["validation_loss"] for row in numbers(whole) if "validation_loss" in row]
    assert validated[-1] < validated[0]


def test_passages_change_what_is_learnt(text: Path, tmp_path: Path) -> None:
    """What reads has moved, and so has the loss."""
    words = [*words_of(text), "training.steps=4"]
    run(tmp_path / "with", words)
    without = [word for word in words if not word.startswith("augmentation")]
    run(tmp_path / "without", without)
    ours, theirs = numbers(tmp_path / "with" / "run"), numbers(tmp_path / "without" / "run")
    moved = weights(tmp_path / "with" / "run")
    assert all(moved[name].any() for name in moved if name.endswith("out.weight") and name.startswith("augmentation"))
    assert ours[-1]["loss"] != theirs[-1]["loss"]


def test_a_trained_model_is_retrofitted_and_stays_as_it_is(text: Path, tmp_path: Path) -> None:
    bare = [word for word in words_of(text) if not word.startswith("augmentation")]
    run(tmp_path / "bare", [*bare, "training.steps=2"])
    begun = ["training.steps=3", f"start={tmp_path / 'bare' / 'run'}", "augmentation.freeze=true"]
    run(tmp_path / "fitted", words_of(text, *begun))
    before, after = (weights(tmp_path / name / "run") for name in ("bare", "fitted"))
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert any(after[name].any() for name in after if name.endswith("attention.out.weight"))
    assert {name.split(".")[0] for name in after.keys() - before.keys()} == {"augmentation"}


def test_rows_behind_passages_are_trained_on(text: Path, tmp_path: Path) -> None:
    result = run(tmp_path, words_of(text, "augmentation.tokens=16", "training.steps=4", kind="prompt"))
    assert result["steps"] == 4
    assert farfield.load(tmp_path / "run").config.augmentation is None


def test_a_row_that_is_cut_reads_the_same(text: Path, tmp_path: Path) -> None:
    """In pieces that end within chunks; a device reads its own rows."""
    given = settings(tmp_path, words_of(text, "training.cut=7"))
    assert given.augmentation is not None
    source = given.augmentation.source(given.data.open(0, 4))  # type: ignore[union-attr, arg-type]
    config = {"architecture": given.architecture.mapping(), "vocabulary": source.tokenizer.vocabulary}
    torch.manual_seed(0)
    model = LanguageModel(read(ModelConfig, {**config, "augmentation": given.augmentation.model.mapping()})).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    batch: Batch = source.batch(0)
    fed = shard(batch, 1, 2)
    assert fed.passages is not None
    found = Learner(model, given.training, {})._loss(model, fed, None)
    own = slice(2, 4)
    tokens, targets, positions, passages = (
        torch.from_numpy(array[own])
        for array in (batch.tokens, batch.targets, batch.positions, batch.passages)  # type: ignore[index]
    )
    whole = model.loss(tokens, targets, positions=positions, passages=Passages(passages))
    assert found.nll.item() == pytest.approx(whole.nll.item(), abs=1e-10)
    without = model.loss(tokens, targets, positions=positions)
    assert abs(without.nll.item() - whole.nll.item()) > 1e-6


def test_another_database_is_other_data(text: Path, tmp_path: Path) -> None:
    words = words_of(text, "training.steps=4")
    run(tmp_path, words)
    with pytest.raises(TrainingError, match="the data has changed since the run began: 'database' was "):
        run(tmp_path, [*words, "training.steps=6", "resume=true", f"augmentation.database={other(text, tmp_path)}"])


def other(text: Path, tmp_path: Path) -> Path:
    """A database of other texts."""
    documents = write_text(tmp_path / "documents")
    (documents / "0.txt").write_text("another text than before, which is somewhat longer")
    run(tmp_path / "other", [*words_of(documents, "training.steps=1")])
    return tmp_path / "database"


@pytest.mark.parametrize(
    ("words", "text_"),
    [
        (
            ["augmentation=neighbours", "data=text", "data.path=x"],
            "train: 'augmentation.database' is missing. Add augmentation.database=...",
        ),
        (
            ["augmentation=neighbours", "augmentation.database=x", "data=needle"],
            "augmentation.kind: 'neighbours' finds passages for texts, and this data has none. Use data=text.",
        ),
        (
            ["augmentation=prompt", "augmentation.database=x", "data=text", "data.path=x", "data.order=streams"],
            "augmentation.kind: 'prompt' puts passages before rows, and those of streams go on with a past. Use "
            "data.order=shuffled, or augmentation=neighbours.",
        ),
        (
            ["augmentation=neighbours", "augmentation.database=x", "data=text", "data.path=x", "memory=rmt"],
            "augmentation.kind: 'neighbours' counts chunks from a document's start, and the layers in memory 'rmt' "
            "count from that of a segment. Use memory=none, or a memory around single layers.",
        ),
        (
            ["augmentation=neighbour", "data=text", "data.path=x"],
            "augmentation: unknown option 'neighbour'. Did you mean 'neighbours'? Known: "
            f"{', '.join(group_options('augmentation'))}.",
        ),
        (
            ["augmentation=neighbours", "augmentation.database=x", "augmentation.chunks=3", "data=text", "data.path=x"],
            "augmentation: unknown key 'chunks'. Did you mean 'chunk'? Known: chunk, continuation, database, "
            "dimension, encoder, freeze, head_width, heads, kind, layers, overlap, passages.",
        ),
        (
            [
                "augmentation=prompt",
                "augmentation.database=x",
                "data=text",
                "data.path=x",
                "architecture=attention_encoder",
            ],
            "augmentation.kind: 'prompt' puts passages before what is predicted, and a bidirectional architecture "
            "predicts what was hidden. Use augmentation=none.",
        ),
    ],
)
def test_settings_that_do_not_fit_are_one_line(words: list[str], text_: str) -> None:
    with pytest.raises(ConfigError) as mistake:
        read(TrainSettings, compose("train", ["architecture=retnet", "size=tiny", *words]))
    assert str(mistake.value) == text_


def test_what_is_frozen_must_have_been_trained(text: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as mistake:
        run(tmp_path, words_of(text, "augmentation.freeze=true"))
    assert str(mistake.value) == (
        "augmentation.freeze: true given, but layers with fresh weights would never learn. "
        "Use start=<a run without neighbours>, or augmentation.freeze=false."
    )


def test_the_options_are_those_of_the_settings() -> None:
    given = read(
        TrainSettings,
        compose("train", ["augmentation=neighbours", "augmentation.database=x", "size=tiny", "data.path=x"]),
    )
    assert given.name == "retnet-tiny-neighbours-text"
    assert given.augmentation is not None
    assert given.augmentation.model == NeighboursConfig()


def test_rows_without_a_whole_chunk_are_told(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, words_of(text, "training.steps=1", "data.length=7"))
    assert (
        "farfield: augmentation=neighbours: rows of 7 tokens have no whole chunk of 8, and read no passages. Use a "
        "longer data.length, or a smaller augmentation.chunk."
    ) in capsys.readouterr().err


def test_a_question_reads_neighbours_of_the_training(text: Path, tmp_path: Path) -> None:
    """Of the folder that the run has kept; another is named, or none."""
    run(tmp_path, words_of(text, "training.steps=2"))
    model = ["stone river lamp north seven", f"model={tmp_path / 'run'}", "generation.tokens=4"]

    def asked(*words: str) -> dict[str, object]:
        given = [f"question={model[0]}", *model[1:], *words]
        return query_command(read(QuerySettings, compose("query", given)))

    found = asked()
    seconds = found["seconds"]
    assert isinstance(seconds, dict)
    assert "open neighbours" in seconds
    assert asked(f"neighbours={text.parent / 'database'}")["answer"] == found["answer"]
    assert "open neighbours" not in str(asked("neighbours=none")["seconds"])
    with pytest.raises(ConfigError) as mistake:
        asked(f"neighbours={tmp_path}")
    assert str(mistake.value) == (
        f"neighbours: '{tmp_path}' is no database of neighbours: it has no manifest.json. Or go on without: "
        "neighbours=none."
    )


def test_a_prompt_stands_behind_passages_as_rows_did(text: Path, tmp_path: Path) -> None:
    run(tmp_path, words_of(text, "augmentation.tokens=16", "training.steps=1", kind="prompt"))
    model = farfield.load(tmp_path / "run")
    database, trained = model.open_neighbours(), model.prompted
    assert trained is not None
    prompt = model.tokenizer.encode("river seven lamps")
    ids, left = model.behind(prompt, database)
    assert left is None
    assert ids[-len(prompt) :] == prompt
    (found,) = database.search([Wanted(np.array(prompt[:8], np.int64), np.array([], np.int64), None)], 2)
    best = database.passages(found[None, :1], 12).ravel()
    assert 12 <= len(ids) - len(prompt) <= 16
    assert ids[: -len(prompt)][-12:] == best[best >= 0].tolist()
    passages = model.tokenizer.decode(ids)
    assert model.generate("river seven lamps", tokens=5, neighbours=database) == model.generate(passages, tokens=5)
    asked = {
        "question": "river seven lamps",
        "model": str(tmp_path / "run"),
        "prompt": {"prompt": "{passages}{question}"},
    }
    told = [
        query_command(read(QuerySettings, {**asked, "generation": {"tokens": 5}, **more}))
        for more in ({}, {"neighbours": "none"})
    ]
    assert told[0]["prompt_tokens"] > told[1]["prompt_tokens"] == len(model.tokenizer.encode("river seven lamps"))
    assert "open neighbours" in told[0]["seconds"]
