"""dilated-attention-pytorch: LongNet's segments, by kernels of xformers."""

from __future__ import annotations

from torch import Tensor

from farfield.benchmarks.peers.peer import Layer, LayerPeer, Peer, Sizes

__all__ = ["PEERS"]

SEGMENTS, RATES = (256, 512, 1024), (1, 2, 4)


def _dilated(sizes: Sizes) -> Layer:
    from dilated_attention_pytorch.dilated_attention import MultiheadDilatedAttention

    module = MultiheadDilatedAttention(sizes.width, sizes.heads, RATES, SEGMENTS, layer_norm=False, bias=False)

    def forward(x: Tensor) -> Tensor:
        out: Tensor = module(x, x, x, is_causal=True)[0]
        return out

    return Layer(module, forward)


PEERS: tuple[LayerPeer, ...] = (
    Peer(
        "dilated-attention-pytorch",
        "dilated-attention-pytorch",
        "dilated_attention_pytorch",
        "dilated",
        _dilated,
        differs="heads are shared out over the branches, and outputs divided by their sum",
        needs=("xformers",),
    ),
)
