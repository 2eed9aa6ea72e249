"""Wording of the user's own: what it replaces, and every mistake in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from farfield.benchmarks.tasks.wording_file import Wording
from farfield.config import DataError

DEFAULT = {"introduction": "Remember.\n", "needle": " {key} is {value}.", "question": "\nWhat is {key}?"}


def test_without_a_file_the_texts_are_ours() -> None:
    wording = Wording.of("needle", DEFAULT, None)
    assert wording["needle"].format(key="a", value="b") == " a is b."
    assert wording.fingerprint == Wording(DEFAULT).fingerprint


def test_a_file_replaces_what_it_names_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text('needle:\n  question: "\\n{{{key}}} or {key}:"\nother: {x: y}\n', encoding="utf-8")
    wording = Wording.of("needle", DEFAULT, str(path), known=("needle", "other"))
    assert wording["question"].format(key="é") == "\n{é} or é:"
    assert (wording["introduction"], wording["needle"]) == (DEFAULT["introduction"], DEFAULT["needle"])
    assert wording.fingerprint != Wording(DEFAULT).fingerprint
    assert Wording.of("third", DEFAULT, str(path), known=("needle", "other")).texts == DEFAULT


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("needel: {}", "{path}: unknown section 'needel'. Did you mean 'needle'? Known: needle."),
        (
            "needle: {qestion: x}",
            "{path}: needle: unknown text 'qestion'. Did you mean 'question'? Known: introduction, needle, question.",
        ),
        (
            'needle: {question: "{kee} {key}"}',
            "{path}: needle.question: unknown field 'kee'. Did you mean 'key'? Known: key.",
        ),
        (
            'needle: {needle: "{key}"}',
            "{path}: needle.needle: the field {{value}} is missing. Its fields: key, value.",
        ),
        (
            'needle: {question: "{key} {"}',
            "{path}: needle.question: Single '{{' encountered in format string. "
            "A brace that is meant is written twice.",
        ),
        (
            'needle: {question: "{key} {}"}',
            "{path}: needle.question: a field is a name alone in braces, {{}} is none. Write {{{{ for a brace.",
        ),
        (
            'needle: {question: "{key.__class__}"}',
            "{path}: needle.question: a field is a name alone in braces, {{key.__class__}} is none. "
            "Write {{{{ for a brace.",
        ),
        (
            'needle: {question: "{key:>10}"}',
            "{path}: needle.question: a field is a name alone in braces, {{key}} is none. Write {{{{ for a brace.",
        ),
        (
            "needle: {introduction: 7}",
            "{path}: needle.introduction: 7 given, a text is needed. Put it in quotes.",
        ),
        ("needle: [a]", '{path}: needle: ["a"] given. A section holds texts by name.'),
        ("- needle", "{path}: no section. A file of wording holds a section for each task, and texts in it."),
        ("", "{path}: no section. A file of wording holds a section for each task, and texts in it."),
        ("needle: {a: b\nc: d", "{path}: line 2: expected ',' or '}}', but got ':'. This is no yaml."),
    ],
)
def test_mistakes_are_said_in_one_line(text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as error:
        Wording.of("needle", DEFAULT, str(path))
    assert str(error.value) == line.format(path=path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        Wording.of("needle", DEFAULT, str(tmp_path / "no.yaml"))
    assert str(error.value) == f"wording: {tmp_path / 'no.yaml'} cannot be read: No such file or directory."
    (tmp_path / "latin.yaml").write_bytes(b"needle: {question: caf\xe9}")
    with pytest.raises(DataError, match=r"latin\.yaml is not UTF-8 text: invalid continuation byte at byte 22"):
        Wording.of("needle", DEFAULT, str(tmp_path / "latin.yaml"))
