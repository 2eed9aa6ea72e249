"""The vectors of an index: a file derived from the database, beside it, that can be lost at any time.

    vectors.faiss     the FAISS index
    vectors.json      its manifest: SHA-256 of that file, and which database, generation and embedder it was made of

Each is written to a temporary file, synced, and moved into place. After a kill between the two moves, or a flipped bit,
the checksum does not fit; a file that does not fit its manifest, or is of another database, is never searched.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pydantic

from farfield.config import Config
from farfield.progress import Bar
from farfield.retrieval.embedders import Embedder, Matrix, unit
from farfield.retrieval.faiss_library import faiss_version
from farfield.retrieval.flat import Flat
from farfield.retrieval.store import Snapshot, State
from farfield.retrieval.vector_store import FileStore, Ids

__all__ = [
    "DAMAGED",
    "MANIFEST",
    "MISSING",
    "OLDER",
    "RETRAINED",
    "VECTORS",
    "Manifest",
    "UnusableError",
    "Vectors",
    "load",
    "make",
    "rebuilt",
    "renew",
    "save",
]

VECTORS = "vectors.faiss"
MANIFEST = "vectors.json"
TEMPORARY = ".tmp"
BLOCK = 1 << 20
CHUNKS_AT_ONCE = 1024
CHUNKS_WITHOUT_BAR = 50_000

MISSING, DAMAGED, OLDER = "is missing", "is damaged", "is older than the documents"
RETRAINED = "was made by other weights of the model"


class Manifest(Config):
    """What the vector file is, and what it was made of."""

    sha256: str
    database: str
    generation: int
    embedder: str
    version: str
    dimension: int
    count: int
    faiss: str
    centre: tuple[float, ...] | None


class UnusableError(Exception):
    """The vector file cannot be searched. The text says why, as the end of 'the vector file ...'."""


@dataclass(frozen=True)
class Vectors:
    """The vectors of one generation of one database; never changed once made.

    They are those of the passages that the embedder's own weights embedded, counted from `centre` (dimension,), where
    the embedder has its vectors centred.
    """

    store: FileStore
    database: str
    generation: int
    centre: Matrix | None = None

    def fits(self, state: State) -> bool:
        """Whether they hold what the database holds now."""
        return (self.database, self.generation) == (state.database, state.generation)

    def aimed(self, rows: Matrix) -> Matrix:
        """What an embedder gives (n, dimension), as the store has it: counted from the centre, of length one."""
        return rows if self.centre is None else unit(rows.astype(np.float64) - self.centre)


def make(snapshot: Snapshot, embedder: Embedder) -> Vectors:
    """The vectors of all chunks in a snapshot, in the order that does not tell how the index came about."""
    flat = Flat(embedder.dimension)
    frequencies = snapshot.frequencies()
    order = snapshot.order(embedder.version)
    centre = _centre(snapshot, embedder, order) if embedder.centred else None
    made = Vectors(flat, snapshot.state.database, snapshot.state.generation, centre)
    bar = Bar("vectors", total=len(order), unit="chunks") if len(order) > CHUNKS_WITHOUT_BAR else None
    with bar or nullcontext():
        for first in range(0, len(order), CHUNKS_AT_ONCE):
            ids = order[first : first + CHUNKS_AT_ONCE]
            flat.add(ids, made.aimed(embedder.vectors(snapshot.kept(ids.tolist()), frequencies)))
            if bar:
                bar.step(len(ids))
    return made


def _centre(snapshot: Snapshot, embedder: Embedder, order: Ids) -> Matrix:
    """The mean (dimension,) of all vectors, the same however the index came about."""
    total, frequencies = np.zeros(embedder.dimension), snapshot.frequencies()
    for first in range(0, len(order), CHUNKS_AT_ONCE):
        kept = snapshot.kept(order[first : first + CHUNKS_AT_ONCE].tolist())
        total += embedder.vectors(kept, frequencies).sum(axis=0, dtype=np.float64)
    return (total / max(len(order), 1)).astype(np.float32)


def save(folder: Path, vectors: Vectors, embedder: Embedder) -> None:
    """Writes the vectors and their manifest. Whoever calls holds the right to write to the index."""
    for left in folder.glob(f"*{TEMPORARY}"):
        left.unlink(missing_ok=True)
    checksum = hashlib.sha256()

    def write(sink: Callable[[bytes], object]) -> None:
        def pass_on(block: bytes) -> None:
            checksum.update(block)
            sink(block)

        vectors.store.write(pass_on)

    _replace(folder / VECTORS, write)
    manifest = Manifest(
        sha256=checksum.hexdigest(),
        database=vectors.database,
        generation=vectors.generation,
        embedder=embedder.name,
        version=embedder.version,
        centre=None if vectors.centre is None else tuple(vectors.centre.tolist()),
        dimension=vectors.store.dimension,
        count=vectors.store.count,
        faiss=faiss_version(),
    )
    text = manifest.model_dump_json(indent=2).encode() + b"\n"
    _replace(folder / MANIFEST, lambda sink: sink(text))


def renew(
    folder: Path, snapshot: Snapshot, embedder: Embedder, held: Vectors | None = None
) -> tuple[Vectors, UnusableError | None]:
    """Vectors for a snapshot: those on the disk, or new ones, which are saved, and why that had to be.

    Whoever calls holds the right to write to the index.
    """
    try:
        stored = load(folder, snapshot.state, embedder, held)
        if stored.generation >= snapshot.state.generation:
            return stored, None
        reason = UnusableError(OLDER)
    except UnusableError as error:
        reason = error
    made = make(snapshot, embedder)
    save(folder, made, embedder)
    return made, reason


def rebuilt(name: str, reason: UnusableError, made: Vectors, seconds: float) -> str:
    """One line that says that, and why, the vectors of index `name` were made anew."""
    done = f"rebuilt from the database ({made.store.count} chunks, {seconds:.1f} s)"
    return f"index '{name}': the vector file {reason}; {done}"


def load(folder: Path, state: State, embedder: Embedder, held: Vectors | None = None) -> Vectors:
    """The vectors on the disk, of whatever generation; `held` if they are the same.

    Raises:
        UnusableError: they are missing or damaged, or belong to another database or embedder.
    """
    manifest = _manifest(folder)
    if (manifest.embedder, manifest.database) != (embedder.name, state.database):
        raise UnusableError("belongs to another index")
    if manifest.version != embedder.version:
        raise UnusableError(RETRAINED)
    if held and (held.database, held.generation) == (manifest.database, manifest.generation):
        return held
    try:
        with (folder / VECTORS).open("rb") as file:
            _verify(file, manifest)
            flat = Flat.read(file.read, os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        raise UnusableError(MISSING) from None
    except (OSError, ValueError) as error:
        raise UnusableError(DAMAGED) from error
    if (flat.count, flat.dimension) != (manifest.count, embedder.dimension):
        raise UnusableError(DAMAGED)
    centre = None if manifest.centre is None else np.array(manifest.centre, np.float32)
    return Vectors(flat, manifest.database, manifest.generation, centre)


def _manifest(folder: Path) -> Manifest:
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise UnusableError(MISSING) from None
    except (OSError, pydantic.ValidationError):
        raise UnusableError(DAMAGED) from None


def _verify(file: BinaryIO, manifest: Manifest) -> None:
    """Raises UnusableError unless `file` is what the manifest says; FAISS loads flipped bits without a word."""
    checksum = hashlib.sha256()
    while block := file.read(BLOCK):
        checksum.update(block)
    if checksum.hexdigest() != manifest.sha256:
        raise UnusableError(DAMAGED)
    file.seek(0)


def _replace(file: Path, write: Callable[[Callable[[bytes], object]], object]) -> None:
    """Puts what `write` hands to its sink in place of `file`: afterwards it holds all of it, or what it held before."""
    temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        with temporary.open("xb") as out:
            write(out.write)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(file.parent)


def _sync_folder(folder: Path) -> None:
    """Makes a move last through a power cut, where the system can (Windows cannot)."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
