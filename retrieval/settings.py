"""The settings of retrieval: how documents are cut, embedded, stored and found again."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from farfield.config import Config

__all__ = ["ChunkConfig", "EmbedderConfig", "IngestConfig", "RetrievalConfig", "checked_name"]

NAME = re.compile(r"\w[\w.-]{0,99}")


def checked_name(name: str) -> str:
    """`name` if it can name an index: a folder of its own, on every file system.

    Raises:
        ValueError: it is empty, too long, or could lead out of the folder of indexes.
    """
    if NAME.fullmatch(name):
        return name
    raise ValueError(
        f"'{name}' cannot name an index. Use up to 100 letters, digits, '_', '-' and '.', with a letter or digit first."
    )


class ChunkConfig(Config):
    """How a text is cut. A chunk holds at most `size` and shares at most `overlap` with the one before it."""

    size: int = Field(default=1000, ge=1)
    overlap: int = Field(default=100, ge=0)
    unit: Literal["characters", "words"] = "characters"

    @model_validator(mode="after")
    def _overlap_leaves_progress(self) -> ChunkConfig:
        if self.overlap > self.size // 2:
            raise ValueError(
                f"overlap={self.overlap} is more than half of size={self.size}. Use at most {self.size // 2}."
            )
        return self


class EmbedderConfig(Config):
    """The embedder that needs no weights: TF-IDF, hashed into `dimension` signed buckets.

    On SciFact nDCG@10 of these vectors alone is 0.48 at 1024, 0.55 at 2048 and 0.59 at 4096; no hashing gives 0.63.
    Pairs of words are left out: they lower it (0.48 at 2048), because they crowd the buckets.
    """

    kind: Literal["hashed"] = "hashed"
    dimension: int = Field(default=2048, ge=16, le=65536)


class IngestConfig(Config):
    """Which files go into which index. `prune` forgets documents whose files, at or below `path`, are gone."""

    path: str
    index: str
    root: str = "indexes"
    prune: bool = False
    chunk: ChunkConfig = ChunkConfig()
    embedder: EmbedderConfig = EmbedderConfig()

    _name = field_validator("index")(checked_name)


class RetrievalConfig(Config):
    """What a search returns.

    Attributes:
        k: passages returned.
        search: which lists are read: `hybrid` fuses the dense and the lexical one.
        candidates: length of each list before fusion.
        constant: the 60 of reciprocal rank fusion; larger makes the first ranks weigh less.
        dense_weight: weight of the dense list; the lexical list has weight 1. One half suits hashed TF-IDF (against
            1, nDCG@10 rises by about 0.01 on SciFact, Cranfield and HotpotQA); embedders that know meaning deserve 1.
    """

    k: int = Field(default=8, ge=1)
    search: Literal["hybrid", "dense", "lexical"] = "hybrid"
    candidates: int = Field(default=100, ge=1)
    constant: float = Field(default=60.0, ge=0)
    dense_weight: float = Field(default=0.5, gt=0)
