from __future__ import annotations

import json
import os
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from writing import Files, Write

from farfield.config import DataError
from farfield.data import files, store
from farfield.data.files import Collection, pieces, scan
from farfield.data.store import TokenStore, open_store
from farfield.tokenizers import (
    BpeConfig,
    BpeTokenizer,
    BytesConfig,
    BytesTokenizer,
    CorpusTokenizer,
    FolderConfig,
    IdsConfig,
    TokenizerConfig,
    fingerprint,
    train_bpe,
)

BOOKS = Path(__file__).parents[3] / "shared" / "data" / "books"


def documents(opened: TokenStore) -> list[str]:
    """The texts in a store, each of whose documents must end in the end token and hold no other."""
    found = [opened.document(index).tolist() for index in range(opened.facts.documents)]
    assert all(ids[-1] == opened.tokenizer.end and opened.tokenizer.end not in ids[:-1] for ids in found)
    return [opened.tokenizer.decode(ids) for ids in found]


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


COLLECTION: Files = {
    "b.txt": "second\r\nfile ü",
    "a/deep.md": "# first",
    "lines.jsonl": ["one", "", "two\ntwo", "\ud83d"],
    "c.txt": b"\xef\xbb\xbfwithout its mark",
    "empty.txt": "",
    "index.json": "{}",
    "picture.png": b"\x89PNG",
    ".hidden/x.txt": "not seen",
    ".hidden.txt": "not seen",
}
TEXTS = ["# first", "second\r\nfile ü", "without its mark", "one", "two\ntwo", "?"]


@pytest.mark.parametrize("tokenizer", [BytesConfig(), BpeConfig(vocabulary=280)])
def test_files_become_documents_in_the_order_of_their_names(
    write: Write, tmp_path: Path, tokenizer: TokenizerConfig
) -> None:
    opened = open_store(write(COLLECTION), tokenizer, tmp_path / "cache")
    assert documents(opened) == TEXTS
    assert opened.facts.documents == 6
    assert opened.facts.tokens == len(opened.tokens) == opened.offsets[-1]
    assert opened.tokens.dtype == np.uint16
    assert opened.facts.tokenizer == fingerprint(opened.tokenizer)
    assert folders(opened.folder) == ["documents.npy", "keys.npy", "store.json", "tokenizer", "tokens.bin"]


def test_a_single_file_of_any_name_is_a_collection(write: Write, tmp_path: Path) -> None:
    root = write({"novel.text": "All of it.", "lines.jsonl": ["one", "two"]})
    assert documents(open_store(root / "novel.text", BytesConfig(), tmp_path / "cache")) == ["All of it."]
    assert documents(open_store(root / "lines.jsonl", BytesConfig(), tmp_path / "cache")) == ["one", "two"]


def test_large_vocabularies_take_four_bytes(write: Write, tmp_path: Path) -> None:
    root = write({"a.txt": "1 65536 2"})
    small, large = (open_store(root, IdsConfig(vocabulary=size), tmp_path / "cache") for size in (65_537, 70_000))
    assert small.tokens.tolist() == [1, 65536, 2, 65536]
    assert large.tokens.tolist() == [1, 65536, 2, 69999]
    assert large.tokens.dtype == np.uint32
    assert (large.folder / "tokens.bin").stat().st_size == 16


