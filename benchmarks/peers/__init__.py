"""Layers of other libraries that ours are measured beside: a module for each library, a line for each layer.

Adding one: its module with a tuple `PEERS`, and one name below. A library that is not installed is told in its rows.
"""

from __future__ import annotations

from farfield.benchmarks.peers import (
    dilated_attention,
    flash_attention,
    flash_linear_attention,
    flex_attention,
    gated_state_spaces,
    linformer,
    local_attention,
    mambapy,
    performer_pytorch,
    plain_torch,
    reformer_pytorch,
    torchscale,
    transformers_recurrent,
    transformers_softmax,
    x_transformers,
    yet_another_retnet,
)
from farfield.benchmarks.peers.peer import Decoder, Layer, LayerPeer, Peer, Sizes

__all__ = ["Decoder", "Layer", "LayerPeer", "Peer", "Sizes", "peers"]

MODULES = (
    plain_torch,
    transformers_softmax,
    transformers_recurrent,
    x_transformers,
    local_attention,
    torchscale,
    yet_another_retnet,
    performer_pytorch,
    mambapy,
    linformer,
    reformer_pytorch,
    gated_state_spaces,
    dilated_attention,
    flash_attention,
    flash_linear_attention,
    flex_attention,
)


def peers(of: str) -> list[LayerPeer]:
    """The layers that a case is measured beside."""
    return [peer for module in MODULES for peer in module.PEERS if peer.of == of]
