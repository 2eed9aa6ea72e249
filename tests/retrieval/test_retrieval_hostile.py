"""What an ingest meets in the wild: each thing is named in a line, and the rest is stored."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from filling import Ingest
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield.config import DataError, IndexingError
from farfield.retrieval import (
    ChunkConfig,
    FunctionEmbedder,
    IngestConfig,
    IngestResult,
    RetrievalConfig,
    gathering,
    ingest,
    open_index,
)
from farfield.retrieval.documents import Document, Skipped, read_documents
from farfield.retrieval.gathering import look
from farfield.retrieval.preparing import Preparation
from farfield.retrieval.store import Store


def stored(folder: Path, root: str, **more: object) -> IngestResult:
    return ingest(IngestConfig.model_validate({"path": str(folder), "index": "test", "root": root} | more))


def named(result: IngestResult, folder: Path) -> list[str]:
    return [str(one).replace(folder.as_posix() + "/", "") for one in result.skipped]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one good document."""
    place = tmp_path / "wild"
    place.mkdir()
    (place / "good.txt").write_text("Lions sleep.")
    return place


def test_a_large_file_without_a_line_break_is_named(folder: Path, root: str) -> None:
    (folder / "huge.txt").write_text("x" * 200_000)
    result = stored(folder, root, largest=100_000)
    assert named(result, folder) == ["huge.txt: larger (0.2 MB) than largest=100000 allows (0.1 MB)"]
    assert result.documents == 1


@pytest.mark.parametrize("block", [1000, 1 << 20])
def test_a_large_line_is_named_and_the_lines_around_it_stored(
    block: int, folder: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "BLOCK", block)
    long = json.dumps({"text": "x" * 200_000})
    (folder / "a.jsonl").write_text("\n".join(['{"text": "one"}', long, '{"text": "three"}', long]))
    result = stored(folder, root, largest=100_000)
    assert named(result, folder) == [
        "a.jsonl:2: a line larger (0.2 MB) than largest=100000 allows (0.1 MB)",
        "a.jsonl:4: a line larger (0.2 MB) than largest=100000 allows (0.1 MB)",
    ]
    assert result.documents == 3


LINES = st.lists(
    st.sampled_from(["", " ", "{", '{"text": "a"}', '{"text": "b", "id": "x"}', "x" * 300, "\r", "é" * 9]), max_size=30
)


@settings(max_examples=150, deadline=None)
@given(lines=LINES, block=st.integers(1, 400), largest=st.integers(20, 400), last=st.booleans(), mark=st.booleans())
def test_lines_in_parts_are_the_lines_of_the_whole(
    lines: list[str], block: int, largest: int, last: bool, mark: bool
) -> None:
    data = ("\ufeff" * mark + "\n".join(lines) + "\n" * last).encode()
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathering, "BLOCK", block)
        file = Path(place, "a.jsonl")
        file.write_bytes(data)
        settings = IngestConfig(path=place, index="i", largest=largest)
        found = list(look(file, Preparation.of(settings, Path(place), None)))
        whole = list(_lines(file, data))
    expected = [
        Skipped(
            f"{file.as_posix()}:{number}", gathering._long(file.as_posix(), number, size, largest).items[0][1].reason
        )
        if size > largest
        else item
        for number, size, item in whole
        if size > largest or item is not None
    ]
    assert found == expected


def _lines(file: Path, data: bytes) -> Iterator[tuple[int, int, Document | Skipped | None]]:
    """Number, size and document of each line, read one by one."""
    for number, line in enumerate(data.split(b"\n"), start=1):
        items = [one for one in read_documents(file, b"\n" * (number - 1) + line) if str(one)[-5:] != "empty"]
        yield number, len(line), items[0] if items else None


def test_control_characters_break_nothing(folder: Path, root: str) -> None:
    text = "".join(map(chr, range(32))) + " zebra\x00 stands\x1b[31m \x7f\x85\ufffe end"
    (folder / "control.txt").write_bytes(text.encode())
    (folder / "lines.jsonl").write_text(
        json.dumps({"text": text + " twice", "id": "a\x00b", "title": "\x00", "k\x00": "\x00"})
    )
    result = stored(folder, root)
    assert (result.documents, result.skipped) == (3, ())
    with open_index("test", root) as index:
        hits = index.search("zebra stands", 2)
        assert {hit.text for hit in hits} == {text, text + " twice"}
        assert {hit.key for hit in hits} == {"", "a\x00b"}
    store = Store(Path(root, "test"), "test")
    with store.reading() as snapshot:
        assert snapshot.meant({"k\x00": "\x00"}) == [((folder / "lines.jsonl").as_posix(), "a\x00b")]
    store.close()
    assert stored(folder, root).unchanged == 3


