"""How retrieved passages reach a model in training: the options of the group `augmentation`.

    neighbours    the model reads them for each chunk by cross-attention: `farfield.memory.neighbours`
    output        the distribution of what came next where the context was alike, mixed in: `farfield.memory.knn_lm`
    prompt        they stand before a row: tokens only, for any model (Ram et al., https://arxiv.org/abs/2302.00083)

The first and the last look in a database (`farfield.retrieval.neighbours`), which is made of the training documents
where it is not there yet; a datastore is of one model, which reads texts for it. What a model is built of are the
settings that its own class has; the others say what it is fed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from farfield.config import Config, ConfigError, IndexingError, read
from farfield.data.found import NeighbourSource, PromptSource, Search
from farfield.data.text import TextSource
from farfield.memory import NeighboursConfig, OutputConfig
from farfield.retrieval.neighbours import Database, NeighbourSettings, Texts, Wanted, build, open_database
from farfield.retrieval.settings import HashedConfig
from farfield.tokenizers import Tokenizer, fingerprint

__all__ = [
    "AugmentedTraining",
    "DatastoreSettings",
    "NeighboursTraining",
    "OutputTraining",
    "PromptTraining",
    "SearchSettings",
    "model_part",
    "open_neighbours",
]


class SearchSettings(Config):
    """Where passages are looked for, and which are left out."""

    database: str = Field(min_length=1, description="folder of the database; built where it is not there")
    dimension: int = Field(512, ge=16, le=65536, description="of the vectors of chunks, where the database is built")
    overlap: float | None = Field(
        None, ge=0, le=2, description="leave out passages with a longer run in common than this share of a chunk"
    )


class NeighboursTraining(NeighboursConfig, SearchSettings):
    """Passages for each chunk."""

    @property
    def model(self) -> NeighboursConfig:
        """The settings that the model is built of."""
        return read(NeighboursConfig, model_part(self.mapping()) or {})

    def source(self, source: TextSource) -> NeighbourSource:
        """The batches of `source` with passages for the chunks in them."""
        database = _opened(self, self.chunk, source)
        return NeighbourSource(source, Search(database, self.passages, self.length, self.overlap))


class PromptTraining(SearchSettings):
    """Passages before each row."""

    kind: Literal["prompt"] = "prompt"
    chunk: int = Field(64, ge=2, description="tokens at a row's beginning for which passages are looked for")
    passages: int = Field(2, ge=1, description="passages of a row, the best one next to it")
    continuation: int = Field(64, ge=0, description="tokens of a passage behind its chunk that is alike")
    tokens: int = Field(256, ge=1, description="budget of all passages of a row")

    @property
    def model(self) -> None:
        """Nothing: tokens are all that the model reads."""
        return None

    def source(self, source: TextSource) -> PromptSource:
        """The rows of `source` behind their passages."""
        search = Search(_opened(self, self.chunk, source), self.passages, self.chunk + self.continuation, self.overlap)
        return PromptSource(source, search, self.tokens)

    def before(self, database: Database, prompt: Sequence[int]) -> list[int]:
        """The passages that a prompt's first tokens find, as ids: the best one last, next to it, as in training."""
        asked, nothing = np.array(prompt[: self.chunk], np.int64), np.array([], np.int64)
        found = database.search([Wanted(asked, nothing, None)], self.passages, self.overlap)
        ids = database.passages(found[:, ::-1], self.chunk + self.continuation).ravel()
        return [int(one) for one in ids[ids >= 0][-self.tokens :]]


class DatastoreSettings(Config):
    """Where a model's datastore is, and what it is built of where it is not there."""

    datastore: str = Field(min_length=1, description="folder of the datastore")
    texts: str | None = Field(None, description="texts that it is built of where it is not there")
    window: int | None = Field(None, ge=2, description="tokens that are read at once; null: a row of the training")
    overlap: float = Field(0.5, ge=0, lt=1, description="share of a window that was in the one before")
    cluster: int = Field(100, ge=1, description="entries of a cluster of the automaton")
    cache: str = Field(".farfield/data", description="where the texts' tokens are kept")


class OutputTraining(OutputConfig, DatastoreSettings):
    """What a datastore finds is mixed with the model's output (kNN-LM)."""

    @property
    def model(self) -> OutputConfig:
        """The settings that the model is built of."""
        return read(OutputConfig, model_part(self.mapping()) or {})

    def source(self, source: TextSource) -> TextSource:
        """The batches as they are: what is found depends on what the model makes of them."""
        return source


AugmentedTraining = Annotated[NeighboursTraining | PromptTraining | OutputTraining, Field(discriminator="kind")]


def model_part(trained: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Of the settings of a run's augmentation, those that its model is built of; None where it reads tokens only."""
    if trained is None or trained.get("kind") == "prompt":
        return None
    fields = (OutputConfig if trained.get("kind") == "output" else NeighboursConfig).model_fields
    return {key: value for key, value in trained.items() if key in fields}


def open_neighbours(folder: str | Path, tokenizer: Tokenizer, chunk: int) -> Database:
    """The database in `folder`, for a model with this tokenizer and chunks of so many tokens.

    Raises:
        IndexingError: none there, damaged, of another tokenizer, or of other chunks.
    """
    database = open_database(Path(folder).expanduser(), tokenizer.decode, fingerprint(tokenizer))
    if database.manifest.chunk != chunk:
        raise IndexingError(
            f"'{folder}' has chunks of {database.manifest.chunk} tokens, and {chunk} are needed. Name another folder."
        )
    return database


def _opened(settings: SearchSettings, chunk: int, source: TextSource) -> Database:
    """The database that the settings name; it is built of what `source` trains on where it is not there.

    Raises:
        ConfigError: it cannot be used or built.
    """
    folder, tokenizer = Path(settings.database).expanduser(), source.tokenizer
    try:
        if not folder.exists():
            embedder = HashedConfig(dimension=settings.dimension)
            cut = NeighbourSettings(chunk=chunk, embedder=embedder)
            told = _digest(source)
            return build(folder, _training(source), tokenizer.decode, cut, fingerprint(tokenizer), told)
        return open_neighbours(folder, tokenizer, chunk)
    except IndexingError as error:
        raise ConfigError(f"augmentation.database: {error}") from None


def _training(source: TextSource) -> Texts:
    """The documents that are trained on, or the parts of them; of those held out, nothing."""
    store, parts = source.store, source.split.train
    document = store.offsets.searchsorted(parts.starts, side="right") - 1
    return Texts(store.tokens, parts.starts, parts.stops, store.keys[document])


def _digest(source: TextSource) -> str:
    """What stands for the documents that are trained on."""
    parts = source.split.train
    digest = hashlib.sha256(source.store.facts.source.encode())
    digest.update(parts.starts.tobytes() + parts.stops.tobytes())
    return digest.hexdigest()
