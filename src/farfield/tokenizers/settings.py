"""Which tokenizer a collection of texts gets.

A new kind is a class with `kind`, `key` and `build` here, and its place in the union at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from farfield.config import Config, DataError
from farfield.tokenizers.bpe import BpeTokenizer, train_bpe
from farfield.tokenizers.plain import BytesTokenizer, IdsTokenizer
from farfield.tokenizers.protocol import CorpusTokenizer, Tokenizer
from farfield.tokenizers.saved import fingerprint, load_tokenizer

__all__ = ["BpeConfig", "BytesConfig", "FolderConfig", "IdsConfig", "Texts", "TokenizerConfig", "opening"]

Texts: TypeAlias = Callable[[], Iterable[str]]  # starts reading the collection, for kinds that learn from it


class BytesConfig(Config):
    """Bytes: nothing to train, no word unknown, about four times the tokens of a BPE."""

    kind: Literal["bytes"] = "bytes"

    def key(self) -> str:
        """Names what `build` makes of a given collection, before it is made."""
        return self.kind

    def build(self, texts: Texts) -> BytesTokenizer:
        """The tokenizer itself."""
        return BytesTokenizer()


class BpeConfig(Config):
    """A byte-level BPE, trained on the collection itself (its validation documents included)."""

    kind: Literal["bpe"] = "bpe"
    vocabulary: int = Field(4096, ge=257, le=1_000_000)

    def key(self) -> str:
        return f"{self.kind} {self.vocabulary}"

    def build(self, texts: Texts) -> BpeTokenizer:
        return train_bpe(texts(), self.vocabulary)


class IdsConfig(Config):
    """Whole numbers with spaces between."""

    kind: Literal["ids"] = "ids"
    vocabulary: int = Field(256, ge=2, le=1_000_000)

    def key(self) -> str:
        return f"{self.kind} {self.vocabulary}"

    def build(self, texts: Texts) -> IdsTokenizer:
        return IdsTokenizer(self.vocabulary)


class FolderConfig(Config):
    """The tokenizer saved in a folder: of an earlier run, or of a Hugging Face model."""

    kind: Literal["folder"] = "folder"
    path: str
    begin: bool = Field(False, description="whether its begin-of-text token stands before every text")

    def key(self) -> str:
        return f"{self.kind} {fingerprint(self._load())}{' begin' if self.begin else ''}"

    def build(self, texts: Texts) -> CorpusTokenizer:
        return self._load()

    def _load(self) -> CorpusTokenizer:
        return load_tokenizer(Path(self.path).expanduser())


TokenizerConfig = Annotated[BytesConfig | BpeConfig | IdsConfig | FolderConfig, Field(discriminator="kind")]


def opening(settings: TokenizerConfig, tokenizer: Tokenizer) -> int | None:
    """The id that stands before every text of a model that learns by these settings; None: none does.

    Raises:
        DataError: one is asked for, and the tokenizer has none.
    """
    if not isinstance(settings, FolderConfig) or not settings.begin:
        return None
    if not isinstance(tokenizer, BpeTokenizer) or tokenizer.begin is None:
        raise DataError(
            "data.tokenizer.begin: true given, but the tokenizer has no begin-of-text token. Take begin: false."
        )
    return tokenizer.begin
