"""Layers of other libraries: they are as large as ours, see what their case says, and decode as they read.

A peer whose library is missing is skipped; `make peers` installs them.
"""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from torch import Tensor

from farfield.benchmarks.peers import MODULES, Layer, LayerPeer, Peer, Sizes
from farfield.benchmarks.peers.models import MODELS, Model, Shape
from farfield.benchmarks.speed.cases import CASES, layer
from farfield.benchmarks.speed.held import state_bytes
from farfield.benchmarks.speed.models import ours

EVERY = [peer for module in MODULES for peer in module.PEERS]
NAMES = [f"{peer.of}-{peer.package}-{peer.name.partition(', ')[2]}".rstrip("-") for peer in EVERY]
TOKENS, ONE, WINDOW = 768, 700, 256  # BigBird has no fewer than eleven blocks
SIZES = Sizes(width=64, heads=2, length=TOKENS)


def built(peer: LayerPeer, sizes: Sizes = SIZES) -> Layer:
    reason = peer.missing()
    if reason:
        pytest.skip(reason if peer.gpu else f"{reason}. `make peers` installs it")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs are not ours
        return peer.build(sizes)


def reached(made: Layer, token: int) -> Tensor:
    """Which inputs (T,) the output at `token` depends on, by its gradient."""
    x = torch.randn(1, TOKENS, SIZES.width, generator=torch.Generator().manual_seed(1)).requires_grad_()
    made.forward(x)[0, token].square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    size = x.grad[0].abs().amax(-1)
    return size > 1e-6 * size.max()  # Fourier transforms round


@pytest.mark.parametrize("peer", EVERY, ids=NAMES)
def test_peers_see_what_their_case_sees(peer: LayerPeer) -> None:
    seen = reached(built(peer), ONE)
    assert seen[ONE]
    if peer.of.endswith("encoder"):
        assert seen[ONE + 1 :].any()
    else:
        assert seen[ONE + 1 :].any() == ("not causal" in peer.differs)
    if peer.of == "window":
        assert torch.equal(seen.nonzero()[:, 0], torch.arange(ONE - WINDOW, ONE + 1))
    if peer.of in ("attention", "performer"):
        assert seen[: ONE + 1].all()


@pytest.mark.parametrize("peer", EVERY, ids=NAMES)
def test_peers_have_as_many_weights_as_ours(peer: LayerPeer) -> None:
    """But for biases, and the norm of gated-state-spaces-pytorch."""
    theirs, mine = built(peer), layer(CASES[peer.of], SIZES)
    sizes = [sum(weight.numel() for weight in made.module.parameters()) for made in (theirs, mine)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)


@pytest.mark.parametrize("peer", EVERY, ids=NAMES)
def test_peers_decode_as_they_read(peer: LayerPeer) -> None:
    """And where the row says that they do not, they do not."""
    made = built(peer)
    if made.decoder is None:
        pytest.skip("does not decode")
    x = torch.randn(1, 512, SIZES.width)
    with torch.no_grad():
        whole, state = made.forward(x), made.decoder.read(x[:, :508])
        assert state_bytes(state) > 0
        found = []
        for token in x[:, 508:].split(1, 1):
            out, state = made.decoder.step(token, state)
            found.append(out)
    apart = (torch.cat(found, 1) - whole[:, 508:]).abs().max() / whole.abs().max()
    if "decoding" in peer.differs:
        assert apart > 1e-3
    else:
        assert apart < (1e-3 if "epsilon" in peer.differs else 1e-5)


@pytest.mark.parametrize("name", ["attention-torch", "attention-transformers-Llama"])
def test_full_attention_is_ours(name: str) -> None:
    assert_ours(EVERY[NAMES.index(name)])


@pytest.mark.parametrize("name", ["window-torch-dense mask", "window-transformers-Mistral", "window-local-attention"])
def test_a_window_is_ours(name: str) -> None:
    assert_ours(EVERY[NAMES.index(name)])


def assert_ours(peer: LayerPeer) -> None:
    """With our weights, in their order: one matrix for queries, keys and values, or three."""
    theirs, mine = built(peer), layer(CASES[peer.of], SIZES)
    *inputs, out = [weight for weight in mine.module.parameters() if weight.ndim == 2]
    *places, last = [weight for weight in theirs.module.parameters() if weight.ndim == 2]
    with torch.no_grad():
        for place, weight in zip(places, torch.cat(inputs).split([len(place) for place in places]), strict=True):
            place.copy_(weight)
        last.copy_(out)
        x = torch.randn(1, TOKENS, SIZES.width)
        torch.testing.assert_close(theirs.forward(x), mine.forward(x), atol=1e-5, rtol=1e-4)


def test_performer_pytorch_reads_the_future() -> None:
    """As its row says: the largest key of the whole text stabilises all features."""
    peer = next(peer for peer in EVERY if peer.of == "performer")
    made = built(peer, Sizes(64, 2, 32))
    x = torch.randn(1, 32, 64)
    later = torch.cat((x[:, :-1], 30 * x[:, -1:]), 1)
    with torch.no_grad():
        assert (made.forward(later) - made.forward(x))[:, :-1].abs().max() > 1e-3


@pytest.mark.parametrize("peer", MODELS, ids=[peer.name for peer in MODELS])
def test_models_have_our_shape_and_begin_at_chance(peer: Peer[Shape, Model]) -> None:
    if reason := peer.missing():
        pytest.skip(f"{reason}. `make peers` installs it")
    shape = Shape(depth=2, width=32, inner=64, heads=2, vocabulary=512, length=24)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = peer.build(shape)
    sizes = [sum(weight.numel() for weight in module.parameters()) for module in (made.module, ours(shape).module)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
    tokens = torch.randint(512, (2, 25))
    loss = made.loss(tokens[:, :-1], tokens[:, 1:])
    assert loss.item() == pytest.approx(6.24, abs=0.5)  # ln 512
