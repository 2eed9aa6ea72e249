"""What the tests of parity share: how ours is compared with theirs, and that the figure is told.

@pytest.mark.parity("mamba", "mambapy's block")           who is compared with whom, for the table at the end
def test_mamba_is_mambapys(parity: Parity) -> None:
    parity.layer(ours, theirs, FLOAT32)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from contract.runs import assert_close, error
from torch import Tensor

from farfield.architectures import Mixer, Rows, build_mixer, mixer_kinds
from farfield.huggingface.weights import Piece, theirs

WIDTH = 32
FLOAT32, FLOAT64 = 1e-5, 1e-11
"""Allowed differences; the first where theirs, run in float64, computes some steps in float32: norms, decays."""


@dataclass(frozen=True)
class Parity:
    """A comparison of `ours` with `theirs`; each figure is recorded as a property of the test."""

    ours: str
    theirs: str
    record: Callable[[str, object], None]

    def close(self, found: Tensor, expected: Tensor, tolerance: float) -> None:
        """The largest difference is at most `tolerance` of the largest expected value."""
        found, expected = found.detach(), expected.detach()
        self.record("parity", f"{self.ours} vs {self.theirs}: {error(found, expected):.1e}")
        assert_close(found, expected, tolerance)

    def outputs(self, found: Tensor, expected: Tensor, tolerance: float, *of: Tensor) -> None:
        """Two results, and their gradients by the tensors `of` that both come from."""
        self.close(found, expected, tolerance)
        above = torch.randn_like(found)
        mine, other = (torch.autograd.grad((y * above).sum(), of) for y in (found, expected))
        for pair in zip(mine, other, strict=True):
            self.close(*pair, tolerance)

    def layer(self, ours: Mixer, theirs: Callable[[Tensor], Tensor], tolerance: float, time: int = 130) -> None:
        """Values and the gradient of the input of two documents; `theirs` takes x (B, T, D)."""
        x = torch.randn(2, time, WIDTH, dtype=torch.float64, requires_grad=True)
        found, _ = ours(x, Rows.fresh_documents(2, time), ours.start(2))
        self.outputs(found, theirs(x), tolerance, x)


def named(pieces: Callable[..., list[Piece]], ours: Mixer, kind: str, **settings: Any) -> dict[str, Tensor]:
    """The weights of a mixer that `mixer` has made of these settings, by the names and in the form of transformers."""
    found = pieces(mixer_kinds()[kind](**settings), WIDTH, "ours", "theirs")
    weights = theirs(found, {f"ours.{name}": weight for name, weight in ours.named_parameters()})
    assert {piece.ours for piece in found} == {f"ours.{name}" for name, _ in ours.named_parameters()}
    return {name.removeprefix("theirs."): weight for name, weight in weights.items()}


def mixer(kind: str, layer: int = 0, depth: int = 1, **settings: Any) -> Any:
    """A mixer in float64, none of its weights at a special value."""
    torch.manual_seed(0)
    built = build_mixer({"kind": kind, **settings}, WIDTH, layer, depth)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return built.double()
