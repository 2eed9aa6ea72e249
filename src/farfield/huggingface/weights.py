"""How weights of ours stand for those of a Hugging Face model: one list for reading, for writing, and for tests.

    Piece("decoder.layers.0.mixer.projection.qkv.weight", "model.layers.0.self_attn.k_proj.weight", (slice(64, 96),))

says that rows 64 to 95 of our fused tensor are their tensor of the other name. A part may stand there in another form:

    same         as it is
    transposed   (N, M) theirs, (M, N) ours
    taps         a short convolution: theirs (C, 1, K), newest tap last; ours (C, K), newest first
    negated      minus theirs

Shapes: C channels, K taps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

__all__ = ["Form", "Piece", "fused", "placed", "theirs"]

Form = Literal["same", "transposed", "taps", "negated"]


class _Way(NamedTuple):
    """There and back."""

    ours: Callable[[Tensor], Tensor]
    theirs: Callable[[Tensor], Tensor]


WAYS: dict[Form, _Way] = {
    "same": _Way(lambda x: x, lambda x: x),
    "transposed": _Way(lambda x: x.mT, lambda x: x.mT),
    "taps": _Way(lambda x: x[:, 0].flip(-1), lambda x: x.flip(-1)[:, None]),
    "negated": _Way(torch.neg, torch.neg),
}


@dataclass(frozen=True)
class Piece:
    """The part `index` of our tensor named `ours` is their tensor `theirs`, in the `form`."""

    ours: str
    theirs: str
    index: tuple[int | slice, ...] = ()
    form: Form = "same"

    @property
    def whole(self) -> bool:
        """Whether ours and theirs are the same numbers in the same order."""
        return not self.index and self.form == "same"

    def part(self, ours: Tensor) -> Tensor:
        """The part of our tensor, as a view."""
        return ours[self.index]

    def read(self, theirs: Tensor) -> Tensor:
        """Their tensor as our part has it."""
        return WAYS[self.form].ours(theirs)

    def write(self, ours: Tensor) -> Tensor:
        """The part of our tensor as they have it; a view where it can be one."""
        return WAYS[self.form].theirs(self.part(ours))


def fused(ours: str, parts: Iterable[tuple[str, int]], dim: int = 0) -> list[Piece]:
    """Pieces of a tensor of ours that holds theirs, each of a size along `dim`, one behind the other."""
    found, begin = [], 0
    for name, size in parts:
        found.append(Piece(ours, name, (*[slice(None)] * dim, slice(begin, begin + size))))
        begin += size
    return found


def theirs(pieces: Iterable[Piece], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights by their names and in their form; views where they can be."""
    return {piece.theirs: piece.write(ours[piece.ours]) for piece in pieces}


@torch.no_grad()
def placed(pieces: Iterable[Piece], ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Copies their weights into ours."""
    for piece in pieces:
        piece.part(ours[piece.ours]).copy_(piece.read(theirs[piece.theirs]))
