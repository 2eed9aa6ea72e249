"""transformers: the recurrent layers of its models on its paths without kernels, which are those of a CPU."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import Tensor, nn

from farfield.benchmarks.peers.peer import Decoder, Layer, LayerPeer, Peer, Sizes

__all__ = ["PEERS"]


def _cached(module: nn.Module, config: Any) -> Layer:
    """A layer whose state is a cache of transformers, which is changed in place."""

    def read(x: Tensor) -> Any:
        from transformers import DynamicCache

        cache = DynamicCache(config=config)
        module(x, cache_params=cache)
        return cache

    def step(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return module(x, cache_params=state), state

    return Layer(module, module, Decoder(read, step))


def _mamba(sizes: Sizes) -> Layer:
    mamba: Any = import_module("transformers.models.mamba.modeling_mamba")

    config = mamba.MambaConfig(hidden_size=sizes.width, num_hidden_layers=1, state_size=16, use_mambapy=True)
    return _cached(mamba.MambaMixer(config, 0), config)


def _mamba2(sizes: Sizes) -> Layer:
    mamba2: Any = import_module("transformers.models.mamba2.modeling_mamba2")

    config = mamba2.Mamba2Config(
        hidden_size=sizes.width,
        num_hidden_layers=1,
        num_heads=2 * sizes.heads,
        head_dim=sizes.head,
        state_size=128,
        n_groups=1,
        chunk_size=64,  # the fastest here; of 256, as it is by default, half as fast
    )
    return _cached(mamba2.Mamba2Mixer(config, 0), config)


def _gated_delta(sizes: Sizes) -> Layer:
    qwen: Any = import_module("transformers.models.qwen3_next.modeling_qwen3_next")

    config = qwen.Qwen3NextConfig(
        hidden_size=sizes.width,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
        linear_num_key_heads=sizes.heads,
        linear_num_value_heads=sizes.heads,
        linear_key_head_dim=sizes.head,
        linear_value_head_dim=2 * sizes.head,
        linear_conv_kernel_dim=4,
    )
    return _cached(qwen.Qwen3NextGatedDeltaNet(config, 0), config)


def _lightning(sizes: Sizes) -> Layer:
    minimax: Any = import_module("transformers.models.minimax.modeling_minimax")

    config = minimax.MiniMaxConfig(
        hidden_size=sizes.width,
        num_attention_heads=sizes.heads,
        head_dim=sizes.head,
        num_hidden_layers=2,  # at the last of two the decay is nearly none
        block_size=256,  # the fastest here
        layer_types=["linear_attention"] * 2,
    )
    module = minimax.MiniMaxLightningAttention(config, 0)

    def forward(x: Tensor) -> Tensor:
        out: Tensor = module(x, None, None)[0]
        return out

    def read(x: Tensor) -> Any:
        cache = minimax.MiniMaxCache()
        module(x, None, None, past_key_values=cache)
        return cache

    def step(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return module(x, None, None, past_key_values=state)[0], state

    return Layer(module, forward, Decoder(read, step))


def _peer(name: str, of: str, build: Any, differs: str = "", needs: tuple[str, ...] = ()) -> LayerPeer:
    return Peer(f"transformers, {name}", "transformers", "transformers", of, build, differs, needs)


PEERS: tuple[LayerPeer, ...] = (
    _peer("Mamba", "mamba", _mamba, "mambapy's parallel scan", ("mambapy",)),
    _peer("Mamba-2", "mamba2", _mamba2),
    _peer("Qwen3-Next", "gated_deltanet", _gated_delta),
    _peer("MiniMax", "lightning", _lightning),
)
