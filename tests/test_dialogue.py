"""Question after question, and what a question that nothing answers gets."""

from __future__ import annotations

import io
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from farfield import cli
from farfield.answers import Answered, Source
from farfield.api import build, ingest, open_index
from farfield.config import DataError
from farfield.dialogue import HELP, Dialogue
from farfield.query import ask
from farfield.retrieval import Candidate, ChunkConfig, IngestConfig, Quote, RetrievalConfig, Stage
from farfield.sessions import open_sessions

HANDBOOK = (
    "# Handbook\n\nWelcome.\n\n## Leave\n\nAsk early. Leave is signed by the head of the unit. Nobody else may.\n"
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A handbook and two notes in the index `handbook`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "handbook.md").write_text(HANDBOOK)
    (tmp_path / "docs" / "kitchen.txt").write_text("The coffee machine is cleaned on Fridays.")
    (tmp_path / "docs" / "lions.txt").write_text("Lions sleep for twenty hours a day.")
    ingest(IngestConfig(path="docs", index="handbook", chunk=ChunkConfig(size=120, overlap=10)))
    return tmp_path


def source(number: int) -> Source:
    return Source("notes.md", "Leave", 10, 60, 0.5, "text", 0.9, Quote(12, 20, f"quote {number}"))


def answered(question: str) -> Answered:
    stage = Stage("fuse", 0.001, (Candidate(7, "notes.md", 10, 0.5, 1),))
    return Answered(question, "Yes", "stop", (source(1),), 1, 0, 1, 1, {}, stages=(stage,))


def dialogue(lines: Sequence[Any]) -> tuple[list[str], str]:
    """What was asked, and what was written, where these lines are typed, or keys (exceptions) pressed."""
    asked: list[str] = []
    out, typed = io.StringIO(), iter(lines)

    def read() -> str:
        line = next(typed, EOFError())
        if isinstance(line, BaseException):
            raise line
        return str(line)

    def answer(question: str) -> Answered:
        asked.append(question)
        if question == "long":
            raise KeyboardInterrupt
        if question == "bad":
            raise DataError("no such file.")
        out.write("Yes\n")
        return answered(question)

    Dialogue(answer, read, out).run()
    return asked, out.getvalue()


def test_a_dialogue_asks_until_it_is_left() -> None:
    assert dialogue(["Who?", "", "  And when? ", "/quit", "never"])[0] == ["Who?", "And when?"]
    assert dialogue(["Who?", EOFError()])[0] == ["Who?"]


def test_keys_end_an_answer_or_a_line_and_mistakes_end_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    asked, told = dialogue(["long", KeyboardInterrupt(), "bad", "Who?"])
    assert asked == ["long", "bad", "Who?"]
    assert "\n(stopped)\n" in told
    assert capsys.readouterr().err == "farfield: no such file.\n"


def test_commands_of_a_dialogue() -> None:
    assert HELP in dialogue(["/help"])[1]
    assert "Nothing has been answered yet." in dialogue(["/sources"])[1]
    told = dialogue(["Who?", "/sources", "/explain", "/sourcs"])[1]
    assert '      12-20: "quote 1"\n' in told
    assert "fuse: 1 candidates, 1.0 ms\n    1.    0.5000  chunk 7  notes.md:10\n" in told
    assert "no command is called '/sourcs'. Did you mean '/sources'?" in told


def test_sources_quote_the_sentence_that_answers(place: Path) -> None:
    with open_index("handbook") as index:
        answer = ask(None, index, "Who signs the leave?", k=1)
    (found,) = answer.sources
    assert found.quote is not None
    assert found.quote.text == "Leave is signed by the head of the unit."
    assert HANDBOOK[found.quote.start : found.quote.end] == found.quote.text
    assert HANDBOOK[found.start : found.end] == found.text


QUESTION = "Which xylophone plays at the equinox?"


def test_where_nothing_fits_no_model_is_asked(place: Path) -> None:
    model = build("attention", ["width=32", "depth=1"])
    with open_index("handbook") as index:
        answer = ask(model, index, QUESTION)
        assert (answer.text, answer.found, answer.answer_tokens) == (None, False, 0)
        read = ask(model, index, QUESTION, document="A page. ")
        assert (read.found, read.text is None) == (True, False)
    with open_index("handbook", settings=RetrievalConfig(least=0.0)) as index:
        assert ask(model, index, "Who signs the leave?").text is not None


def test_a_command_says_that_nothing_was_found(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["query", QUESTION, "index=handbook", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["answer"], found["found"]) == (None, False)
    assert cli.main(["query", QUESTION, "index=handbook"]) == 0
    assert capsys.readouterr().out.startswith("No answer was found in the index.")


def test_a_command_explains_and_filters(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["query", "Who signs the leave?", "index=handbook", "explain=true"]
    assert cli.main([*words, "where.path=docs/*.txt", "retrieval.least=0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(one["path"].endswith(".txt") for one in found["sources"])
    assert [stage["name"] for stage in found["stages"]] == ["dense", "lexical", "fuse"]
    assert set(found["stages"][0]["candidates"][0]) == {"chunk", "source", "start", "score", "rank"}
    assert cli.main([*words, "retrieval.mmr=0.5"]) == 0
    told = capsys.readouterr().out
    assert '"Leave is signed by the head of the unit."' in told
    assert all(f"\n{stage}: " in told for stage in ("dense", "lexical", "fuse", "diverse"))


def test_answers_are_told_as_they_are_written(place: Path, tmp_path: Path) -> None:
    model = build("retnet", ["width=32", "depth=1"])
    pieces: list[str] = []
    with open_index("handbook") as index:
        answer = ask(model, index, "Who signs the leave?", told=pieces.append)
        assert "".join(pieces).strip() == answer.text
        assert len(pieces) > 1
        with open_sessions(tmp_path / "sessions", model) as sessions:
            pieces.clear()
            reply = ask(model, index, "Who signs the leave?", sessions=sessions, session="alice", told=pieces.append)
            assert "".join(pieces).strip() == reply.text == answer.text


def test_without_a_question_and_a_terminal_nothing_is_asked(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Who?\n"))
    for words in ([], ["--json"]):
        assert cli.main(["query", "index=handbook", *words]) == 2
        assert capsys.readouterr().err.startswith("farfield: question: nothing is asked. Write it behind the verb:")


@pytest.fixture
def terminal(place: Path) -> Iterator[Any]:
    """`farfield query` on a terminal of its own."""
    pty = pytest.importorskip("pty", reason="terminals as Unix has them")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "farfield", "query", "index=handbook"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=place)
    os.close(theirs)
    yield ours, process
    process.kill()
    process.wait()
    os.close(ours)


def until(terminal: int, text: str, seconds: float = 60.0) -> str:
    """What the terminal shows, up to `text`."""
    shown, end = "", time.monotonic() + seconds
    while text not in shown:
        assert select.select([terminal], [], [], max(0.0, end - time.monotonic()))[0], f"no {text!r} in {shown!r}"
        shown += os.read(terminal, 4096).decode()
    return shown


def test_a_terminal_is_asked_for_questions(terminal: Any) -> None:
    ours, process = terminal
    until(ours, "? ")
    os.write(ours, b"Who signs the leave?\n")
    assert "Leave is signed by the head of the unit." in until(ours, " ms\r\n? ")
    os.write(ours, b"\x10\x10\n")  # twice the key for what was typed before: a history that has one line
    assert "Who signs the leave?" in until(ours, " ms\r\n? ")
    os.write(ours, b"\x04")
    process.wait(60)
    assert process.returncode == 0
