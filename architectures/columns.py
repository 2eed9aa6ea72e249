"""The key columns that a call's queries look at: those kept of the past, then the call's own.

Shapes: B batch, T time, N columns, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from farfield.architectures.ops.alibi import Alibi, Slopes
from farfield.architectures.ops.layouts import Banded
from farfield.architectures.ops.spans import Spans
from farfield.architectures.rows import Rows
from farfield.architectures.state import KeyValueBuffer

__all__ = ["banded", "columns", "located", "opens", "spanned"]


def columns(rows: Rows, past: int, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Positions and documents (B, past + T) of the key columns [past, call]; `valid` (B, past) past columns count.

    The past belongs to document 0 and ends just before the first token that goes on with it. A column that nobody may
    see has document -1.
    """

    def make() -> tuple[Tensor, Tensor]:
        position = rows.following - past + torch.arange(past, device=rows.device)
        seen = torch.zeros_like(position) if valid is None else torch.where(valid, 0, -1)
        document = torch.where(rows.real, rows.document, -1)
        return torch.cat((position, rows.positions), 1), torch.cat((seen, document), 1)

    return make() if valid is not None else rows.once(("columns", past), make)


def located(position: Tensor, column: Tensor, rows: Rows, past: int) -> Tensor:
    """The key columns in [past, call] of positions (B, N, ...) of the documents of the call's columns (B, N).

    The past ends just before the first token that goes on with it. Meaningless for padding and before a document.
    """
    following = torch.where(rows.document.gather(1, column) == 0, rows.following, 0)
    own = rows.positions.gather(1, column)
    wide = (*column.shape, *([1] * (position.ndim - 2)))
    following, shift = following.view(wide), (past + column - own).view(wide)
    return torch.where(position < following, past - following, shift) + position


def spanned(buffer: KeyValueBuffer, counts: Tensor) -> tuple[Tensor, Tensor, Spans] | None:
    """Keys and values (B, H, n, ...) where they stand, and the layout of a query that sees the newest `counts` (B,).

    None where they are not, or no longer, here.
    """
    begin, high = buffer.length - counts, buffer.extent()[1]
    low = int(begin.min())
    if low < 0:
        return None
    return buffer.keys[:, :, low:high], buffer.values[:, :, low:high], Spans(begin - low, buffer.length - low)


def banded(
    rows: Rows,
    past: int,
    valid: Tensor | None,
    reach: int | None,
    dilation: int = 1,
    first: int = 0,
    ahead: int = 0,
    slopes: Slopes | None = None,
) -> Banded:
    """The layout of queries at `rows` over the key columns [past, call]; slopes (H,) let scores fall with distance."""
    position, document = columns(rows, past, valid)
    query_document = torch.where(rows.real, rows.document, -2)
    regular = rows.plain and valid is None
    some = slice(0, 1) if regular else slice(None)
    alibi = Alibi.of(slopes, rows.positions[some], position[some])
    found = rows.positions, query_document, position, document, reach, dilation, first, regular, ahead, alibi
    return Banded(*found, opens(rows, past))


def opens(rows: Rows, past: int) -> list[int] | None:
    """Of each query the first of the key columns [past, call] that its document has in any row; None where all are one.

    A compiled graph would be made anew for every packing: there each query looks at all columns before its own.
    """
    if rows.plain or torch.compiler.is_compiling():
        return None

    def make() -> list[int]:
        own = torch.arange(rows.time, device=rows.device)
        first = torch.where(rows.document > 0, past + own - rows.positions, 0)
        found: list[int] = torch.where(rows.real, first, past + own).amin(0).tolist()
        return found

    return rows.once(("opens", past), make)
