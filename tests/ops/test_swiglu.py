"""SwiGLU as one function against its definition: values, gradients, what it keeps and writes."""

from __future__ import annotations

import pytest
import torch
from contract.runs import assert_close, error
from torch import Tensor, nn

from farfield.architectures import Rows
from farfield.architectures.feedforward import SwiGLU
from farfield.architectures.ops import swiglu as ops
from farfield.architectures.ops.swiglu import swiglu, swiglu_definition

I, D = 10, 6  # noqa: E741  # the op's own letters


def inputs(*shape: int, dtype: torch.dtype = torch.float64, biased: bool = False) -> list[Tensor]:
    sizes: list[tuple[int, ...]] = [(*shape, D), (2 * I, D), (D, I), *([(2 * I,), (D,)] if biased else [])]
    return [torch.randn(size, dtype=torch.float64).to(dtype).requires_grad_() for size in sizes]


@pytest.fixture(autouse=True, params=["one pass", "operators"])
def _form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In C++, where a compiler is, and by PyTorch's operators."""
    if request.param == "operators":
        monkeypatch.setattr(ops, "passes", lambda *_: None)


@pytest.fixture(autouse=True)
def _pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a few tokens, each in parts, so that all but the shortest texts go through several, the last a short one."""
    monkeypatch.setattr(ops, "PIECE", 0)
    monkeypatch.setattr(ops, "LEAST", 17)
    monkeypatch.setattr(ops, "HELD", 7 * 2 * I)


@pytest.mark.parametrize("shape", [(1, 1), (2, 63), (130,), (3, 0)], ids=str)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_agrees_with_the_definition(shape: tuple[int, ...], biased: bool, dtype: torch.dtype, tolerance: float) -> None:
    leaves = inputs(*shape, dtype=dtype, biased=biased)
    found, expected = swiglu(*leaves), swiglu_definition(*leaves)
    assert_close(found.detach(), expected.detach(), tolerance)
    above = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad(y, leaves, above) for y in (found, expected))
    for pair in zip(ours, theirs, strict=True):
        assert_close(*pair, tolerance)


def test_bfloat16_sums_the_weights_gradients_in_float32() -> None:
    leaves = inputs(400, dtype=torch.bfloat16, biased=True)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    above = torch.randn(400, D).bfloat16()
    ours = torch.autograd.grad(swiglu(*leaves), leaves, above)
    theirs = torch.autograd.grad(swiglu_definition(*leaves), leaves, above)
    right = torch.autograd.grad(swiglu_definition(*exact), exact, above.double())
    for one, other, true in zip(ours, theirs, right, strict=True):
        assert one.dtype == torch.bfloat16
        assert error(one, true) <= 2 * error(other, true)


def test_backward_keeps_gates_and_values_and_no_product() -> None:
    """Without it a layer keeps half as much again."""
    x, first, second = inputs(2, 63)
    given, both = x.numel() + first.numel() + second.numel(), 2 * 63 * 2 * I
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        swiglu(x, first, second)
    assert sum(tensor.numel() for tensor in kept) == given + both
    again: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: again.append(tensor) or tensor, lambda tensor: tensor):
        swiglu_definition(x, first, second)
    assert sum(tensor.numel() for tensor in again) >= given + 2 * both


@pytest.mark.parametrize("which", ["up", "down"])
def test_a_map_in_the_place_of_one_is_called(which: str) -> None:
    """Such as one with an addition of low rank: its weights alone are not what it computes."""

    class Zero(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 0 * super().forward(x)

    module, x = SwiGLU(D, I).double(), torch.randn(1, 40, D, dtype=torch.float64)
    rows = Rows.fresh_documents(1, 40)
    assert module(x, rows)[0].any()
    plain = module.get_submodule(which)
    assert isinstance(plain, nn.Linear)
    other = Zero(plain.in_features, plain.out_features, bias=False).double()
    other.load_state_dict(plain.state_dict())
    setattr(module, which, other)
    assert not module(x, rows)[0].any()


def test_autocast_is_as_narrow_as_the_definition() -> None:
    module, x = SwiGLU(D, I), torch.randn(1, 40, D)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(x, Rows.fresh_documents(1, 40))[0]
        expected = swiglu_definition(x, module.up.weight, module.down.weight)
    assert found.dtype == expected.dtype == torch.bfloat16
    assert_close(found.detach().float(), expected.detach().float(), 1e-2)


@pytest.mark.parametrize("learns", range(5), ids=["x", "first", "second", "first_bias", "second_bias"])
def test_what_is_frozen_gets_no_gradient(learns: int) -> None:
    leaves = [leaf.detach().requires_grad_(at == learns) for at, leaf in enumerate(inputs(40, biased=True))]
    found, expected = swiglu(*leaves), swiglu_definition(*leaves)
    above = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad(y, leaves[learns], above)[0] for y in (found, expected))
    assert_close(ours, theirs, 1e-12)


@pytest.mark.parametrize("sizes", [((10, D), (D, D)), ((2 * I + 1, D), (D, I)), ((2 * I, D), (D, 60 * I))], ids=str)
def test_weights_that_do_not_fit_are_refused(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    with pytest.raises(RuntimeError):
        swiglu(torch.randn(130, D), *(torch.randn(size) for size in sizes))
