"""The one place that loads FAISS, sets its threads, and reads its files.

Threads. FAISS searches many questions with all threads that OpenMP has; one question starts none. A process forked off
after threads were started would hang in its first search (faiss#5206), since they are not in the child: the child
searches with one thread, and is told so as it begins. Nothing here imports `faiss.contrib.torch_utils`, which
breaks searches with parameters for the whole process.

Files. The reader is a C++ parser. Nothing in a file has more parts than the file has bytes, and what is made of it is
no larger than a few times the file, so FAISS's limits, a terabyte otherwise, are lowered to the file at hand.
"""

from __future__ import annotations

import functools
import importlib
import os
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from farfield.config import IndexingError
from farfield.retrieval.vector_store import Ids

__all__ = ["chosen_rows", "faiss_version", "library", "read_index", "write_index"]

BLOCK = 1 << 20
TABLES = 1 << 26

reading = threading.Lock()


def library() -> ModuleType:
    """The module `faiss`.

    Raises:
        IndexingError: it is not installed.
    """
    try:
        faiss = importlib.import_module("faiss")
    except ImportError as error:
        raise IndexingError(
            f"an index needs FAISS, which cannot be loaded ({error}). Install it with: pip install 'farfield[cpu]'"
        ) from error
    _calm_children()
    return faiss


@functools.cache
def _calm_children() -> None:
    """From now on a process that is forked off has one thread in FAISS."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: importlib.import_module("faiss").omp_set_num_threads(1))


def faiss_version() -> str:
    """The version of FAISS in use."""
    return str(library().__version__)


def chosen_rows(rows: Ids, total: int) -> Any:
    """A selector of `rows` for a search, of an index of `total` rows: a bit a row. It holds what it points to."""
    bits = np.zeros(total, bool)
    bits[rows] = True
    return library().IDSelectorBitmap(np.packbits(bits, bitorder="little"))


def write_index(index: Any, sink: Callable[[bytes], object]) -> None:
    """Hands a FAISS index to `sink`, block by block."""
    faiss = library()
    faiss.write_index(index, faiss.PyCallbackIOWriter(sink, BLOCK))


def read_index(source: Callable[[int], bytes], size: int) -> Any:
    """The FAISS index that stands at the beginning of `source`, of which `size` bytes are left.

    Raises:
        ValueError: there is none.
    """
    faiss = library()
    with reading:
        faiss.set_deserialization_vector_byte_limit(4 * size + TABLES)
        faiss.set_deserialization_loop_limit(max(size, 1))
        try:
            return faiss.read_index(faiss.PyCallbackIOReader(source, BLOCK))
        except (RuntimeError, MemoryError) as error:
            raise ValueError(f"FAISS cannot read it: {error}") from error
