"""The selective scan against its loop, with documents, padding, a carried state, and tiles of every width."""

from __future__ import annotations

import pytest
import torch
from contract.runs import assert_close, cut, error, positions_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farfield.architectures import Rows
from farfield.architectures.ops import selective_scan as op
from farfield.architectures.ops.selective_scan import selective_scan, selective_scan_definition

CHANNELS, STATES = 5, 3
STEPS = {"still": 0.0, "slow": 0.01, "fast": 3.0, "forgetting": 500.0}
LAYOUTS = {
    "one": ("130", "130", "130"),
    "packed": ("90 1 2 37", "64 66", "1 129"),
    "padded": ("-7 90 -3 30", "123 -7", "-130"),
}
NAMES = ("x", "delta", "A", "B", "C", "D", "state")


def inputs(batch: int, time: int, widest: float, dtype: torch.dtype) -> list[Tensor]:
    x, steps = torch.randn(batch, time, CHANNELS).double(), widest * torch.rand(batch, time, CHANNELS).double()
    rates = -torch.rand(CHANNELS, STATES).double() - 0.1
    into, out_of = torch.randn(2, batch, time, STATES).double().unbind(0)
    through, state = torch.randn(CHANNELS).double(), torch.randn(batch, CHANNELS, STATES).double()
    return [part.to(dtype).requires_grad_() for part in (x, steps, rates, into, out_of, through, state)]


def check(rows: Rows, leaves: list[Tensor], tolerance: float) -> None:
    found = selective_scan(*leaves[:6], rows, leaves[6])
    expected = selective_scan_definition(*leaves[:6], rows, leaves[6])
    above = [torch.randn_like(part) for part in found]
    ours, theirs = (
        torch.autograd.grad(
            sum((part * g).sum() for part, g in zip(pair, above, strict=True)), leaves, materialize_grads=True
        )
        for pair in (found, expected)
    )
    for name, mine, true in zip(("output", "state"), found, expected, strict=True):
        assert_close(mine.detach(), true.detach(), tolerance, name)
    for name, mine, true in zip(NAMES, ours, theirs, strict=True):
        assert_close(mine, true, 3 * tolerance, f"gradient of {name}")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("steps", STEPS)
def test_chunks_agree_with_the_loop(steps: str, layout: str) -> None:
    check(Rows.at(positions_of(*LAYOUTS[layout])), inputs(3, 130, STEPS[steps], torch.float64), 1e-11)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("steps", ["slow", "fast"])
def test_float32(steps: str, layout: str) -> None:
    check(Rows.at(positions_of(*LAYOUTS[layout])), inputs(3, 130, STEPS[steps], torch.float32), 1e-5)


@pytest.mark.parametrize("time", [1, 2, 3, 4, 63, 64, 65, 130])
@pytest.mark.parametrize("begins", [0, 7])
def test_lengths_about_the_squares(time: int, begins: int) -> None:
    check(Rows.at(torch.arange(begins, begins + time).expand(2, -1)), inputs(2, time, 1.0, torch.float64), 1e-11)


@pytest.mark.parametrize("held", [1, 2 * 63 * STATES * 2, 2 * 63 * STATES * 3])
def test_tiles_change_nothing(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One channel at a time, two, three."""
    monkeypatch.setattr(op, "HELD", held)
    check(Rows.at(positions_of("30 33", "-3 60")), inputs(2, 63, 1.0, torch.float64), 1e-11)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("piece", [1, 10, 128, 130])
def test_pieces_change_nothing(piece: int, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which the last is shorter, a document goes through several, and one begins with a piece."""
    monkeypatch.setattr(op, "PIECE", piece)
    check(Rows.at(positions_of(*LAYOUTS[layout])), inputs(3, 130, 1.0, torch.float64), 1e-11)


@pytest.mark.parametrize("begins", [0, 5])
@pytest.mark.parametrize("sizes", [[1], [5, 1, 7]], ids=str)
def test_any_split_is_the_whole(begins: int, sizes: list[int]) -> None:
    positions = torch.arange(begins, begins + 20).expand(2, -1)
    x, delta, rates, into, out_of, through, state = (part.detach() for part in inputs(2, 20, 0.5, torch.float64))
    expected, last = selective_scan(x, delta, rates, into, out_of, through, Rows.at(positions), state)
    outputs, at = [], 0
    for call in cut(positions, sizes):
        x_, delta_, into_, out_ = (part[:, at : at + call.shape[1]] for part in (x, delta, into, out_of))
        y, state = selective_scan(x_, delta_, rates, into_, out_, through, Rows.at(call), state)
        outputs.append(y)
        at += call.shape[1]
    assert_close(torch.cat(outputs, 1), expected, 1e-12)
    assert_close(state, last, 1e-12)


def test_the_state_is_not_looked_at_where_every_row_begins_a_document() -> None:
    *parts, state = inputs(2, 9, 0.5, torch.float64)
    y, last = selective_scan(*parts, Rows.fresh_documents(2, 9), torch.full_like(state, torch.nan))
    assert y.isfinite().all()
    assert last.isfinite().all()


def test_half_precision_keeps_a_float32_state() -> None:
    *parts, state = (part.detach() for part in inputs(1, 1000, 0.1, torch.bfloat16))
    rows = Rows.fresh_documents(1, 1000)
    y, last = selective_scan(*parts, rows, state.float())
    assert y.dtype == torch.bfloat16
    assert last.dtype == torch.float32
    exact, true = selective_scan_definition(*(part.double() for part in parts), rows, state.double())
    assert error(last, true) < 1e-5
    assert error(y, exact) < 1e-2


def test_what_is_kept_for_the_backward_are_the_arguments() -> None:
    """No tensor of all tokens, channels and states."""
    leaves, kept = inputs(1, 400, 0.5, torch.float32), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        selective_scan(*leaves[:6], Rows.fresh_documents(1, 400), leaves[6])
    assert max(kept) <= 400 * CHANNELS


@settings(max_examples=40)
@given(
    runs=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=5),
    begins=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_random_documents(runs: list[tuple[int, int]], begins: int, seed: int) -> None:
    """The first document may go on from the state."""
    torch.manual_seed(seed)
    positions: list[int] = []
    for place, (padding, length) in enumerate(runs):
        first = begins if place == 0 and padding == 0 else 0
        positions += [-1] * padding + list(range(first, first + length))
    rows = Rows.at(torch.tensor([positions, list(range(4, 4 + len(positions)))]))
    check(rows, inputs(2, len(positions), 1.0, torch.float64), 1e-11)


def test_gradients_by_finite_differences() -> None:
    *parts, state = inputs(1, 7, 1.0, torch.float64)
    rows = Rows.at(torch.tensor([[3, 4, 0, 1, -1, 0, 1]]))
    assert torch.autograd.gradcheck(lambda *leaves: selective_scan(*leaves[:6], rows, leaves[6]), (*parts, state))
