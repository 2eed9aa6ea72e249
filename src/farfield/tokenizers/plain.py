"""Tokenizers that need no training: bytes, and numbers that stand for themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from farfield.config import DataError
from farfield.tokenizers.protocol import ENDS, Ids, write_settings

__all__ = ["BytesTokenizer", "IdsTokenizer"]


class BytesTokenizer:
    """A token is a byte of the UTF-8 text; 256 ends a document."""

    kind = "bytes"
    vocabulary = 257
    end = 256
    ends = frozenset((end,))

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", "replace"))

    def encode_many(self, texts: Sequence[str]) -> list[Ids]:
        return [np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.uint32) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(token for token in ids if 0 <= token < self.end).decode("utf-8", "replace")

    def save(self, folder: Path) -> None:
        write_settings(folder, {"kind": self.kind})


class IdsTokenizer:
    """Text is whole numbers with spaces between, each of them a token: for synthetic tasks.

    The last id ends a document, or those of `ends`. Text may name it; `decode` leaves it out, as in every kind.
    """

    kind = "ids"

    def __init__(self, vocabulary: int, ends: Sequence[int] = ()) -> None:
        self.vocabulary = vocabulary
        self.end = ends[0] if ends else vocabulary - 1
        self.ends = frozenset((self.end, *ends))

    def encode(self, text: str) -> list[int]:
        """The numbers in `text`.

        Raises:
            DataError: something in it is not a number below the vocabulary.
        """
        return [self._number(word) for word in text.split()]

    def encode_many(self, texts: Sequence[str]) -> list[Ids]:
        return [np.array(self.encode(text), np.uint32) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(str(token) for token in ids if token not in self.ends)

    def save(self, folder: Path) -> None:
        own = self.end != self.vocabulary - 1 or len(self.ends) > 1
        ends = {ENDS: [self.end, *sorted(self.ends - {self.end})]} if own else {}
        write_settings(folder, {"kind": self.kind, "vocabulary": self.vocabulary, **ends})

    def _number(self, word: str) -> int:
        if word.isascii() and word.isdigit() and len(word) < 10 and int(word) < self.vocabulary:
            return int(word)
        raise DataError(
            f"tokenizer ids: '{word[:40]}' is not a token."
            f" The text must be whole numbers from 0 to {self.vocabulary - 1}, with spaces between."
        )
