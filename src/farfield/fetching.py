"""Passages while text is read and written: those of a chunk when its last token comes, each row by itself.

    fetching = Fetching(database, settings, rows=2)
    passages = fetching.read(tokens, real)          # of the chunks that end in this call: `passages=` of the model

Rows are documents that begin with the first call.

Shapes: B rows, T time, C chunks that end in a row, k passages of a chunk, r tokens of one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from farfield.config import ModelError
from farfield.memory import NeighboursConfig, Passages
from farfield.model import LanguageModel
from farfield.retrieval.neighbours import Database, Wanted

__all__ = ["Fetching", "fetching_for"]

NOTHING = np.array([], np.int64)


class Fetching:
    """The tokens of the open chunk of each row, and where passages are looked for when it is complete."""

    def __init__(self, database: Database, settings: NeighboursConfig, rows: int) -> None:
        self.database, self.settings = database, settings
        self.open: list[list[int]] = [[] for _ in range(rows)]

    def read(self, tokens: Tensor, real: Tensor) -> Passages:
        """(B, C, k, r) for tokens (B, T), which come next where they are `real` (B, T) bool."""
        config, ended = self.settings, []
        for row, (ids, there) in enumerate(zip(tokens.tolist(), real.tolist(), strict=True)):
            own = self.open[row] + [token for token, one in zip(ids, there, strict=True) if one]
            count = len(own) // config.chunk
            self.open[row] = own[count * config.chunk :]
            ended.append([own[n * config.chunk : (n + 1) * config.chunk] for n in range(count)])
        most = max(map(len, ended), default=0)
        wanted = [Wanted(np.array(ids, np.int64), NOTHING, None) for chunks in ended for ids in chunks]
        found = self.database.passages(self.database.search(wanted, config.passages), config.length)
        passages = np.full((len(ended), most, config.passages, config.length), -1, np.int64)
        passages[np.arange(most) < np.array([[len(chunks)] for chunks in ended])] = found
        return Passages(torch.from_numpy(passages).to(tokens.device))

    def select(self, rows: Sequence[int]) -> None:
        """Goes on with these rows alone."""
        self.open = [self.open[row] for row in rows]


def fetching_for(model: LanguageModel, database: Database | None, rows: int) -> Fetching | None:
    """For so many rows of the model; None without a database.

    Raises:
        ModelError: the model reads no neighbours, or those of chunks of another length.
    """
    if database is None:
        return None
    settings = model.config.neighbours
    if settings is None:
        raise ModelError("neighbours: given, but this model reads none. Train one with augmentation=neighbours.")
    if settings.chunk != database.manifest.chunk:
        raise ModelError(
            f"neighbours: found for chunks of {database.manifest.chunk} tokens, and the model's are of "
            f"{settings.chunk}. Open the database by model.open_neighbours."
        )
    return Fetching(database, settings, rows)
