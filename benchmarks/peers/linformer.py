"""linformer (lucidrains): in both directions, over learned rows."""

from __future__ import annotations

from farfield.benchmarks.peers.peer import Layer, LayerPeer, Peer, Sizes

__all__ = ["PEERS"]

ROWS = 256


def _linformer(sizes: Sizes) -> Layer:
    from linformer import LinformerSelfAttention

    module = LinformerSelfAttention(sizes.width, sizes.length, k=ROWS, heads=sizes.heads)
    return Layer(module, module)


PEERS: tuple[LayerPeer, ...] = (Peer("linformer", "linformer", "linformer", "linformer_encoder", _linformer),)
