"""The vectors of an index: a file derived from the database, beside it, that can be lost at any time.

    vectors.faiss           the FAISS index, and the ids of its rows
    vectors.json            its manifest: SHA-256 of that file, which database, generation and embedder it was made of,
                            how it was made, and the recall that was measured then
    vectors.settings.json   how the user wants them kept, where that is not the default

Files are written to temporary ones, synced, and moved into place. After a kill between two moves, or a flipped bit, the
checksum does not fit; a file that does not fit its manifest, or is of another database, is never searched.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import pydantic

from farfield.config import Config, IndexingError
from farfield.retrieval import qdrant
from farfield.retrieval.embedders import Embedder
from farfield.retrieval.faiss_library import faiss_version
from farfield.retrieval.flat import Flat
from farfield.retrieval.inverted import Inverted
from farfield.retrieval.making import Made, Stop, UnusableError, Vectors, make, never, updated
from farfield.retrieval.settings import VectorConfig
from farfield.retrieval.store import Snapshot, State

__all__ = [
    "CHANGED",
    "DAMAGED",
    "MANIFEST",
    "MISSING",
    "OLDER",
    "RETRAINED",
    "SETTINGS",
    "VECTORS",
    "Manifest",
    "load",
    "rebuilt",
    "renew",
    "save",
    "want",
    "wanted",
]

VECTORS = "vectors.faiss"
MANIFEST = "vectors.json"
SETTINGS = "vectors.settings.json"
TEMPORARY = ".tmp"
BLOCK = 1 << 20
TORN_SECONDS = 0.1

MISSING, DAMAGED, OLDER = "is missing", "is damaged", "is older than the documents"
RETRAINED = "was made by other weights of the model"
CHANGED = "was made with other settings"


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
    centre: tuple[float, ...] | None = None
    settings: VectorConfig
    kind: Literal["flat", "ivf", "pq"]
    trained: int
    lists: int | None = None
    probe: int | None = None
    factor: int | None = None
    recall: float | None = None
    questions: int | None = None

    @property
    def made(self) -> Made:
        """How the store was made."""
        return Made(self.kind, self.trained, self.lists, self.probe, self.factor, self.recall, self.questions)


def wanted(folder: Path) -> VectorConfig:
    """How the vectors of the index in `folder` are to be kept.

    Raises:
        IndexingError: the file that says so cannot be read.
    """
    file = folder / SETTINGS
    try:
        return VectorConfig.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return VectorConfig()
    except (OSError, pydantic.ValidationError):
        raise IndexingError(
            f"{file} is damaged. Delete it, and ingest again with the settings 'vectors' that it held."
        ) from None


def want(folder: Path, settings: VectorConfig) -> VectorConfig:
    """Keeps `settings` for the index in `folder`, with those that it has for what is null; returns all of them."""
    old = wanted(folder)
    new = settings.over(old)
    if new != old:
        _replace((folder / SETTINGS, _text(new)))
    return new


def save(folder: Path, vectors: Vectors, embedder: Embedder, settings: VectorConfig) -> None:
    """Writes the vectors and their manifest. Whoever calls holds the right to write to the index."""
    for left in folder.glob(f"*{TEMPORARY}"):
        left.unlink(missing_ok=True)
    checksum = hashlib.sha256()
    store = vectors.store
    assert isinstance(store, Flat | Inverted)

    def write(sink: Callable[[bytes], object]) -> None:
        def pass_on(block: bytes) -> None:
            checksum.update(block)
            sink(block)

        store.write(pass_on)

    def tell(sink: Callable[[bytes], object]) -> None:
        manifest = Manifest(
            sha256=checksum.hexdigest(),
            database=vectors.database,
            generation=vectors.generation,
            embedder=embedder.name,
            version=embedder.version,
            centre=None if vectors.centre is None else tuple(vectors.centre.tolist()),
            dimension=store.dimension,
            count=store.count,
            faiss=faiss_version(),
            settings=settings,
            **asdict(vectors.made),
        )
        _text(manifest)(sink)

    _replace((folder / VECTORS, write), (folder / MANIFEST, tell))


def renew(
    folder: Path,
    snapshot: Snapshot,
    embedder: Embedder,
    settings: VectorConfig,
    held: Vectors | None = None,
    gpu: bool = False,
    stop: Stop = never,
) -> tuple[Vectors, UnusableError | None]:
    """Vectors for a snapshot: those on the disk, if need be with what is new, or new ones; and why that had to be.

    Whoever calls holds the right to write to the index.
    """
    if settings.kind == "qdrant":
        for file in (VECTORS, MANIFEST):
            (folder / file).unlink(missing_ok=True)
        return qdrant.renew(settings, snapshot, embedder, stop)
    made = None
    try:
        current = _manifest(folder).settings == settings
        stored = load(folder, snapshot.state, embedder, held if current else None)
        if current and stored.generation >= snapshot.state.generation:
            return stored, None
        reason = UnusableError(OLDER if current else CHANGED)
        if current and embedder.steady:
            own = load(folder, snapshot.state, embedder) if stored is held else stored
            made = updated(own, snapshot, embedder, settings, gpu, stop)
    except UnusableError as error:
        reason = error
    made = made or make(snapshot, embedder, settings, gpu, stop)
    save(folder, made, embedder, settings)
    return made, reason


def rebuilt(name: str, reason: UnusableError, made: Vectors, seconds: float) -> str:
    """One line that says that, and why, the vectors of index `name` were made anew."""
    done = f"rebuilt from the database ({made.store.count} chunks, {seconds:.1f} s)"
    where = "collection" if made.made.kind == "qdrant" else "file"
    return f"index '{name}': the vector {where} {reason}; {done}"


def load(folder: Path, state: State, embedder: Embedder, held: Vectors | None = None) -> Vectors:
    """The vectors on the disk, of whatever generation; `held` if they are the same.

    Raises:
        UnusableError: they are missing or damaged, or belong to another database or embedder.
    """
    settings = wanted(folder)
    if settings.kind == "qdrant":
        if held and held.made.kind == "qdrant" and held.fits(state.database, state.generation):
            return held
        return qdrant.load(settings, state, embedder)
    manifest = _manifest(folder)
    while True:
        try:
            return _load(folder, manifest, state, embedder, held)
        except UnusableError:
            time.sleep(TORN_SECONDS)  # a writer may stand between its two moves
            newer = _manifest(folder)
            if newer == manifest:
                raise
            manifest = newer


def _load(folder: Path, manifest: Manifest, state: State, embedder: Embedder, held: Vectors | None) -> Vectors:
    """The vectors that `manifest` tells of."""
    if (manifest.embedder, manifest.database) != (embedder.name, state.database):
        raise UnusableError("belongs to another index")
    if manifest.version != embedder.version:
        raise UnusableError(RETRAINED)
    if held and held.fits(manifest.database, manifest.generation) and held.made == manifest.made:
        return held
    try:
        with (folder / VECTORS).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            _verify(file, manifest)
            store = (Flat if manifest.kind == "flat" else Inverted).read(file.read, size)
    except FileNotFoundError:
        raise UnusableError(MISSING) from None
    except (OSError, ValueError) as error:
        raise UnusableError(DAMAGED) from error
    kind = store.shape.kind if isinstance(store, Inverted) else "flat"
    if (store.count, store.dimension, kind) != (manifest.count, embedder.dimension, manifest.kind):
        raise UnusableError(DAMAGED)
    centre = None if manifest.centre is None else np.array(manifest.centre, np.float32)
    return Vectors(store, manifest.database, manifest.generation, manifest.made, centre)


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


def _text(settings: Config) -> Callable[[Callable[[bytes], object]], object]:
    """Writes settings, for a person too."""
    return lambda sink: sink(settings.model_dump_json(indent=2, exclude_none=True).encode() + b"\n")


Part = tuple[Path, Callable[[Callable[[bytes], object]], object]]


def _replace(*parts: Part) -> None:
    """Puts what each part hands to its sink in place of its file, whole or not at all; all are written before the first
    is moved, so that next to no time passes between the moves.
    """
    with ExitStack() as stack:
        temporaries = []
        for file, write in parts:
            temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex}{TEMPORARY}")
            stack.callback(temporary.unlink, missing_ok=True)
            with temporary.open("xb") as out:
                write(out.write)
                out.flush()
                os.fsync(out.fileno())
            temporaries.append((temporary, file))
        for temporary, file in temporaries:
            temporary.replace(file)
        _sync_folder(temporaries[0][1].parent)


def _sync_folder(folder: Path) -> None:
    """Makes a move last through a power cut, where the system can (Windows cannot)."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