def test_a_store_is_built_once(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache = write(COLLECTION), tmp_path / "cache"
    first = open_store(root, BytesConfig(), cache)
    monkeypatch.setattr(store, "_build", lambda *_: pytest.fail("built again"))
    again = open_store(root, BytesConfig(), cache)
    assert again.folder == first.folder
    assert documents(again) == TEXTS
    moved = root.rename(tmp_path / "elsewhere")
    assert open_store(moved, BytesConfig(), cache).folder == first.folder


def test_whatever_changes_gives_a_store_of_its_own(write: Write, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    root = write({"a.txt": "aaaa", "b.txt": "bbbb"})
    seen = [open_store(root, BytesConfig(), cache).folder]
    stamp = (root / "a.txt").stat()
    (root / "a.txt").write_text("aaab")  # same size, same time
    os.utime(root / "a.txt", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    changed = open_store(root, BytesConfig(), cache)
    assert documents(changed) == ["aaab", "bbbb"]
    seen.append(changed.folder)
    (root / "b.txt").rename(root / "0.txt")
    renamed = open_store(root, BytesConfig(), cache)
    assert documents(renamed) == ["bbbb", "aaab"]
    seen.append(renamed.folder)
    (root / "c.md").write_text("more")
    seen.append(open_store(root, BytesConfig(), cache).folder)
    bpes = [open_store(root, BpeConfig(vocabulary=size), cache) for size in (257, 258)]
    seen.extend(opened.folder for opened in bpes)
    saved = FolderConfig(path=str(bpes[0].folder / "tokenizer"))
    seen.append(open_store(root, saved, cache).folder)
    assert len(set(seen)) == len(seen) == len(folders(cache))


def test_an_interrupted_build_leaves_nothing(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache = write({f"{number}.txt": "text " * 40 for number in range(9)}), tmp_path / "cache"
    monkeypatch.setattr(store, "GROUP", 300)
    calls = []

    def stopped(self: BytesTokenizer, texts: list[str]) -> list[np.ndarray]:
        calls.append(texts)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return [np.array(self.encode(text), np.uint32) for text in texts]

    with monkeypatch.context() as patch:
        patch.setattr(BytesTokenizer, "encode_many", stopped)
        with pytest.raises(KeyboardInterrupt):
            open_store(root, BytesConfig(), cache)
    assert len(calls) == 3
    assert folders(cache) == []
    assert documents(open_store(root, BytesConfig(), cache)) == ["text " * 40] * 9


def test_documents_begin_with_the_token_that_is_asked_for(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once each, also where a document is read in pieces; the store is another one."""
    monkeypatch.setattr(store, "PIECE", 8)
    collection = write({"a.txt": "one two three four five", "b.txt": "six"})
    own = train_bpe(TEXTS, 300)
    begin = own.encode("z")[0]
    BpeTokenizer(own.backend, own.end, begin).save(tmp_path / "tokenizer")
    plain, opened = (
        open_store(collection, FolderConfig(path=str(tmp_path / "tokenizer"), begin=begins), tmp_path / "cache")
        for begins in (False, True)
    )
    for index in range(2):
        assert opened.document(index).tolist() == [begin, *plain.document(index).tolist()]
    own.save(tmp_path / "without")
    with pytest.raises(DataError, match="the tokenizer has no begin-of-text token"):
        open_store(collection, FolderConfig(path=str(tmp_path / "without"), begin=True), tmp_path / "cache")


@pytest.mark.parametrize("damage", ["truncated", "no facts", "broken facts", "old version"])
def test_a_damaged_store_is_built_again(write: Write, tmp_path: Path, damage: str) -> None:
    root, cache = write(COLLECTION), tmp_path / "cache"
    folder = open_store(root, BytesConfig(), cache).folder
    facts = json.loads((folder / "store.json").read_text())
    match damage:
        case "truncated":
            os.truncate(folder / "tokens.bin", 10)
        case "no facts":
            (folder / "store.json").unlink()
        case "broken facts":
            (folder / "store.json").write_text("{")
        case "old version":
            (folder / "store.json").write_text(json.dumps(facts | {"version": 0}))
    assert documents(open_store(root, BytesConfig(), cache)) == TEXTS
    assert folders(cache) == [folder.name]


def test_runs_that_build_at_the_same_time_agree(write: Write, tmp_path: Path) -> None:
    root, cache = write({f"{number}.txt": f"text {number} " * 2000 for number in range(20)}), tmp_path / "cache"
    with ThreadPoolExecutor(6) as pool:
        opened = list(pool.map(lambda _: open_store(root, BytesConfig(), cache), range(6)))
    assert folders(cache) == [opened[0].folder.name]
    assert all(documents(one) == documents(opened[0]) for one in opened)


def test_a_store_that_another_run_has_finished_first_is_kept(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, cache = write(COLLECTION), tmp_path / "cache"
    first = open_store(root, BytesConfig(), tmp_path / "other").folder
    (first / "mark").touch()
    original = store._write

    def overtaken(folder: Path, collection: Collection, tokenizer: CorpusTokenizer, begin: int | None) -> None:
        original(folder, collection, tokenizer, begin)
        first.rename(cache / first.name)

    monkeypatch.setattr(store, "_write", overtaken)
    opened = open_store(root, BytesConfig(), cache)
    assert (opened.folder / "mark").exists()
    assert folders(cache) == [first.name]


def test_a_file_that_is_not_utf8_is_left_out_by_name(
    write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    late = b"fine so far " * 200_000 + b"\xff"
    root = write({"a.txt": "good", "latin.txt": "Grüße".encode("latin-1"), "late.md": late, "cut.txt": b"cut \xe2\x82"})
    opened = open_store(root, BytesConfig(), tmp_path / "cache")
    assert documents(opened) == ["good"]
    assert opened.facts.skipped == ("cut.txt", "late.md", "latin.txt")
    assert f"{root / 'latin.txt'}: not UTF-8 text, left out." in caplog.messages


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_file_whose_name_is_not_utf8_is_left_out_by_name(
    write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write({"a.txt": "good", os.fsdecode(b"caf\xe9.txt"): "bad", os.fsdecode(b"\xff/b.md"): "bad"})
    opened = open_store(root, BytesConfig(), tmp_path / "cache")
    assert documents(opened) == ["good"]
    assert opened.facts.skipped == (r"caf\xe9.txt", r"\xff/b.md")
    assert rf"{root}/caf\xe9.txt: its name is not UTF-8, left out." in caplog.messages
    assert open_store(root, BytesConfig(), tmp_path / "cache").folder == opened.folder


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "x", "n": ' + "1" * 5000 + "}", "Exceeds the limit (4300 digits) for integer string conversion"),
        ("[" * 100_000, ""),
    ],
    ids=["digits", "brackets"],
)
def test_json_beyond_what_python_reads_is_one_line(write: Write, tmp_path: Path, line: str, reason: str) -> None:
    root = write({"a.jsonl": '{"text": "x"}\n' + line})
    with pytest.raises(DataError) as raised:
        open_store(root, BytesConfig(), tmp_path / "cache")
    assert str(raised.value).startswith(f"{root}/a.jsonl:2: JSON that cannot be read: {reason}")
    assert str(raised.value).count("\n") == 0
    assert folders(tmp_path / "cache") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "data.path: '{root}' does not exist. Give a file, or a folder of .txt, .md or .jsonl files."),
        ({}, "data.path: '{root}' holds no text: there is no .txt, .md or .jsonl file in it."),
        ({"a.pdf": "x"}, "data.path: '{root}' holds no text: there is no .txt, .md or .jsonl file in it."),
        ({"a.txt": b"\xff"}, "data.path: '{root}' holds no text: no file in it is UTF-8 (a.txt)."),
        ({"a.txt": "", "b.jsonl": [""]}, "data.path: '{root}' holds no text: all its documents are empty."),
        ({"a.jsonl": '{"text": "x"}\n{"id": 1}'}, '{root}/a.jsonl:2: no "text" in this line. Keys: id.'),
        ({"a.jsonl": "{}"}, '{root}/a.jsonl:1: no "text" in this line. Keys: none.'),
        ({"a.jsonl": '\n["x"]'}, '{root}/a.jsonl:2: a JSON object with a "text" is expected, not list.'),
        ({"a.jsonl": '{"text": x}'}, "{root}/a.jsonl:1: not JSON: Expecting value (column 10)."),
    ],
)
def test_unusable_collections_say_why(write: Write, tmp_path: Path, content: Files | None, message: str) -> None:
    root = tmp_path / "nowhere" if content is None else write(content)
    with pytest.raises(DataError) as raised:
        open_store(root, BytesConfig(), tmp_path / "cache")
    assert str(raised.value) == message.format(root=root)
    assert not (tmp_path / "cache").exists() or folders(tmp_path / "cache") == []


def test_a_cache_that_cannot_be_written_says_so(write: Write, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match=r"^data.cache: '.*cache' cannot be written: "):
        open_store(write(COLLECTION), BytesConfig(), tmp_path / "cache")


@given(text=st.text(st.sampled_from("ab \n€"), max_size=60), piece=st.integers(1, 9))
def test_long_documents_are_read_in_pieces(tmp_path_factory: pytest.TempPathFactory, text: str, piece: int) -> None:
    root = tmp_path_factory.mktemp("pieces")
    (root / "a.txt").write_bytes(text.encode())
    (root / "b.jsonl").write_text(json.dumps({"text": text}))
    found = list(pieces(scan(root), piece))
    for name in ("a.txt", "b.jsonl"):
        own = [one for one in found if one.file == name]
        assert "".join(one.text for one in own) == text
        assert all(0 < len(one.text) <= piece for one in own)
        assert [one.last for one in own] == [False] * (len(own) - 1) + [True] * bool(own)
        assert sum(one.size for one in own) == (root / name).stat().st_size * bool(text)
        for here, after in pairwise(own):
            block = here.text + after.text[: piece - len(here.text)]
            assert here.text.endswith("\n") or "\n" not in block
            assert here.text.endswith("\n") or after.text.startswith(" ") or " " not in block[1:]


def test_the_collection_is_never_in_memory_as_a_whole(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write({"a.txt": "some words of a long text\n" * 40_000, "b.jsonl": ["a line of it"] * 5_000})
    monkeypatch.setattr(store, "PIECE", 1 << 12)
    monkeypatch.setattr(files, "BLOCK", 1 << 12)
    monkeypatch.setattr(store, "GROUP", 1 << 14)
    (tmp_path / "small.txt").write_text("what is imported, or kept for good, is not what is measured")
    open_store(tmp_path / "small.txt", BytesConfig(), tmp_path / "cache")
    tracemalloc.start()
    opened = open_store(root, BytesConfig(), tmp_path / "cache")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert opened.facts.tokens == 26 * 40_000 + 1 + 13 * 5_000
    assert peak < 800_000  # bytes; the text has 1.1 million


def test_hashes_of_documents_depend_on_their_text_only(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write({"a.txt": "same text", "b.txt": "other", "z.jsonl": ["same text"]})
    keys = open_store(root, BytesConfig(), tmp_path / "cache").keys
    monkeypatch.setattr(store, "PIECE", 3)
    others = open_store(root, BpeConfig(vocabulary=260), tmp_path / "cache").keys
    assert keys.tolist() == others.tolist()
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.skipif(not BOOKS.is_dir(), reason="the sample books are not there (../shared/data/books)")
def test_real_books_come_back_to_the_letter(tmp_path: Path) -> None:
    opened = open_store(BOOKS, BytesConfig(), tmp_path / "cache")
    names = sorted(path for path in BOOKS.iterdir() if path.suffix == ".txt")
    assert opened.facts.documents == len(names) > 40
    for index in (0, 7, len(names) - 1):
        assert bytes(opened.document(index)[:-1].astype(np.uint8)) == names[index].read_bytes()
