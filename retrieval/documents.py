"""Files become documents: `.txt` and Markdown files are one document each, a `.jsonl` file is one a line.

    {"text": "...", "id": "optional", "title": "optional"}       ("_id" is read as "id", as in BEIR's files)

A document's text is exactly what the file holds, decoded as UTF-8: no character is dropped, no line end translated.
What cannot be read is named (`Skipped`) and never stops the rest.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from farfield.config import DataError, nearest, printable
from farfield.retrieval.chunks import headings

__all__ = ["Document", "Found", "Skipped", "find", "read_documents", "require_files"]


@dataclass(frozen=True)
class Document:
    """One text to be stored. `key` tells the documents of one file apart (empty where the file is the document)."""

    key: str
    title: str
    text: str
    markdown: bool
    bytes: int


@dataclass(frozen=True)
class Skipped:
    """A file, or a line of one, that could not be used."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Found:
    """The files at or below `root`, sorted, and what lies between them.

    Attributes:
        skipped: files that could hold documents, but are named in bytes that are not UTF-8.
        ignored: how many files of other kinds, by ending.
    """

    root: Path
    files: tuple[Path, ...]
    skipped: tuple[Skipped, ...]
    ignored: dict[str, int]


def find(path: str) -> Found:
    """The files at or below `path` that can hold documents, maybe none. Hidden files and folders are left out.

    Raises:
        DataError: what is at `path` cannot be told.
    """
    there = _exists(path)
    root = Path(path).expanduser().resolve()
    files = sorted(_below(root)) if root.is_dir() else [root] * there
    known = [file for file in files if file.suffix.lower() in READERS]
    others = Counter(
        printable(file.suffix.lower() or file.name) for file in files if file.suffix.lower() not in READERS
    )
    return Found(
        root,
        files=tuple(file for file in known if _is_named(file)),
        skipped=tuple(Skipped(printable(str(file)), "its name is not UTF-8") for file in known if not _is_named(file)),
        ignored=dict(sorted(others.items())),
    )


def require_files(found: Found, path: str) -> None:
    """Raises a DataError if there is nothing at `path`, or no file of a known kind."""
    if found.files or found.skipped:
        return
    known = ", ".join(READERS)
    if found.ignored:
        raise DataError(f"path: {path}: no file of a known kind ({', '.join(found.ignored)} given). Known: {known}.")
    if found.root.is_dir():
        raise DataError(f"path: {path} is an empty folder. It should hold files that end in {known}.")
    raise DataError(f"path: {path} does not exist.{_sibling(Path(path).expanduser())}")


def _exists(path: str) -> bool:
    """Whether there is anything at `path`. What may not be looked at must not look as if it were gone."""
    try:
        Path(path).expanduser().stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise DataError(f"path: {path} cannot be read ({error.strerror}).") from error
    return True


def _is_named(file: Path) -> bool:
    """Whether a file's path is UTF-8, as whatever is stored and printed must be."""
    return printable(str(file)) == str(file)


def _sibling(path: Path) -> str:
    """A hint at what lies beside a path that does not exist."""
    parent = path.parent
    try:
        near = nearest(path.name, sorted(entry.name for entry in parent.iterdir()))
    except OSError:
        return ""
    return f" Did you mean '{printable(str(parent / near))}'?" if near else ""


def _unreadable(error: OSError) -> None:
    """A folder that cannot be listed stops everything: its documents would look as if they were gone."""
    folder = printable(str(error.filename))
    raise DataError(f"path: the folder {folder} cannot be read ({error.strerror}).") from error


def _below(root: Path) -> Iterator[Path]:
    """Every visible regular file below `root`; links to folders are not followed, so that no loop can arise."""
    for folder, subfolders, names in os.walk(root, onerror=_unreadable):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            file = Path(folder, name)
            if not name.startswith(".") and file.is_file():
                yield file


def read_documents(path: Path, data: bytes) -> Iterator[Document | Skipped]:
    """The documents in a file's bytes, in order; what cannot be used among them, by name."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        yield Skipped(path.as_posix(), f"not UTF-8 (byte 0x{data[error.start]:02x} at {error.start})")
        return
    if not text.strip("\ufeff \t\r\n"):
        yield Skipped(path.as_posix(), "empty")
        return
    yield from READERS[path.suffix.lower()](path, text)


def _plain(path: Path, text: str) -> Iterator[Document | Skipped]:
    yield Document("", path.stem, text, markdown=False, bytes=len(text.encode()))


def _markdown(path: Path, text: str) -> Iterator[Document | Skipped]:
    title = next((heading.title for heading in headings(text) if heading.title), path.stem)
    yield Document("", title, text, markdown=True, bytes=len(text.encode()))


def _json_lines(path: Path, text: str) -> Iterator[Document | Skipped]:
    """One document a line. Only '\\n' ends a line: JSON texts may hold other separators of Unicode as they are."""
    seen: dict[str, int] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            document = _parse(line, number)
            if document.key in seen:
                raise ValueError(f"id '{document.key}' stands on line {seen[document.key]} already")
        except ValueError as error:
            yield Skipped(f"{path.as_posix()}:{number}", str(error))
            continue
        seen[document.key] = number
        yield document


def _parse(line: str, number: int) -> Document:
    """The document on one line of a `.jsonl` file; a ValueError says what is wrong with it."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
        raise ValueError("not an object with a 'text' that is a string")
    key = entry.get("id", entry.get("_id"))
    title = entry.get("title") or ""
    if not isinstance(key, str | int | None) or isinstance(key, bool) or not isinstance(title, str):
        raise ValueError("'id' must be a string or an integer, and 'title' a string")
    key = f"line {number}" if key is None else str(key)
    if not entry["text"].strip():
        raise ValueError("'text' is empty")
    if re.search("[\ud800-\udfff]", entry["text"] + title + key):
        raise ValueError("half of a surrogate pair, which is no character")
    return Document(key, title, entry["text"], markdown=False, bytes=len(line.encode()) + 1)


READERS = {".txt": _plain, ".md": _markdown, ".markdown": _markdown, ".jsonl": _json_lines}
