"""Performer in both directions: features that are drawn anew, how near they come, and numbers far out of range."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from contract.runs import error
from torch import Tensor

from farfield.architectures import Rows
from farfield.architectures.encoders import build_encoder
from farfield.architectures.mixer import Stepped

WIDTH, HEADS = 32, 2


def encoder(kind: str = "performer", **settings: Any) -> Any:
    torch.manual_seed(0)
    return build_encoder({"kind": kind, "heads": HEADS, "position": "none", **settings}, WIDTH).double()


@torch.no_grad()
def answer(of: Any, x: Tensor) -> Tensor:
    found: Tensor = of.encode(x, Rows.fresh_documents(*x.shape[:2]))
    return found


def test_training_steps_draw_features_anew_and_nothing_else_does() -> None:
    ours = encoder(redraw=3)
    fresh, x = ours.random.matrix.clone(), torch.randn(1, 9, WIDTH, dtype=torch.float64)
    stepped = [module for module in ours.modules() if isinstance(module, Stepped)]
    assert stepped == [ours.random]
    before = answer(ours.train(), x)
    assert torch.equal(answer(ours.eval(), x), before)
    ours.random.stepped(2)
    assert torch.equal(ours.random.matrix, fresh)
    ours.random.stepped(6)
    assert int(ours.random.draws) == 2
    assert not torch.equal(answer(ours, x), before)
    again = encoder(redraw=3)
    again.load_state_dict(ours.state_dict())
    ours.random.stepped(9)
    again.random.stepped(9)
    assert torch.equal(answer(again, x), answer(ours, x))


def test_more_features_are_closer_to_softmax_attention() -> None:
    """Errors fall about as one over the root of their number; means of eight draws."""
    exact = encoder("attention")
    x = torch.randn(2, 63, WIDTH, dtype=torch.float64) / 2
    expected, errors = answer(exact, x), []
    for count in (16, 256, 4096):
        ours = encoder(count=count)
        ours.load_state_dict(exact.state_dict(), strict=False)
        found = []
        for draw in range(8):
            ours.random.draw(draw)
            found.append(float((answer(ours, x) - expected).norm() / expected.norm()))
        errors.append(sum(found) / 8)
    assert errors[1] < errors[0] / 3
    assert errors[2] < errors[1] / 3


@pytest.mark.parametrize(("scale", "tolerance"), [(5, 1e-3), (20, math.inf)])
def test_exponents_far_out_of_range_stay_finite(scale: float, tolerance: float) -> None:
    ours = encoder().float()
    with torch.no_grad():
        ours.projection.qkv.weight.mul_(scale)
    x = (torch.linspace(1, 3, 200)[None, :, None] * torch.randn(1, 200, WIDTH)).requires_grad_()
    y = ours.encode(x, Rows.fresh_documents(1, 200))
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert y.isfinite().all()
    assert gradient.isfinite().all()
    assert error(y.detach(), answer(ours.double(), x.detach().double()).float()) < tolerance
