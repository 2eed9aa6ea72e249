"""mambapy: Mamba with a parallel scan of PyTorch operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from farfield.benchmarks.peers.peer import Decoder, Layer, LayerPeer, Peer, Sizes

__all__ = ["PEERS"]


def _mamba(sizes: Sizes) -> Layer:
    from mambapy.mamba import MambaBlock, MambaConfig

    config = MambaConfig(d_model=sizes.width, n_layers=1)
    module = MambaBlock(config)

    def read(x: Tensor) -> Any:
        state: Any = (None, torch.zeros(x.shape[0], config.d_inner, config.d_conv - 1, device=x.device))
        for token in x.unbind(1):
            _, state = module.step(token, state)
        return state

    def step(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        out, state = module.step(x[:, 0], state)
        return out[:, None], state

    return Layer(module, module, Decoder(read, step))


PEERS: tuple[LayerPeer, ...] = (Peer("mambapy", "mambapy", "mambapy", "mamba", _mamba),)
