"""A database of neighbours: documents cut into chunks of tokens, each found by its text, with what comes behind it.

    <folder>/
        tokens.bin        uint16 or uint32: the documents one after another
        documents.npz     where each begins (documents + 1,), and a hash of its text (documents,)
        words.npz         how frequent the words of the chunks are, for embedders that weigh them
        vectors.npy       the vectors of the chunks, which stay on disk
        manifest.json     version, sizes, tokenizer, embedder, source, and the SHA-256 of the other files

    database = build(Path("neighbours"), texts, decode, settings, tokenizer="...", source="...")
    found = database.search([Wanted(ids, behind, document)], k=2)                   (1, 2) numbers of chunks
    database.passages(found, 128)                                                   (1, 2, 128) tokens

It appears under its name only when it is complete, knows no tokenizer but by a function from ids to text, and is never
changed. Passages of the document that asks are left out: as many are looked through as it takes to find k others.

Shapes: Q queries, k neighbours, F candidates, m tokens of a chunk, r tokens of a passage.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pydantic

from farfield.config import Config, IndexingError
from farfield.progress import Bar
from farfield.retrieval.embedders import Embedder, Kept, Matrix, build_embedder
from farfield.retrieval.exact import Exact, Nearest
from farfield.retrieval.overlap import longest_runs
from farfield.retrieval.settings import HashedConfig
from farfield.retrieval.words import BAG, Frequencies, bag, words

__all__ = ["Database", "Decode", "Ids", "NeighbourSettings", "Texts", "Wanted", "build", "open_database"]

VERSION = 1
TOKENS, DOCUMENTS, WORDS, VECTORS, MANIFEST = "tokens.bin", "documents.npz", "words.npz", "vectors.npy", "manifest.json"
BLOCK = 1 << 20
AT_ONCE = 1024  # chunks whose vectors are made at once
CANDIDATES = 32  # that are looked at first for a query; four times as many as long as too few are left

Ids = npt.NDArray[np.int64]
Decode = Callable[[Sequence[int]], str]


class NeighbourSettings(Config):
    """How a database is cut and searched: tokens of a chunk, and the embedder of its text."""

    chunk: int
    embedder: HashedConfig


class Texts(NamedTuple):
    """Documents: ranges `starts` to `stops` (documents,) of `tokens` (n,), and hashes `keys` (documents,) of texts."""

    tokens: npt.NDArray[np.uint16 | np.uint32]
    starts: Ids
    stops: Ids
    keys: npt.NDArray[np.uint64]


class Wanted(NamedTuple):
    """A chunk that asks: its ids (m,), those known to come behind it (any), and the key of its document, if it has one.

    What comes behind is looked at to leave out passages that tell it, never to find one.
    """

    ids: Ids
    behind: Ids
    document: int | None


class Manifest(Config):
    """manifest.json. `tokenizer` and `source` are fingerprints; `files` are checksums by name."""

    version: int
    chunk: int
    embedder: HashedConfig
    tokenizer: str
    source: str
    documents: int
    chunks: int
    tokens: int
    dtype: Literal["uint16", "uint32"]
    files: dict[str, str]


class Database:
    """A database on disk; see `open_database`."""

    def __init__(self, folder: Path, manifest: Manifest, decode: Decode) -> None:
        self.folder, self.manifest, self.decode = folder, manifest, decode
        self.embedder = build_embedder(manifest.embedder)
        mapped = np.memmap(folder / TOKENS, dtype=manifest.dtype, mode="r", shape=(manifest.tokens,))
        self.tokens: npt.NDArray[np.uint16 | np.uint32] = np.asarray(mapped)
        with np.load(folder / DOCUMENTS) as documents:
            self.offsets, self.keys = documents["offsets"], documents["keys"]
        with np.load(folder / WORDS) as frequencies:
            self.frequencies = Frequencies(manifest.chunks, frequencies["terms"], frequencies["counts"])
        self.document, self.starts = _chunks(self.offsets, manifest.chunk)
        self.nearest: Nearest = Exact(np.load(folder / VECTORS, mmap_mode="r"))

    def __reduce__(self) -> tuple[Callable[[Path, Decode, str], Database], tuple[Path, Decode, str]]:
        """Another process opens the files again; nothing of them travels."""
        return open_database, (self.folder, self.decode, self.manifest.tokenizer)

    @property
    def fingerprint(self) -> str:
        """Changes whenever any answer would."""
        return hashlib.sha256(self.manifest.model_dump_json().encode()).hexdigest()[:16]

    def search(self, wanted: Sequence[Wanted], k: int, overlap: float | None = None) -> Ids:
        """Numbers (Q, k) of the chunks that are most like each of `wanted`, the best first; -1 where there is none.

        Args:
            wanted: chunks that ask. k: how many are looked for.
            overlap: leave out passages that have a run of tokens in common with the chunk and what is known to come
                behind it, longer than this share of a chunk; None: keep them.
        """
        found = np.full((len(wanted), k), -1, np.int64)
        if not wanted:
            return found
        open_, questions = np.arange(len(wanted)), self._vectors([self.decode(one.ids.tolist()) for one in wanted])
        count = min(CANDIDATES, self.manifest.chunks)
        while len(open_):
            scores, ids = self.nearest.search(questions[open_], count)
            allowed = (ids >= 0) & (scores > 0)
            self._leave_out(allowed, ids, [wanted[one] for one in open_.tolist()], overlap)
            found[open_] = _first(ids, allowed, k)
            short = (found[open_, -1] < 0) & (scores[:, -1] > 0)  # behind a score of 0 nothing is alike
            open_ = open_[short] if count < self.manifest.chunks else open_[:0]
            count = min(4 * count, self.manifest.chunks)
        return found

    def passages(self, found: Ids, length: int) -> Ids:
        """Tokens (..., length) of chunks (...), and those behind them in their documents; -1 beyond, and for -1."""
        place = np.maximum(found, 0)
        at = self.starts[place][..., None] + np.arange(length)
        inside = (found[..., None] >= 0) & (at < self.offsets[self.document[place] + 1][..., None])
        return np.where(inside, self.tokens[np.minimum(at, len(self.tokens) - 1)].astype(np.int64), -1)

    def _vectors(self, texts: Sequence[str]) -> Matrix:
        """(Q, dimension), as those of the chunks are made."""
        extra = self.embedder.keep(texts)
        kept = [Kept(bag(words(text)), more) for text, more in zip(texts, extra, strict=True)]
        return self.embedder.vectors(kept, self.frequencies)

    def _leave_out(
        self, allowed: npt.NDArray[np.bool_], ids: Ids, wanted: Sequence[Wanted], overlap: float | None
    ) -> None:
        """Takes out of `allowed` (Q, F) the candidates (Q, F) of the same document, and those that overlap."""
        for row, one in enumerate(wanted):
            if one.document is not None:
                same = self.keys[self.document[ids[row]]] == np.uint64(one.document)
                allowed[row] &= ~same
        if overlap is None or not allowed.any():
            return
        chunk = self.manifest.chunk
        texts = np.full((len(wanted), 2 * chunk), -2, np.int64)  # not the -1 that passages end with
        for row, one in enumerate(wanted):
            text = np.concatenate((one.ids, one.behind))[: 2 * chunk]
            texts[row, : len(text)] = text
        pairs = np.nonzero(allowed)
        runs = longest_runs(texts[pairs[0]], self.passages(ids[pairs], 2 * chunk))
        allowed[pairs] = runs <= overlap * chunk


def open_database(folder: Path, decode: Decode, tokenizer: str) -> Database:
    """The database in `folder`.

    Args:
        folder: where it is. decode: ids to text. tokenizer: the fingerprint of the one that ids are of.

    Raises:
        IndexingError: none there, damaged, or of another tokenizer.
    """
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError:
        raise IndexingError(f"'{folder}' is no database of neighbours: it has no {MANIFEST}.") from None
    except pydantic.ValidationError:
        raise IndexingError(f"'{folder}' is damaged or of another version: remove it, and it is built anew.") from None
    if manifest.version != VERSION:
        raise IndexingError(f"'{folder}' is of version {manifest.version}, not {VERSION}. Remove it to build it anew.")
    for name, checksum in manifest.files.items():
        if not (folder / name).is_file() or _checksum(folder / name) != checksum:
            raise IndexingError(f"'{folder}' is damaged: {name} is missing or changed. Remove it to build it anew.")
    if manifest.tokenizer != tokenizer:
        raise IndexingError(f"'{folder}' holds the tokens of another tokenizer than the model's. Name another folder.")
    return Database(folder, manifest, decode)


def build(
    folder: Path, texts: Texts, decode: Decode, settings: NeighbourSettings, tokenizer: str, source: str
) -> Database:
    """The database of these texts, written to `folder`, which must not be there yet: whole or not at all.

    Raises:
        IndexingError: there is nothing to find, or `folder` cannot be written.
    """
    if not (texts.stops > texts.starts).any():
        raise IndexingError(f"'{folder}' cannot be built: there are no documents to find neighbours in.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as temporary:
            made = Path(temporary) / "database"
            made.mkdir()
            _write(made, texts, decode, settings, tokenizer, source)
            made.rename(folder)
    except OSError as error:
        raise IndexingError(f"'{folder}' cannot be written: {error.strerror}.") from None
    return open_database(folder, decode, tokenizer)


def _write(
    folder: Path, texts: Texts, decode: Decode, settings: NeighbourSettings, tokenizer: str, source: str
) -> None:
    """All files of the database; the manifest last."""
    offsets = np.concatenate(([0], np.cumsum(texts.stops - texts.starts))).astype(np.int64)
    with (folder / TOKENS).open("wb") as file:
        for start, stop in zip(texts.starts, texts.stops, strict=True):
            file.write(np.ascontiguousarray(texts.tokens[start:stop]).tobytes())
    np.savez(folder / DOCUMENTS, offsets=offsets, keys=np.asarray(texts.keys, np.uint64))
    tokens = np.memmap(folder / TOKENS, dtype=texts.tokens.dtype, mode="r")
    document, starts = _chunks(offsets, settings.chunk)
    stops = np.minimum(starts + settings.chunk, offsets[document + 1])
    embedder = build_embedder(settings.embedder)
    kept = list(_kept(tokens, starts, stops, decode, embedder))
    frequencies = _frequencies(kept)
    np.savez(folder / WORDS, terms=frequencies.terms, counts=frequencies.counts)
    shape = len(kept), embedder.dimension
    vectors = np.lib.format.open_memmap(folder / VECTORS, mode="w+", dtype=np.float32, shape=shape)
    for first in range(0, len(kept), AT_ONCE):
        vectors[first : first + AT_ONCE] = embedder.vectors(kept[first : first + AT_ONCE], frequencies)
    vectors.flush()
    manifest = Manifest(
        version=VERSION,
        chunk=settings.chunk,
        embedder=settings.embedder,
        tokenizer=tokenizer,
        source=source,
        documents=len(offsets) - 1,
        chunks=len(starts),
        tokens=int(offsets[-1]),
        dtype="uint16" if tokens.dtype == np.uint16 else "uint32",
        files={name: _checksum(folder / name) for name in (TOKENS, DOCUMENTS, WORDS, VECTORS)},
    )
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        file.write(manifest.model_dump_json(indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _kept(tokens: npt.NDArray[Any], starts: Ids, stops: Ids, decode: Decode, embedder: Embedder) -> Iterator[Kept]:
    """What the embedder needs of each chunk."""
    with Bar("neighbours", total=len(starts), unit="chunks") as bar:
        for first in range(0, len(starts), AT_ONCE):
            at = slice(first, first + AT_ONCE)
            texts = [decode(tokens[a:b].tolist()) for a, b in zip(starts[at], stops[at], strict=True)]
            for text, extra in zip(texts, embedder.keep(texts), strict=True):
                yield Kept(bag(words(text)), extra)
            bar.step(len(texts))


def _frequencies(kept: Sequence[Kept]) -> Frequencies:
    """In how many chunks each word is."""
    terms = np.frombuffer(b"".join(one.bag for one in kept), BAG)["term"]
    found, counts = np.unique(terms, return_counts=True)
    return Frequencies(len(kept), found, counts.astype(np.int64))


def _chunks(offsets: Ids, size: int) -> tuple[Ids, Ids]:
    """The document of each chunk, and where it begins (chunks,); the last one of a document may be shorter."""
    counts = -(-np.diff(offsets) // size)
    document = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    return document, offsets[document] + within * size


def _first(ids: Ids, allowed: npt.NDArray[np.bool_], k: int) -> Ids:
    """(Q, k): the first k of `ids` (Q, F) that are allowed, in order; -1 behind them."""
    rank = np.where(allowed, allowed.cumsum(1) - 1, k)
    found = np.full((len(ids), k + 1), -1, np.int64)
    np.put_along_axis(found, np.minimum(rank, k), np.where(rank < k, ids, -1), 1)
    return found[:, :k]


def _checksum(file: Path) -> str:
    checksum = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            checksum.update(block)
    return checksum.hexdigest()
