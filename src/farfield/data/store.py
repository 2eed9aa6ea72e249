"""A collection of texts as one long row of tokens on disk, built once and memory-mapped from then on.

    <cache>/<key>/
        tokens.bin       uint16 or uint32, as the vocabulary needs: the documents one after another, each ended by `end`
        documents.npy    (documents + 1,) int64: where each document begins; the last entry is where the last one ends
        keys.npy         (documents,) uint64: a hash of each document's text
        store.json       version, fingerprints, counts
        tokenizer/       the tokenizer, saved

The key stands for the tokenizer's settings and for the names, sizes and contents of the files: whatever changes, the
store is built anew beside the old one. It appears under its name only when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from farfield.config import Config, DataError
from farfield.data.files import Collection, Piece, pieces, scan
from farfield.progress import Bar
from farfield.tokenizers import CorpusTokenizer, FolderConfig, TokenizerConfig, fingerprint, load_tokenizer, opening

__all__ = ["StoreFacts", "TokenStore", "open_store"]

VERSION = 1
TOKENS, DOCUMENTS, KEYS, FACTS, TOKENIZER = "tokens.bin", "documents.npy", "keys.npy", "store.json", "tokenizer"
PIECE = 1 << 18  # characters; the `tokenizers` library is fastest at about this size, and takes 150 bytes for each
GROUP = 8 * PIECE  # characters tokenized in one call: enough to keep several cores busy
SAMPLE = 1 << 14  # characters; the library takes 256 texts at a time to learn from


class StoreFacts(Config):
    """store.json. `tokenizer` and `source` are fingerprints; `skipped` names files that are not UTF-8."""

    version: int
    tokenizer: str
    source: str
    documents: int
    tokens: int
    dtype: Literal["uint16", "uint32"]
    skipped: tuple[str, ...]


class TokenStore:
    """A store on disk. tokens (tokens,) uint16 or uint32, offsets (documents + 1,) int64, keys (documents,) uint64."""

    def __init__(self, folder: Path, tokenizer: CorpusTokenizer | None = None) -> None:
        """Opens a complete store; see `open_store`.

        Args:
            folder: where it is.
            tokenizer: one of the same ids as that of the store, in its place.
        """
        self.folder = folder
        self.facts = StoreFacts.model_validate_json((folder / FACTS).read_bytes())
        # A plain view: indexing a memmap object costs about twice as much.
        mapped = np.memmap(folder / TOKENS, dtype=self.facts.dtype, mode="r", shape=(self.facts.tokens,))
        self.tokens: NDArray[np.uint16 | np.uint32] = np.asarray(mapped)
        self.offsets: NDArray[np.int64] = np.load(folder / DOCUMENTS, mmap_mode="r")
        self.keys: NDArray[np.uint64] = np.load(folder / KEYS, mmap_mode="r")
        self.tokenizer: CorpusTokenizer = tokenizer or load_tokenizer(folder / TOKENIZER)

    def __reduce__(self) -> tuple[type[TokenStore], tuple[Path]]:
        """Another process opens the files again; the tokens do not travel."""
        return TokenStore, (self.folder,)

    def document(self, index: int) -> NDArray[np.uint16 | np.uint32]:
        """(tokens,) one document with its end token."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


def open_store(path: Path, tokenizer: TokenizerConfig, cache: Path) -> TokenStore:
    """The texts at `path` as tokens: from `cache` if they are there, else built into it.

    Raises:
        DataError: `path` holds no text, a file is damaged, or the cache cannot be written.
    """
    collection = scan(path)
    parts = [VERSION, tokenizer.key(), collection.fingerprint]
    folder = cache / hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()
    if not _complete(folder):
        try:
            _build(folder, collection, tokenizer)
        except OSError as error:
            raise DataError(f"data.cache: '{cache}' cannot be written: {error.strerror}.") from None
    # What a folder tells beside its ids, such as the template of a chat, may have changed since the store was built.
    told = tokenizer.build(tuple) if isinstance(tokenizer, FolderConfig) else None
    return TokenStore(folder, told)


