"""Heads made in one pass against their definition: values, gradients, layouts, threads, and attention around them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from contract.runs import assert_close
from torch import Tensor

from farfield.architectures import Rows, build_mixer
from farfield.architectures.ops import heads as ops
from farfield.architectures.ops import passes as library
from farfield.architectures.ops.cross_entropy import linear_cross_entropy
from farfield.architectures.ops.heads import Sizes, heads_definition, turned_heads
from farfield.architectures.ops.passes import passes
from farfield.architectures.ops.rms_norm import rms_norm
from farfield.architectures.ops.rotary import angles, frequencies
from farfield.architectures.ops.swiglu import swiglu

needs_compiler = pytest.mark.skipif(passes(torch.zeros(1)) is None, reason="no C++ compiler builds the operators here")

SIZES: list[Sizes] = [(4, 4, 64), (6, 2, 20), (1, 1, 2)]
DTYPES = [(torch.float64, 1e-12), (torch.float32, 1e-5)]


@pytest.fixture(autouse=True)
def _short_texts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "LEAST", 1)


def turns(rows: int, time: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    phase = torch.arange(time) + 7 * torch.arange(rows)[:, None]
    return angles(phase, frequencies(width, "halves"), dtype)


def made(qkv: Tensor, cos: Tensor, sin: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor, Tensor]:
    found = turned_heads(qkv, cos, sin, sizes)
    assert found is not None, "no pass was taken"
    return found


@needs_compiler
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("time", [1, 63, 130])
@pytest.mark.parametrize("angled", [1, 3], ids=["angles of all rows", "of each"])
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES, ids=str)
def test_agrees_with_the_definition(sizes: Sizes, time: int, angled: int, dtype: torch.dtype, tolerance: float) -> None:
    heads, groups, width = sizes
    wide = torch.randn(3, time, (heads + 2 * groups) * width + 5, dtype=dtype)
    qkv = wide[..., 2:-3].requires_grad_()  # among other numbers
    angle = turns(angled, time, width, dtype)
    found, expected = made(qkv, *angle, sizes), heads_definition(qkv, *angle, sizes)
    above = [torch.randn(3, time, x.shape[1], width, dtype=dtype).transpose(1, 2) for x in found]
    for one, other in zip(found, expected, strict=True):
        assert one.is_contiguous(), "a head's tokens stand side by side"
        assert_close(one.detach(), other.detach(), tolerance)
    ours, theirs = (torch.autograd.grad(outs, qkv, above)[0] for outs in (found, expected))
    assert_close(ours, theirs, tolerance)


@needs_compiler
def test_gradients_by_finite_differences() -> None:
    qkv = torch.randn(2, 5, 4 * 6, dtype=torch.float64, requires_grad=True)
    angle = turns(2, 5, 6, torch.float64)
    assert torch.autograd.gradcheck(lambda x: made(x, *angle, (2, 1, 6)), (qkv,))


@needs_compiler
@pytest.mark.parametrize("used", range(3), ids=["queries", "keys", "values"])
def test_what_is_not_used_gets_zeros(used: int) -> None:
    qkv, angle = torch.randn(2, 9, 3 * 8).requires_grad_(), turns(1, 9, 8, torch.float32)
    found, expected = made(qkv, *angle, (1, 1, 8))[used], heads_definition(qkv, *angle, (1, 1, 8))[used]
    ours, theirs = (torch.autograd.grad(x.square().sum(), qkv)[0] for x in (found, expected))
    assert_close(ours, theirs, 1e-5)


def all_passes() -> list[Tensor]:
    """Values and gradients of every pass, of sizes that are several blocks of work."""
    torch.manual_seed(0)
    qkv, x, gain = torch.randn(2, 300, 3 * 64), torch.randn(1200, 256), torch.randn(256)
    first, second, weight = torch.randn(96, 256), torch.randn(256, 48), torch.randn(500, 256)
    leaves = [leaf.requires_grad_() for leaf in (qkv, x, gain, first, second, weight)]
    outs = [*(turned_heads(qkv, *turns(2, 300, 32, torch.float32), (2, 2, 32)) or ())]
    outs += [rms_norm(x, gain, 1e-5), swiglu(x, first, second)]
    outs.append(linear_cross_entropy(x / 16, weight, torch.arange(1200) % 500))
    loss = torch.stack([out.square().mean() for out in outs]).sum()
    return [*outs, *torch.autograd.grad(loss, leaves)]


@needs_compiler
@pytest.mark.parametrize("own", [False, True], ids=["threads of PyTorch", "threads of the call"])
def test_no_number_of_threads_changes_a_bit_of_a_pass(monkeypatch: pytest.MonkeyPatch, own: bool) -> None:
    """Products are PyTorch's and stay on one thread: the passes alone have several."""
    if own:
        monkeypatch.setattr(library, "_begin", lambda: None)
    begin, expected = library._begin(), all_passes()
    monkeypatch.setattr(library, "_crew", lambda: (begin, 3))
    for one, other in zip(all_passes(), expected, strict=True):
        assert torch.equal(one, other)


ROWS: dict[str, Callable[[], Rows]] = {
    "fresh": lambda: Rows.fresh_documents(2, 70),
    "packed": lambda: Rows.at(torch.cat((torch.arange(30), torch.arange(40))).expand(2, -1)),
    "padded": lambda: Rows.at(torch.stack((torch.arange(70), torch.cat((torch.arange(50), -torch.ones(20).long()))))),
}


@needs_compiler
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("settings", [{}, {"kv_heads": 1, "conv": 3, "bias": "all"}], ids=["plain", "grouped"])
def test_attention_is_what_it_is_by_operators(
    monkeypatch: pytest.MonkeyPatch, rows: Callable[[], Rows], settings: dict[str, object]
) -> None:
    mixer = build_mixer({"kind": "attention", "heads": 2, **settings}, width=16).double()
    x = torch.randn(2, 70, 16, dtype=torch.float64, requires_grad=True)
    above, leaves, runs, taken = torch.randn(2, 70, 16, dtype=torch.float64), [x, *mixer.parameters()], [], []
    for form in (passes, lambda *_: taken.append(None)):
        monkeypatch.setattr(ops, "passes", form)
        y, state = mixer(x, rows(), mixer.start(2))
        runs.append(
            [
                y.detach(),
                *(held.detach().double() for held in state.tensors().values()),
                *torch.autograd.grad(y, leaves, above),
            ]
        )
    assert taken, "the other form was not asked for"
    for one, other in zip(*runs, strict=True):
        assert_close(one, other, 1e-12)
