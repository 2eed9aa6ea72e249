"""A datastore of contexts (kNN-LM, Khandelwal et al. 2020, https://arxiv.org/abs/1911.00172).

    entry i    key (D,)     what a model made of the tokens up to one place of a document, as a unit vector
               value        the token that came next there
               i + 1        the entry of the place behind it, unless the document ends there

    <folder>/
        keys.f16         (N, D) float16, memory-mapped
        values.u32       (N,) uint32
        bounds.npy       (documents + 1,) int64: document d has the entries bounds[d] to bounds[d + 1]
        keys.ivf         what finds keys, or keys.flat: see `key_index`
        clusters.npy     (N,) int32, of entries whose keys lie together: see `automaton`
        datastore.json   what made it, and the checksums of these files

A datastore knows its own size. It is built beside its place, goes on where a build was stopped, and appears whole.
Distances are squared and Euclidean, between unit vectors: from 0 to 4. What the search finds is measured again by the
keys, so that no distance is a quantiser's.

Shapes: N entries, D width of a key, Q questions, K neighbours.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from farfield.config import Config, IndexingError

__all__ = ["Datastore", "DatastoreFacts", "DatastoreWriter", "Finder", "Neighbours", "open_datastore"]

KEYS, VALUES, BOUNDS, FACTS, PROGRESS = "keys.f16", "values.u32", "bounds.npy", "datastore.json", "progress.json"
VERSION = 1
BLOCK = 1 << 22
MEASURED = 1 << 24  # numbers of keys that are looked at in one go

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Finder = Callable[[Floats, int], Ints]
"""The ids (Q, K) of the nearest keys to questions (Q, D), -1 where there are no more."""


class DatastoreFacts(Config):
    """datastore.json: what the keys are, of which model and text, and the SHA-256 of each file."""

    version: int
    maker: str
    source: str
    dimension: int
    entries: int
    documents: int
    sums: dict[str, str]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """What stands near: entries (Q, K), -1 for none, their values (Q, K), and distances (Q, K), infinite there."""

    entries: Ints
    values: Ints
    distances: Floats


class Datastore:
    """A whole datastore, open for search from any number of threads."""

    def __init__(self, folder: Path, facts: DatastoreFacts, find: Finder) -> None:
        self.folder, self.facts, self._find = folder, facts, find
        shape = (facts.entries, facts.dimension)
        self.keys: npt.NDArray[np.float16] = np.asarray(np.memmap(folder / KEYS, np.float16, "r", shape=shape))
        self.values: npt.NDArray[np.uint32] = np.asarray(np.memmap(folder / VALUES, np.uint32, "r"))
        self.bounds: Ints = np.load(folder / BOUNDS)

    def __len__(self) -> int:
        """Number of entries."""
        return self.facts.entries

    def documents(self, entries: Ints) -> Ints:
        """The document of each entry."""
        return np.searchsorted(self.bounds, entries, side="right").astype(np.int64) - 1

    def following(self, entries: Ints) -> Ints:
        """The entries (n,) behind those (n,) that are not the last of their document, in order."""
        behind = entries + 1
        inside = self.documents(entries) == self.documents(np.minimum(behind, len(self) - 1))
        found: Ints = behind[inside & (behind < len(self))]
        return found

    def search(self, questions: Floats, k: int, without: Ints | None = None) -> Neighbours:
        """The `k` nearest entries to questions (Q, D), or all, the nearest first; of equal ones the lowest.

        Args:
            questions: keys, of any length. k: how many.
            without: (Q,) a document for each question whose entries it does not see; -1 for none.
        """
        asked, k = unit(questions), min(k, len(self))
        found = self._find(asked, k)
        if without is None:
            return self._measured(asked, found, k)
        fetched = k
        while True:
            barred = (found >= 0) & (self.documents(found) == without[:, None])
            short = ((found >= 0) & ~barred).sum(1) < np.minimum(k, self._others(without))
            if not short.any() or fetched >= len(self):  # an index of lists may know of no more
                return self._measured(asked, np.where(barred, -1, found), k)
            fetched = min(4 * fetched, len(self))
            found = self._find(asked, fetched)

    def measure(self, question: Floats, entries: Ints) -> Floats:
        """Distances (n,) of entries (n,) to one question (D,)."""
        keys = self.keys[entries].astype(np.float32)
        found: Floats = np.maximum(2 - 2 * (keys @ unit(question[None])[0]), 0)
        return found

    def _others(self, without: Ints) -> Ints:
        """How many entries each question sees."""
        sizes = np.append(np.diff(self.bounds), 0)
        return len(self) - sizes[np.where(without < 0, len(sizes) - 1, without)]

    def _measured(self, asked: Floats, found: Ints, k: int) -> Neighbours:
        """The nearest `k` of what was found (Q, any number), by their keys."""
        distances = np.full(found.shape, np.inf, np.float32)
        step = max(1, MEASURED // max(1, found.shape[1] * self.facts.dimension))
        for first in range(0, len(found), step):
            part = slice(first, first + step)
            keys = self.keys[np.maximum(found[part], 0)].astype(np.float32)
            near = np.maximum(2 - 2 * np.einsum("qkd,qd->qk", keys, asked[part], optimize=True), 0)
            distances[part] = np.where(found[part] >= 0, near, np.inf)
        order = np.lexsort((found, distances))[:, :k]
        entries, distances = np.take_along_axis(found, order, 1), np.take_along_axis(distances, order, 1)
        values = np.where(entries >= 0, self.values[np.maximum(entries, 0)].astype(np.int64), -1)
        return Neighbours(entries, values, distances)


def unit(rows: Floats) -> Floats:
    """`rows` (n, D) at length one; zeros stay."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)


