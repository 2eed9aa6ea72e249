"""The settings of retrieval: how documents are cut, embedded, stored and found again."""

from __future__ import annotations

import codecs
import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from farfield.config import Config

Scalar = str | int | float | bool

__all__ = [
    "ChunkConfig",
    "DatasetConfig",
    "EmbedderConfig",
    "HashedConfig",
    "HiddenConfig",
    "IngestConfig",
    "RerankConfig",
    "RetrievalConfig",
    "SentenceTransformersConfig",
    "VectorConfig",
    "checked_name",
]

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
    """How a text is cut. A chunk holds at most `size` and shares at most `overlap` with the one before it.

    Attributes:
        size: the most of a chunk, in units.
        overlap: the most that a chunk shares with the one before it, in units.
        unit: what is counted.
        tokenizer: whose tokens: the folder of a run, or of a tokenizer.
        headings: the deepest level of headings that begin a chunk; 0 for none.
    """

    size: int = Field(default=1000, ge=1)
    overlap: int = Field(default=100, ge=0)
    unit: Literal["characters", "words", "sentences", "tokens"] = "characters"
    tokenizer: str | None = None
    headings: int = Field(default=6, ge=0, le=6)

    @model_validator(mode="after")
    def _overlap_leaves_progress(self) -> ChunkConfig:
        if self.overlap > self.size // 2:
            raise ValueError(
                f"overlap={self.overlap} is more than half of size={self.size}. Use at most {self.size // 2}."
            )
        if (self.tokenizer is None) == (self.unit == "tokens"):
            raise ValueError("unit=tokens and tokenizer=<a run, or a tokenizer's folder> belong together.")
        return self


class HashedConfig(Config):
    """The embedder that needs no weights: TF-IDF, hashed into `dimension` signed buckets.

    On SciFact nDCG@10 of these vectors alone is 0.48 at 1024, 0.55 at 2048 and 0.59 at 4096; no hashing gives 0.63.
    Pairs of words are left out: they lower it (0.48 at 2048), because they crowd the buckets.
    """

    kind: Literal["hashed"] = "hashed"
    dimension: int = Field(default=2048, ge=16, le=65536)


class SentenceTransformersConfig(Config):
    """A model of the library sentence-transformers: a folder on the disk, or with `online` a name in its hub."""

    kind: Literal["sentence_transformers"] = "sentence_transformers"
    model: str = Field(min_length=1, description="a folder, or a name where online is true")
    online: bool = Field(False, description="a name that is no folder may be fetched from the hub")
    batch: int = Field(32, ge=1, description="texts that are embedded at once")


class HiddenConfig(Config):
    """Hidden states of a model trained here, the mean of a layer's over a text's tokens.

    Attributes:
        model: a run's folder, or a checkpoint or weights file in one.
        layer: whose output is taken, from 1; the middle one if not given.
        tokens: longer texts are read in parts of so many, each as a document of its own.
        batch: tokens that are read at once.
    """

    kind: Literal["hidden"] = "hidden"
    model: str = Field(min_length=1)
    layer: int | None = Field(default=None, ge=1)
    tokens: int = Field(default=512, ge=1)
    batch: int = Field(default=8192, ge=1)


EmbedderConfig = Annotated[HashedConfig | SentenceTransformersConfig | HiddenConfig, Field(discriminator="kind")]


class VectorConfig(Config):
    """How the vectors of an index are kept. What is null stays as the index has it.

    Attributes:
        kind: `flat` (exact), `ivf` (in lists, some of which are looked at), `pq` (4-bit codes in lists), `qdrant` (on a
            server), or `auto`: flat below 50,000 vectors, else pq. Where the index has none: auto.
        recall: of the ten best, the share that is found, measured when lists are made. Where the index has none: 0.95.
        url: of the Qdrant server.
    """

    kind: Literal["auto", "flat", "ivf", "pq", "qdrant"] | None = None
    recall: float | None = Field(default=None, gt=0, lt=1)
    url: str | None = None

    def over(self, stored: VectorConfig) -> VectorConfig:
        """These settings, with those of `stored` for what is null."""
        return VectorConfig(**{**stored.model_dump(), **self.model_dump(exclude_none=True)})


class DatasetConfig(Config):
    """Which rows of a data set are documents, and what its columns are called; all other columns become metadata."""

    subset: str | None = None
    split: str = "train"
    text: str = "text"
    id: str = "id"
    title: str = "title"


