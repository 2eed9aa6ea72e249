"""The second half of SwiGLU as one function against its definition: values, gradients, what it keeps and writes."""

from __future__ import annotations

import pytest
import torch
from contract.runs import assert_close, error
from torch import Tensor, nn

from farfield.architectures import Rows
from farfield.architectures.feedforward import SwiGLU
from farfield.architectures.ops import gated_linear as ops
from farfield.architectures.ops.gated_linear import gated_linear, gated_linear_definition

I, D = 10, 6  # noqa: E741  # the op's own letters


def inputs(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    sizes = (*shape, 2 * I), (D, I), (D,)
    both, weight, bias = (torch.randn(size, dtype=torch.float64).to(dtype).requires_grad_() for size in sizes)
    return both, weight, bias


@pytest.fixture(autouse=True)
def _pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a few tokens, so that all but the shortest texts go through several, the last a short one."""
    monkeypatch.setattr(ops, "PIECE", 17)


@pytest.mark.parametrize("shape", [(1, 1), (2, 63), (130,), (3, 0)], ids=str)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_agrees_with_the_definition(shape: tuple[int, ...], biased: bool, dtype: torch.dtype, tolerance: float) -> None:
    leaves = inputs(*shape, dtype=dtype)[: 3 if biased else 2]
    found, expected = gated_linear(*leaves), gated_linear_definition(*leaves)
    assert_close(found.detach(), expected.detach(), tolerance)
    above = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad(y, leaves, above) for y in (found, expected))
    for pair in zip(ours, theirs, strict=True):
        assert_close(*pair, tolerance)


def test_bfloat16_sums_the_weights_gradient_in_float32() -> None:
    leaves = inputs(400, dtype=torch.bfloat16)[:2]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    above = torch.randn(400, D).bfloat16()
    ours = torch.autograd.grad(gated_linear(*leaves), leaves, above)
    theirs = torch.autograd.grad(gated_linear_definition(*leaves), leaves, above)
    right = torch.autograd.grad(gated_linear_definition(*exact), exact, above.double())
    for one, other, true in zip(ours, theirs, right, strict=True):
        assert one.dtype == torch.bfloat16
        assert error(one, true) <= 2 * error(other, true)


def test_backward_keeps_gates_and_values_and_no_product() -> None:
    """Without it a layer keeps as much again as it is given."""
    both, weight, _ = inputs(2, 63)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        gated_linear(both, weight)
    assert sorted(tensor.numel() for tensor in kept) == sorted((both.numel(), weight.numel()))
    again: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: again.append(tensor) or tensor, lambda tensor: tensor):
        gated_linear_definition(both, weight)
    assert sum(tensor.numel() for tensor in again) > 2 * both.numel()


def test_a_map_in_the_place_of_the_second_one_is_called() -> None:
    """Such as one with an addition of low rank: its weights alone are not what it computes."""

    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    module, x = SwiGLU(D, I).double(), torch.randn(1, 40, D, dtype=torch.float64)
    rows = Rows.fresh_documents(1, 40)
    before = module(x, rows)[0]
    other = Doubled(I, D, bias=False).double()
    other.load_state_dict(module.down.state_dict())
    module.down = other
    assert_close(module(x, rows)[0].detach(), 2 * before.detach(), 1e-12)


def test_autocast_is_as_narrow_as_the_definition() -> None:
    module, x = SwiGLU(D, I), torch.randn(1, 40, D)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(x, Rows.fresh_documents(1, 40))[0]
        expected = gated_linear_definition(module.up(x), module.down.weight)
    assert found.dtype == expected.dtype == torch.bfloat16
    assert_close(found.detach().float(), expected.detach().float(), 1e-2)


def test_a_frozen_map_gets_no_gradient() -> None:
    both, weight, _ = inputs(40)
    found = gated_linear(both, weight.detach())
    expected = gated_linear_definition(both, weight.detach())
    above = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad(y, both, above)[0] for y in (found, expected))
    assert_close(ours, theirs, 1e-12)
