"""Linear attention with decay: chunked against its loop, for every form of the decay, with documents and padding."""

from __future__ import annotations

import pytest
import torch
from contract.runs import assert_close, error, positions_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farfield.architectures import Rows
from farfield.architectures.ops.linear_attention import linear_attention, linear_attention_definition

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
HEADS, KEY, VALUE = 3, 4, 5
DECAYS = {
    "none": lambda batch, time: torch.zeros(1, 1, 1),
    "scalar": lambda batch, time: torch.full((1, 1, 1), -0.1),
    "head": lambda batch, time: -torch.rand(1, HEADS, 1),
    "head-fast": lambda batch, time: -100 * torch.rand(1, HEADS, 1),
    "row": lambda batch, time: -torch.rand(batch, HEADS, 1),
    "token": lambda batch, time: -torch.rand(batch, HEADS, time),
    "token-shared": lambda batch, time: -torch.rand(1, 1, time),
    "token-fast": lambda batch, time: -30 * torch.rand(batch, HEADS, time),
}
LAYOUTS = {
    "one": ("70", "70", "70"),
    "packed": ("30 1 2 37", "64 6", "1 69"),
    "padded": ("-7 30 -3 30", "63 -7", "-70"),
}


def inputs(batch: int, time: int, dtype: torch.dtype, heads: int = HEADS, groups: int = HEADS) -> list[Tensor]:
    shapes = ((groups, time, KEY), (groups, time, KEY), (heads, time, VALUE), (heads, KEY, VALUE))
    return [torch.randn(batch, *shape, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def check(rows: Rows, decay: Tensor, chunk: int, dtype: torch.dtype, heads: int = HEADS, groups: int = HEADS) -> None:
    q, k, v, state = inputs(rows.batch, rows.time, dtype, heads, groups)
    decay = decay.to(dtype).requires_grad_()
    leaves = [q, k, v, state, decay]
    found = linear_attention(q, k, v, decay, rows, state, chunk)
    expected = linear_attention_definition(q, k, v, decay, rows, state)
    above = [torch.randn_like(x) for x in found]
    gradients = [
        torch.autograd.grad(sum((x * g).sum() for x, g in zip(pair, above, strict=True)), leaves, allow_unused=True)
        for pair in (found, expected)
    ]
    for name, ours, theirs in zip(("output", "state"), found, expected, strict=True):
        assert_close(ours.detach(), theirs.detach(), TOLERANCE[dtype], name)
    for name, ours, theirs in zip(("q", "k", "v", "state", "decay"), *gradients, strict=True):
        zero = torch.zeros(())
        if ours is None or theirs is None:
            assert all(x is None or not x.any() for x in (ours, theirs)), name
        else:
            assert_close(ours + zero, theirs + zero, 3 * TOLERANCE[dtype], f"gradient of {name}")


@pytest.mark.parametrize("chunk", [16, 200])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("decay", DECAYS)
def test_chunks_agree_with_the_loop(decay: str, layout: str, chunk: int) -> None:
    rows = Rows.at(positions_of(*LAYOUTS[layout]))
    check(rows, DECAYS[decay](3, 70), chunk, torch.float64)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(("heads", "groups"), [(6, 1), (6, 3)])
def test_heads_of_values_share_queries_and_keys(heads: int, groups: int, constant: bool, layout: str) -> None:
    rows, decay = (
        Rows.at(positions_of(*LAYOUTS[layout])),
        -torch.rand(1 if constant else 3, heads, 1 if constant else 70),
    )
    for chunk in (16, 200):
        check(rows, decay, chunk, torch.float64, heads, groups)


@pytest.mark.parametrize("time", [1, 63, 130])
@pytest.mark.parametrize("begins", [0, 7])
def test_shared_queries_and_keys_at_odd_lengths(begins: int, time: int) -> None:
    """One token is a step of its own."""
    rows = Rows.at(torch.arange(begins, begins + time).expand(2, -1))
    check(rows, -torch.rand(2, 4, time), 64, torch.float64, heads=4, groups=2)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("decay", ["head", "token"])
def test_float32(decay: str, layout: str) -> None:
    check(Rows.at(positions_of(*LAYOUTS[layout])), DECAYS[decay](3, 70), 64, torch.float32)


@pytest.mark.parametrize("time", [1, 2, 63, 64, 65, 128])
@pytest.mark.parametrize("chunk", [0, 1, 2, 64])
def test_lengths_about_the_chunk(time: int, chunk: int) -> None:
    check(Rows.at(torch.arange(7, 7 + time).expand(2, -1)), DECAYS["head"](2, time), chunk, torch.float64)


@pytest.mark.parametrize("decay", ["head", "token", "token-shared"])
@pytest.mark.parametrize("begins", [0, 5])
def test_steps_agree_with_the_chunks(decay: str, begins: int) -> None:
    """One token at a time, from a fresh document or in the middle of one."""
    positions = torch.arange(begins, begins + 20).expand(2, -1)
    q, k, v, state = (x.detach() for x in inputs(2, 20, torch.float64))
    g = DECAYS[decay](2, 20).double()
    expected, last = linear_attention(q, k, v, g, Rows.at(positions), state)
    outputs = []
    for t in range(20):
        at = slice(t, t + 1)
        now = g if g.shape[2] == 1 else g[:, :, at]
        out, state = linear_attention(q[:, :, at], k[:, :, at], v[:, :, at], now, Rows.at(positions[:, at]), state)
        outputs.append(out)
    assert_close(torch.cat(outputs, 2), expected, 1e-12)
    assert_close(state, last, 1e-12)


def test_the_state_is_not_looked_at_where_every_row_begins_a_document() -> None:
    q, k, v, _ = inputs(2, 9, torch.float64)
    nothing = torch.full((2, HEADS, KEY, VALUE), torch.nan, dtype=torch.float64)
    out, state = linear_attention(q, k, v, torch.zeros(1, 1, 1), Rows.fresh_documents(2, 9), nothing)
    assert out.isfinite().all()
    assert state.isfinite().all()


def test_half_precision_keeps_a_float32_state() -> None:
    """A thousand tokens in bfloat16: state in float32, no farther from float64 than the same inputs allow."""
    q, k, v, _ = (x.detach() for x in inputs(1, 1000, torch.bfloat16))
    zero, rows = torch.zeros(1, HEADS, KEY, VALUE), Rows.fresh_documents(1, 1000)
    decay = torch.full((1, HEADS, 1), -1e-3)
    out, state = linear_attention(q, k, v, decay, rows, zero)
    assert out.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    exact, last = linear_attention_definition(*(x.double() for x in (q, k, v)), decay.double(), rows, zero.double())
    assert error(state, last) < 1e-2
    assert error(out, exact) < 2e-2


@settings(max_examples=40)
@given(
    runs=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=5),
    chunk=st.integers(1, 12),
    begins=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_random_documents(runs: list[tuple[int, int]], chunk: int, begins: int, seed: int) -> None:
    """The first document may go on from the state."""
    torch.manual_seed(seed)
    positions: list[int] = []
    for place, (padding, length) in enumerate(runs):
        first = begins if place == 0 and padding == 0 else 0
        positions += [-1] * padding + list(range(first, first + length))
    rows = Rows.at(torch.tensor([positions, list(range(4, 4 + len(positions)))]))
    check(rows, DECAYS["token"](2, len(positions)), chunk, torch.float64)


def test_gradients_by_finite_differences() -> None:
    q, k, v, state = (x.detach()[:1, :1, ..., :2].clone().requires_grad_() for x in inputs(1, 7, torch.float64))
    state = state.detach()[:, :, :2].clone().requires_grad_()
    decay = (-torch.rand(1, 1, 7, dtype=torch.float64)).requires_grad_()
    rows = Rows.at(torch.tensor([[3, 4, 0, 1, -1, 0, 1]]))
    assert torch.autograd.gradcheck(
        lambda *leaves: linear_attention(*leaves[:4], rows, leaves[4], chunk=3), (q, k, v, decay, state)
    )
