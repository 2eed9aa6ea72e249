"""Retention between its projections: the form in C++ against the definition and against the form in PyTorch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.nn.functional import silu
from torch.utils.flop_counter import FlopCounterMode

from farfield.architectures import build_mixer
from farfield.architectures.ops import retention as module
from farfield.architectures.ops.backend import native
from farfield.architectures.ops.linear_attention import linear_attention_definition
from farfield.architectures.ops.native.library import library
from farfield.architectures.ops.retention import Retention, composed, retention
from farfield.architectures.ops.rotary import frequencies, rotate_definition
from farfield.architectures.rows import Rows

DECAY = torch.log1p(
    -(2.0 ** -torch.arange(1, 4, dtype=torch.float64))
)  # of three heads, the first of which forgets fast
FORMS = {
    "lightning": Retention(6, 6, DECAY, 16, activated=True, gate="sigmoid", together=True),
    "halves": Retention(6, 10, DECAY, 16, frequency=frequencies(6, "halves"), scale=6**-0.5),
    "interleaved": Retention(16, 32, DECAY, 64, frequency=frequencies(16, "interleaved"), layout="interleaved"),
    "bare": Retention(5, 3, DECAY, 7, scale=0.3),
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, kernels: ctypes.CDLL) -> Retention:
    return FORMS[request.param]


@pytest.fixture
def kernels() -> ctypes.CDLL:
    found = library("retention", "double")
    if found is None:
        pytest.skip("no C++ compiler builds the library here")
    return found


def inputs(form: Retention, batch: int, time: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """qkv, gate, gain and state, with gradients. Only a norm of all heads has a gain: the others' is not handed on."""
    shapes = (batch, time, sum(form.sizes)), (batch, time, form.sizes[2]), (form.sizes[2],)
    made = [torch.randn(shape, dtype=dtype) for shape in (*shapes, (batch, form.heads, form.key, form.value))]
    return [x.requires_grad_() for x in made]