class DatastoreWriter:
    """Builds a datastore, document by document; use it as a context. A build that was stopped goes on.

        with DatastoreWriter(folder, maker, source, dimension) as writer:
            for document in documents[writer.documents:]:
                writer.add(keys, values)
                writer.end()
            writer.finish(derive)

    Raises:
        IndexingError: the folder cannot be written to. One process at a time may build: nothing holds others off.
    """

    def __init__(self, folder: Path, maker: str, source: str, dimension: int) -> None:
        self.folder, self.maker, self.source, self.dimension = folder, maker, source, dimension
        self.place = folder.with_name(f".{folder.name}.building")
        self._bounds = [0]

    def __enter__(self) -> DatastoreWriter:
        try:
            self._begin()
        except OSError as error:
            raise IndexingError(f"datastore: '{self.folder}' cannot be written: {error.strerror}.") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keys.close()
        self._values.close()

    @property
    def documents(self) -> int:
        """How many are in it already."""
        return len(self._bounds) - 1

    @property
    def entries(self) -> int:
        """Entries of whole documents."""
        return self._bounds[-1]

    def add(self, keys: Floats, values: npt.NDArray[np.integer]) -> None:
        """More entries of the open document: keys (n, D) of any length, and values (n,)."""
        if keys.shape != (len(values), self.dimension) or not np.isfinite(keys).all():
            raise IndexingError(f"datastore: keys of {keys.shape} for {len(values)} tokens, or not finite.")
        self._keys.write(unit(keys).astype(np.float16).tobytes())
        self._values.write(values.astype(np.uint32).tobytes())
        self._open += len(values)

    def end(self) -> None:
        """The open document is whole. What is on the disk from here on stays."""
        for file in (self._keys, self._values):
            file.flush()
            os.fsync(file.fileno())
        self._bounds.append(self._open)
        self._note()

    def finish(self, derive: Callable[[Path, npt.NDArray[np.float16]], None]) -> None:
        """Moves the whole into its place, with what `derive` makes of the keys (N, D) in the folder it is given."""
        if not self.entries:
            raise IndexingError("datastore: the texts hold no token to learn from.")
        np.save(self.place / BOUNDS, np.array(self._bounds, np.int64))
        keys = np.memmap(self.place / KEYS, np.float16, "r", shape=(self.entries, self.dimension))
        derive(self.place, np.asarray(keys))
        (self.place / PROGRESS).unlink()
        sums = {file.name: checksum(file) for file in sorted(self.place.iterdir())}
        facts = DatastoreFacts(
            version=VERSION,
            maker=self.maker,
            source=self.source,
            dimension=self.dimension,
            entries=self.entries,
            documents=self.documents,
            sums=sums,
        )
        (self.place / FACTS).write_text(facts.model_dump_json(indent=2) + "\n", encoding="utf-8")
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.place.rename(self.folder)

    def _begin(self) -> None:
        """Opens the files where the last whole document ended."""
        self.place.mkdir(parents=True, exist_ok=True)
        try:
            said = json.loads((self.place / PROGRESS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            said = {}
        same = {key: said.get(key) for key in self._marks()} == self._marks()
        if not same:  # what another build has left
            shutil.rmtree(self.place)
            self.place.mkdir()
        self._bounds = said["bounds"] if same else [0]
        self._open = self._bounds[-1]
        self._keys, self._values = ((self.place / name).open("r+b" if same else "w+b") for name in (KEYS, VALUES))
        for file, size in ((self._keys, 2 * self.dimension), (self._values, 4)):
            file.truncate(self._open * size)
            file.seek(0, os.SEEK_END)
        self._note()

    def _marks(self) -> dict[str, object]:
        return {"version": VERSION, "maker": self.maker, "source": self.source, "dimension": self.dimension}

    def _note(self) -> None:
        """Writes down how far it is."""
        temporary = self.place / f"{PROGRESS}.tmp"
        temporary.write_text(json.dumps({**self._marks(), "bounds": self._bounds}), encoding="utf-8")
        temporary.replace(self.place / PROGRESS)


def open_datastore(folder: Path, maker: str, index: Callable[[Path], Finder], verify: bool = False) -> Datastore:
    """The datastore in `folder`, which a model called `maker` made.

    Args:
        folder: its place. maker: stands for the model whose keys are looked for.
        index: opens what finds its keys, given the folder.
        verify: read the keys too, to compare them with their checksum; the other files always are.

    Raises:
        IndexingError: there is none, it is damaged, or it is of another model.
    """
    try:
        facts = DatastoreFacts.model_validate_json((folder / FACTS).read_bytes())
    except OSError:
        raise IndexingError(f"datastore: there is none at '{folder}'. Name texts to build it from.") from None
    except ValidationError:
        raise _damaged(folder, FACTS) from None
    if facts.maker != maker:
        raise IndexingError(
            f"datastore: '{folder}' is of another model, or of other weights of it. Build one of this model elsewhere."
        )
    if facts.version != VERSION:
        raise IndexingError(f"datastore: '{folder}' is of version {facts.version}; this one reads {VERSION}.")
    for name, expected in facts.sums.items():
        if name == KEYS and not _is_of_size(folder / name, 2 * facts.entries * facts.dimension):
            raise _damaged(folder, name)
        if (verify or name != KEYS) and checksum(folder / name) != expected:
            raise _damaged(folder, name)
    return Datastore(folder, facts, index(folder))


def _is_of_size(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size


def checksum(file: Path) -> str:
    """SHA-256 of a file; empty if it is not there."""
    found = hashlib.sha256()
    try:
        for block in _blocks(file):
            found.update(block)
    except FileNotFoundError:
        return ""
    return found.hexdigest()


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while block := opened.read(BLOCK):
            yield block


def _damaged(folder: Path, name: str) -> IndexingError:
    return IndexingError(
        f"datastore: {name} in '{folder}' is missing or damaged. Delete the folder and build it again."
    )
