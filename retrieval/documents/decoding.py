"""Bytes to text: UTF-8, or what a byte order mark says, or what is likely enough to be told apart, or refused.

open(path, encoding=name, newline="").read() == text             of the (text, name) that `decode` returns
"""

from __future__ import annotations

import codecs

from farfield.retrieval.documents.document import UnreadableError, parser

__all__ = ["decode"]

MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
LIKELY = (
    *(f"windows-125{number}" for number in range(8)),
    *("iso-8859-2", "iso-8859-5", "iso-8859-7", "iso-8859-15", "koi8-r", "koi8-u", "cp866", "tis-620"),
    *("cp932", "shift_jis", "euc-jp", "iso-2022-jp", "gb18030", "big5", "cp949", "euc-kr"),
)
"""What files of plain text are kept in, and can be told apart by the letters: Python's names."""
SHORT = 100
CONFIDENCE = {True: 0.17, False: 0.08}
"""The least that is believed, of short texts and of others: of 727 snippets in 14 languages and 19 encodings none above
it was decoded to other letters, and none of 300 runs of random bytes was above it (docs/log.md)."""
SAMPLE = 200_000


def decode(data: bytes, encoding: str = "auto") -> tuple[str, str]:
    """The text of `data`, and the name of its encoding as Python knows it.

    Raises:
        UnreadableError: it is not in the `encoding` given, or in none that can be told.
    """
    if encoding != "auto":
        return _strict(data, encoding), encoding
    for mark, name in MARKS:
        if data.startswith(mark):
            return _strict(data, name), name
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        detected = _detected(data)
        if detected is None:
            raise UnreadableError(
                f"not UTF-8 (byte 0x{data[error.start]:02x} at {error.start}), and too little speaks for any other"
                " encoding; name it, as in encoding=latin-1"
            ) from None
        return _strict(data, detected), detected


def _strict(data: bytes, name: str) -> str:
    try:
        return data.decode(name)
    except UnicodeDecodeError as error:
        given = data[error.start : error.start + 1]
        raise UnreadableError(f"not {name} (byte 0x{given.hex()} at {error.start})") from None


def _detected(data: bytes) -> str | None:
    """The encoding that the letters speak for; None where it would be a guess."""
    found = parser("chardet").detect(data, include_encodings=LIKELY, max_bytes=SAMPLE)
    name, confidence = found["encoding"], found["confidence"]
    if not isinstance(name, str) or not isinstance(confidence, float) or confidence < CONFIDENCE[len(data) < SHORT]:
        return None
    return codecs.lookup(name).name
