"""The long convolution against its recurrence, with documents, padding, a carried state, and pieces of every length."""

from __future__ import annotations

import pytest
import torch
from contract.runs import assert_close, cut, error, positions_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farfield.architectures import Rows
from farfield.architectures.ops import long_convolution as op
from farfield.architectures.ops.long_convolution import (
    _lasting,
    _table,
    long_convolution,
    long_convolution_definition,
)

CHANNELS, STATES = 3, 4
SLOWEST = {"slow": 1e-4, "usual": 0.1, "fast": 30.0}
LAYOUTS = {
    "one": ("130", "130", "130"),
    "packed": ("90 1 2 37", "64 66", "1 129"),
    "padded": ("-7 90 -3 30", "123 -7", "-130"),
    "nothing": ("-130", "-130", "-130"),
}
NAMES = ("v", "decay", "turn", "C", "state")


def inputs(batch: int, time: int, slowest: float, dtype: torch.dtype) -> list[Tensor]:
    """v, decays and turns a token (float64), C and a state as pairs."""
    v, decay = torch.randn(batch, time, CHANNELS).double(), slowest * (1 + torch.rand(STATES).double())
    read, state = torch.randn(CHANNELS, STATES, 2).double(), torch.randn(batch, CHANNELS, STATES, 2).double()
    turn = 3 * torch.rand(STATES).double()
    leaves = [v.to(dtype), decay, turn, read.to(dtype), state.to(dtype)]
    return [leaf.requires_grad_() for leaf in leaves]


def check(rows: Rows, leaves: list[Tensor], tolerance: float) -> None:
    v, decay, turn, read, state = leaves
    found, expected = (
        form(v, torch.complex(-decay, turn), torch.view_as_complex(read), rows, state)
        for form in (long_convolution, long_convolution_definition)
    )
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
        assert_close(mine, true, 10 * tolerance, f"gradient of {name}")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("slowest", SLOWEST)
def test_transforms_agree_with_the_recurrence(slowest: str, layout: str) -> None:
    check(Rows.at(positions_of(*LAYOUTS[layout])), inputs(3, 130, SLOWEST[slowest], torch.float64), 1e-11)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_float32(layout: str) -> None:
    check(Rows.at(positions_of(*LAYOUTS[layout])), inputs(3, 130, 0.1, torch.float32), 1e-5)


@pytest.mark.parametrize("time", [1, 2, 3, 63, 64, 65, 130])
@pytest.mark.parametrize("begins", [0, 7])
def test_lengths_about_the_powers_of_two(time: int, begins: int) -> None:
    check(Rows.at(torch.arange(begins, begins + time).expand(2, -1)), inputs(2, time, 0.1, torch.float64), 1e-11)


@pytest.mark.parametrize("piece", [1, 7, 63, 64, 1000])
@pytest.mark.parametrize("begins", [0, 7])
def test_pieces_change_nothing(piece: int, begins: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op, "PIECE", piece)
    positions = torch.stack((torch.arange(begins, begins + 63), positions_of("-3 20 40")[0]))
    check(Rows.at(positions), inputs(2, 63, 0.1, torch.float64), 1e-11)


@pytest.mark.parametrize("begins", [0, 5])
@pytest.mark.parametrize("sizes", [[1], [5, 1, 7]], ids=str)
def test_any_split_is_the_whole(begins: int, sizes: list[int]) -> None:
    positions = torch.arange(begins, begins + 20).expand(2, -1)
    v, decay, turn, read, state = (part.detach() for part in inputs(2, 20, 0.1, torch.float64))
    rates, read = torch.complex(-decay, turn), torch.view_as_complex(read)
    expected, last = long_convolution(v, rates, read, Rows.at(positions), state)
    outputs, at = [], 0
    for call in cut(positions, sizes):
        y, state = long_convolution(v[:, at : at + call.shape[1]], rates, read, Rows.at(call), state)
        outputs.append(y)
        at += call.shape[1]
    assert_close(torch.cat(outputs, 1), expected, 1e-12)
    assert_close(state, last, 1e-12)


