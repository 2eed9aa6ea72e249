"""JSON lines: one document a line.

    {"text": "...", "id": "optional", "title": "optional", "year": 1999}

"_id" is read as "id", as in BEIR's files. All other fields that are strings, numbers, truth values, or lists of these
become the document's metadata. JSON is UTF-8, unless another encoding is named.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import sys
from collections.abc import Iterator

from farfield.retrieval.documents.decoding import MARKS
from farfield.retrieval.documents.document import Document, Skipped, too_large
from farfield.retrieval.filters import SCALARS

__all__ = ["parse_entry", "read_lines", "repeated"]

SURROGATE = re.compile("[\ud800-\udfff]")
OURS = ("text", "id", "_id", "title")


def read_lines(
    path: str, data: bytes, encoding: str = "auto", first: int = 1, largest: int = sys.maxsize
) -> Iterator[tuple[int, Document | Skipped]]:
    """The documents on the lines of `data`, each with its line; the first line has the number `first`.

    A line of more than `largest` bytes is left out.

    Only '\\n' ends a line: JSON texts may hold other separators of Unicode as they are.
    """
    if first == 1 and encoding == "auto" and any(data.startswith(mark) for mark, _ in MARKS):
        yield 0, Skipped(path, "JSON lines must be UTF-8; this file begins as UTF-16 or UTF-32")
        return
    for number, line in enumerate(data.split(b"\n"), first):
        if len(line) > largest:
            yield number, Skipped(f"{path}:{number}", f"a line {too_large(len(line), largest)}")
            continue
        bare = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if not bare.strip():
            continue
        try:
            yield number, _parsed(bare, number, encoding)
        except ValueError as error:
            yield number, Skipped(f"{path}:{number}", str(error))


def repeated(path: str, number: int, key: str, before: int) -> Skipped:
    """The document on a line, whose key another line has."""
    return Skipped(f"{path}:{number}", f"id '{key}' stands on line {before} already")


def _parsed(line: bytes, number: int, encoding: str) -> Document:
    """The document on one line; a ValueError says what is wrong with it."""
    try:
        entry = json.loads(line.decode("utf-8" if encoding == "auto" else encoding))
    except UnicodeDecodeError as error:
        raise ValueError(f"not {error.encoding} (byte 0x{line[error.start]:02x} at {error.start})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
        raise ValueError("not an object with a 'text' that is a string")
    return parse_entry(entry, f"line {number}")


def parse_entry(entry: dict[str, object], otherwise: str) -> Document:
    """The document that an object with a text describes; `otherwise` is its key if it has no id.

    Raises:
        ValueError: what is wrong with it.
    """
    text, key, title = entry["text"], entry.get("id", entry.get("_id")), entry.get("title") or ""
    if not isinstance(text, str) or not isinstance(key, str | int | None) or isinstance(key, bool):
        raise ValueError("'id' must be a string or an integer, and 'title' a string")
    if not isinstance(title, str):
        raise ValueError("'id' must be a string or an integer, and 'title' a string")
    key = otherwise if key is None else str(key)
    if not text.strip():
        raise ValueError("'text' is empty")
    metadata = {name: value for name, value in entry.items() if name not in OURS and _is_plain(value)}
    if SURROGATE.search(text + title + key + "".join(_strings(metadata))):
        raise ValueError("half of a surrogate pair, which is no character")
    return Document(key, title, text, "json", metadata)  # type: ignore[arg-type]  # checked by _is_plain


def _is_plain(value: object) -> bool:
    """Whether metadata can hold a value. JSON has no infinities, though Python reads them."""
    if isinstance(value, list):
        return all(isinstance(one, SCALARS) and _is_plain(one) for one in value)
    return isinstance(value, SCALARS) and not (isinstance(value, float) and not math.isfinite(value))


def _strings(metadata: dict[str, object]) -> Iterator[str]:
    for name, value in metadata.items():
        yield name
        yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str))
