"""The causal fixed point against as many applications as there are tokens, with their history."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farfield.architectures.ops.fixed_point import (
    Step,
    Values,
    causal_fixed_point,
    causal_fixed_point_definition,
    repeated,
)


def step_of(x: Tensor, weight: Tensor, place: Tensor, strength: float) -> Step:
    """tanh of x and of the mean of the tokens before in the same run; two tensors that depend on each other."""
    column = torch.arange(place.shape[1])
    first = column - place
    seen = (column[None, None] < column[None, :, None]) & (column[None, None] >= first[..., None])
    share = seen.double() / seen.sum(-1, keepdim=True).clamp(min=1)

    def step(values: Values) -> Values:
        one, other = values
        mixed = strength * share[:, None] @ other @ weight
        return torch.tanh(x + mixed), torch.tanh(x.flip(-1) + strength * share[:, None] @ one @ weight)

    return step


def sample(place: Tensor, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*place.shape, 4, generator=generator, dtype=torch.float64)[:, None].requires_grad_()
    weight = torch.randn(4, 4, generator=generator, dtype=torch.float64).requires_grad_()
    above = torch.randn(2, *x.shape, generator=generator, dtype=torch.float64)
    return x, weight, above


def outcome(found: Values, x: Tensor, weight: Tensor, above: Tensor) -> list[Tensor]:
    total = sum((one * by).sum() for one, by in zip(found, above, strict=True))
    assert isinstance(total, Tensor)
    return [*(one.detach() for one in found), *torch.autograd.grad(total, [x, weight], allow_unused=True)]


def both(place: Tensor, strength: float, seed: int = 0) -> None:
    x, weight, above = sample(place, seed)
    step = step_of(x, weight, place, strength)
    start = (torch.zeros_like(x).detach(),) * 2
    expected = outcome(causal_fixed_point_definition(step, start, place.shape[1]), x, weight, above)
    found = outcome(causal_fixed_point(step, start, place), x, weight, above)
    for ours, theirs in zip(found, expected, strict=True):
        if theirs is None:
            assert ours is None or not ours.any()
            continue
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * float(theirs.abs().max()))


@pytest.mark.parametrize("strength", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("length", [1, 2, 40])
def test_values_and_gradients(length: int, strength: float) -> None:
    """Where it converges at once, slowly, and not at all before the last token."""
    both(torch.arange(length).expand(3, -1), strength)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.sampled_from([0.3, 3.0]), st.integers(0, 99))
def test_runs_in_a_row(lengths: list[int], strength: float, seed: int) -> None:
    both(torch.cat([torch.arange(n) for n in lengths])[None], strength, seed)


def test_few_applications_where_tokens_matter_little() -> None:
    place = torch.arange(200)[None]
    x, weight, _ = sample(place)
    step = step_of(x, weight, place, 0.02)
    count = 0

    def counted(values: Values) -> Values:
        nonlocal count
        count += 1
        return step(values)

    with torch.no_grad():
        causal_fixed_point(counted, (torch.zeros_like(x),) * 2, place)
    assert count < 20


def test_neither_the_future_nor_other_rows_move_the_last_bit() -> None:
    place = torch.arange(50).expand(2, -1)
    x, weight, _ = sample(place)
    start = (torch.zeros_like(x),) * 2
    with torch.no_grad():
        before = causal_fixed_point(step_of(x, weight, place, 2.0), start, place)
        x[:, :, 30:] *= 50
        x[1] += 3
        after = causal_fixed_point(step_of(x, weight, place, 2.0), start, place)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[0, :, :30], new[0, :, :30])
        assert not torch.equal(old[0], new[0])


def test_repeated_tracks_the_last_applications_only() -> None:
    place = torch.arange(20)[None]
    x, weight, above = sample(place)
    step = step_of(x, weight, place, 1.0)
    start = (torch.zeros_like(x).detach(),) * 2
    with torch.no_grad():
        middle = causal_fixed_point_definition(step, start, 3)
    expected = outcome(causal_fixed_point_definition(step, middle, 2), x, weight, above)
    found = outcome(repeated(step, start, 3, 2), x, weight, above)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
