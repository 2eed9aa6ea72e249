"""A file's bytes to its documents, by its ending."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from farfield.retrieval.documents.decoding import decode
from farfield.retrieval.documents.document import LINES, Document, Skipped, UnreadableError
from farfield.retrieval.documents.html import read_html
from farfield.retrieval.documents.lines import read_lines, repeated
from farfield.retrieval.documents.markdown import read_markdown
from farfield.retrieval.documents.pdf import read_pdf

__all__ = ["BLANK", "read_documents"]

BLANK = re.compile("[\ufeff\\s]*")

Reader = Callable[[Path, bytes, str], Document]


def read_documents(path: Path, data: bytes, encoding: str = "auto") -> Iterator[Document | Skipped]:
    """The documents in a file's bytes, in order; what cannot be used among them, by name.

    Raises:
        DataError: the file needs a parser that is not installed.
    """
    if path.suffix.lower() in LINES:
        yield from _lines(path.as_posix(), data, encoding)
        return
    try:
        document = READERS[path.suffix.lower()](path, data, encoding)
    except UnreadableError as error:
        yield Skipped(path.as_posix(), str(error))
        return
    if BLANK.fullmatch(document.text):
        yield Skipped(path.as_posix(), "empty")
    else:
        yield document


def _lines(path: str, data: bytes, encoding: str) -> Iterator[Document | Skipped]:
    """The documents of all lines, of which no two may share a key."""
    if not data.removeprefix(b"\xef\xbb\xbf").strip():
        yield Skipped(path, "empty")
        return
    seen: dict[str, int] = {}
    for number, item in read_lines(path, data, encoding):
        if isinstance(item, Skipped):
            yield item
        elif item.key in seen:
            yield repeated(path, number, item.key, seen[item.key])
        else:
            seen[item.key] = number
            yield item


def _plain(path: Path, data: bytes, encoding: str) -> Document:
    text, name = decode(data, encoding)
    return Document("", path.stem, text, "text", {} if name == "utf-8" else {"encoding": name})


READERS: dict[str, Reader] = {
    ".txt": _plain,
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".html": read_html,
    ".htm": read_html,
    ".pdf": read_pdf,
}