def test_the_state_is_not_looked_at_where_every_row_begins_a_document() -> None:
    v, decay, turn, read, state = inputs(2, 9, 0.1, torch.float64)
    nothing = torch.full_like(state, torch.nan)
    rows = Rows.fresh_documents(2, 9)
    y, last = long_convolution(v, torch.complex(-decay, turn), torch.view_as_complex(read), rows, nothing)
    assert y.isfinite().all()
    assert last.isfinite().all()


def test_half_precision_keeps_a_float32_state_over_many_tokens() -> None:
    """Phases of thousands of tokens are exact: exponents are float64."""
    v, decay, turn, read, state = (part.detach() for part in inputs(1, 5000, 1e-4, torch.bfloat16))
    rates, rows = torch.complex(-decay, turn), Rows.fresh_documents(1, 5000)
    y, last = long_convolution(v, rates, torch.view_as_complex(read.float()), rows, state.float())
    assert y.dtype == torch.bfloat16
    assert last.dtype == torch.float32
    exact, true = long_convolution_definition(
        v.double(), rates, torch.view_as_complex(read.double()), rows, state.double()
    )
    assert error(last, true) < 1e-5
    assert error(y, exact) < 1e-2


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
    check(rows, inputs(2, len(positions), 0.1, torch.float64), 1e-11)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_documents_are_taken_apart_and_put_back(layout: str) -> None:
    """Each alone in a row, at most half of a bucket empty, and nothing of the padding."""
    positions = positions_of(*LAYOUTS[layout])
    rows, x = Rows.at(positions), torch.randn(3, 130, 2, 4)
    pieces = rows.unpack(x)
    alone = [piece[bucket.real] for bucket, piece in zip(rows.buckets, pieces, strict=True)]
    assert sum(len(part) for part in alone) == int(rows.real.sum())
    assert all(bucket.real.sum(1).min() * 2 > bucket.real.shape[1] for bucket in rows.buckets)
    assert sum(len(bucket.real) for bucket in rows.buckets) == int((positions == 0).sum())
    assert not any(piece[~bucket.real].any() for bucket, piece in zip(rows.buckets, pieces, strict=True))
    for bucket in rows.buckets:
        assert positions.flatten()[bucket.token[:, 0]].eq(0).all()
    assert torch.equal(rows.repack(pieces, x), rows.masked(x))


def test_powers_of_fast_decays_are_never_subnormal() -> None:
    """Products of subnormal numbers take a CPU thirty times as long."""
    for kind in (torch.complex64, torch.complex128):
        parts = torch.view_as_real(_table(torch.tensor([-0.1, -1.0, -300.0], dtype=torch.float64) + 0.3j, 512, kind))
        assert not ((parts != 0) & (parts.abs() < torch.finfo(parts.dtype).tiny)).any()
        assert_close(parts[:, :2], torch.view_as_real(_exact(kind)), 1e-6)


def _exact(kind: torch.dtype) -> Tensor:
    return (torch.arange(512)[:, None] * (torch.tensor([-0.1, -1.0], dtype=torch.float64) + 0.3j)).exp().to(kind)


def test_states_that_have_decayed_are_left_out_beyond_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of them last for a piece; what is left out is below any rounding of float64."""
    monkeypatch.setattr(op, "PIECE", 16)
    v, decay, turn, read, state = inputs(2, 130, 0.1, torch.float64)
    decay = (decay.detach() * torch.tensor([1.0, 1.0, 500.0, 500.0])).requires_grad_()
    assert _lasting(torch.complex(-decay, turn), 16, torch.complex128).tolist() == [0, 1]
    check(Rows.fresh_documents(2, 130), [v, decay, turn, read, state], 1e-11)
