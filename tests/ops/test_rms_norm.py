"""The norm written as one function against PyTorch's own, values and gradients, at any length and dtype."""

from __future__ import annotations

import pytest
import torch
from contract.runs import assert_close, error

from farfield.architectures.ops import rms_norm as ops
from farfield.architectures.ops.rms_norm import rms_norm


@pytest.fixture(autouse=True, params=["one pass", "operators"])
def _form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In C++, where a compiler is, and by PyTorch's operators."""
    if request.param == "operators":
        monkeypatch.setattr(ops, "passes", lambda *_: None)


@pytest.fixture(autouse=True)
def _pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three tokens of width 6, so that all but the shortest texts go through several, the last a short one."""
    monkeypatch.setattr(ops, "PIECE", 6 * 3)


@pytest.mark.parametrize("shape", [(1, 1, 6), (2, 63, 6), (130, 6), (3, 0, 6)], ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_agrees_with_pytorchs(shape: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    x, above = torch.randn(2, *shape, dtype=dtype)
    gain = torch.randn(6, dtype=dtype, requires_grad=True)
    x.requires_grad_()
    found, expected = rms_norm(x, gain, 1e-5), torch.nn.functional.rms_norm(x, (6,), gain, 1e-5)
    assert_close(found.detach(), expected.detach(), tolerance)
    ours, theirs = (torch.autograd.grad(y, (x, gain), above) for y in (found, expected))
    for pair in zip(ours, theirs, strict=True):
        assert_close(*pair, tolerance)


def test_gradients_by_finite_differences() -> None:
    x, gain = torch.randn(4, 6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    leaves = (x.requires_grad_(), gain.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, g: rms_norm(a, g, 1e-3), leaves)


def test_strides_are_as_they_come() -> None:
    x, gain = torch.randn(6, 9, dtype=torch.float64).T, torch.randn(6, dtype=torch.float64)
    assert_close(rms_norm(x, gain, 1e-5), torch.nn.functional.rms_norm(x, (6,), gain, 1e-5), 1e-12)


def test_zeros_stay_zeros_with_gradients() -> None:
    """As at padding."""
    x, gain = torch.zeros(5, 6, requires_grad=True), torch.ones(6)
    found = rms_norm(x, gain, 1e-5)
    assert not found.any()
    assert torch.autograd.grad(found.sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    x, above = torch.randn(2, 40, 32).to(dtype)
    gain = torch.randn(32).to(dtype).requires_grad_()
    x.requires_grad_()
    found, exact = rms_norm(x, gain, 1e-5), rms_norm(x.double(), gain.double(), 1e-5)
    assert found.dtype == dtype
    assert error(found.detach(), exact.detach()) <= torch.finfo(dtype).eps
    ours = torch.autograd.grad(found, (x, gain), above)
    true = torch.autograd.grad(exact, (x, gain), above.double())
    for one, right in zip(ours, true, strict=True):
        assert one.dtype == dtype
        assert error(one, right) <= 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("width", [1, 4, 7])
def test_a_gain_of_another_width_is_refused(width: int) -> None:
    with pytest.raises(RuntimeError):
        rms_norm(torch.randn(130, 6), torch.ones(width), 1e-5)
