"""Files to documents: .txt and .md are one document each, a line of .jsonl is one by its "text".

A collection is looked through once (`scan`): every file's content is hashed and checked to be UTF-8. Then `pieces`
reads it as often as needed, never holding more than one file's piece, or one line of jsonl, in memory.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from farfield.config import DataError, printable
from farfield.progress import Bar

__all__ = ["Collection", "Piece", "TextFile", "pieces", "scan"]

log = logging.getLogger(__name__)

SUFFIXES = (".txt", ".md", ".jsonl")
BLOCK = 1 << 20  # bytes


@dataclass(frozen=True)
class TextFile:
    """A file of UTF-8 text. `name` is its path below the collection, with slashes."""

    name: str
    path: Path
    size: int
    content: str  # hash, hexadecimal


@dataclass(frozen=True)
class Collection:
    """The files of a folder in the order of their names, and the names of those left out.

    Of these the text is not UTF-8, or the name.
    """

    root: Path
    files: tuple[TextFile, ...]
    skipped: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file.size for file in self.files)

    @property
    def fingerprint(self) -> str:
        """Changes with any name, size or content. Where the folder lies does not matter."""
        return hashlib.blake2b(
            json.dumps([(file.name, file.size, file.content) for file in self.files]).encode(), digest_size=8
        ).hexdigest()


@dataclass(frozen=True)
class Piece:
    """A part of a document; `last` says that the document ends with it.

    `size` is how many bytes of the collection have been read since the piece before.
    """

    text: str
    file: str
    size: int
    last: bool


def scan(root: Path, setting: str = "data.path") -> Collection:
    """The collection at `root`, a folder or one file; hidden files and folders (".name") are not part of it.

    `setting` is what messages call the path.

    Raises:
        DataError: there is nothing at `root`, it cannot be read, or it holds no text.
    """
    found = _find(root, setting)
    checked: list[TextFile] = []
    skipped: list[str] = []
    with Bar("check", total=sum(path.stat().st_size for _, path in found), unit="bytes") as bar:
        for name, path in found:
            content = _content(path) if printable(name) == name else None
            if content is None:
                skipped.append(printable(name))
                what = "not UTF-8 text" if printable(name) == name else "its name is not UTF-8"
                log.warning("%s: %s, left out.", printable(str(path)), what)
            else:
                checked.append(TextFile(name, path, path.stat().st_size, content))
            bar.step(path.stat().st_size, note=printable(name))
    if not checked:
        raise DataError(f"{setting}: '{root}' holds no text: no file in it is UTF-8 ({', '.join(skipped[:3])}).")
    return Collection(root, tuple(checked), tuple(skipped))


def pieces(collection: Collection, most: int) -> Iterator[Piece]:
    """All documents, in order, each in pieces of at most `most` characters; documents without any are left out.

    A piece ends at the end of a line, or before a space where a line is longer than a piece.

    Raises:
        DataError: a line of jsonl has no text, or a file has changed since it was looked through.
    """
    for file in collection.files:
        try:
            yield from _lines(file, most) if file.path.suffix.lower() == ".jsonl" else _whole(file, most)
        except UnicodeDecodeError:
            raise DataError(f"{file.path}: changed while it was read. Start again.") from None
        except OSError as error:
            raise _unreadable(file.path, error) from None


def _find(root: Path, setting: str) -> list[tuple[str, Path]]:
    """Names and paths of the files to read."""
    if root.is_file():
        return [(root.name, root)]
    if not root.is_dir():
        raise DataError(f"{setting}: '{root}' does not exist. Give a file, or a folder of .txt, .md or .jsonl files.")
    names = {
        path.relative_to(root).as_posix(): path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file()
    }
    visible = sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))
    if not visible:
        raise DataError(f"{setting}: '{root}' holds no text: there is no .txt, .md or .jsonl file in it.")
    return [(name, names[name]) for name in visible]


def _content(path: Path) -> str | None:
    """The hash of a file's bytes, or None if they are not UTF-8."""
    digest = hashlib.blake2b(digest_size=16)
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
                decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from None
    return digest.hexdigest()


def _whole(file: TextFile, most: int) -> Iterator[Piece]:
    """A file as one document. Its text is taken as it is: no line end is translated; a byte order mark is dropped."""
    with file.path.open(encoding="utf-8-sig", newline="") as stream:
        for text, last in _cut(stream, most):
            yield Piece(text, file.name, len(text.encode("utf-8")), last)


def _lines(file: TextFile, most: int) -> Iterator[Piece]:
    """A file with a document in each line."""
    with file.path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                text = _text(line, f"{file.path}:{number}")
                for part, last in _cut(io.StringIO(text, newline=""), most):
                    yield Piece(part, file.name, len(line) if last else 0, last)


def _text(line: bytes, where: str) -> str:
    """The "text" of a line of jsonl."""
    decoded = line.decode("utf-8-sig")
    try:
        found = json.loads(decoded)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON: {error.msg} (column {error.colno}).") from None
    except (ValueError, RecursionError) as error:  # a number of very many digits, brackets in brackets in brackets
        raise DataError(f"{where}: JSON that cannot be read: {str(error).split(';')[0]}.") from None
    if not isinstance(found, dict):
        raise DataError(f'{where}: a JSON object with a "text" is expected, not {type(found).__name__}.')
    text = found.get("text")
    if not isinstance(text, str):
        raise DataError(f'{where}: no "text" in this line. Keys: {", ".join(map(str, found)) or "none"}.')
    return text.encode("utf-8", "replace").decode("utf-8")  # JSON can spell lone surrogates; UTF-8 cannot


def _cut(stream: TextIO, most: int) -> Iterator[tuple[str, bool]]:
    """The text of a stream in pieces, each with whether it is the last."""
    rest = stream.read(most + 1)
    while len(rest) > most:
        at = _border(rest[:most])
        yield rest[:at], False
        rest = rest[at:] + stream.read(at)
    if rest:
        yield rest, True


def _border(text: str) -> int:
    """Where to cut: after the last line, else before the last space, else at the end."""
    return text.rfind("\n") + 1 or max(text.rfind(" "), 0) or len(text)


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read: {error.strerror}.")
