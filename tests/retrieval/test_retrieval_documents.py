from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from farfield.config import DataError
from farfield.retrieval.documents import Document, Skipped, find, read_documents, require_files


def read(name: str, data: bytes | str) -> list[Document | Skipped]:
    return list(read_documents(Path("/d") / name, data if isinstance(data, bytes) else data.encode()))


def only(name: str, data: bytes | str) -> Document:
    (document,) = read(name, data)
    assert isinstance(document, Document)
    return document


def required(path: Path) -> None:
    require_files(find(str(path)), str(path))


@pytest.mark.parametrize("text", ["plain", "a\r\nb\rc\n", "\ufeffmark", "nul \x00 and \u2028 stay", "e\u0301 🦁"])
def test_a_text_is_what_the_file_holds(text: str) -> None:
    assert only("a.txt", text).text == text
    assert only("a.md", text).text == text
    assert only("a.jsonl", json.dumps({"text": text})).text == text


def test_titles() -> None:
    assert only("notes.txt", "# not a heading").title == "notes"
    assert only("notes.md", "Before.\n\n## First\n\n# Second\n").title == "First"
    assert only("notes.MD", "no heading").title == "notes"
    assert only("a.jsonl", '{"text": "t", "title": "T"}').title == "T"


def test_keys_of_json_lines() -> None:
    lines = ['{"text": "a", "id": "x"}', "", '{"text": "b"}', '{"text": "c", "_id": 7}', '{"text": "d", "id": null}']
    assert [item.key for item in read("a.jsonl", "\n".join(lines)) if isinstance(item, Document)] == [
        "x",
        "line 3",
        "7",
        "line 5",
    ]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (
            b"caf\xe9",
            "/d/a.txt: not UTF-8 (byte 0xe9 at 3), and too little speaks for any other encoding;"
            " name it, as in encoding=latin-1",
        ),
        (b"", "/d/a.txt: empty"),
        ("\ufeff \n".encode(), "/d/a.txt: empty"),
    ],
)
def test_files_that_cannot_be_used_are_named(data: bytes, reason: str) -> None:
    assert [str(item) for item in read("a.txt", data)] == [reason]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        ("[1]", "not an object with a 'text' that is a string"),
        ('{"id": "x"}', "not an object with a 'text' that is a string"),
        ('{"text": 5}', "not an object with a 'text' that is a string"),
        ('{"text": " "}', "'text' is empty"),
        ('{"text": "a", "id": [1]}', "'id' must be a string or an integer, and 'title' a string"),
        ('{"text": "a", "id": true}', "'id' must be a string or an integer, and 'title' a string"),
        ('{"text": "a", "title": 1}', "'id' must be a string or an integer, and 'title' a string"),
        ('{"text": "half \\ud83e"}', "half of a surrogate pair, which is no character"),
        ('{"text": "again", "id": "x"}', "id 'x' stands on line 1 already"),
    ],
)
def test_lines_that_cannot_be_used_are_named_and_the_rest_is_read(line: str, reason: str) -> None:
    first, second, third = read("a.jsonl", '{"text": "one", "id": "x"}\n' + line + '\n{"text": "three"}')
    assert isinstance(first, Document)
    assert isinstance(third, Document)
    assert str(second).startswith(f"/d/a.jsonl:2: {reason}"[:60])


def test_deeply_nested_json_is_named() -> None:
    first, second = read("a.jsonl", "[" * 100_000 + '\n{"text": "a"}')
    assert str(first).startswith("/d/a.jsonl:1: not ")
    assert isinstance(second, Document)


def test_files_are_found_in_order_below_a_folder(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/deep/er/y.jsonl", ".git/x.txt", ".hidden.txt", "c.png", "d.PNG", "Makefile"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    found = find(str(tmp_path))
    assert [file.relative_to(found.root).as_posix() for file in found.files] == ["a/deep/er/y.jsonl", "a/z.md", "b.txt"]
    assert found.ignored == {".png": 2, "Makefile": 1}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_not_utf8_is_spelled_out(tmp_path: Path) -> None:
    for name in (b"caf\xe9.txt", b"\xff/b.md", b"c.\xe9", b"\xe9", b"a.txt"):
        file = tmp_path / os.fsdecode(name)
        file.parent.mkdir(exist_ok=True)
        file.write_text("x")
    found = find(str(tmp_path))
    assert [file.name for file in found.files] == ["a.txt"]
    assert [str(one) for one in found.skipped] == [
        rf"{tmp_path}/caf\xe9.txt: its name is not UTF-8",
        rf"{tmp_path}/\xff/b.md: its name is not UTF-8",
    ]
    assert found.ignored == {r".\xe9": 1, r"\xe9": 1}


def test_a_path_that_is_not_there_names_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "handbook").mkdir()
    with pytest.raises(DataError) as error:
        required(tmp_path / "handbok")
    assert str(error.value) == f"path: {tmp_path}/handbok does not exist. Did you mean '{tmp_path}/handbook'?"


def test_a_path_with_nothing_beside_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^path: \S*/no/where does not exist\.$"):
        required(tmp_path / "no" / "where")


def test_an_empty_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        required(tmp_path)
    known = ".txt, .md, .markdown, .html, .htm, .pdf, .jsonl"
    assert str(error.value) == f"path: {tmp_path} is an empty folder. It should hold files that end in {known}."


def test_a_file_of_another_kind_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "paper.doc"
    file.write_bytes(b"doc")
    with pytest.raises(DataError) as error:
        required(file)
    known = ".txt, .md, .markdown, .html, .htm, .pdf, .jsonl"
    assert str(error.value) == f"path: {file}: no file of a known kind (.doc given). Known: {known}."


def test_a_folder_that_cannot_be_listed_is_no_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "closed").mkdir()
    listed = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"the folder \S*/closed cannot be read \(Permission denied\)\.$"):
        find(str(tmp_path))


def test_a_path_that_may_not_be_looked_at_is_not_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = Path.stat

    def stat(path: Path, **options: bool) -> os.stat_result:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return looked(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(DataError, match=r"^path: \S*/closed cannot be read \(Permission denied\)\.$"):
        find(str(tmp_path / "closed"))


def test_a_file_as_the_folder_of_a_path_is_a_path_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    assert find(str(tmp_path / "a.txt" / "b.txt")).files == ()
