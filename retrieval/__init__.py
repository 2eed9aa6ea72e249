"""Retrieval: documents -> chunks -> an index -> the passages that answer a question -> a prompt.

    ingest(IngestConfig(path="docs", index="handbook"))
    with open_index("handbook") as index:
        hits = index.search("Who signs for it?", k=3)

The database (SQLite) is the truth; the vectors (FAISS) are derived from it and rebuilt when they are lost. Read
`store.py` for what is kept, `vectors.py` for what is derived, `index.py` for a search from end to end.
"""

from farfield.retrieval.chunks import Chunk, cut
from farfield.retrieval.embedders import Embedder, FunctionEmbedder, HashedTfIdf, build_embedder
from farfield.retrieval.index import Answer, Hit, Index, IndexStats, open_index
from farfield.retrieval.ingestion import IngestResult, ingest
from farfield.retrieval.prompt import Prompt, PromptConfig, build_prompt
from farfield.retrieval.settings import ChunkConfig, EmbedderConfig, IngestConfig, RetrievalConfig

__all__ = [
    "Answer",
    "Chunk",
    "ChunkConfig",
    "Embedder",
    "EmbedderConfig",
    "FunctionEmbedder",
    "HashedTfIdf",
    "Hit",
    "Index",
    "IndexStats",
    "IngestConfig",
    "IngestResult",
    "Prompt",
    "PromptConfig",
    "RetrievalConfig",
    "build_embedder",
    "build_prompt",
    "cut",
    "ingest",
    "open_index",
]
