"""reformer-pytorch (lucidrains): attention within chunks of tokens sorted by hash."""

from __future__ import annotations

from farfield.benchmarks.peers.peer import Layer, LayerPeer, Peer, Sizes

__all__ = ["PEERS"]

NEEDS = ("local_attention", "product_key_memory", "colt5_attention")


def _reformer(sizes: Sizes, causal: bool) -> Layer:
    from reformer_pytorch import LSHSelfAttention

    module = LSHSelfAttention(dim=sizes.width, heads=sizes.heads, bucket_size=64, n_hashes=2, causal=causal)
    return Layer(module, module)


PEERS: tuple[LayerPeer, ...] = (
    Peer(
        "reformer-pytorch",
        "reformer-pytorch",
        "reformer_pytorch",
        "reformer",
        lambda sizes: _reformer(sizes, True),
        differs="later tokens move the chunks of earlier ones; two rounds, chunks of 64, buckets by length",
        needs=NEEDS,
    ),
    Peer(
        "reformer-pytorch",
        "reformer-pytorch",
        "reformer_pytorch",
        "reformer_encoder",
        lambda sizes: _reformer(sizes, False),
        differs="buckets by length",
        needs=NEEDS,
    ),
)
