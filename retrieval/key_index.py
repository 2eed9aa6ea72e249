"""What finds the keys of a datastore: exact search of few, lists of many, with the ids of entries.

    keys.f16 ──> keys.flat, or keys.ivf        whole or not at all, with the folder that they are in

How many lists are looked at is measured when they are made, by keys that ask for others: `tuning`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from farfield.config import IndexingError
from farfield.progress import Bar
from farfield.retrieval.datastore import Finder, Floats, Ints
from farfield.retrieval.flat import Flat
from farfield.retrieval.inverted import Inverted
from farfield.retrieval.settings import VectorConfig
from farfield.retrieval.tuning import RECALL, Exam, build, sample_size, shape_for, tune

__all__ = ["index_keys", "open_keys"]

FLAT, LISTS = "keys.flat", "keys.ivf"
BLOCK = 1 << 15
QUESTIONS = 256
EXACT_BELOW = 50_000

Keys = npt.NDArray[np.float16]


def index_keys(folder: Path, keys: Keys) -> None:
    """Writes what finds keys (N, D) into `folder`. The same keys give the same index."""
    shape = shape_for(VectorConfig(kind="ivf"), len(keys)) if len(keys) >= EXACT_BELOW else None
    store: Flat | Inverted
    if shape is None:
        store = Flat(keys.shape[1])
        for ids, rows in _blocks(keys):
            store.add(ids, rows)
    else:
        drawn = np.random.default_rng(0)
        places = np.sort(drawn.choice(len(keys), sample_size(shape, len(keys)), replace=False))
        asked = np.sort(drawn.choice(len(keys), QUESTIONS, replace=False)).astype(np.int64)
        exam = Exam(keys[asked].astype(np.float32), asked)
        with Bar("key index", total=len(keys), unit="keys") as bar:
            store = build(shape, keys[places].astype(np.float32), _blocks(keys, bar), exam, gpu=False)
        tune(store, exam, RECALL)
    with (folder / (FLAT if shape is None else LISTS)).open("wb") as file:
        store.write(file.write)
        file.flush()
        os.fsync(file.fileno())


def open_keys(folder: Path) -> Finder:
    """What finds the keys of the datastore in `folder`.

    Raises:
        IndexingError: it is missing, or no index that was written here.
    """
    for name, kind in ((FLAT, Flat), (LISTS, Inverted)):
        file = folder / name
        if file.exists():
            try:
                with file.open("rb") as opened:
                    return _finder(kind.read(opened.read, file.stat().st_size))
            except ValueError as error:
                raise IndexingError(f"datastore: {name} in '{folder}' cannot be read ({error}).") from None
    raise IndexingError(f"datastore: '{folder}' has nothing to find keys by. Delete the folder and build it again.")


def _finder(store: Flat | Inverted) -> Finder:
    def find(questions: Floats, k: int) -> Ints:
        return store.search(questions, k).ids

    return find


def _blocks(keys: Keys, bar: Bar | None = None) -> Iterator[tuple[Ints, Floats]]:
    for first in range(0, len(keys), BLOCK):
        rows = keys[first : first + BLOCK].astype(np.float32)
        yield np.arange(first, first + len(rows), dtype=np.int64), rows
        if bar:
            bar.step(len(rows))