class IngestConfig(Config):
    """Which documents go into which index, or leave it.

    Attributes:
        path: a file, a folder, or with `source=dataset` the name of a data set, or its folder.
        index: the index is `root/index`.
        source: what `path` names.
        remove: in place of `path`: a path or pattern of files to be forgotten, or a filter on documents.
        prune: forget documents whose files, at or below `path`, are gone.
        encoding: of texts: `auto` is UTF-8, or what a byte order mark says, or else is likely enough.
        duplicates: whether a document with the content of another is searched too (`keep`) or only counted (`skip`).
        largest: bytes of a file, or of a line of JSON lines; what is larger is named and left out.
        workers: processes that read and cut; None for as many as there are cores.
    """

    path: str | None = None
    index: str
    root: str = "indexes"
    source: Literal["files", "dataset"] = "files"
    remove: str | dict[str, Scalar | list[Scalar]] | None = None
    prune: bool = False
    encoding: str = "auto"
    duplicates: Literal["skip", "keep"] = "skip"
    largest: int = Field(default=256_000_000, ge=1)
    workers: int | None = Field(default=None, ge=1)
    ray: str | None = None
    chunk: ChunkConfig = ChunkConfig()
    dataset: DatasetConfig = DatasetConfig()
    embedder: EmbedderConfig | None = None
    vectors: VectorConfig = VectorConfig()
    device: Literal["cpu", "cuda"] = "cpu"

    _name = field_validator("index")(checked_name)

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name != "auto":
            try:
                codecs.lookup(name)
            except LookupError:
                raise ValueError(f"'{name}' is no encoding. Use auto, utf-8, latin-1, cp1251, shift_jis, ...") from None
        return name

    @model_validator(mode="after")
    def _has_one_task(self) -> IngestConfig:
        if self.path is None and self.remove is None:
            raise ValueError(".path: none given. Add path=<what to add>, or remove=<what to forget>.")
        if self.path is not None and not self.path.strip():
            raise ValueError(".path: empty. Name a file or a folder; the current one is '.'.")
        if self.remove == {}:
            raise ValueError(".remove: an empty filter means every document. Name a field, or remove='*'.")
        if self.path is not None and self.remove is not None:
            raise ValueError(".remove: given beside a path. Take one of them.")
        return self


DENSE_WEIGHTS = {False: 0.25, True: 1.0}
LEAST = {False: 0.3, True: 0.35}
"""By whether the embedder knows more of a text than its words. About 95 in 100 of SQuAD's questions with an answer
keep it, and half to six in ten of those whose paragraph was left out are told (docs/log.md)."""


class RerankConfig(Config):
    """Who reads the first passages again, and orders them anew.

    Attributes:
        kind: `late` compares a question's tokens with a passage's (ColBERT); `cross_encoder` reads both as one text.
        model: of `late` a folder of sentence-transformers or a run's folder, none for that of the index's embedder;
            of `cross_encoder` a folder of sentence-transformers.
        depth: how many passages are read again.
    """

    kind: Literal["none", "late", "cross_encoder"] = "none"
    model: str | None = Field(default=None, min_length=1)
    depth: int = Field(default=50, ge=1)

    @model_validator(mode="after")
    def _names_a_model(self) -> RerankConfig:
        if self.kind == "cross_encoder" and self.model is None:
            raise ValueError(".model: a cross-encoder needs one. Add retrieval.rerank.model=<folder>.")
        if self.kind == "none" and self.model is not None:
            raise ValueError(f".model: '{self.model}' given, but kind is none. Take late or cross_encoder.")
        return self


class RetrievalConfig(Config):
    """What a search returns.

    Attributes:
        k: passages returned.
        search: which lists are read: `hybrid` fuses the dense and the lexical one.
        candidates: length of each list before fusion.
        constant: the 60 of reciprocal rank fusion; larger makes the first ranks weigh less.
        dense_weight: weight of the dense list; the lexical list has weight 1. By default what measured best for the
            kind of embedder (`DENSE_WEIGHTS`).
        rerank: who orders the first passages anew.
        mmr: the lambda of maximal marginal relevance: 1 keeps the order, 0 looks at nothing but difference; by
            default none.
        least: the least that the best passage must match the question (`Hit.match`), or nothing was found; by default
            what was measured for the kind of embedder (`LEAST`), 0 to take whatever comes first.

        wait: whether a search waits until vectors that are missing, damaged or old are made anew: `small` where they
            are few (20,000), `always`, or `never`. Who does not wait is answered by older vectors, or by words alone.
        device: where vectors are searched.
    """

    k: int = Field(default=8, ge=1)
    search: Literal["hybrid", "dense", "lexical"] = "hybrid"
    candidates: int = Field(default=100, ge=1)
    constant: float = Field(default=60.0, ge=0)
    dense_weight: float | None = Field(default=None, gt=0)
    rerank: RerankConfig = RerankConfig()
    mmr: float | None = Field(default=None, ge=0, le=1)
    least: float | None = Field(default=None, ge=0, le=1)
    wait: Literal["small", "always", "never"] = "small"
    device: Literal["cpu", "cuda"] = "cpu"
