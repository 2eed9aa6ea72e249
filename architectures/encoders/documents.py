"""Documents as rows of their own, beginning at column 0: what every bidirectional mixer works on.

    positions   -1  0  1  2  0  1          0  1  2
                                           0  1 -1

Rows that are so already, which is the common case, are not copied. Others are taken apart into buckets of about the
same length.

Shapes: B batch, T time, D width, N documents, S tokens of the longest of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from farfield.architectures.ops.alibi import Alibi
from farfield.architectures.ops.counted import Counted
from farfield.architectures.ops.layouts import Full, Layout
from farfield.architectures.ops.uncompiled import uncompiled
from farfield.architectures.rows import Rows

__all__ = ["all_tokens", "count", "each_document", "one_by_one"]


@uncompiled  # a graph would be made anew for every batch's lengths
def each_document(x: Tensor, rows: Rows, mix: Callable[[Tensor, Rows], Tensor]) -> Tensor:
    """(B, T, D) of x (B, T, D), by `mix` of (N, S, D) with each row a document, to as much; zero at padding."""
    if rows.fresh and rows.single and rows.right_padded:
        return mix(x, rows)
    pieces = [mix(piece, own) for piece, own in zip(rows.unpack(x), _alone(rows), strict=True)]
    if not pieces:  # nothing but padding
        return torch.zeros_like(x)
    return rows.repack(pieces, x.new_empty(x.shape, dtype=pieces[0].dtype))


def _alone(rows: Rows) -> list[Rows]:
    """Where the tokens of each bucket of documents stand."""

    def make() -> list[Rows]:
        found = []
        for bucket in rows.buckets:
            column = torch.arange(bucket.real.shape[1], device=rows.device)
            positions = torch.where(bucket.real, column, -1)
            marked = None if rows.marked is None else rows.marked.flatten()[bucket.token] & bucket.real
            found.append(Rows(positions, rows.phase.flatten()[bucket.token], rows.longest, marked))
        return found

    return rows.once("alone", make)


Turns = tuple[Tensor, Tensor]


def one_by_one(
    x: Tensor, rows: Rows, angles: Turns | None, mix: Callable[[Tensor, int, Turns | None], Tensor]
) -> Tensor:
    """(N, S, D) of rows x (N, S, D) that begin at column 0, by `mix` of each without its padding; zeros there.

    `mix` is given (S, D), which row it is, and its angles (1, 1, S, W / 2) out of `angles` (N, 1, S, W / 2).
    """
    if rows.batch == 1 and not rows.padded:  # a view, whose gradient is not copied
        return mix(x.squeeze(0), 0, angles)[None]
    ends, found = count(rows), []
    for row, part in enumerate(x.unbind()):
        end = rows.time if ends is None else int(ends[row])
        turns = None if angles is None else (angles[0][row, None, :, :end], angles[1][row, None, :, :end])
        if end == rows.time:
            found.append(mix(part, row, turns))
        else:
            found.append(pad(mix(part[:end], row, turns), (0, 0, 0, rows.time - end)))
    return torch.stack(found)


def count(rows: Rows) -> Tensor | None:
    """Tokens (N,) of each document of rows that begin at column 0; None where all are as long as the rows."""
    return rows.once("count", lambda: rows.real.sum(1)) if rows.padded else None


def all_tokens(rows: Rows, alibi: Alibi | None) -> Layout:
    """The layout of queries that see every token of their document."""
    real = count(rows)
    return Full(alibi) if real is None else Counted(real, alibi)
