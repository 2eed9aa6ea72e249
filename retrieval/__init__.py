"""Retrieval: documents -> chunks -> an index -> the passages that answer a question -> a prompt.

    ingest(IngestConfig(path="docs", index="handbook"))
    with open_index("handbook") as index:
        hits = index.search("Who signs for it?", k=3)

The database (SQLite) is the truth; the vectors (FAISS) are derived from it and rebuilt when they are lost. Read
`store.py` for what is kept, `vectors.py` for what is derived, `index.py` for a search from end to end.
"""

from farfield.retrieval.chunks import Chunk, cut
from farfield.retrieval.embedders import Embedder, FunctionEmbedder, HashedTfIdf, build_embedder
from farfield.retrieval.evidence import Quote
from farfield.retrieval.filters import Filter
from farfield.retrieval.hits import Answer, Candidate, Hit, Stage
from farfield.retrieval.index import Index, IndexStats, open_index
from farfield.retrieval.ingestion import IngestResult, ingest
from farfield.retrieval.prompt import Prompt, PromptConfig, build_prompt
from farfield.retrieval.removal import remove
from farfield.retrieval.settings import (
    ChunkConfig,
    DatasetConfig,
    EmbedderConfig,
    HashedConfig,
    HiddenConfig,
    IngestConfig,
    RerankConfig,
    RetrievalConfig,
    SentenceTransformersConfig,
)

__all__ = [
    "Answer",
    "Candidate",
    "Chunk",
    "ChunkConfig",
    "DatasetConfig",
    "Embedder",
    "EmbedderConfig",
    "Filter",
    "FunctionEmbedder",
    "HashedConfig",
    "HashedTfIdf",
    "HiddenConfig",
    "Hit",
    "Index",
    "IndexStats",
    "IngestConfig",
    "IngestResult",
    "Prompt",
    "PromptConfig",
    "Quote",
    "RerankConfig",
    "RetrievalConfig",
    "SentenceTransformersConfig",
    "Stage",
    "build_embedder",
    "build_prompt",
    "cut",
    "ingest",
    "open_index",
    "remove",
]
