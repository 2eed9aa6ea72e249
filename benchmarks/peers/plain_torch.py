"""PyTorch alone: a plain layer around its fused attention, as a user writes it in twenty lines."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from farfield.benchmarks.peers.peer import Decoder, Layer, LayerPeer, Peer, Sizes

__all__ = ["PEERS", "WINDOW", "Plain"]

WINDOW = 256
LONGEST = 2**15  # tokens of a dense mask


class Plain(nn.Module):
    """Softmax attention with rotary positions; `window`: tokens before its own that a token sees.

    If `dense` a mask of the whole text says so.
    """

    cos: Tensor
    sin: Tensor
    mask: Tensor

    def __init__(self, sizes: Sizes, window: int | None = None, causal: bool = True, dense: bool = True) -> None:
        super().__init__()
        self.heads, self.causal, self.window = sizes.heads, causal, window
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width, bias=False)
        self.out = nn.Linear(sizes.width, sizes.width, bias=False)
        frequency = 10000.0 ** -(torch.arange(0, sizes.head, 2) / sizes.head)
        angles = torch.arange(sizes.length + 64)[:, None] * frequency  # 64 more: tokens that are decoded
        self.register_buffer("cos", angles.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sin", angles.sin().repeat(1, 2), persistent=False)
        if window is not None and dense:
            if sizes.length > LONGEST:  # as a process that is out of memory takes the rows of all others with it
                raise MemoryError(f"cannot allocate memory for a mask of {sizes.length} by {sizes.length} tokens")
            every = torch.arange(sizes.length)
            behind = every[:, None] - every
            self.register_buffer("mask", (behind >= 0) & (behind <= window), persistent=False)

    def heads_of(self, x: Tensor, begin: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, H, T, W) of tokens at `begin` and behind."""
        q, k, v = rearrange(self.qkv(x), "b t (n h w) -> n b h t w", n=3, h=self.heads)
        cos, sin = (table[begin : begin + x.shape[1]] for table in (self.cos, self.sin))
        return _turned(q, cos, sin), _turned(k, cos, sin), v

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.out(rearrange(self.attend(*self.heads_of(x, 0)), "b h t w -> b t (h w)"))
        return mixed

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Of a whole text, (B, H, T, W)."""
        mask = None if self.window is None else self.mask[: q.shape[2], : q.shape[2]]
        return scaled_dot_product_attention(q, k, v, mask, is_causal=self.causal and mask is None)

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        _, k, v = self.heads_of(x, 0)
        return k, v.clone()  # in place of a view that keeps all three

    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Any]:
        q, k, v = self.heads_of(x, state[0].shape[2])
        k, v = torch.cat((state[0], k), 2), torch.cat((state[1], v), 2)
        seen = 0 if self.window is None else -self.window - 1
        out = scaled_dot_product_attention(q, k[:, :, seen:], v[:, :, seen:])
        return self.out(rearrange(out, "b h t w -> b t (h w)")), (k, v)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def _layer(module: Plain) -> Layer:
    return Layer(module, module, Decoder(module.read, module.step) if module.causal else None)


PEERS: tuple[LayerPeer, ...] = (
    Peer("SDPA", "torch", "torch", "attention", lambda sizes: _layer(Plain(sizes))),
    Peer("SDPA", "torch", "torch", "attention_encoder", lambda sizes: _layer(Plain(sizes, causal=False))),
    Peer("SDPA, dense mask", "torch", "torch", "window", lambda sizes: _layer(Plain(sizes, window=WINDOW))),
)
