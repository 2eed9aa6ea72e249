"""The way out of gated state spaces as one function against its definition: values, gradients, what it keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract.runs import assert_close, error
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from farfield.architectures.ops import gelu_gate as ops
from farfield.architectures.ops.gelu_gate import gelu_gate, gelu_gate_definition

D, E, I, O = 6, 3, 10, 5  # noqa: E741  # the op's own letters
WEIGHTS = ((I, D), (I, E), (O, I), (O,))


def inputs(*shape: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    sizes = (*shape, D), (*shape, E), *WEIGHTS
    return [torch.randn(size, dtype=torch.float64).to(dtype).requires_grad_() for size in sizes]


@pytest.fixture(autouse=True)
def _pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a few tokens, so that all but the shortest texts go through several, the last a short one."""
    monkeypatch.setattr(ops, "PIECE", 17)


@pytest.mark.parametrize("shape", [(1, 1), (2, 63), (130,), (3, 0)], ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_agrees_with_the_definition(shape: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    leaves = inputs(*shape, dtype=dtype)
    found, expected = gelu_gate(*leaves), gelu_gate_definition(*leaves)
    assert_close(found.detach(), expected.detach(), tolerance)
    above = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad(z, leaves, above) for z in (found, expected))
    for pair in zip(ours, theirs, strict=True):
        assert_close(*pair, tolerance)


@pytest.mark.parametrize("frozen", range(6))
def test_what_is_frozen_changes_no_other_gradient(frozen: int) -> None:
    leaves = inputs(40)
    leaves[frozen].requires_grad_(False)
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    above = torch.randn(40, O, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad(form(*leaves), wanted, above) for form in (gelu_gate, gelu_gate_definition))
    for pair in zip(ours, theirs, strict=True):
        assert_close(*pair, 1e-12)


def test_bfloat16_sums_the_weights_gradients_in_float32() -> None:
    leaves = inputs(400, dtype=torch.bfloat16)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    above = torch.randn(400, O).bfloat16()
    ours = torch.autograd.grad(gelu_gate(*leaves), leaves, above)
    theirs = torch.autograd.grad(gelu_gate_definition(*leaves), leaves, above)
    right = torch.autograd.grad(gelu_gate_definition(*exact), exact, above.double())
    for one, other, true in zip(ours, theirs, right, strict=True):
        assert one.dtype == torch.bfloat16
        assert error(one, true) <= 2 * error(other, true)


def test_autocast_is_as_narrow_as_the_definition() -> None:
    leaves = inputs(40, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = gelu_gate(*leaves), gelu_gate_definition(*leaves)
    assert found.dtype == expected.dtype == torch.bfloat16
    assert_close(found.detach().float(), expected.detach().float(), 1e-2)
    found.float().sum().backward()
    assert all(leaf.grad is not None and leaf.grad.dtype == torch.float32 for leaf in leaves)


def test_backward_keeps_the_gates_product_and_no_other() -> None:
    leaves = inputs(2, 63)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda part: kept.append(part.numel()) or part, lambda part: part):
        gelu_gate(*leaves)
    assert sum(kept) == sum(leaf.numel() for leaf in leaves[:5]) + 2 * 63 * I


def test_without_gradients_nothing_as_long_as_the_text_is_as_wide_as_the_gate() -> None:
    leaves, made = inputs(2, 63), []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
            found = function(*given, **(named or {}))
            made.append(found.numel() if isinstance(found, Tensor) else 0)
            return found

    with torch.no_grad(), Sizes():
        gelu_gate(*leaves)
    assert 2 * 17 * I <= max(made) < 126 * I
    with torch.no_grad(), Sizes():
        gelu_gate_definition(*leaves)
    assert max(made) == 126 * I
