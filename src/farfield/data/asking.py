"""What is looked for in a database of neighbours: the chunks of a batch, with what is known of their documents.

A chunk that ends in a row may have begun in the row of the step before, where rows go on with a stream: then its tokens
are taken from there. What comes behind a chunk is what the model is to predict, and never more than a row shows.

Shapes: B batch, T time, m tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from farfield.data.batch import PADDING, UNSCORED, Batch, Ids
from farfield.retrieval.neighbours import Wanted

__all__ = ["asked_by", "chunk_ends", "with_past"]


def chunk_ends(positions: Ids, size: int) -> NDArray[np.bool_]:
    """(B, T) bool: where a chunk of `size` tokens ends, counted from the start of its document."""
    ends: NDArray[np.bool_] = (positions != PADDING) & ((positions + 1) % size == 0)
    return ends


def asked_by(
    batch: Batch, row: int, begin: int, end: int, most: int, tokens: Ids | None = None, offset: int = 0
) -> Wanted:
    """The tokens of a row from column `begin` to `end` (left out), and at most `most` targets behind them.

    Args:
        tokens: (B, more), those of the batch with `offset` columns before them, where `begin` may be before the batch.
    """
    tokens = batch.tokens if tokens is None else tokens
    ids = tokens[row, offset + begin : offset + end]
    place = batch.positions[row, end - 1 : end - 1 + most]
    same = place == place[0] + np.arange(len(place))
    behind = batch.targets[row, end - 1 : end - 1 + most][same]
    assert batch.documents is not None, "a source that knows its documents"
    return Wanted(ids, behind[behind != UNSCORED], int(batch.documents[row, end - 1]))


def with_past(batch: Batch, columns: int, before: Callable[[int], Batch | None]) -> tuple[Ids, int]:
    """The tokens of a batch with at least `columns` more before them, and how many those are.

    Args:
        before: the batch so many steps before this one; None where there is none.
    """
    parts, found, back = [batch.tokens], 0, 0
    while found < columns:
        back += 1
        earlier = before(back)
        assert earlier is not None, "a stream begins with the start of a document, or as if"
        parts.insert(0, earlier.tokens)
        found += earlier.tokens.shape[1]
    return np.concatenate(parts, 1), found
