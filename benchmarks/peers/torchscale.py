"""torchscale: RetNet's own code, chunkwise. Its other parts ask for timm and fairscale, which are not imported here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

from torch import Tensor, nn

from farfield.benchmarks.peers.peer import Decoder, Layer, LayerPeer, Peer, Sizes

__all__ = ["PEERS"]

CHUNK = 256  # the fastest here: of 64 and of the 512 of its configuration a third slower
STUBS = {
    "timm": (),
    "timm.models": (),
    "timm.models.layers": ("drop_path",),
    "fairscale": (),
    "fairscale.nn": ("checkpoint_wrapper", "wrap"),
}


@contextmanager
def _stubs() -> Iterator[None]:
    """Within it, imports of timm and fairscale find empty modules; behind it, all is as it was."""
    before = {name: sys.modules[name] for name in STUBS if name in sys.modules}
    for name, inside in STUBS.items():
        stub = ModuleType(name)
        for attribute in inside:
            setattr(stub, attribute, None)
        sys.modules[name] = stub
    try:
        yield
    finally:
        for name in STUBS:
            del sys.modules[name]
        sys.modules.update(before)


def _retention(sizes: Sizes, value_ratio: int) -> Layer:
    with _stubs():
        from torchscale.architecture.retnet import RetNetRelPos
        from torchscale.component.multiscale_retention import MultiScaleRetention
    settings = SimpleNamespace(
        layernorm_eps=1e-6,
        multiway=False,
        decoder_embed_dim=sizes.width,
        decoder_retention_heads=sizes.heads,
        recurrent_chunk_size=min(CHUNK, sizes.length),
    )
    layer = MultiScaleRetention(settings, sizes.width, value_ratio * sizes.width, sizes.heads)
    positions = RetNetRelPos(settings)

    def forward(x: Tensor) -> Tensor:
        out: Tensor = layer(x, positions(x.shape[1], chunkwise_recurrent=True), chunkwise_recurrent=True)
        return out

    def read(x: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = {"tokens": 0}
        for token in x.split(1, 1):
            _, state = step(token, state)
        return state

    def step(x: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        inner = {name: value for name, value in state.items() if name != "tokens"}
        tokens = state["tokens"] + 1
        out = layer(x, positions(tokens, activate_recurrent=True), incremental_state=inner)
        return out, {**inner, "tokens": tokens}

    return Layer(nn.ModuleList([layer, positions]), forward, Decoder(read, step))


def _peer(of: str, value_ratio: int) -> LayerPeer:
    return Peer(
        "torchscale, chunkwise",
        "torchscale",
        "torchscale",
        of,
        lambda sizes: _retention(sizes, value_ratio),
        differs="scores are scaled, which its norm undoes but for its epsilon",
    )


PEERS: tuple[LayerPeer, ...] = (_peer("retnet", 2), _peer("retnet_narrow", 1))
