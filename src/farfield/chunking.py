"""Where the tokens of a text begin, for documents that are cut by tokens: retrieval itself knows no tokenizer.

    ingest(settings, offsets=TokenStarts("runs/retnet-text"))         a run's folder, or a tokenizer's

A long text is tokenized piece by piece, each beginning at white space, where tokenizers part words anyhow.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from farfield.tokenizers import BpeTokenizer, BytesTokenizer, CorpusTokenizer, fingerprint, load_tokenizer

__all__ = ["TokenStarts"]

PIECE = re.compile(r".{1,100000}(?=\s|\Z)|.{1,100000}", re.DOTALL)
WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class TokenStarts:
    """Where the tokens of texts begin by the tokenizer in `folder`, or in that of a run; it can be pickled.

    Raises:
        DataError: on use, if there is no tokenizer.
    """

    folder: str

    @property
    def name(self) -> str:
        """The tokenizer's fingerprint."""
        return fingerprint(_tokenizer(self.folder))

    def __call__(self, text: str) -> Iterable[int]:
        """The character at which each token begins; several begin at one that is more than a token."""
        tokenizer = _tokenizer(self.folder)
        if isinstance(tokenizer, BytesTokenizer):
            return (place for place, sign in enumerate(text) for _ in range(_width(sign)))
        if isinstance(tokenizer, BpeTokenizer):
            return _pieces(tokenizer, text)
        return (match.start() for match in WORD.finditer(text))


def _pieces(tokenizer: BpeTokenizer, text: str) -> Iterator[int]:
    for piece in PIECE.finditer(text):
        for start, _ in tokenizer.backend.encode(piece[0], add_special_tokens=False).offsets:
            yield piece.start() + start


def _width(sign: str) -> int:
    """How many bytes a character takes in UTF-8."""
    return 1 + (sign >= "\x80") + (sign >= "\u0800") + (sign >= "\U00010000")


@functools.cache
def _tokenizer(folder: str) -> CorpusTokenizer:
    """The tokenizer in a folder, or in that of a run."""
    place = Path(folder).expanduser()
    return load_tokenizer(place / "tokenizer" if (place / "tokenizer").is_dir() else place)
