"""flash-attn: FlashAttention in the plain layer, of all that is before and of a window; half precision on a GPU."""

from __future__ import annotations

from torch import Tensor

from farfield.benchmarks.peers.peer import Decoder, Layer, LayerPeer, Peer, Sizes
from farfield.benchmarks.peers.plain_torch import WINDOW, Plain

__all__ = ["PEERS"]


class _Flash(Plain):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        from flash_attn import flash_attn_func

        bounds = (-1, -1) if self.window is None else (self.window, 0 if self.causal else self.window)
        heads = (x.transpose(1, 2) for x in (q, k, v))
        out: Tensor = flash_attn_func(*heads, causal=self.causal, window_size=bounds)
        return out.transpose(1, 2)


def _layer(sizes: Sizes, window: int | None = None, causal: bool = True) -> Layer:
    module = _Flash(sizes, window, causal, dense=False)
    return Layer(module, module, Decoder(module.read, module.step) if causal else None)


def _peer(of: str, window: int | None = None, causal: bool = True) -> LayerPeer:
    return Peer("flash-attn", "flash-attn", "flash_attn", of, lambda sizes: _layer(sizes, window, causal), gpu=True)


PEERS: tuple[LayerPeer, ...] = (
    _peer("attention"),
    _peer("window", WINDOW),
    _peer("attention_encoder", causal=False),
)
