"""`farfield query` with documents that a model amortizes: only new ones are read, and mistakes are one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor

from farfield import cli
from farfield.api import build
from farfield.generation import GenerationConfig
from farfield.query import ask
from farfield.sessions import open_sessions

GREEDY = GenerationConfig(tokens=5)
PROMPT = "Question: Which?\nAnswer:"


def run_of(folder: Path, seed: int, memory: str | None = "mac") -> Path:
    """A run's folder with fresh weights."""
    model = build("attention", ["width=32", "depth=1"], memory=memory, seed=seed)
    model.tokenizer.save(folder / "tokenizer")
    (folder / "config.yaml").write_text(OmegaConf.to_yaml({"format": 1, **model.config.mapping()}), encoding="utf-8")
    save_file(model.model.state_dict(), folder / "model.safetensors")
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    run_of(tmp_path / "run", 0)
    (tmp_path / "notes" / "more").mkdir(parents=True)
    (tmp_path / "notes" / "ferry.md").write_text("The Velamo gate opens with the code 4719.", encoding="utf-8")
    (tmp_path / "notes" / "more" / "days.jsonl").write_text('{"id": 1, "text": "Six."}\n{"id": 2, "text": "Nine."}\n')
    return tmp_path


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    settings = ["model=run", "generation.tokens=4", "device.threads=1", "generation.stop=[]", "--json"]
    assert cli.main(["query", "Which?", *settings, *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_folder_is_amortized_once_and_grows(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = asked(capsys, "documents=notes")
    kept = asked(capsys, "documents=notes", "bank=kept.safetensors")
    again = asked(capsys, "bank=kept.safetensors")
    model = build("attention", ["width=32", "depth=1"], memory="mac")
    bank = model.open_bank("kept.safetensors")
    assert bank.names == ("ferry.md", "more/days.jsonl:1", "more/days.jsonl:2")
    assert alone["answer"] == kept["answer"] == again["answer"]
    assert alone["answer"] == model.generate(PROMPT, 4, bank=bank).strip()
    assert [one["asked_documents"] for one in (alone, kept, again)] == [3, 3, 3]
    assert "amortize" in alone["seconds"]
    written = (place / "kept.safetensors").stat().st_mtime_ns
    asked(capsys, "documents=notes", "bank=kept.safetensors")
    assert (place / "kept.safetensors").stat().st_mtime_ns == written
    (place / "notes" / "new.txt").write_text("A new one.")
    assert asked(capsys, "documents=notes", "bank=kept.safetensors")["asked_documents"] == 4
    assert model.open_bank("kept.safetensors").names == (*bank.names, "new.txt")


@pytest.mark.usefixtures("place")
def test_a_person_is_told_how_many_documents_were_asked(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["model=run", "documents=notes", "generation.tokens=1", "device.threads=1"]
    assert cli.main(["query", "Which?", *words]) == 0
    assert f"{len(PROMPT)} tokens read, 1 written; 3 documents asked" in capsys.readouterr().out


@pytest.mark.parametrize("kept", [False, True], ids=["plain", "sessions"])
def test_a_prompt_is_read_in_its_own_time(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by one with every token that the model is given."""
    model, now = build("attention", ["width=32", "depth=1"]), 0
    hidden = model.model.hidden

    def counted(tokens: Tensor, *given: Any, **named: Any) -> Any:
        nonlocal now
        now += tokens.shape[1]
        return hidden(tokens, *given, **named)

    monkeypatch.setattr(model.model, "hidden", counted)
    monkeypatch.setattr("time.perf_counter", lambda: float(now))
    sessions = open_sessions(None, model) if kept else None
    answer = ask(model, None, "Who?", document="It was night. " * 9, generation=GREEDY, sessions=sessions)
    assert answer.prompt_tokens > 9 * 14
    assert answer.seconds["prompt"] == answer.prompt_tokens
    assert (
        answer.seconds["generate"] == answer.answer_tokens - 1 + kept
    )  # of the last token, sessions keep what it leaves


def test_a_long_prompt_is_told_what_would_shorten_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The budget of the prompt is not the document's."""
    settings = {"format": 1, **build("attention", ["width=32", "depth=1"]).config.mapping(), "data": {"length": 40}}
    (run_of(place / "plain", 0, memory=None) / "config.yaml").write_text(OmegaConf.to_yaml(settings), encoding="utf-8")
    (place / "story.txt").write_text("It was night. " * 9)
    words = ["generation.tokens=1", "device.threads=1", "model=plain"]
    for more, line in (
        (["document=story.txt", "prompt.tokens=40"], "a shorter document, which prompt.tokens does not count."),
        ([f"question={'why ' * 20}?"], "a shorter question."),
    ):
        asked = more if "question" in more[0] else ["Who?", *more]
        assert cli.main(["query", *asked, *words]) == 0
        assert capsys.readouterr().err.endswith(
            f" tokens, and the model was trained on rows of 40. For fewer: {line}\n"
        )


def test_mistakes_are_one_line_each(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*words: str) -> str:
        assert cli.main(["query", "Which?", "generation.tokens=1", "device.threads=1", *words]) == 2
        out, err = capsys.readouterr()
        assert not out
        return err.removeprefix("farfield: ").strip()

    run_of(place / "other", 1)
    run_of(place / "plain", 0, memory=None)
    (place / "empty").mkdir()
    asked(capsys, "documents=notes", "bank=kept.safetensors")
    assert refused("model=run", "documents=note") == "documents: note does not exist. Did you mean 'notes'?"
    assert refused("model=run", "documents=empty").startswith("documents: empty is an empty folder.")
    assert refused("model=run", "bank=nowhere.safetensors") == "nowhere.safetensors: no such file."
    assert refused("model=other", "bank=kept.safetensors") == (
        "kept.safetensors: the bank of another model, or of other settings or weights; amortize anew."
    )
    assert refused("model=plain", "documents=notes") == (
        "memory 'none': it keeps no sets of documents. Train a model with memory=mac."
    )
    (place / "notes" / "ferry.md").write_text("It opens with the code 4720.")
    assert refused("model=run", "documents=notes", "bank=kept.safetensors") == (
        "document 'ferry.md': the bank holds another one of this name. Name it otherwise, or amortize anew."
    )
