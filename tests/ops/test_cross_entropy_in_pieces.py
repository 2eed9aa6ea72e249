"""Cross entropy in pieces against PyTorch's own on whole logits."""

from __future__ import annotations

import math

import pytest
import torch
from contract.runs import assert_close, error
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from farfield.architectures.ops import cross_entropy
from farfield.architectures.ops.cross_entropy import IGNORED, linear_cross_entropy, linear_cross_entropy_definition

N, D, V = 130, 6, 37


@pytest.fixture(autouse=True, params=["one pass", "operators"])
def _form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In C++, where a compiler is, and by PyTorch's operators."""
    if request.param == "operators":
        monkeypatch.setattr(cross_entropy, "passes", lambda *_: None)


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows of logits at a time, the last time fewer."""
    monkeypatch.setattr(cross_entropy, "CACHED", 3 * V)


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    hidden, weight = (torch.randn(n, D, dtype=torch.float64).to(dtype).requires_grad_() for n in (N, V))
    targets = torch.randint(0, V, (N,))
    targets[::7] = IGNORED
    return hidden, weight, targets


@pytest.mark.parametrize("piece", [1, 63, 64, 130, 1000])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_agrees_with_the_definition(dtype: torch.dtype, tolerance: float, piece: int) -> None:
    hidden, weight, targets = inputs(dtype)
    found = linear_cross_entropy(hidden, weight, targets, piece)
    expected = linear_cross_entropy_definition(hidden, weight, targets)
    assert_close(found.detach(), expected.detach(), tolerance)
    ours, theirs = (torch.autograd.grad(3 * loss, (hidden, weight)) for loss in (found, expected))
    for pair in zip(ours, theirs, strict=True):
        assert_close(*pair, tolerance)


def test_gradients_by_finite_differences() -> None:
    hidden, weight, targets = (x[:5].detach() for x in inputs())
    leaves = (hidden.requires_grad_(), weight.requires_grad_())
    targets = targets % 5
    assert torch.autograd.gradcheck(lambda h, w: linear_cross_entropy(h, w, targets, 2), leaves)


@pytest.mark.parametrize("which", ["hidden", "weight", "none"])
def test_gradients_of_some(which: str) -> None:
    hidden, weight, targets = inputs()
    hidden.requires_grad_(which == "hidden")
    weight.requires_grad_(which == "weight")
    loss = linear_cross_entropy(hidden, weight, targets, 50)
    assert loss.requires_grad == (which != "none")
    expected = linear_cross_entropy_definition(hidden, weight, targets)
    assert_close(loss.detach(), expected.detach(), 1e-12)
    if which != "none":
        leaf = hidden if which == "hidden" else weight
        assert_close(torch.autograd.grad(loss, leaf)[0], torch.autograd.grad(expected, leaf)[0], 1e-12)


@pytest.mark.parametrize("count", [N - 1, N // 2, N + 1])
def test_as_many_targets_as_hidden_states(count: int) -> None:
    """Fewer would be paired with the first hidden states, and nobody would notice."""
    hidden, weight, _ = inputs()
    with pytest.raises(AssertionError, match="one target for each hidden state"):
        linear_cross_entropy(hidden, weight, torch.zeros(count, dtype=torch.int64))


def test_nothing_scored_is_zero_with_zero_gradients() -> None:
    hidden, weight, targets = inputs()
    loss = linear_cross_entropy(hidden, weight, torch.full_like(targets, IGNORED))
    assert loss.item() == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, (hidden, weight)))


def test_hidden_states_that_are_not_scored_are_not_read() -> None:
    hidden, weight, targets = inputs()
    with torch.no_grad():
        hidden[::7] = torch.nan
    loss = linear_cross_entropy(hidden, weight, targets)
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, (hidden, weight)))


def test_logits_of_thousands_do_not_overflow() -> None:
    hidden, weight, targets = inputs(torch.float32)
    loss = linear_cross_entropy(1e3 * hidden, 10 * weight, targets)
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, (hidden, weight)))


def test_uniform_logits_cost_the_logarithm_of_the_vocabulary() -> None:
    hidden, weight, targets = inputs()
    scored = int((targets != IGNORED).sum())
    assert linear_cross_entropy(0 * hidden, weight, targets).item() == pytest.approx(scored * math.log(V))


def test_half_precision_sums_in_float32() -> None:
    hidden, weight, targets = inputs(torch.bfloat16)
    loss = linear_cross_entropy(hidden, weight, targets, 9)
    assert loss.dtype == torch.float32
    exact = linear_cross_entropy_definition(hidden.double(), weight.double(), targets)
    definition = linear_cross_entropy_definition(hidden, weight, targets)
    assert error(loss.detach(), exact.detach()) <= 2 * error(definition.detach(), exact.detach()) + 1e-3
    found, expected, true = (
        torch.autograd.grad(value, (hidden, weight), retain_graph=True) for value in (loss, definition, exact)
    )
    for ours, theirs, right in zip(found, expected, true, strict=True):
        assert ours.dtype == torch.bfloat16
        assert error(ours, right) <= 2 * error(theirs, right) + 2**-8


class Largest(TorchDispatchMode):
    """The largest number of elements of any tensor that an operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return out


@pytest.mark.parametrize("piece", [1, 16])
def test_no_more_logits_than_a_piece_exist_at_once(piece: int) -> None:
    hidden, weight, targets = inputs()
    with Largest() as largest:
        torch.autograd.grad(linear_cross_entropy(hidden, weight, targets, piece), (hidden, weight))
    assert largest.numbers <= max(piece * V, N * D, V * D)
    with Largest() as largest:
        torch.autograd.grad(linear_cross_entropy_definition(hidden, weight, targets), (hidden, weight))
    assert largest.numbers == N * V  # what the pieces avoid


def test_within_autocast_products_are_narrow_and_sums_are_not() -> None:
    """As those of the definition within it: the loss in float32, gradients in the dtype of what they are of."""
    hidden, weight, targets = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss, definition = (f(hidden, weight, targets) for f in (linear_cross_entropy, linear_cross_entropy_definition))
    exact = linear_cross_entropy_definition(hidden.double(), weight.double(), targets)
    assert loss.dtype == torch.float32
    assert loss.item() != linear_cross_entropy(hidden, weight, targets).item()
    found, expected, true = (
        torch.autograd.grad(value, (hidden, weight), retain_graph=True) for value in (loss, definition, exact)
    )
    for ours, theirs, right in zip(found, expected, true, strict=True):
        assert ours.dtype == torch.float32
        assert error(ours, right) <= 2 * error(theirs, right)


@pytest.mark.parametrize("wrong", [-1, V], ids=["below", "beyond"])
def test_an_id_that_is_none_reads_no_memory(wrong: int) -> None:
    hidden, weight, targets = inputs()
    targets[5] = wrong
    with pytest.raises(RuntimeError, match="out of bounds"):
        linear_cross_entropy(hidden, weight, targets)


def test_scores_that_are_none_and_far_ones() -> None:
    """As PyTorch's softmax has them: far scores lose nothing, NaN stays NaN."""
    hidden, weight, targets = (x.detach() for x in inputs(torch.float32))
    far = linear_cross_entropy(hidden * 100, weight, targets)
    assert_close(far, linear_cross_entropy_definition(hidden * 100, weight, targets), 1e-5)
    hidden[1] = torch.nan
    assert linear_cross_entropy(hidden, weight, targets).isnan()
