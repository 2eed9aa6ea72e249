"""Texts to unit vectors, whose inner product is the similarity of two texts.

An embedder makes what the database keeps of a text from that text alone, once (`keep`). The vectors of the index are
made of that (`vectors`), when the index is: they may also depend on how frequent words are in the whole collection.
So an index that grew file by file holds the same vectors as one that was filled at once.

    kept by the database:   words (a bag, for every embedder)     `keep(text)` (embedders that need more)
                                         └──────────┬───────────────────┘
    derived:                            vectors(passages, frequencies)

`HashedTfIdf` needs words only. Any function from texts to vectors becomes an embedder by `FunctionEmbedder`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from farfield.config import IndexingError
from farfield.retrieval.settings import EmbedderConfig, HashedConfig
from farfield.retrieval.words import BAG, Frequencies

__all__ = ["Embedder", "FunctionEmbedder", "HashedTfIdf", "Kept", "Matrix", "build_embedder", "unit"]

Matrix = npt.NDArray[np.float32]

TEXTS_AT_ONCE = 128


class Kept(NamedTuple):
    """What the database keeps of a text: its bag of words, what its embedder made of it, and by which weights."""

    bag: bytes
    extra: bytes | None
    version: str = ""


class Embedder(Protocol):
    """Turns texts into vectors of length one (or zero, for a text of which it knows nothing)."""

    @property
    def name(self) -> str:
        """Kind and settings: changes whenever any vector would, but for further training."""

    @property
    def version(self) -> str:
        """Of the weights: what was kept by another version is embedded anew. Empty where there are none."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""

    @property
    def centred(self) -> bool:
        """Whether the mean of the whole collection is taken off its vectors, which then come in any length."""

    @property
    def reads(self) -> bool:
        """Whether its vectors know more of a text than which words are in it."""

    @property
    def steady(self) -> bool:
        """Whether a passage's vector depends on that passage alone; then an index takes only what is new."""

    def keep(self, texts: Sequence[str]) -> Sequence[bytes | None]:
        """What the database keeps of each text beside its words. It depends on nothing but that text."""

    def vectors(self, passages: Sequence[Kept], frequencies: Frequencies) -> Matrix:
        """The vectors (passages, dimension) of passages in a collection with these word frequencies."""

    def questions(self, texts: Sequence[str], bags: Sequence[bytes], frequencies: Frequencies) -> Matrix:
        """The vectors (questions, dimension) that find passages for questions; `bags` hold their words."""


class HashedTfIdf:
    """Word counts weighed by (1 + log count) (1 + log((1 + chunks) / (1 + frequency))), in signed hash buckets.

    The bucket is the term's hash modulo the dimension, the sign its highest bit, so that what collides cancels out on
    average (Weinberger et al. 2009, https://arxiv.org/abs/0902.2206). Words that occur in no chunk weigh nothing.
    """

    version = ""
    centred = reads = steady = False

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.name = f"hashed-tfidf-1 dimension={dimension}"

    def keep(self, texts: Sequence[str]) -> Sequence[bytes | None]:
        """Nothing: the words are enough."""
        return [None] * len(texts)

    def vectors(self, passages: Sequence[Kept], frequencies: Frequencies) -> Matrix:
        """(passages, dimension), unit rows; a row of zeros for a passage without words."""
        records = np.frombuffer(b"".join(passage.bag for passage in passages), BAG)
        lengths = [len(passage.bag) // BAG.itemsize for passage in passages]
        terms = np.ascontiguousarray(records["term"])
        known = frequencies.of(terms)
        rarity = np.where(known > 0, 1 + np.log((1 + frequencies.chunks) / (1 + known)), 0.0)
        weights = (1 + np.log(records["count"], dtype=np.float64)) * rarity * np.where(terms < 0, -1, 1)
        rows = np.repeat(np.arange(len(passages)), lengths)
        buckets = (terms.view(np.uint64) % np.uint64(self.dimension)).astype(np.int64)
        out = np.zeros((len(passages), self.dimension))
        np.add.at(out, (rows, buckets), weights)
        return unit(out)

    def questions(self, texts: Sequence[str], bags: Sequence[bytes], frequencies: Frequencies) -> Matrix:
        """(questions, dimension): a question is weighed as a passage is."""
        return self.vectors([Kept(bag, None) for bag in bags], frequencies)


class FunctionEmbedder:
    """An embedder of `function`: texts to (texts, dimension) numbers, each row made from its own text alone.

    `name` must change with whatever changes the vectors, `version` with further training. `ask` embeds questions,
    where they are treated otherwise than passages.
    """

    reads = True

    def __init__(
        self,
        name: str,
        dimension: int,
        function: Callable[[Sequence[str]], npt.ArrayLike],
        ask: Callable[[Sequence[str]], npt.ArrayLike] | None = None,
        version: str = "",
        centred: bool = False,
    ) -> None:
        self.name, self.dimension, self.version, self.centred = name, dimension, version, centred
        self.steady = not centred
        self._function, self._ask = function, ask or function

    def keep(self, texts: Sequence[str]) -> Sequence[bytes | None]:
        """The vectors themselves, as little-endian float32."""
        return [row.astype("<f4").tobytes() for block in blocks(texts) for row in self._rows(block)]

    def vectors(self, passages: Sequence[Kept], frequencies: Frequencies) -> Matrix:
        """(passages, dimension): the vectors as they were kept."""
        out = np.zeros((len(passages), self.dimension), np.float32)
        for row, passage in zip(out, passages, strict=True):
            row[:] = np.frombuffer(passage.extra or b"", "<f4")
        return out

    def questions(self, texts: Sequence[str], bags: Sequence[bytes], frequencies: Frequencies) -> Matrix:
        """(questions, dimension)."""
        return self._checked(self._ask(texts), len(texts))

    def _rows(self, texts: Sequence[str]) -> Matrix:
        return self._checked(self._function(texts), len(texts))

    def _checked(self, values: npt.ArrayLike, count: int) -> Matrix:
        """`values` as unit rows, or as they are before the mean is taken off; FAISS would take NaN without a word."""
        out = np.asarray(values, np.float64)
        if out.shape != (count, self.dimension) or not np.isfinite(out).all():
            raise IndexingError(
                f"embedder '{self.name}' gave an array {out.shape} for {count} texts;"
                f" it should be ({count}, {self.dimension}), and every number finite."
            )
        return out.astype(np.float32) if self.centred else unit(out)


def blocks(texts: Sequence[str]) -> list[Sequence[str]]:
    """`texts` in the groups that are embedded at once: the same wherever it is done, so that rounding is too."""
    return [texts[first : first + TEXTS_AT_ONCE] for first in range(0, len(texts), TEXTS_AT_ONCE)]


def unit(rows: npt.NDArray[np.float64]) -> Matrix:
    """`rows` (n, dimension) scaled to length one; rows of zeros stay."""
    lengths = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def build_embedder(settings: EmbedderConfig) -> Embedder:
    """The embedder that `settings` describe, where it needs no model.

    Raises:
        IndexingError: it needs one, of which this package knows nothing.
    """
    if isinstance(settings, HashedConfig):
        return HashedTfIdf(settings.dimension)
    raise IndexingError(f"embedder: kind '{settings.kind}' needs a model. Use farfield.ingest and farfield.open_index.")
