"""Embedders of models on a Ray cluster: texts are embedded in the groups in which one process does, on all workers.

    with Cluster("10.0.0.1:6379") as cluster:
        ingest(settings, build=Spread(cluster).embedder)

Each worker loads the model once. Documents are read, cut and stored by the one process that writes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from itertools import chain

from pydantic import TypeAdapter

from farfield.cluster import Cluster
from farfield.config import IndexingError
from farfield.embedding.models import Models
from farfield.retrieval.embedders import Embedder, Kept, Matrix, blocks
from farfield.retrieval.settings import EmbedderConfig
from farfield.retrieval.words import Frequencies

__all__ = ["Spread"]


class Spread:
    """Embedders whose work is spread over a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def embedder(self, config: EmbedderConfig) -> Embedder:
        """The embedder that `config` describes; one that needs no model as it is.

        Raises:
            IndexingError or ModelError: its model cannot be loaded.
        """
        own = Models().embedder(config)
        return _SpreadEmbedder(own, config, self.cluster) if own.reads else own


class _SpreadEmbedder:
    """An embedder that keeps texts by its cluster, and does everything else itself."""

    def __init__(self, own: Embedder, config: EmbedderConfig, cluster: Cluster) -> None:
        self._own, self._config, self._cluster = own, json.dumps(config.mapping()), cluster
        self.name, self.version, self.dimension = own.name, own.version, own.dimension
        self.centred, self.reads, self.steady = own.centred, own.reads, own.steady

    def keep(self, texts: Sequence[str]) -> Sequence[bytes | None]:
        """As in one process.

        Raises:
            IndexingError: a worker has another model under this name.
        """
        asked = [(self._config, self.version, list(block)) for block in blocks(texts)]
        return list(chain.from_iterable(self._cluster.map(_kept, asked)))

    def vectors(self, passages: Sequence[Kept], frequencies: Frequencies) -> Matrix:
        """(passages, dimension)."""
        return self._own.vectors(passages, frequencies)

    def questions(self, texts: Sequence[str], bags: Sequence[bytes], frequencies: Frequencies) -> Matrix:
        """(questions, dimension)."""
        return self._own.questions(texts, bags, frequencies)


def _kept(asked: tuple[str, str, list[str]]) -> Sequence[bytes | None]:
    """On a worker: what is kept of a group of texts, by the embedder of these settings and this version."""
    config, version, texts = asked
    embedder = _loaded(config)
    if embedder.version != version:
        _loaded.cache_clear()  # trained further since it was loaded
        embedder = _loaded(config)
    if embedder.version != version:
        raise IndexingError(f"embedder '{embedder.name}': a worker of the cluster has other weights under this name.")
    return embedder.keep(texts)


@functools.lru_cache(maxsize=2)
def _loaded(config: str) -> Embedder:
    settings: EmbedderConfig = TypeAdapter(EmbedderConfig).validate_json(config)
    return Models().embedder(settings)