def test_links_out_of_the_folder_are_named_and_links_within_followed(folder: Path, root: str, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("A secret.")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "other.txt").write_text("Another secret.")
    (folder / "out.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "up.txt").symlink_to(Path("..", "secret.txt"))
    (folder / "folder").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (folder / "in.md").symlink_to(folder / "good.txt")
    result = stored(folder, root)
    aim = (tmp_path / "secret.txt").as_posix()
    assert named(result, folder) == [
        f"{name}: a link out of the folder, to {aim}; ingest that by its own path" for name in ("out.txt", "up.txt")
    ]
    assert [str(one).replace(folder.as_posix() + "/", "") for one in result.duplicates] == [
        "in.md is the same as good.txt"
    ]
    with open_index("test", root) as index:
        assert index.search("secret") == []
    assert stored(folder / "out.txt", root).added == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_broken_lines_are_named_and_the_others_stored(workers: int, folder: Path, root: str) -> None:
    lines = [json.dumps({"text": f"Line {number}.", "id": f"{number % 90}"}).encode() for number in range(100)]
    lines[7], lines[50], lines[51] = b"{", b'{"text": "caf\xe9"}', b"\xff\xfe"
    (folder / "a.jsonl").write_bytes(b"\n".join(lines))
    result = stored(folder, root, workers=workers)
    assert result.documents == 89
    names = [one.partition(" ")[0] for one in named(result, folder)]
    assert names == [f"a.jsonl:{number}:" for number in (8, 51, 52, 91, 92, 93, 94, 95, 96, 97, 99, 100)]
    assert "a.jsonl:91: id '0' stands on line 1 already" in named(result, folder)
    again = stored(folder, root, workers=workers)
    assert (again.unchanged, named(again, folder)) == (89, named(result, folder))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_lines_must_be_utf8(encoding: str, folder: Path, root: str) -> None:
    (folder / "a.jsonl").write_bytes('{"text": "a"}\n'.encode(encoding))
    line = "a.jsonl: JSON lines must be UTF-8; this file begins as UTF-16 or UTF-32"
    assert named(stored(folder, root), folder)[0] == line


def test_many_tiny_files_go_together(folder: Path, root: str) -> None:
    for number in range(500):
        (folder / f"{number}.txt").write_text(f"File {number}.")
    assert stored(folder, root).documents == 501
    assert stored(folder, root).unchanged == 501


def test_a_file_that_shrinks_while_it_is_read_is_read_again_by_the_next(
    folder: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "a.jsonl"
    file.write_text('{"text": "one", "id": "1"}\n{"text": "two", "id": "2"}')
    marked = gathering.file_mark

    def change(path: Path, marks: Sequence[object]) -> bytes:
        mark = marked(path, marks)
        path.write_text('{"text": "three", "id": "1"}')
        return mark

    with monkeypatch.context() as patch:
        patch.setattr(gathering, "file_mark", change)
        stored(folder, root)
    assert stored(folder, root).documents == 2
    with open_index("test", root) as index:
        assert [hit.text for hit in index.search("three one two")] == ["three"]


def finite_but(word: str) -> FunctionEmbedder:
    """An embedder that makes NaN of all that holds a word."""

    def embed(texts: Sequence[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        return np.array([[np.nan if word in text else len(text), 1.0] for text in texts])

    return FunctionEmbedder("counts", 2, embed)


def test_what_the_embedder_fails_on_is_found_by_its_words(folder: Path, root: str) -> None:
    for number in range(9):
        (folder / f"{number}.txt").write_text(f"Number {number}. " + "poison" * (number in (2, 5)))
    settings = IngestConfig(path=str(folder), index="test", root=root, chunk=ChunkConfig(size=400))
    result = ingest(settings, finite_but("poison"))
    assert (result.documents, result.skipped) == (10, ())
    assert result.notices == (
        "index 'test': the embedder made no vector of 2 chunks (numbers that are not finite);"
        " they are found by their words alone",
    )
    embedder = finite_but("poison")
    with open_index("test", root, RetrievalConfig(search="lexical"), embedder) as index:
        assert index.search("number 5")[0].title == "5"
    with open_index("test", root, RetrievalConfig(search="dense"), embedder) as index:
        assert {hit.title for hit in index.search("number", k=20)} == {"good", *"01346789"} - {"9"}


def test_an_embedder_that_fails_on_everything_ends_the_ingest_in_a_line(folder: Path, root: str) -> None:
    with pytest.raises(IndexingError, match=r"^embedder 'counts' gave an array \(1, 2\) for 1 texts"):
        ingest(IngestConfig(path=str(folder), index="test", root=root), finite_but(""))


def test_all_of_it_at_once(folder: Path, root: str, tmp_path: Path, fill: Ingest) -> None:
    (folder / "fake.pdf").write_bytes(b"PK\x03\x04 zip")
    (folder / "bin.md").write_bytes(bytes(range(256)) * 9)
    (folder / "empty.html").write_text("<p></p>")
    (folder / "broken.jsonl").write_text("{\n")
    result = stored(folder, root)
    assert result.documents == 1
    assert [one.split(": ")[0] for one in named(result, folder)] == [
        "bin.md",
        "broken.jsonl:1",
        "empty.html",
        "fake.pdf",
    ]


@pytest.mark.parametrize(
    "what", [{"encoding": "klingon"}, {"path": None}, {"remove": "x"}, {"largest": 0}, {"workers": 0}]
)
def test_mistakes_in_settings(what: dict[str, object], root: str) -> None:
    with pytest.raises(ValueError, match=r"encoding|path|largest|workers"):
        IngestConfig.model_validate({"path": "p", "index": "i", "root": root} | what)


def test_nothing_but_what_is_too_large_is_one_line(folder: Path, root: str) -> None:
    with pytest.raises(DataError) as error:
        stored(folder, root, largest=3)
    assert str(error.value) == (
        f"path: {folder}: none of its 1 files can be used. {folder.as_posix()}/good.txt: larger (0.0 MB) than largest=3"
        " allows (0.0 MB)."
    )
