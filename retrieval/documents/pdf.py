"""PDF files: the text of each page, one after another, with bookmarks as headings."""

from __future__ import annotations

import io
import logging
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from farfield.retrieval.documents.document import Document, UnreadableError, parser
from farfield.retrieval.filters import Scalar
from farfield.retrieval.headings import Heading

__all__ = ["read_pdf"]

BETWEEN = "\n\n"
SPACE = re.compile(r"\s+")
SURROGATE = re.compile("[\ud800-\udfff]")
DEEPEST = 6
STUMBLES = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError),
    *(ValueError, zlib.error),
)
"""What a parser of files from anywhere may stumble over, beside its own errors."""


def read_pdf(path: Path, data: bytes, encoding: str) -> Document:
    """The document in a PDF file. Its title is the file's own, else its first bookmark, else the file's name.

    Raises:
        UnreadableError: it is no PDF, encrypted, damaged, or has no text.
    """
    if b"%PDF-" not in data[:1024]:
        raise UnreadableError("not a PDF" + (" (a zip archive)" if data.startswith(b"PK") else ""))
    pypdf = parser("pypdf")
    with _quiet():
        try:
            return _read(path, data, pypdf)
        except (pypdf.errors.PyPdfError, *STUMBLES) as error:
            raise UnreadableError(f"a damaged PDF ({type(error).__name__}: {_line(str(error))})") from error


def _read(path: Path, data: bytes, pypdf: Any) -> Document:
    reader = pypdf.PdfReader(io.BytesIO(data))
    if reader.is_encrypted:
        _decrypt(reader, pypdf)
    texts = [SURROGATE.sub("\ufffd", page.extract_text()).strip() for page in reader.pages]
    if not any(texts):
        raise UnreadableError(f"a PDF of {len(texts)} pages without text (a scan?)")
    starts = [0]
    for text in texts[:-1]:
        starts.append(starts[-1] + len(text) + len(BETWEEN))
    text = BETWEEN.join(texts)
    headings = _headings(reader, text, starts)
    metadata = _metadata(reader)
    title = str(metadata.pop("title", "")) or next((one.title for one in headings), path.stem)
    return Document("", title, text, "pdf", metadata | {"pages": len(texts)}, headings, tuple(starts))


def _decrypt(reader: Any, pypdf: Any) -> None:
    """Opens a file that anybody may read, but not change; any other is refused."""
    try:
        opened = reader.decrypt("")
    except (pypdf.errors.PyPdfError, *STUMBLES):
        opened = 0
    if not opened:
        raise UnreadableError("an encrypted PDF. Store a copy without a password")


def _metadata(reader: Any) -> dict[str, Scalar]:
    about = reader.metadata or {}
    found = {name.lower()[1:]: about.get(name) for name in ("/Title", "/Author", "/Subject", "/Keywords")}
    found["language"] = reader.root_object.get("/Lang")
    return {name: _line(str(value)) for name, value in found.items() if value and _line(str(value))}


def _line(text: str) -> str:
    return SPACE.sub(" ", SURROGATE.sub("\ufffd", text)).strip()


def _headings(reader: Any, text: str, starts: list[int]) -> tuple[Heading, ...]:
    """The bookmarks, in the order of the text: at their words where their page has them, else where it begins."""
    found = []
    for level, title, page in _bookmarks(reader, reader.outline, 1):
        end = starts[page + 1] if page + 1 < len(starts) else len(text)
        words = re.compile(r"\s+".join(map(re.escape, title.split())), re.IGNORECASE)
        match = words.search(text, starts[page], end)
        start, end = match.span() if match else (starts[page], starts[page])
        found.append(Heading(start, end, level, title))
    return tuple(sorted(found, key=lambda one: one.start))


def _bookmarks(reader: Any, outline: list[Any], level: int) -> Iterator[tuple[int, str, int]]:
    """Level, title and page (from 0) of each bookmark that leads to a page."""
    for entry in outline:
        if isinstance(entry, list):
            yield from _bookmarks(reader, entry, min(level + 1, DEEPEST))
            continue
        page, title = reader.get_destination_page_number(entry), _line(str(entry.title))
        if page is not None and 0 <= page < len(reader.pages) and title:
            yield level, title, page


@contextmanager
def _quiet() -> Iterator[None]:
    """What the parser has to say of a file goes nowhere: one line of ours says whether it can be used."""
    logger = logging.getLogger("pypdf")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)
