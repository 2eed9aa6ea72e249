"""local-attention (lucidrains): a causal window in blocks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from farfield.benchmarks.peers.peer import Decoder, Layer, LayerPeer, Peer, Sizes

__all__ = ["PEERS"]

WINDOW = 256


def _window(sizes: Sizes) -> Layer:
    from local_attention.transformer import LocalMHA

    module = LocalMHA(
        dim=sizes.width,
        window_size=WINDOW,
        dim_head=sizes.head,
        heads=sizes.heads,
        causal=True,
        exact_windowsize=True,  # own and 256 before; otherwise it sees back to the start of the block before
    )

    def read(x: Tensor) -> Any:
        return module(x, return_cache=True)[1]

    def step(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        out: tuple[Tensor, Any] = module(x, cache=state, return_cache=True)
        return out

    return Layer(module, module, Decoder(read, step))


PEERS: tuple[LayerPeer, ...] = (
    Peer(
        "local-attention",
        "local-attention",
        "local_attention",
        "window",
        _window,
        differs="decoding turns kept keys anew at each token, and is wrong behind the first",
    ),
)
