"""Random features of the softmax kernel: what they estimate, how they are drawn, and the running maximum."""

from __future__ import annotations

import math

import pytest
import torch
from contract.runs import assert_close, error, positions_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farfield.architectures import Rows, build_mixer
from farfield.architectures.ops.random_features import (
    orthogonal_rows,
    running_maximum,
    running_maximum_definition,
)
from farfield.architectures.performer import Performer

WIDTH, HEADS = 32, 2


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("scaling", ["gaussian", "constant"])
@pytest.mark.parametrize("features", [1, 8, 21])
def test_rows_are_orthogonal_in_blocks(features: int, scaling: str) -> None:
    rows = orthogonal_rows(features, 8, scaling, drawn(0))  # type: ignore[arg-type]
    assert rows.shape == (features, 8)
    for block in rows.split(8):
        products = block @ block.T
        assert_close(products, products.diagonal().diag(), 1e-12)
    lengths = rows.norm(dim=1)
    assert (scaling == "constant") == bool((lengths - 8**0.5).abs().max() < 1e-12)


def test_directions_are_as_good_as_uniform() -> None:
    """The mean of w w' over many draws is the identity, of Gaussian lengths and of constant ones."""
    for scaling in ("gaussian", "constant"):
        rows = torch.cat([orthogonal_rows(4, 4, scaling, drawn(seed)) for seed in range(2000)])  # type: ignore[arg-type]
        assert (rows.T @ rows / len(rows) - torch.eye(4)).abs().max() < 0.1
        assert rows.mean(0).abs().max() < 0.1


LAYOUTS = {
    "one": ("70", "70"),
    "packed": ("30 1 2 37", "64 6"),
    "padded": ("-7 30 -3 30", "-70"),
}


def check(rows: Rows) -> None:
    x = torch.randn(rows.batch, 3, rows.time)
    state = torch.randn(rows.batch, 3)
    state[0, 0] = -math.inf
    for found, expected in zip(
        running_maximum(x, rows, state), running_maximum_definition(x, rows, state), strict=True
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_running_maximum_is_that_of_each_document(layout: str) -> None:
    check(Rows.at(positions_of(*LAYOUTS[layout])))


@pytest.mark.parametrize("time", [1, 63, 130])
@pytest.mark.parametrize("begins", [0, 5])
def test_the_running_maximum_goes_on(begins: int, time: int) -> None:
    check(Rows.at(torch.arange(begins, begins + time).expand(2, -1)))


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=5), st.integers(0, 3))
def test_the_running_maximum_of_random_documents(runs: list[tuple[int, int]], begins: int) -> None:
    positions: list[int] = []
    for place, (padding, length) in enumerate(runs):
        first = begins if place == 0 and padding == 0 else 0
        positions += [-1] * padding + list(range(first, first + length))
    check(Rows.at(torch.tensor([positions, list(range(4, 4 + len(positions)))])))


def performer(**values: object) -> Performer:
    torch.manual_seed(0)
    built = build_mixer({"kind": "performer", "heads": HEADS, **values}, WIDTH).double()
    assert isinstance(built, Performer)
    return built


def answer(mixer: torch.nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        y, _ = mixer(x, Rows.fresh_documents(*x.shape[:2]), mixer.start(x.shape[0]))  # type: ignore[operator]
    return y


@pytest.mark.parametrize("position", ["rope", "none"])
@pytest.mark.parametrize("scaling", ["gaussian", "constant"])
def test_more_features_are_closer_to_softmax_attention(scaling: str, position: str) -> None:
    """Errors fall about as one over the root of their number; means of eight draws."""
    exact = build_mixer({"kind": "attention", "heads": HEADS, "position": position}, WIDTH).double()
    x = torch.randn(2, 63, WIDTH, dtype=torch.float64) / 2
    expected, errors = answer(exact, x), []
    for count in (16, 256, 4096):
        mixer = performer(count=count, scaling=scaling, position=position)
        mixer.load_state_dict(exact.state_dict(), strict=False)
        found = []
        for draw in range(8):
            mixer.random.draw(draw)
            found.append(float((answer(mixer, x) - expected).norm() / expected.norm()))
        errors.append(sum(found) / 8)
    assert errors[1] < errors[0] / 3
    assert errors[2] < errors[1] / 3
    assert errors[2] < 0.02


@pytest.mark.parametrize(("scale", "tolerance"), [(5, 1e-3), (20, math.inf)])
def test_exponents_far_out_of_range_stay_finite(scale: float, tolerance: float) -> None:
    """Exponents of minus hundreds, or thousands, whose exp is nothing; the future's are farther off still."""
    mixer = performer(position="none").float()
    with torch.no_grad():
        mixer.projection.qkv.weight.mul_(scale)
    x = torch.linspace(1, 3, 200)[None, :, None] * torch.randn(1, 200, WIDTH)
    assert float(mixer.projection.qkv(x).detach().square().max()) > 80
    x.requires_grad_()
    y, _ = mixer(x, Rows.fresh_documents(1, 200), mixer.start(1))
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert y.isfinite().all()
    assert gradient.isfinite().all()
    assert error(y.detach(), answer(mixer.double(), x.detach().double()).float()) < tolerance


def test_features_are_drawn_by_seed_and_count_alone() -> None:
    first, second = performer(redraw=3), performer(redraw=3)
    assert torch.equal(first.random.matrix, second.random.matrix)
    fresh = first.random.matrix.clone()
    for step in (1, 2):
        first.random.stepped(step)
        assert torch.equal(first.random.matrix, fresh)
    first.random.stepped(3)
    assert not torch.equal(first.random.matrix, fresh)
    torch.manual_seed(7)
    again = build_mixer({"kind": "performer", "heads": HEADS, "redraw": 3}, WIDTH).double()
    assert not torch.equal(again.random.matrix, fresh)
    again.load_state_dict(first.state_dict())
    assert torch.equal(again.random.matrix, first.random.matrix)
    first.random.stepped(6)
    again.random.stepped(6)  # type: ignore[operator]
    assert torch.equal(again.random.matrix, first.random.matrix)
    assert int(first.random.draws) == 2


def test_nothing_but_training_steps_draws() -> None:
    mixer = performer(redraw=1)
    before = {name: tensor.clone() for name, tensor in mixer.state_dict().items()}
    x = torch.randn(1, 9, WIDTH, dtype=torch.float64)
    trained = answer(mixer.train(), x)
    assert torch.equal(answer(mixer.eval(), x), trained)
    assert all(torch.equal(tensor, before[name]) for name, tensor in mixer.state_dict().items())
