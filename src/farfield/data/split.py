"""Which part of a collection is held out for validation.

Whole documents are: those whose text's hash falls below the fraction. So the choice depends on the text alone, not
on the tokenizer, nor on the order or the names of files; a document keeps its side while the collection grows, and
copies of a text are on one side together. At least one document is held out, and at least one is not.

A collection of one text (or of copies of it) is cut instead: the last part of it is held out, and starts afresh there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Parts", "Split", "split"]


@dataclass(frozen=True, eq=False)
class Parts:
    """Ranges of a store's tokens: documents, or parts of them.

    In each, all tokens but the last are read and all but the first are predicted: the last of a document is its end.
    """

    starts: NDArray[np.int64]  # (parts,)
    stops: NDArray[np.int64]  # (parts,)

    @property
    def inputs(self) -> NDArray[np.int64]:
        """(parts,) how many tokens of each are read."""
        inputs: NDArray[np.int64] = np.maximum(self.stops - self.starts - 1, 0)
        return inputs

    @property
    def tokens(self) -> int:
        """How many tokens are read, in all."""
        return int(self.inputs.sum())

    def take(self, order: NDArray[np.int64] | NDArray[np.bool_]) -> Parts:
        """These parts, picked or reordered."""
        return Parts(self.starts[order], self.stops[order])


@dataclass(frozen=True, eq=False)
class Split:
    """What is trained on, what is held out, and how that was chosen, in words."""

    train: Parts
    validation: Parts
    how: str


def split(offsets: NDArray[np.int64], keys: NDArray[np.uint64], fraction: float) -> Split:
    """Holds out about `fraction` (0 to 0.5) of the documents, or of the only one.

    Args:
        offsets: (documents + 1,) where documents begin in the store.
        keys: (documents,) hashes of their texts, evenly spread over 64 bits.
        fraction: 0 holds out nothing.
    """
    documents = Parts(np.asarray(offsets[:-1]), np.asarray(offsets[1:]))
    nothing = documents.take(np.zeros(len(keys), np.bool_))
    if fraction == 0:
        return Split(documents, nothing, "none")
    if keys.min() == keys.max():
        sizes = documents.stops - documents.starts
        held_tokens = np.maximum(np.rint(sizes * fraction).astype(np.int64), 2)
        cuts = documents.stops - np.where(sizes - held_tokens < 2, 0, held_tokens)
        how = f"the last {fraction:.1%} of the only document"
        return Split(Parts(documents.starts, cuts), Parts(cuts, documents.stops), how)
    held = keys < np.uint64(round(fraction * 2**64))
    if not held.any():
        held = keys == keys.min()
    if held.all():
        held = keys != keys.max()
    return Split(documents.take(~held), documents.take(held), f"{np.count_nonzero(held)} of {len(keys)} documents")
