"""torch.func's transforms of models and ops whose backward pass is written out, against that backward pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jvp, vmap

from farfield.api import build
from farfield.architectures.ops.gelu_gate import gelu_gate
from farfield.architectures.ops.pieces import in_pieces
from farfield.architectures.ops.rms_norm import rms_norm
from farfield.architectures.ops.rotary import angles, frequencies, rotate
from farfield.architectures.ops.swiglu import swiglu

# torch's own forward derivatives are scripts, made at their first use.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

ROWS, TIME = 4, 130  # more tokens than a piece of SwiGLU, and several chunks
BATCHED = ["attention", "longformer", "retnet", "mamba", "mamba2", "gss", "gated_deltanet", "performer"]


def filled(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)), dtype=torch.float64)


def loss_of(architecture: str) -> tuple[Callable[[dict[str, Tensor]], Tensor], dict[str, Tensor]]:
    """The loss of a model by its weights, and these."""
    model = build(architecture, ["width=32", "depth=1"]).model.double()
    tokens = torch.randint(0, 257, (ROWS, TIME + 1), generator=torch.Generator().manual_seed(0))

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self) -> Tensor:
            return self.model.loss(tokens[:, :-1], tokens[:, 1:]).total

    whole = Whole()
    weights = {name: weight.detach() for name, weight in whole.named_parameters()}
    return lambda given: functional_call(whole, given, ()), weights


def backward(loss: Callable[[dict[str, Tensor]], Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    given = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    return dict(zip(given, torch.autograd.grad(loss(given), list(given.values())), strict=True))


@pytest.mark.parametrize("architecture", [*BATCHED, "reformer"])
def test_gradients_and_directions_of_a_loss(architecture: str) -> None:
    loss, weights = loss_of(architecture)
    expected = backward(loss, weights)
    torch.testing.assert_close(grad(loss)(weights), expected, rtol=1e-7, atol=1e-9)
    along = {name: torch.cos(torch.arange(weight.numel()).double()).view_as(weight) for name, weight in weights.items()}
    _, found = jvp(loss, (weights,), (along,))
    torch.testing.assert_close(found, torch.stack([(expected[name] * along[name]).sum() for name in along]).sum())


@pytest.mark.parametrize("architecture", BATCHED)
def test_models_of_several_weights_at_once(architecture: str) -> None:
    loss, weights = loss_of(architecture)
    other = {name: weight + 0.1 for name, weight in weights.items()}
    both = {name: torch.stack((weight, other[name])) for name, weight in weights.items()}
    for found, one in zip(vmap(loss)(both), (weights, other), strict=True):
        torch.testing.assert_close(found, loss(one))


COS, SIN = angles(torch.arange(700)[None], frequencies(8, "halves"), torch.float64)
OPS: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {
    "rms_norm": (lambda x, gain: rms_norm(x, gain, 1e-6), [filled(4200, 64), filled(64)]),
    "swiglu": (swiglu, [filled(600, 8), filled(24, 8), filled(8, 12), filled(24), filled(8)]),
    "gelu_gate": (gelu_gate, [filled(1, 300, 8), filled(1, 300, 6), *map(filled, (12, 12, 5), (8, 6, 12)), filled(5)]),
    "halves": (lambda x: rotate(x, COS, SIN, "halves"), [filled(2, 3, 700, 8)]),
    "interleaved": (lambda x: rotate(x, COS, SIN, "interleaved"), [filled(2, 3, 700, 8)]),
    "in_pieces": (lambda x, w: in_pieces(lambda x, w: x.sin() * w, [x], [w]), [filled(1, 9000, 32), filled(32)]),
}


@pytest.mark.parametrize("name", OPS)
def test_ops_in_several_pieces(name: str) -> None:
    op, given = OPS[name]

    def total(*tensors: Tensor) -> Tensor:
        out = op(*tensors)
        return (out * torch.cos(torch.arange(out.numel())).view(out.shape)).sum()

    tracked = [one.clone().requires_grad_() for one in given]
    expected = torch.autograd.grad(total(*tracked), tracked)
    every = tuple(range(len(given)))
    torch.testing.assert_close(grad(total, every)(*given), expected, rtol=1e-9, atol=1e-9)
    _, found = jvp(total, tuple(given), tuple(given))
    torch.testing.assert_close(found, torch.stack([(a * b).sum() for a, b in zip(expected, given, strict=True)]).sum())
    twice = vmap(op)(*(torch.stack((one, 2 * one)) for one in given))
    torch.testing.assert_close(twice, torch.stack((op(*given), op(*(2 * one for one in given)))))
