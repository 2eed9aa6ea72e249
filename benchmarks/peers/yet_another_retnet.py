"""yet-another-retnet: retention in chunks that the caller loops over; values are as wide as keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from farfield.benchmarks.peers.peer import Decoder, Layer, LayerPeer, Peer, Sizes

__all__ = ["PEERS"]

CHUNK = 128  # the fastest here


def _retention(sizes: Sizes) -> Layer:
    from yet_another_retnet.retention import MultiScaleRetention

    module = MultiScaleRetention(sizes.width, sizes.heads, bias=False)

    def chunks(x: Tensor) -> tuple[Tensor, Any]:
        outputs, state, begin = [], None, 0
        for piece in x.split(CHUNK, 1):
            out, state = module.forward_chunkwise(piece, piece, piece, begin, state)
            outputs.append(out)
            begin += piece.shape[1]
        return torch.cat(outputs, 1), (begin, state)

    def step(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        token = x[:, 0]
        out, kept = module.forward_recurrent(token, token, token, state[0], state[1])
        return out[:, None], (state[0] + 1, kept)

    return Layer(module, lambda x: chunks(x)[0], Decoder(lambda x: chunks(x)[1], step))


PEERS: tuple[LayerPeer, ...] = (
    Peer(
        "yet-another-retnet, chunkwise",
        "yet-another-retnet",
        "yet_another_retnet",
        "retnet_narrow",
        _retention,
        differs="other rates of decay",
    ),
)
