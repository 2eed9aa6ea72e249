"""Attention over a few keys that stand for each block of tokens, by the queries of later blocks.

    stride 4, count 2     tokens   0 1 2 3 | 4 5 6 7 | 8 9        the query 9 sees the keys 0 to 3,
                          keys         0 1 |     2 3 |            the query 5 the keys 0 and 1, the query 2 none

Work a token at position n: 4 H W count n / stride. Shapes: B batch, T time, N keys of the call, H heads, G heads of
keys and values, W width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from farfield.architectures.ops.alibi import Alibi, Slopes
from farfield.architectures.ops.attention import Part
from farfield.architectures.ops.layouts import Full, Labelled
from farfield.architectures.ops.place import Place
from farfield.architectures.ops.runs import Steps
from farfield.architectures.rows import Rows
from farfield.architectures.state import KeyValueBuffer

__all__ = ["BlockKeys", "labels"]


def labels(rows: Rows) -> Tensor:
    """The document (B, T) of each query, -2 for padding."""
    return torch.where(rows.real, rows.document, -2)


@dataclass(frozen=True)
class BlockKeys:
    """`count` keys for each `stride` tokens: the first stands at `begins` in the block, each other a token further on,
    as far as the block goes. Keys are numbered from the document's beginning.
    """

    stride: int
    count: int
    begins: int

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        number: Tensor,
        document: Tensor,
        rows: Rows,
        before: KeyValueBuffer,
        slopes: Slopes | None = None,
    ) -> tuple[list[Part], KeyValueBuffer]:
        """The parts of the softmax of queries (B, H, T, W), and the buffer behind the call.

        Args:
            k, v: those of the call's blocks (B, G, N, W), with their `number` (B, N) in the document, which `before`
                holds from 0 on, and their `document` (B, N); -1 where a row has fewer.
            slopes: (H,), with which scores fall with distance; or a relation.
        """
        past_k, past_v, valid = before.read()
        after = before.append(k, v, Rows.at(number)) if k.shape[2] else before
        after = after.emptied((rows.last_position >= 0) & (rows.last_position < self.begins))
        seen = 0 if rows.begin is None else rows.begin // self.stride * self.count
        if rows.begin is not None and rows.time == 1:
            layout = Full(self._alibi(slopes, rows.positions[:1], seen))
            return [Part(q, past_k[:, :, :seen], past_v[:, :, :seen], layout)] if seen else [], after
        past = past_k.shape[2]
        if not past + k.shape[2]:
            return [], after
        if rows.begin is not None:
            old = slice(0, past if rows.begin else 0)
            keys, values = torch.cat((past_k[:, :, old], k), 2), torch.cat((past_v[:, :, old], v), 2)
            return self._run(q, keys, values, rows.begin, slopes), after
        held = torch.arange(past, device=q.device) - past + before.length[:, None]
        owner = torch.zeros_like(held) if valid is None else torch.where(valid, 0, -1)
        last = rows.positions.div(self.stride, rounding_mode="floor") * self.count - 1
        number, document = torch.cat((held, number), 1), torch.cat((owner, document), 1)
        alibi = Alibi.of(slopes, rows.positions, self.position(number))
        labelled = Labelled(last, labels(rows), number, document, alibi)
        return [Part(q, torch.cat((past_k, k), 2), torch.cat((past_v, v), 2), labelled)], after

    def position(self, number: Tensor) -> Tensor:
        """Where in the document the keys of these numbers stand."""
        within = (self.begins + number % self.count).clamp(max=self.stride - 1)
        return number.div(self.count, rounding_mode="floor") * self.stride + within

    def _run(self, q: Tensor, keys: Tensor, values: Tensor, begin: int, slopes: Slopes | None) -> list[Part]:
        """All rows are the same run of one document from `begin` on, whose keys are these so far."""
        skip = max(0, self.stride - begin)  # the first block of a document has none before it
        if skip >= q.shape[2]:
            return []
        position = torch.arange(begin + skip, begin + q.shape[2], device=q.device)[None]
        layout = Steps(self.stride, self.count, begin + skip, self._alibi(slopes, position, keys.shape[2]))
        return [Part(q, keys, values, layout, Place(slice(None), slice(skip, None)))]

    def _alibi(self, slopes: Slopes | None, query: Tensor, keys: int) -> Alibi | None:
        """Of queries at positions (1, T) and the first `keys` keys of a document."""
        return Alibi.of(slopes, query, self.position(torch.arange(keys, device=query.device))[None])
