"""flash-linear-attention (fla), on a GPU: its layers, and its Lightning Attention in a layer like MiniMax's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import silu

from farfield.benchmarks.peers.peer import Decoder, Layer, LayerPeer, Peer, Sizes

__all__ = ["PEERS"]


def _cached(module: nn.Module) -> Layer:
    """A layer that returns its output first, and whose state is fla's cache, changed in place."""

    def forward(x: Tensor) -> Tensor:
        out: Tensor = module(x)[0]
        return out

    def read(x: Tensor) -> Any:
        from fla.models.utils import Cache

        cache = Cache()
        module(x, past_key_values=cache, use_cache=True)
        return cache

    def step(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return module(x, past_key_values=state, use_cache=True)[0], state

    return Layer(module, forward, Decoder(read, step))


def _retention(sizes: Sizes, value_ratio: int) -> Layer:
    from fla.layers import MultiScaleRetention

    return _cached(
        MultiScaleRetention(
            hidden_size=sizes.width,
            num_heads=sizes.heads,
            expand_k=1.0,
            expand_v=float(value_ratio),
            elementwise_affine=False,
            layer_idx=0,
        )
    )


def _gated_delta(sizes: Sizes) -> Layer:
    from fla.layers import GatedDeltaNet

    return _cached(
        GatedDeltaNet(
            hidden_size=sizes.width, head_dim=sizes.head, num_heads=sizes.heads, expand_v=2.0, conv_size=4, layer_idx=0
        )
    )


def _mamba2(sizes: Sizes) -> Layer:
    from fla.layers import Mamba2

    module = Mamba2(
        num_heads=2 * sizes.heads,
        head_dim=sizes.head,
        hidden_size=sizes.width,
        state_size=128,
        conv_kernel=4,
        use_conv_bias=True,
        use_bias=False,
        layer_idx=0,
    )
    return Layer(module, lambda x: module(x)[0])


class _Lightning(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width, bias=False)
        self.out = nn.Linear(sizes.width, sizes.width, bias=False)
        self.gate = nn.Linear(sizes.width, sizes.width, bias=False)
        self.norm = nn.RMSNorm(sizes.width, eps=1e-6)

    def mixed(self, x: Tensor, state: Tensor | None, keep: bool) -> tuple[Tensor, Any]:
        """(B, T, D) of x (B, T, D), and the state behind it if it is kept."""
        from fla.ops.lightning_attn import chunk_lightning_attn, fused_recurrent_lightning_attn

        q, k, v = rearrange(silu(self.qkv(x)), "b t (n h w) -> n b t h w", n=3, h=self.heads)
        attention = fused_recurrent_lightning_attn if x.shape[1] == 1 else chunk_lightning_attn
        layer = {"layer_idx": 0, "num_layers": 2, "scale": 1.0}  # the first of two, as of MiniMax's
        out, state = attention(q, k, v, **layer, initial_state=state, output_final_state=keep)
        normed = self.norm(rearrange(out, "b t h w -> b t (h w)"))
        return self.out(torch.sigmoid(self.gate(x)) * normed), state


def _lightning(sizes: Sizes) -> Layer:
    module = _Lightning(sizes)
    decoder = Decoder(lambda x: module.mixed(x, None, True)[1], lambda x, state: module.mixed(x, state, True))
    return Layer(module, lambda x: module.mixed(x, None, False)[0], decoder)


def _peer(name: str, of: str, build: Callable[[Sizes], Layer], differs: str = "") -> LayerPeer:
    return Peer(f"fla, {name}", "flash-linear-attention", "fla", of, build, differs, gpu=True)


PEERS: tuple[LayerPeer, ...] = (
    _peer("retention", "retnet", lambda sizes: _retention(sizes, 2)),
    _peer("retention", "retnet_narrow", lambda sizes: _retention(sizes, 1)),
    _peer("gated delta rule", "gated_deltanet", _gated_delta),
    _peer("Mamba-2", "mamba2", _mamba2, "mamba_ssm's kernels where they are installed"),
    _peer("Lightning", "lightning", _lightning),
)
