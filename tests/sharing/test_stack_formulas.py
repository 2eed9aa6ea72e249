"""Layers that share keys agree, in values and gradients, with the equations one token after another."""

from __future__ import annotations

import pytest
import torch
from contract.runs import assert_close, cut, in_calls, rounded_zero, sample, whole
from sequential import formula
from stacks import STACKS, Stack

PURE = [name for name, stack in STACKS.items() if "r" not in stack["mixers"]]
"""Stacks without retention, whose equations are under test where it alone is."""


@pytest.mark.parametrize("length", [1, 17, 29])
@pytest.mark.parametrize("split", ["whole", "pieces"])
@pytest.mark.parametrize("name", PURE)
def test_the_formula_agrees(name: str, split: str, length: int) -> None:
    stack = Stack(name)
    if split == "pieces" and not stack.config.decoder.split_exact:
        pytest.skip("declares that splits matter")
    mixer, (x, cotangent) = stack.build(), sample(1, length, stack.width, torch.float64)
    calls = whole(1, length) if split == "whole" else cut(whole(1, length)[0], [1, 9, 5])
    found = in_calls(mixer, x, cotangent, calls)
    x.requires_grad_()
    weights = dict(mixer.named_parameters())
    y = formula(stack.config.architecture, weights, x[0])[None]
    assert_close(found.y, y.detach(), 1e-9, "output")
    expected = torch.autograd.grad((y * cotangent).sum(), [x, *weights.values()], allow_unused=True)
    for name, gradient in zip(("x", *weights), expected, strict=True):
        if gradient is None or not gradient.any():
            assert rounded_zero(found.gradients[name]), name
        else:
            assert_close(found.gradients[name], gradient, 1e-9, f"gradient of {name}")


@pytest.mark.parametrize("name", [name for name in PURE if "lckv" in name])
def test_as_many_passes_as_tokens_are_exact(name: str) -> None:
    """The published form with every pass under gradients, on a document that is no longer than there are passes."""
    stack = Stack(name)
    mixer, (x, cotangent) = stack.build(), sample(2, 12, stack.width, torch.float64)
    expected = in_calls(mixer, x, cotangent, whole(2, 12))
    sharing = stack.config.decoder.sharing.model_copy(update={"passes": 0, "backward": 12})
    mixer.decoder.config = stack.config.decoder.model_copy(update={"sharing": sharing})
    found = in_calls(mixer, x, cotangent, whole(2, 12))
    assert_close(found.y, expected.y, 1e-9)
    for name, gradient in expected.gradients.items():
        assert_close(found.gradients[name], gradient, 1e-9, name)
