"""x-transformers (lucidrains): an attention layer with rotary positions around PyTorch's fused attention."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from farfield.benchmarks.peers.peer import Decoder, Layer, LayerPeer, Peer, Sizes

__all__ = ["PEERS"]


def _attention(sizes: Sizes) -> Layer:
    from x_transformers.x_transformers import Attention, RotaryEmbedding

    layer = Attention(sizes.width, dim_head=sizes.head, heads=sizes.heads, causal=True, flash=True)
    rotary = RotaryEmbedding(sizes.head)

    def forward(x: Tensor) -> Tensor:
        out: Tensor = layer(x, rotary_pos_emb=rotary.forward_from_seq_len(x.shape[1]))
        return out

    def read(x: Tensor) -> Any:
        turns = rotary.forward_from_seq_len(x.shape[1])
        return layer(x, rotary_pos_emb=turns, return_intermediates=True)[1], x.shape[1]

    def step(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        kept, tokens = state
        turns = rotary.forward_from_seq_len(tokens + 1)
        out, kept = layer(x, rotary_pos_emb=turns, cache=kept, return_intermediates=True)
        return out, (kept, tokens + 1)

    return Layer(nn.ModuleList([layer, rotary]), forward, Decoder(read, step))


PEERS: tuple[LayerPeer, ...] = (
    Peer("x-transformers", "x-transformers", "x_transformers", "attention", _attention, needs=("einx", "loguru")),
)
