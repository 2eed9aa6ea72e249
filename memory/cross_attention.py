"""Cross-attention from a few queries to many vectors, with a feed-forward behind it.

    x = x + out softmax(q(norm x) k(norm s)^T / sqrt(W)) v(norm s)
    x = x + feedforward(norm x)

Shapes: B batch, M queries, S vectors, H heads, W width of a head, D width.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from farfield.architectures.feedforward import GELU, GELUConfig
from farfield.architectures.rows import Rows

__all__ = ["CrossAttention"]


class CrossAttention(nn.Module):
    """See the file's head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_norm, self.norm, self.inner_norm = (nn.RMSNorm(width, eps=1e-5) for _ in range(3))
        self.q, self.kv = nn.Linear(width, width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.feedforward: GELU = GELUConfig().build(width)

    @staticmethod
    def count(width: int) -> int:
        """Number of weights."""
        return 3 * width + 4 * width * width + GELUConfig().parameters(width)

    def keys(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, S, W) of vectors (B, S, D)."""
        k, v = rearrange(self.kv(self.norm(source)), "b s (two h w) -> two b h s w", two=2, h=self.heads)
        return k, v

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, valid: Tensor | None) -> Tensor:
        """(B, M, D) of queries x (B, M, D).

        Args:
            keys, values: (B, H, S, W). valid: (B, S) bool, which may be read, one a row at least; None: all.
        """
        q = rearrange(self.q(self.query_norm(x)), "b m (h w) -> b h m w", h=self.heads)
        seen = None if valid is None else valid[:, None, None, :]
        read = nn.functional.scaled_dot_product_attention(q, keys, values, seen)
        x = x + self.out(rearrange(read, "b h m w -> b m (h w)"))
        rows = Rows.fresh_documents(x.shape[0], x.shape[1], x.device)
        more, _ = self.feedforward(self.inner_norm(x), rows)
        found: Tensor = x + more
        return found


def some(valid: Tensor) -> Tensor:
    """(B, S) bool: `valid`, and the last vector of rows that have none, whose answer means nothing."""
    last = torch.zeros_like(valid)
    last[:, -1] = ~valid.any(1)
    return valid | last
