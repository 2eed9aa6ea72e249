"""performer-pytorch (lucidrains): FAVOR+, causal by prefix sums that it keeps all of, and in both directions."""

from __future__ import annotations

import contextlib
import io

from farfield.benchmarks.peers.peer import Layer, LayerPeer, Peer, Sizes

__all__ = ["PEERS"]


def _performer(sizes: Sizes, causal: bool) -> Layer:
    from performer_pytorch import SelfAttention

    with contextlib.redirect_stdout(io.StringIO()):  # it says that its CUDA kernel is missing
        module = SelfAttention(dim=sizes.width, causal=causal, heads=sizes.heads, dim_head=sizes.head)
    return Layer(module, module)


PEERS: tuple[LayerPeer, ...] = (
    Peer(
        "performer-pytorch",
        "performer-pytorch",
        "performer_pytorch",
        "performer",
        lambda sizes: _performer(sizes, True),
        differs="the largest key of the whole text stabilises the features: later tokens change earlier outputs",
        needs=("axial_positional_embedding", "local_attention"),
    ),
    Peer(
        "performer-pytorch",
        "performer-pytorch",
        "performer_pytorch",
        "performer_encoder",
        lambda sizes: _performer(sizes, False),
        needs=("axial_positional_embedding", "local_attention"),
    ),
)
