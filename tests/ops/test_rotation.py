"""Rotation by position, and xPos's scales, against complex numbers, up to a million tokens."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
from contract.runs import assert_close, error
from torch import Tensor

from farfield.architectures.ops.rotary import Layout, angles, frequencies, powers, rotate, rotate_definition, scales
from farfield.architectures.projection import Rotation
from farfield.architectures.rows import Rows

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


# xPos


def scaled(
    x: Tensor, phase: Tensor, power: Tensor, scale_base: float = 512.0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Turned to the phase and scaled by zeta^power."""
    cos, sin = angles(phase, frequencies(x.shape[-1], "halves"), dtype)
    scale = powers(power, scales(x.shape[-1], scale_base), dtype)
    return rotate(x, cos * scale, sin * scale, "halves")


def faded(q: Tensor, k: Tensor, apart: int, scale_base: float = 512.0) -> Tensor:
    """The definition: sum_i Re(q_i conj(k_i) exp(i w_i (n - m))) zeta_i^(n - m) of q and k (W,) in pairs of halves."""
    half = q.shape[0] // 2
    total = torch.zeros((), dtype=torch.float64)
    for i in range(half):
        zeta = ((2 * i / q.shape[0] + 0.4) / 1.4) ** (1 / scale_base)
        pair = complex(q[i], q[i + half]) * complex(k[i], -k[i + half])
        total += (pair * cmath.exp(1j * apart * 10000 ** (-i / half))).real * zeta**apart
    return total


def test_scales_are_torchscales() -> None:
    """(arange(0, d, 2) + 0.4 d) / (1.4 d), to the power of the position over 512."""
    for width in (2, 6, 64):
        theirs = (torch.arange(0, width, 2, dtype=torch.float64) + 0.4 * width) / (1.4 * width)
        assert_close(scales(width).exp(), theirs ** (1 / 512), 1e-12)
        tokens = torch.tensor([[3, -700]])
        assert_close(powers(tokens, scales(width), torch.float64)[0, 0], theirs ** (tokens[0, :, None] / 512), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("reference", [0, 40, 10**5])
@pytest.mark.parametrize("apart", [0, 1, 700])
def test_products_of_scaled_pairs_depend_on_the_distance_only(apart: int, reference: int, dtype: torch.dtype) -> None:
    q, k = torch.randn(2, 16, dtype=torch.float64)
    n, m = (torch.tensor([[10**5 + 17 + more]]) for more in (apart, 0))
    origin = 10**5 + 17 - reference if reference < 10**5 else 10**5
    query = scaled(q.to(dtype)[None, None, None], n, n - origin, dtype=dtype)
    key = scaled(k.to(dtype)[None, None, None], m, origin - m, dtype=dtype)
    assert_close((query * key).sum().double(), faded(q, k, apart), 1e-9 if dtype == torch.float64 else 1e-4)


def test_without_a_reference_float32_overflows() -> None:
    """What references are for: the power of a key a hundred thousand tokens away is no float32."""
    far = torch.tensor([[-100_000]])
    assert powers(far, scales(16), torch.float32).isinf().any()
    assert powers(far, scales(16), torch.float64).isfinite().all()


def test_a_reference_moves_only_when_it_is_far() -> None:
    """Of three rows, one begins a document and one is far behind its reference: its kept keys are scaled down."""
    rotation = Rotation(8, 10000.0, 2.0)
    positions = torch.tensor([[90, 91, 92], [5, 6, 7], [4, 0, 1]])
    x, reference = torch.randn(2, 3, 1, 3, 8, dtype=torch.float64), torch.tensor([10, 0, 1])
    found = rotation.turned(*x, Rows(positions, positions), reference)
    assert found.reference is not None
    assert found.power is not None
    assert found.factor is not None
    assert found.reference.tolist() == [90, 0, 0]
    assert found.power.tolist() == [[0, 1, 2], [5, 6, 7], [3, 0, 1]]
    zeta = scales(8, 2.0).exp().repeat(2)
    assert_close(found.factor[:, 0, 0], torch.stack((zeta**80, zeta**0, zeta**0)), 1e-12)
    assert rotation.turned(*x, Rows(positions % 30, positions % 30), torch.zeros(3, dtype=torch.int64)).factor is None


@pytest.mark.parametrize("by_token", [True, False])
def test_heads_lie_apart_and_gradients_as_their_input(by_token: bool) -> None:
    """What attention reads head by head, and what goes back into one product of all heads without a copy."""
    shape = (2, 9, 3, 8) if by_token else (2, 3, 9, 8)
    x = torch.randn(shape).transpose(1, 2) if by_token else torch.randn(shape)
    found = turned(x.requires_grad_(), torch.arange(9)[None].expand(2, 9), "halves", torch.float32)
    assert found.is_contiguous()
    (gradient,) = torch.autograd.grad(found, x, torch.randn(2, 9, 3, 8).transpose(1, 2))
    assert gradient.stride() == x.stride()
