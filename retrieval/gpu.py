"""Searching an index of FAISS on a GPU: a copy there, the original staying where it is.

A GPU finds at most 2,048 vectors in at most 2,048 lists at a time, and knows no filters and no 4-bit codes: such
searches go to the original. Ids are the same; scores may round otherwise.
"""

from __future__ import annotations

import threading
from typing import Any

from farfield.config import ConfigError
from farfield.retrieval.embedders import Matrix
from farfield.retrieval.faiss_library import library
from farfield.retrieval.vector_store import Ids

__all__ = ["MOST", "GpuCopy", "require_gpu", "train_on_gpu"]

MOST = 2048


def require_gpu() -> None:
    """Raises a ConfigError unless FAISS was built for a GPU, and there is one."""
    faiss = library()
    if not hasattr(faiss, "StandardGpuResources"):
        raise ConfigError(
            "device: cuda given, but the FAISS installed has no part for GPUs."
            " Install 'farfield[gpu]' in the place of 'farfield[cpu]', or use device=cpu."
        )
    if faiss.get_num_gpus() < 1:
        raise ConfigError("device: cuda given, but FAISS finds no GPU. Use device=cpu.")


class GpuCopy:
    """A copy of a FAISS index on the first GPU, for any number of threads, one after another.

    Raises:
        ConfigError: there is no GPU.
    """

    def __init__(self, index: Any) -> None:
        require_gpu()
        faiss = library()
        self._resources = faiss.StandardGpuResources()
        self._index = faiss.index_cpu_to_gpu(self._resources, 0, index)
        self._searching = threading.Lock()

    def search(self, questions: Matrix, k: int, params: Any = None) -> tuple[Matrix, Ids]:
        """As the index itself: scores and rows (q, k)."""
        with self._searching:
            scores, rows = self._index.search(questions, k, params=params)
        return scores, rows


def train_on_gpu(lists: Any) -> None:
    """The lists of an index that is not trained yet will be found on the GPU."""
    require_gpu()
    faiss = library()
    lists.clustering_index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, faiss.IndexFlatIP(lists.d))
