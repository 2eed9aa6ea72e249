"""Rotation by position against complex numbers, up to a million tokens."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
from contract.runs import assert_close, error
from torch import Tensor

from farfield.architectures.ops.rotary import Layout, angles, frequencies, rotate, rotate_definition
from farfield.architectures.projection import Rotation

LAYOUTS: tuple[Layout, ...] = ("halves", "interleaved")


def turned(x: Tensor, phase: Tensor, layout: Layout, dtype: torch.dtype = torch.float64) -> Tensor:
    return rotate(x, *angles(phase, frequencies(x.shape[-1], layout), dtype), layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("width", [2, 6, 64])
def test_agrees_with_complex_numbers_in_values_and_gradients(width: int, layout: Layout) -> None:
    x = torch.randn(2, 3, 9, width, dtype=torch.float64, requires_grad=True)
    phase = torch.randint(0, 10**6, (2, 9))
    found, expected = turned(x, phase, layout), rotate_definition(x, phase, layout)
    assert_close(found.detach(), expected.detach(), 1e-12)
    above = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad((y * above).sum(), x)[0] for y in (found, expected))
    assert_close(ours, theirs, 1e-12)


@pytest.mark.parametrize("position", [0, 1, 4095, 10**6])
def test_one_pair_by_hand(position: int) -> None:
    """Without any of the library's own forms: frequencies, pairs and angles of width 4."""
    x = torch.tensor([0.3, -1.2, 0.7, 2.0], dtype=torch.float64)
    at = torch.tensor([[position]])
    a, b = (complex(x[i], x[i + 2]) * cmath.exp(1j * position * w) for i, w in ((0, 1.0), (1, 1e-2)))
    halves = turned(x[None, None, None], at, "halves")[0, 0, 0]
    assert_close(halves, torch.tensor([a.real, b.real, a.imag, b.imag], dtype=torch.float64), 1e-12)
    a, b = (complex(x[2 * i], x[2 * i + 1]) * cmath.exp(1j * position * w) for i, w in ((0, 1.0), (1, 1e-4)))
    pairs = turned(x[None, None, None], at, "interleaved")[0, 0, 0]
    assert_close(pairs, torch.tensor([a.real, a.imag, b.real, b.imag], dtype=torch.float64), 1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("position", [10**3, 10**6])
def test_float32_is_exact_at_any_position(position: int, layout: Layout) -> None:
    """Angles in float64: at a million tokens the error is that of float32 numbers, not of float32 angles."""
    x, phase = torch.randn(1, 2, 5, 32), position - torch.arange(5)[None]
    exact = rotate_definition(x.double(), phase, layout)
    assert error(turned(x, phase, layout, torch.float32), exact) < 3e-7
    narrow = phase[:, None, :, None].float() * frequencies(32, layout).float()
    off = error(rotate(x, narrow.cos(), narrow.sin(), layout), exact)
    assert position < 10**6 or off > 1e-3  # what the float64 angles are for


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_the_distance_matters(layout: Layout) -> None:
    q, k = torch.randn(2, 1, 1, 6, 16, dtype=torch.float64)
    phase = torch.arange(6)[None]
    scores = [turned(q, phase + far, layout) @ turned(k, phase + far, layout).transpose(-1, -2) for far in (0, 10**6)]
    assert_close(scores[1], scores[0], 1e-9)
    assert error(turned(q, phase, layout) @ turned(k, phase + 1, layout).transpose(-1, -2), scores[0]) > 1e-2


def test_lengths_are_kept_and_position_zero_changes_nothing() -> None:
    x = torch.randn(1, 1, 3, 8, dtype=torch.float64)
    for layout in LAYOUTS:
        assert_close(turned(x, torch.tensor([[5, 7, 9]]), layout).norm(dim=-1), x.norm(dim=-1), 1e-12)
        assert torch.equal(turned(x, torch.zeros(1, 3, dtype=torch.int64), layout), x)


def test_frequencies_of_both_schedules() -> None:
    assert frequencies(8, "halves", 10000.0).tolist() == pytest.approx([1.0, 0.1, 0.01, 0.001])
    assert frequencies(8, "interleaved", 10000.0).tolist() == pytest.approx([10000 ** -(i / 3) for i in range(4)])
    assert frequencies(2, "interleaved").tolist() == [1.0]
    assert frequencies(64, "interleaved", 500.0)[-1].item() == pytest.approx(1 / 500)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_precision_is_rounded_once(layout: Layout, dtype: torch.dtype) -> None:
    x = torch.randn(1, 2, 5, 32).to(dtype)
    phase = torch.tensor([[0, 1, 1000, 10**5, 10**6]])
    found = turned(x, phase, layout, torch.float32)
    assert found.dtype == dtype
    assert error(found, rotate_definition(x.double(), phase, layout)) <= torch.finfo(dtype).eps


def test_without_positions_nothing_turns() -> None:
    x = torch.randn(1, 1, 3, 8)
    assert Rotation(8, None).at(x, torch.arange(3)[None]) is x
    moved = Rotation(8, 10000.0).at(x, torch.arange(3)[None])
    assert_close(moved, rotate_definition(x, torch.arange(3)[None], "halves"), 1e-6)
    assert math.isfinite(error(moved, x))
