"""The first tokens of a document, which are always read: slots of their own, where a slot is a position.

A slot before a token's position in its document has been written by that document.

Shapes: B batch, G heads of keys and values, I slots, T time, W width of a head, M initial tokens of the call.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from farfield.architectures.rows import Rows
from farfield.architectures.state import State
from farfield.memory.forgetting import cycles

__all__ = ["Initial", "Labelled"]


@dataclass(frozen=True, eq=False)
class Labelled:
    """Keys and values (B, G, M, W) with position and document (B, M), -1 where there is none.

    `run` says that they are the positions from 0 on of the document that all rows are a run of.
    """

    keys: Tensor
    values: Tensor
    position: Tensor
    document: Tensor
    run: bool


@dataclass(frozen=True, eq=False)
class Initial(State):
    """Keys and values (B, G, I, W) of the first I positions of each row's open document, as the memory keeps them."""

    keys: Tensor
    values: Tensor

    def cast(self, dtype: torch.dtype) -> Initial:
        """The same as numbers of `dtype`."""
        return self if self.keys.dtype == dtype else Initial(self.keys.to(dtype), self.values.to(dtype))

    def exchanged(self, position: Tensor, seed: int) -> Initial:
        """Each key of rows at `position` (B,) with the value of another."""
        slots = self.keys.shape[2]
        order = cycles(torch.arange(slots, device=position.device) < position[:, None], seed)
        return Initial(self.keys, _take(self.values, order))

    def read(self, keys: Tensor, values: Tensor, rows: Rows) -> Labelled:
        """What the queries of a call with these keys and values (B, G, T, W) may see: of the slots and of the call."""
        slots = self.keys.shape[2]
        place = torch.arange(slots, device=rows.device).expand(rows.batch, -1)
        begin = rows.begin
        if begin is not None:
            held, more = min(begin, slots), max(0, min(slots - begin, rows.time))
            kept = [
                torch.cat((old[:, :, :held], new[:, :, :more]), 2) if more else old[:, :, :held]
                for old, new in ((self.keys, keys), (self.values, values))
            ]
            place = place[:, : held + more]
            return Labelled(kept[0], kept[1], place, torch.zeros_like(place), True)
        owner = torch.where(place < rows.following, 0, -1)
        column, position, document = self._call(rows)
        kept = [torch.cat((old, _take(new, column)), 2) for old, new in ((self.keys, keys), (self.values, values))]
        return Labelled(kept[0], kept[1], torch.cat((place, position), 1), torch.cat((owner, document), 1), False)

    def written(self, keys: Tensor, values: Tensor, rows: Rows) -> Initial:
        """With the call's initial tokens of each row's last document in their slots."""
        slots = self.keys.shape[2]
        if rows.begin is not None and rows.begin >= slots:
            return self
        column, position, document = self._call(rows)
        if not column.shape[1]:
            return self
        slot = torch.where((document == rows.last_document[:, None]) & (document >= 0), position, slots)
        index = slot[:, None, :, None].expand(-1, keys.shape[1], -1, keys.shape[3])
        after = []
        for old, new in ((self.keys, keys), (self.values, values)):
            roomy = torch.cat((old, old[:, :, :1]), 2)
            after.append(roomy.scatter(2, index, _take(new, column).to(old.dtype))[:, :, :slots])
        return Initial(after[0], after[1])

    def _call(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Column, position and document (B, M) of the call's initial tokens."""
        slots = self.keys.shape[2]

        def make() -> tuple[Tensor, Tensor, Tensor]:
            here = rows.real & (rows.positions < slots)
            column = (~here).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(here.sum(1).max())]
            there = here.gather(1, column)
            place, owner = (x.gather(1, column) for x in (rows.positions, rows.document))
            return column, torch.where(there, place, -1), torch.where(there, owner, -1)

        return rows.once(("initial", slots), make)


def _take(x: Tensor, column: Tensor) -> Tensor:
    """Columns (B, M) of x (B, G, T, W)."""
    return x.gather(2, column[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