def _complete(folder: Path) -> bool:
    """Whether `folder` holds a store of this version, with all the tokens it speaks of."""
    try:
        facts = StoreFacts.model_validate_json((folder / FACTS).read_bytes())
        size = (folder / TOKENS).stat().st_size
    except (OSError, ValidationError):
        return False
    return facts.version == VERSION and size == facts.tokens * np.dtype(facts.dtype).itemsize


def _build(folder: Path, collection: Collection, settings: TokenizerConfig) -> None:
    """Makes the store next to its place and moves it there in one step: what is interrupted leaves nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as temporary:
        made = Path(temporary) / "store"
        tokenizer = settings.build(lambda: _texts(collection))
        tokenizer.save(made / TOKENIZER)
        _write(made, collection, tokenizer, opening(settings, tokenizer))
        try:
            made.rename(folder)
        except OSError:
            if not _complete(folder):  # else another process has built the same store meanwhile
                folder.rename(Path(temporary) / "damaged")
                made.rename(folder)


def _texts(collection: Collection) -> Iterator[str]:
    """The collection's texts, for a tokenizer to learn from."""
    with Bar("train tokenizer", total=collection.size, unit="bytes") as bar:
        for piece in pieces(collection, SAMPLE):
            yield piece.text
            bar.step(piece.size, note=piece.file)


def _write(folder: Path, collection: Collection, tokenizer: CorpusTokenizer, begin: int | None) -> None:
    """Writes all files of the store but the tokenizer's; documents begin with the id `begin`, or with none."""
    dtype: Literal["uint16", "uint32"] = "uint16" if tokenizer.vocabulary <= 1 << 16 else "uint32"
    with (folder / TOKENS).open("wb") as file, Bar("tokenize", total=collection.size, unit="bytes") as bar:
        writer = _Writer(file, dtype, tokenizer.end, begin)
        for group in _groups(pieces(collection, PIECE)):
            for piece, ids in zip(group, tokenizer.encode_many([piece.text for piece in group]), strict=True):
                writer.add(piece, ids)
            bar.step(sum(piece.size for piece in group), note=group[-1].file)
        file.flush()
        os.fsync(file.fileno())
    if len(writer.keys) == 0:
        raise DataError(f"data.path: '{collection.root}' holds no text: all its documents are empty.")
    np.save(folder / DOCUMENTS, np.frombuffer(writer.offsets, np.int64))
    np.save(folder / KEYS, np.frombuffer(writer.keys, np.uint64))
    facts = StoreFacts(
        version=VERSION,
        tokenizer=fingerprint(tokenizer),
        source=collection.fingerprint,
        documents=len(writer.keys),
        tokens=writer.offsets[-1],
        dtype=dtype,
        skipped=collection.skipped,
    )
    (folder / FACTS).write_text(facts.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _groups(stream: Iterator[Piece]) -> Iterator[list[Piece]]:
    """Pieces in groups of about `GROUP` characters."""
    group: list[Piece] = []
    size = 0
    for piece in stream:
        group.append(piece)
        size += len(piece.text)
        if size >= GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


class _Writer:
    """Appends documents, piece by piece, and keeps where they begin (16 bytes a document in memory)."""

    def __init__(self, file: BinaryIO, dtype: str, end: int, begin: int | None) -> None:
        self.file, self.dtype = file, dtype
        self.begin, self.end = (np.array([] if one is None else [one], dtype) for one in (begin, end))
        self.offsets = array("q", [0])
        self.keys = array("Q")
        self.written = 0
        self.content = hashlib.blake2b(digest_size=8)

    def add(self, piece: Piece, ids: NDArray[np.uint32]) -> None:
        if self.written == self.offsets[-1]:
            self._append(self.begin)
        self.content.update(piece.text.encode("utf-8"))
        self._append(ids.astype(self.dtype))
        if piece.last:
            self._append(self.end)
            self.offsets.append(self.written)
            self.keys.append(int.from_bytes(self.content.digest(), "big"))
            self.content = hashlib.blake2b(digest_size=8)

    def _append(self, tokens: NDArray[np.uint16 | np.uint32]) -> None:
        self.file.write(tokens.tobytes())
        self.written += len(tokens)
