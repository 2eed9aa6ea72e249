"""gated-state-spaces-pytorch (lucidrains): a long convolution by Fourier transforms between gates."""

from __future__ import annotations

from farfield.benchmarks.peers.peer import Layer, LayerPeer, Peer, Sizes

__all__ = ["PEERS"]


def _gss(sizes: Sizes) -> Layer:
    from gated_state_spaces_pytorch import GSS

    module = GSS(dim=sizes.width, dss_kernel_N=512, dss_kernel_H=sizes.width // 4)
    return Layer(module, module)


PEERS: tuple[LayerPeer, ...] = (
    Peer(
        "gated-state-spaces-pytorch",
        "gated-state-spaces-pytorch",
        "gated_state_spaces_pytorch",
        "gss",
        _gss,
        differs="with its norm and residual",
    ),
)
