"""data=text: files of text as tokens, packed into rows."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from farfield.config import Config, DataError
from farfield.data.batch import PADDING, UNSCORED, Batch, Description
from farfield.data.layout import InOrder, Layout, Rows, Shuffled, Stream, Streams, StreamsOnce
from farfield.data.split import Split, split
from farfield.data.store import TokenStore, open_store
from farfield.tokenizers import BytesConfig, CorpusTokenizer, TokenizerConfig

__all__ = ["TextData", "TextSource"]


class TextData(Config):
    """Text files: .txt and .md are one document each, .jsonl has one in the "text" of each line.

    path: a file or a folder.
    tokenizer: how text becomes tokens.
    cache: where the tokens are kept, in a folder of their own for each state of the files and the tokenizer.
    length: tokens of a row.
    validation: the fraction of the documents that is held out (see `farfield.data.split`).
    order: `shuffled` makes every row a window read afresh; `streams` makes row b go on in the next step where it
        stopped, for training that carries state.
    """

    kind: Literal["text"] = "text"
    path: str
    tokenizer: TokenizerConfig = BytesConfig()
    cache: str = ".farfield/data"
    length: int = Field(512, ge=1)
    validation: float = Field(0.05, ge=0, le=0.5)
    order: Literal["shuffled", "streams"] = "shuffled"

    def open(self, seed: int, batch: int) -> TextSource:
        """The source; builds its token store if that is not there yet."""
        store = open_store(Path(self.path).expanduser(), self.tokenizer, Path(self.cache).expanduser())
        return TextSource(self, store, seed, batch)


class TextSource:
    """Batches of text. The target of a token is the next one of its document, and of the last one the end token."""

    def __init__(self, config: TextData, store: TokenStore, seed: int, batch: int) -> None:
        self.config, self.store, self.seed, self.rows = config, store, seed, batch
        self.split: Split = split(store.offsets, store.keys, config.validation)
        if self.split.train.tokens == 0:
            raise DataError(f"data.path: '{config.path}' holds too little text to train on.")
        self.training, self.held = self._layouts()

    def __reduce__(self) -> tuple[type[TextSource], tuple[TextData, TokenStore, int, int]]:
        """Another process opens the store again and works the rest out: no token and no order travels."""
        return TextSource, (self.config, self.store, self.seed, self.rows)

    @property
    def tokenizer(self) -> CorpusTokenizer:
        return self.store.tokenizer

    @property
    def tokens_per_batch(self) -> int:
        return self.rows * self.config.length

    @property
    def validation_batches(self) -> int:
        return self.held.steps

    def batch(self, step: int) -> Batch:
        return self._batch(self.training.rows(step))

    def validation(self, index: int) -> Batch:
        return self._batch(self.held.rows(index))

    def describe(self) -> Description:
        facts = self.store.facts
        said: Description = {
            "data": f"text, {self.config.path}",
            "tokenizer": f"{self.tokenizer.kind}, {self.tokenizer.vocabulary} ids",
            "documents": facts.documents,
            "tokens": facts.tokens,
            "training tokens": self.split.train.tokens,
            "validation tokens": self.split.validation.tokens,
            "validation": self.split.how,
            "order": self.config.order,
            "length": self.config.length,
            "steps per epoch": self.training.steps,
            "store": str(self.store.folder),
        }
        if facts.skipped:
            said["left out, not UTF-8"] = ", ".join(facts.skipped)
        return said

    def _layouts(self) -> tuple[Layout, Layout]:
        """How the training part is read, and how the validation part is."""
        train, held = self.split.train, Stream(self.split.validation)
        batch, length = self.rows, self.config.length
        if self.config.order == "shuffled":
            return Shuffled(Stream(train), batch, length, self.seed), InOrder(held, batch, length)
        if train.tokens < batch:
            raise DataError(f"data.path: '{self.config.path}' has {train.tokens} training tokens for {batch} streams.")
        # The documents' order is all that the seed can change here: the files' names would put like next to like.
        order = np.random.default_rng(np.random.SeedSequence([self.seed])).permutation(len(train.starts))
        return Streams(Stream(train.take(order)), batch, length), StreamsOnce(held, batch, length)

    def _batch(self, rows: Rows) -> Batch:
        places, positions = rows
        used = positions != PADDING
        document = np.searchsorted(self.store.offsets, places, side="right") - 1
        return Batch(
            tokens=np.where(used, self.store.tokens[places], self.tokenizer.end).astype(np.int64),
            targets=np.where(used, self.store.tokens[places + 1].astype(np.int64), UNSCORED),
            positions=positions,
            documents=np.asarray(self.store.keys)[document],
        )
