"""From settings to embedders and re-rankers; a model that both need is loaded once."""

from __future__ import annotations

from pathlib import Path

from farfield.config import ConfigError
from farfield.embedding.hidden import HiddenStates
from farfield.embedding.sentences import CrossEncoder, SentenceStates
from farfield.retrieval.embedders import Embedder, build_embedder
from farfield.retrieval.rerank import Late, Reranker
from farfield.retrieval.settings import (
    EmbedderConfig,
    HashedConfig,
    HiddenConfig,
    RerankConfig,
    SentenceTransformersConfig,
)

__all__ = ["Models"]

States = HiddenStates | SentenceStates


class Models:
    """The models of one open index."""

    def __init__(self) -> None:
        self._loaded: dict[HiddenConfig | SentenceTransformersConfig, States] = {}

    def embedder(self, config: EmbedderConfig) -> Embedder:
        """The embedder that `config` describes.

        Raises:
            IndexingError or ModelError: its model cannot be loaded.
        """
        return build_embedder(config) if isinstance(config, HashedConfig) else self._states(config).embedder()

    def reranker(self, config: RerankConfig, embedder: EmbedderConfig | None) -> Reranker:
        """The re-ranker that `config` describes, of an index with this embedder (None: one that was handed in).

        Raises:
            ConfigError: no model is named, and the embedder is none. IndexingError or ModelError: as above.
        """
        if config.kind == "cross_encoder":
            return CrossEncoder(config.model or "")
        chosen = _named(config.model) if config.model else embedder
        if chosen is None or isinstance(chosen, HashedConfig):
            raise ConfigError(
                "retrieval.rerank.model: none given, and the index's embedder has no states of tokens. Add"
                " retrieval.rerank.model=<a run, or a folder of sentence-transformers>."
            )
        read = self._states(chosen)
        return Late(read.states, read.centred)

    def _states(self, config: HiddenConfig | SentenceTransformersConfig) -> States:
        if config not in self._loaded:
            made = HiddenStates(config) if isinstance(config, HiddenConfig) else SentenceStates(config)
            self._loaded[config] = made
        return self._loaded[config]


def _named(model: str) -> HiddenConfig | SentenceTransformersConfig:
    """What stands in a folder: sentence-transformers have a modules.json, everything else is ours."""
    if (Path(model).expanduser() / "modules.json").is_file():
        return SentenceTransformersConfig(model=model)
    return HiddenConfig(model=model)
