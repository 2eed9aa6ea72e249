"""FlexAttention of PyTorch in the plain layer: sparse masks as functions, compiled to a kernel; on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from farfield.benchmarks.peers.peer import Layer, LayerPeer, Peer, Sizes
from farfield.benchmarks.peers.plain_torch import WINDOW, Plain

__all__ = ["PEERS"]

GLOBALS, BLOCK, RANDOM = 16, 64, 3

Seen = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Whether query n sees key m, of (batch, head, n, m)."""


class _Flex(Plain):
    """What a token sees is told by `mask_of`, once for each length."""

    def __init__(self, sizes: Sizes, mask_of: Callable[[torch.device], Seen]) -> None:
        from torch.nn.attention.flex_attention import flex_attention

        super().__init__(sizes)
        self.mask_of = mask_of
        self.blocks: dict[int, Any] = {}
        on_gpu = torch.cuda.is_available()
        self.attention: Any = torch.compile(flex_attention, dynamic=False) if on_gpu else flex_attention

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        from torch.nn.attention.flex_attention import create_block_mask

        time = q.shape[2]
        if time not in self.blocks:  # compiled, it never holds a mask of T by T
            shape = (None, self.heads, time, time)
            self.blocks[time] = create_block_mask(self.mask_of(q.device), *shape, device=q.device, _compile=q.is_cuda)
        out: Tensor = self.attention(q, k, v, block_mask=self.blocks[time])
        return out


class _Prefixed(_Flex):
    """With global tokens, whose own queries, keys and values have maps of their own."""

    def __init__(self, sizes: Sizes, mask_of: Callable[[torch.device], Seen]) -> None:
        super().__init__(sizes, mask_of)
        self.prefix_qkv = nn.Linear(sizes.width, 3 * sizes.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        qkv, self.qkv = self.qkv, self.prefix_qkv
        own = self.heads_of(x[:, :GLOBALS], 0)
        self.qkv = qkv
        first = scaled_dot_product_attention(*own, is_causal=True)
        found = torch.cat((first, self.attend(*self.heads_of(x, 0))[:, :, GLOBALS:]), 2)
        mixed: Tensor = self.out(rearrange(found, "b h t w -> b t (h w)"))
        return mixed


def _window(device: torch.device) -> Seen:
    return lambda b, h, n, m: (n >= m) & (n - m <= WINDOW)


def _prefix(device: torch.device) -> Seen:
    return lambda b, h, n, m: (n >= m) & ((n - m <= WINDOW) | (m < GLOBALS))


def _random(sizes: Sizes) -> Callable[[torch.device], Seen]:
    """A band of a block, the first block, and of each block some earlier ones, drawn anew for each head."""
    count = -(-sizes.length // BLOCK)
    drawn = torch.rand(sizes.heads, count, count, generator=torch.Generator().manual_seed(0))
    earlier = torch.ones(count, count, dtype=torch.bool).tril(-2)
    earlier[:, 0] = False
    rank = drawn.masked_fill(~earlier, -1.0).argsort(-1, descending=True).argsort(-1)
    named = earlier & (rank < RANDOM)

    def mask_of(device: torch.device) -> Seen:
        table = named.to(device)
        return lambda b, h, n, m: (n >= m) & ((n - m <= BLOCK) | (m < BLOCK) | table[h, n // BLOCK, m // BLOCK])

    return mask_of


def _layer(module: Plain) -> Layer:
    return Layer(module, module)


def _peer(of: str, build: Callable[[Sizes], Layer], differs: str = "") -> LayerPeer:
    return Peer("FlexAttention", "torch", "torch", of, build, differs, gpu=True)


PEERS: tuple[LayerPeer, ...] = (
    _peer("window", lambda sizes: _layer(_Flex(sizes, _window))),
    _peer("longformer", lambda sizes: _layer(_Prefixed(sizes, _prefix))),
    _peer("bigbird", lambda sizes: _layer(_Flex(sizes, _random(sizes))), differs="other random blocks"),
)