def definition(
    form: Retention, qkv: Tensor, gate: Tensor, gain: Tensor | None, rows: Rows, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Each line of the file's head."""
    q, k, v = (x.unflatten(-1, (form.heads, -1)).transpose(1, 2) for x in qkv.split(form.sizes, -1))
    if form.activated:
        q, k, v = silu(q), silu(k), silu(v)
    if form.frequency is not None:
        q, k = (rotate_definition(x, rows.phase, form.layout) for x in (q, k))
    out, state = linear_attention_definition(q, k * form.scale, v, form.log_decay[None, :, None], rows, state)
    out = out.transpose(1, 2)
    squares = out.square().mean((2, 3) if form.together else 3, keepdim=True)
    normed = (out / (squares + form.epsilon).sqrt()).flatten(2) * (1.0 if gain is None else gain)
    return (silu(gate) if form.gate == "silu" else torch.sigmoid(gate)) * normed, state


def applied(op: Callable[..., Any], form: Retention, tensors: list[Tensor], rows: Rows) -> tuple[Tensor, Tensor]:
    qkv, gate, gain, state = tensors
    found: tuple[Tensor, Tensor] = op(form, qkv, gate, gain if form.together else None, rows, state)
    return found


def wanted(form: Retention, tensors: list[Tensor]) -> list[Tensor]:
    return [x for place, x in enumerate(tensors) if place != 2 or form.together]


def answers(op: Callable[..., Any], form: Retention, tensors: list[Tensor], rows: Rows) -> list[Tensor]:
    """Values, and gradients of a loss that is no symmetric one."""
    out, after = applied(op, form, tensors, rows)
    loss = sum((x * torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view(x.shape)).sum() for x in (out, after))
    return [out, after, *torch.autograd.grad(loss, wanted(form, tensors))]


def assert_close(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(b.detach().abs().max()))


@pytest.mark.parametrize("time", [1, 63, 130])
def test_it_is_the_definition(form: Retention, time: int) -> None:
    tensors, rows = inputs(form, 2, time), Rows.at(torch.arange(9, 9 + time).expand(2, time))
    ours = answers(retention, form, tensors, rows)
    assert ours[0].grad_fn is not None
    assert ours[0].grad_fn.name() == "_NativeBackward"
    assert_close(ours, answers(definition, form, tensors, rows), 1e-12)


def test_its_gradients_are_those_of_differences(form: Retention) -> None:
    small, rows = replace(form, chunk=2), Rows.at(torch.tensor([[3, 4, 5, 0, 1], [0, 1, -1, 0, 1]]))
    tensors = inputs(small, 2, 5)
    assert torch.autograd.gradcheck(lambda *x: applied(retention, small, list(x), rows), tensors, fast_mode=True)


PACKED = torch.tensor(
    [
        [7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 0, 0, 1, -1, -1, 0, 1, 2, 3, 4],
        [-1, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 1, 2, 3, -1, -1, -1],
        [-1] * 20,
    ]
)


@pytest.mark.parametrize("phase", [PACKED, PACKED.roll(3, 1) + 2], ids=["own", "another"])
def test_documents_and_padding_are_those_of_the_form_in_pytorch(form: Retention, phase: Tensor) -> None:
    tensors, rows = inputs(form, 3, 20), Rows(PACKED, phase)
    ours = answers(retention, form, tensors, rows)
    assert_close(ours, answers(composed, form, tensors, rows), 1e-12)
    assert not ours[0][PACKED < 0].any()
    assert not ours[2][PACKED < 0].any()


def test_a_packed_document_is_bit_for_bit_as_alone(form: Retention) -> None:
    qkv, gate, gain, state = (x.detach() for x in inputs(form, 1, 20))
    out, _ = applied(retention, form, [qkv, gate, gain, state], Rows.at(PACKED[:1]))
    part = [qkv[:, 3:10], gate[:, 3:10], gain, state]
    alone, _ = applied(retention, form, part, Rows.at(PACKED[:1, 3:10]))
    assert torch.equal(out[:, 3:10], alone)


def test_pieces_are_the_whole_with_gradients_through_the_state(form: Retention) -> None:
    qkv, gate, gain, state = tensors = inputs(form, 2, 63)
    whole = answers(retention, form, tensors, Rows.at(torch.arange(4, 67).expand(2, 63)))

    def in_pieces(form: Retention, *_: Any) -> tuple[Tensor, Tensor]:
        outputs, at, after = [], 0, state
        for size in (1, 40, 22):
            cut, rows = slice(at, at + size), Rows.at(torch.arange(4 + at, 4 + at + size).expand(2, size))
            out, after = applied(retention, form, [qkv[:, cut], gate[:, cut], gain, after], rows)
            outputs.append(out)
            at += size
        return torch.cat(outputs, 1), after

    assert_close(answers(in_pieces, form, tensors, Rows.fresh_documents(2, 63)), whole, 1e-12)


def test_tensors_may_lie_anyhow(form: Retention) -> None:
    """Views with a stride of tokens and rows, of every second number, and of one number for all."""
    dense = inputs(form, 2, 33)
    rows = Rows.fresh_documents(2, 33)
    spread = torch.zeros(33, 2, 2 * sum(form.sizes) + 5, dtype=torch.float64)
    spread[..., 3 : 3 + sum(form.sizes)] = dense[0].transpose(0, 1)
    comb = torch.zeros(2, 33, 2 * form.sizes[2], dtype=torch.float64)
    comb[..., ::2] = dense[1]
    views = [spread.transpose(0, 1)[..., 3 : 3 + sum(form.sizes)], comb[..., ::2], dense[2].repeat_interleave(2)[::2]]
    views = [x.detach().requires_grad_() for x in (*views, dense[3].mT.contiguous().mT)]
    assert_close(answers(retention, form, views, rows), answers(retention, form, dense, rows), 1e-15)
    out, like = (applied(retention, form, x, rows)[0] for x in (views, dense))
    assert torch.equal(torch.autograd.grad(out.sum(), views[0])[0], torch.autograd.grad(like.sum(), dense[0])[0])


@pytest.mark.parametrize("name", ["lightning", "interleaved"])
def test_threads_change_no_bit(name: str, kernels: ctypes.CDLL) -> None:
    form, batch, time = FORMS[name], 2, 900  # enough for several threads
    form = replace(form, key=32, value=48, frequency=None if form.frequency is None else frequencies(32, form.layout))
    tensors, rows = inputs(form, batch, time), Rows.at(torch.arange(1, time + 1).expand(batch, time))
    found = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        found.append(answers(retention, form, tensors, rows))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_float32_is_as_near_as_pytorchs(form: Retention) -> None:
    tensors, rows = inputs(form, 2, 130), Rows.at(torch.arange(1, 131).expand(2, 130))
    narrow = [x.detach().float().requires_grad_() for x in tensors]
    exact, ours, theirs = (
        answers(op, form, x, rows) for op, x in ((definition, tensors), (retention, narrow), (composed, narrow))
    )
    for true, a, b in zip(exact, ours, theirs, strict=True):
        assert a.dtype == torch.float32
        assert (a - true).norm() <= 2 * (b - true).norm() + 1e-7 * true.norm()


@pytest.mark.parametrize("name", ["lightning", "halves"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_what_is_not_finite_stays_so(name: str, dtype: torch.dtype, kernels: ctypes.CDLL) -> None:
    """Gates and inputs beyond what exp can hold, infinite and not a number, where PyTorch's operators have them too."""
    form, rows = FORMS[name], Rows.fresh_documents(1, 9)
    qkv, gate, *_ = tensors = [x.detach() for x in inputs(form, 1, 9, dtype)]
    odd = [90.0, -90.0, 800.0, -800.0, torch.inf, -torch.inf, torch.nan]
    gate[0, 4, :7] = torch.tensor(odd, dtype=dtype)
    qkv[0, 7, 0], qkv[0, 8, 1] = -800.0, torch.nan
    ours, theirs = (applied(op, form, tensors, rows)[0] for op in (retention, composed))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize(
    ("context", "dtype"),
    [
        (nullcontext, torch.bfloat16),
        (lambda: torch.autocast("cpu", torch.bfloat16), torch.float32),
        (lambda: FlopCounterMode(display=False), torch.float32),
        (FakeTensorMode, torch.float32),
        (forward_ad.dual_level, torch.float32),
        (lambda: torch.device("meta"), torch.float32),
    ],
    ids=["bfloat16", "autocast", "counted", "fake", "forward derivatives", "meta"],
)
def test_whoever_looks_at_operators_gets_those_of_pytorch(
    context: Callable[[], AbstractContextManager[Any]], dtype: torch.dtype, kernels: ctypes.CDLL
) -> None:
    assert native("retention", torch.zeros(2)) is not None
    with context():
        assert native("retention", torch.zeros(2, dtype=dtype)) is None
    assert native("retention", torch.zeros(2), torch.zeros(2, dtype=torch.float64)) is None


def test_transforms_get_the_form_in_pytorch(kernels: ctypes.CDLL) -> None:
    chosen = []

    def look(x: Tensor) -> Tensor:
        chosen.append(native("retention", x))
        return x

    torch.vmap(look)(torch.zeros(2, 3))
    assert chosen == [None]


@pytest.mark.parametrize("kind", ["retnet", "lightning"])
def test_layers_are_the_same_without_the_library(
    kind: str, monkeypatch: pytest.MonkeyPatch, kernels: ctypes.CDLL
) -> None:
    mixer, x = build_mixer({"kind": kind, "heads": 2}, 16).double(), torch.randn(2, 70, 16, dtype=torch.float64)
    rows = Rows.fresh_documents(2, 70)

    def gradients() -> list[Tensor]:
        mixer.zero_grad()
        out, after = mixer(x, rows, mixer.start(2))
        (out.square().sum() + after.memory.sum()).backward()  # type: ignore[attr-defined]
        return [out, after.memory, *(p.grad for p in mixer.parameters() if p.grad is not None)]  # type: ignore[attr-defined]

    ours = gradients()
    monkeypatch.setattr(module, "native", lambda *_: None)
    assert_close(ours, gradients(), 1e-12)


def test_a_chunk_of_all_is_the_dense_form(form: Retention) -> None:
    out, _ = applied(retention, replace(form, chunk=0), inputs(form, 1, 9), Rows.fresh_documents(1, 9))
    assert out.grad_fn is not None
    assert "Native" not in out.grad_fn.name()


def test_a_second_derivative_is_refused(form: Retention) -> None:
    tensors = inputs(form, 1, 4)
    out, _ = applied(retention, form, tensors, Rows.fresh_documents(1, 4))
    (first,) = torch.autograd.grad(out.square().sum(), tensors[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
