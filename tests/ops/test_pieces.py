"""What goes through time piece by piece agrees with the same in one, in values and gradients."""

from __future__ import annotations

import pytest
import torch
from contract.runs import assert_close, positions_of
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu

from farfield.architectures import Rows
from farfield.architectures.ops import pieces as op
from farfield.architectures.ops.linear_attention import linear_attention, linear_attention_definition
from farfield.architectures.ops.pieces import in_pieces, parts_of, pieces, worth_pieces
from farfield.architectures.ops.rotary import Layout, angles, frequencies, rotate, rotate_definition
from farfield.architectures.ops.short_convolution import (
    ConvolutionState,
    short_convolution,
    short_convolution_definition,
)


def gated(x: Tensor, gate: Tensor, gain: Tensor) -> Tensor:
    return rms_norm(x, gain.shape, gain) * silu(gate)[..., None]


def drawn(dtype: torch.dtype = torch.float64, **wanted: bool) -> list[Tensor]:
    shapes = {"x": (2, 37, 3, 4), "gate": (2, 37, 3), "gain": (4,)}
    return [
        torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_(wanted.get(name, True))
        for name, shape in shapes.items()
    ]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a few tokens."""
    monkeypatch.setattr(op, "HELD", 200)


def test_pieces_are_whole_multiples_and_cover_time(small: None) -> None:
    found = list(pieces(100, 10, torch.zeros(()), 8))
    assert [(at.start, at.stop) for at in found] == [(begin, min(begin + 16, 100)) for begin in range(0, 100, 16)]
    assert [(at.start, at.stop) for at in pieces(10, 10**6, torch.zeros(()), 4)] == [(0, 4), (4, 8), (8, 10)]
    assert not list(pieces(0, 10, torch.zeros(())))
    assert list(pieces(100, 10**6, torch.zeros((), device="meta"))) == [slice(0, 100)]


def test_parts_cover_all_tokens() -> None:
    assert [(at.start, at.stop) for at in parts_of(10, 4)] == [(0, 4), (4, 8), (8, 10)]
    assert not list(parts_of(0, 4))


def test_what_is_worth_pieces() -> None:
    x, one = torch.randn(1, 40, 6), nn.Linear(6, 6)
    assert worth_pieces(x, 39, one)
    assert worth_pieces(x.double(), 39, nn.Linear(6, 6).double())
    assert not worth_pieces(x, 40, one)
    assert not worth_pieces(x, 39, one, nn.Sequential(one))
    assert not worth_pieces(x, 39, nn.Linear(6, 6).double())
    assert not worth_pieces(x.bfloat16(), 39, nn.Linear(6, 6).bfloat16())
    assert not worth_pieces(x.to("meta"), 39, one)
    with torch.autocast("cpu", torch.bfloat16):
        assert not worth_pieces(x, 39, one)


@pytest.mark.parametrize("wanted", [{}, {"gate": False}, {"x": False, "gain": False}])
def test_a_function_of_each_token_agrees_with_all_at_once(small: None, wanted: dict[str, bool]) -> None:
    x, gate, gain = drawn(**wanted)
    found, expected = in_pieces(gated, (x, gate), (gain,)), gated(x, gate[..., :], gain)
    assert type(found.grad_fn).__name__ == "_InPiecesBackward"
    assert_close(found.detach(), expected.detach(), 1e-12)
    above = torch.randn_like(found)
    leaves = [leaf for leaf in (x, gate, gain) if leaf.requires_grad]
    for ours, theirs in zip(*(torch.autograd.grad(y, leaves, above) for y in (found, expected)), strict=True):
        assert ours.dtype == theirs.dtype
        assert_close(ours, theirs, 1e-12)


def test_one_piece_is_the_function_itself() -> None:
    x, gate, gain = drawn()
    assert type(in_pieces(gated, (x, gate), (gain,)).grad_fn).__name__ == "MulBackward0"


def test_the_backward_runs_in_the_precision_of_the_forward(small: None) -> None:
    x, weight = torch.randn(1, 60, 8, requires_grad=True), torch.randn(8, 8, requires_grad=True)
    seen: list[torch.dtype] = []

    def product(x: Tensor, weight: Tensor) -> Tensor:
        y = x @ weight
        seen.append(y.dtype)
        return y

    with torch.autocast("cpu", torch.bfloat16):
        y = in_pieces(product, (x,), (weight,))
    forwards = len(seen)
    y.backward(torch.ones_like(y))
    assert forwards > 1
    assert len(seen) == 2 * forwards
    assert set(seen) == {torch.bfloat16}


@pytest.mark.parametrize("layout", ["halves", "interleaved"])
def test_rotation(small: None, layout: Layout) -> None:
    x = torch.randn(2, 3, 41, 6, dtype=torch.float64, requires_grad=True)
    phase = torch.randint(0, 1000, (2, 41))
    found = rotate(x, *angles(phase, frequencies(6, layout), torch.float64), layout)
    expected = rotate_definition(x, phase, layout)
    above = torch.randn_like(found)
    assert_close(found.detach(), expected.detach(), 1e-12)
    ours, theirs = (torch.autograd.grad(y, x, above)[0] for y in (found, expected))
    assert_close(ours, theirs, 1e-12)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("documents", [("70", "70"), ("-7 30 -3 30", "8 31 31")])
def test_linear_attention(small: None, documents: tuple[str, str], groups: int, constant: bool) -> None:
    rows = Rows.at(positions_of(*documents))
    shapes = ((groups, 70, 3), (groups, 70, 3), (4, 70, 5), (4, 3, 5))
    q, k, v, state = (torch.randn(2, *shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    shape = (1, 4, 1) if constant else (2, 4, 70)
    decay = (-torch.rand(shape, dtype=torch.float64)).requires_grad_(not constant)
    leaves = [x for x in (q, k, v, state, decay) if x.requires_grad]
    found = linear_attention(q, k, v, decay, rows, state, 8)
    expected = linear_attention_definition(q, k, v, decay, rows, state)
    above = [torch.randn_like(x) for x in found]
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours.detach(), theirs.detach(), 1e-10)
    gradients = (torch.autograd.grad(pair, leaves, above, allow_unused=True) for pair in (found, expected))
    for ours, theirs in zip(*gradients, strict=True):
        zero = torch.zeros(())
        if ours is None or theirs is None:
            assert not any(x.any() for x in (ours, theirs) if x is not None)
        else:
            assert_close(ours + zero, theirs + zero, 3e-10)


@pytest.mark.parametrize("taps", [1, 2, 4])
@pytest.mark.parametrize("begin", [0, 5])
def test_short_convolution(small: None, begin: int, taps: int) -> None:
    rows = Rows.at(torch.arange(begin, begin + 40).expand(2, -1))
    shapes = ((2, 40, 30), (30, taps), (2, taps - 1, 30))
    x, weight, inputs = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    found, _ = short_convolution(x, weight, rows, ConvolutionState(inputs))
    expected = short_convolution_definition(x, weight, rows, ConvolutionState(inputs))
    assert_close(found.detach(), expected.detach(), 1e-12)
    above = torch.randn_like(found)
    ours, theirs = (
        torch.autograd.grad(y, (x, weight, inputs), above, allow_unused=True, materialize_grads=True)
        for y in (found, expected)
    )
    for pair in zip(ours, theirs, strict=True):
        assert_close(*pair, 1e-12)
