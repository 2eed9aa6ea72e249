"""Attention to passages, and the encoder that reads them in the light of the chunk they were found for.

    e = embedding of a passage's tokens
    e = e + attention(norm e; norm e)             both ways, among the tokens of one passage
    e = e + attention(norm e; norm h)             h: what the decoder knows at the tokens of the chunk
    e = e + feedforward(norm e)                   ... layer by layer; norm at the end

Queries and keys are turned by their places: a passage begins where the chunk begins.

Shapes: N chunks, k passages of each, r tokens of a passage, m tokens of a chunk, H heads, W width of a head, D width,
S sources, T queries.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from farfield.architectures.feedforward import SwiGLU, SwiGLUConfig
from farfield.architectures.ops.rotary import angles, frequencies, rotate
from farfield.architectures.rows import Rows

__all__ = ["Attention", "PassageEncoder"]


class Attention(nn.Module):
    """softmax(q k^T / sqrt(W)) v with rotated queries and keys, and a projection behind it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.frequency = frequencies(width // heads, "halves")
        self.q, self.kv = nn.Linear(width, width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    @staticmethod
    def count(width: int) -> int:
        """Number of weights."""
        return 4 * width * width

    def keys(self, source: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
        """Keys, turned to their `phase` (1 or N, S), and values, (N, H, S, W) each, of vectors `source` (N, S, D)."""
        k, v = rearrange(self.kv(source), "n s (two h w) -> two n h s w", two=2, h=self.heads)
        return self._turned(k, phase), v

    def forward(self, x: Tensor, phase: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None) -> Tensor:
        """(N, T, D) of queries x (N, T, D) at `phase` (1 or N, T).

        Args:
            keys, values: (N, H, S, W). seen: (N, S) bool, one a row at least; None: all.
        """
        q = self._turned(rearrange(self.q(x), "n t (h w) -> n h t w", h=self.heads), phase)
        mask = None if seen is None else seen[:, None, None, :]
        keys, values = keys.to(q.dtype), values.to(q.dtype)
        read = nn.functional.scaled_dot_product_attention(q, keys, values, mask)
        found: Tensor = self.out(rearrange(read, "n h t w -> n t (h w)"))
        return found

    def _turned(self, x: Tensor, phase: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        return rotate(x, *angles(phase, self.frequency, wide), "halves")


class _EncoderLayer(nn.Module):
    """One layer of the encoder."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.cross_norm, self.chunk_norm, self.feedforward_norm = (
            nn.RMSNorm(width, eps=1e-5) for _ in range(4)
        )
        self.attention, self.cross = Attention(width, heads), Attention(width, heads)
        self.feedforward: SwiGLU = SwiGLUConfig().build(width)

    def forward(self, e: Tensor, seen: Tensor, chunk: Tensor) -> Tensor:
        """(N, k, r, D) of passages e (N, k, r, D), of whose tokens (N, k, r) are `seen`, and the chunk (N, m, D)."""
        number, passages, length, size = *e.shape[:3], chunk.shape[1]
        place, start = (torch.arange(n, device=e.device)[None] for n in (length, size))
        x = self.norm(e).flatten(0, 1)
        x = self.attention(x, place, *self.attention.keys(x, place), seen.flatten(0, 1))
        e = e + x.unflatten(0, (number, passages))
        asked = self.cross_norm(e).flatten(1, 2)
        keys = self.cross.keys(self.chunk_norm(chunk), start)
        x = self.cross(asked, repeat(place, "1 r -> 1 (k r)", k=passages), *keys, None)
        e = e + x.unflatten(1, (passages, length))
        x = self.feedforward_norm(e).flatten(1, 2)
        more, _ = self.feedforward(x, Rows.fresh_documents(number, x.shape[1], x.device))
        found: Tensor = e + more.unflatten(1, (passages, length))
        return found


class PassageEncoder(nn.Module):
    """See the file's head."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_EncoderLayer(width, heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-5)

    @staticmethod
    def count(width: int, layers: int) -> int:
        """Number of weights."""
        each = 4 * width + 2 * Attention.count(width) + SwiGLUConfig().parameters(width)
        return layers * each + width

    @staticmethod
    def flops(width: int, layers: int, passages: int, length: int, chunk: int) -> int:
        """Work of the passages of one chunk."""
        token = 2 * 2 * Attention.count(width) - 4 * width * width + SwiGLUConfig().flops(width)
        each = passages * length * (token + 4 * width * (length + chunk)) + chunk * 4 * width * width
        return layers * each

    def forward(self, e: Tensor, seen: Tensor, chunk: Tensor) -> Tensor:
        """(N, k, r, D) of embedded passages e (N, k, r, D), of whose tokens (N, k, r) are `seen`, and the chunk's own
        hidden states (N, m, D). What stands at tokens that are not seen means nothing.
        """
        first = torch.zeros_like(seen)
        first[..., 0] = ~seen.any(-1)  # a passage that is none reads its first place: no softmax is empty
        for layer in self.layers:
            e = layer(e, seen | first, chunk)
        found: Tensor = self.norm(e)
        return found
