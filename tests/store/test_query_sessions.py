"""`farfield query` with a document and with a session: what was read before is not read again, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from safetensors.torch import save_file

from farfield import cli
from farfield.api import build

DOCUMENT = "# Ferry\n\nThe Velamo gate opens with the code 4719.\n"


def run_of(folder: Path, seed: int) -> Path:
    """A run's folder with fresh weights."""
    model = build("attention", ["width=32", "depth=1"], seed=seed)
    model.tokenizer.save(folder / "tokenizer")
    (folder / "config.yaml").write_text(OmegaConf.to_yaml({"format": 1, **model.config.mapping()}), encoding="utf-8")
    save_file(model.model.state_dict(), folder / "model.safetensors")
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    run_of(tmp_path / "run", 0)
    (tmp_path / "ferry.md").write_text(DOCUMENT, encoding="utf-8")
    return tmp_path


@pytest.mark.usefixtures("place")
def test_a_document_is_read_once_and_a_session_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    def asked(question: str, *words: str) -> Any:
        settings = ["model=run", "document=ferry.md", "generation.tokens=3", "device.threads=1"]
        assert cli.main(["query", question, *settings, *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    document = len(DOCUMENT) + 1  # a token is a byte; an empty line is behind it
    prompt = len("Question: Which?\nAnswer:")
    alone = asked("Which?")
    kept = [asked("Which?", "sessions=kept") for _ in range(2)]
    said = [asked("Which?", "sessions=kept", "session=alice") for _ in range(2)]
    assert alone["answer"] == kept[0]["answer"] == kept[1]["answer"] == said[0]["answer"]
    counts = [[one[key] for key in ("reused_tokens", "prefilled_tokens")] for one in (alone, *kept, *said)]
    whole = document + prompt + said[0]["answer_tokens"]
    assert counts == [
        [0, document + prompt],
        [0, document + prompt],
        [document, prompt],
        [document, prompt],
        [whole, prompt],
    ]
    assert said[1]["session"] == "alice"


@pytest.mark.usefixtures("place")
def test_a_person_is_told_what_was_read_before(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        words = ["model=run", "document=ferry.md", "sessions=kept", "generation.tokens=1", "device.threads=1"]
        assert cli.main(["query", "Which?", *words]) == 0
    read = len(DOCUMENT) + 1
    assert f"{read + 24} tokens read ({read} of them before), 1 written" in capsys.readouterr().out


def test_mistakes_are_one_line_each(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*words: str) -> str:
        assert cli.main(["query", "Which?", "generation.tokens=1", "device.threads=1", *words]) == 2
        out, err = capsys.readouterr()
        assert not out
        return err.removeprefix("farfield: ").strip()

    run_of(place / "other", 1)
    (place / "bytes.txt").write_bytes(b"\xff\xfe")
    assert refused("model=run", "document=nowhere.txt") == (
        "document: 'nowhere.txt' cannot be read: No such file or directory."
    )
    assert refused("model=run", "document=bytes.txt") == "document: 'bytes.txt' is not UTF-8 text."
    kept = ("sessions=kept", "session=alice")
    assert cli.main(["query", "Which?", "model=run", "generation.tokens=1", "device.threads=1", *kept]) == 0
    capsys.readouterr()
    assert refused("model=other", *kept).startswith("session 'alice': held with another model (")
    assert refused("model=run", "document=ferry.md", *kept) == (
        "session 'alice': it did not begin with this document. Go on without one, or name another session."
    )
    (place / "kept" / "index.sqlite").write_bytes(b"not a database" * 1000)
    assert refused("model=run", *kept) == "kept/index.sqlite: damaged or not writable: file is not a database."
