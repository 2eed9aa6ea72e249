"""The segments of a call side by side: the same tokens, ends and beginnings as one step after another."""

from __future__ import annotations

import torch
from contract.runs import positions_of
from contract.test_rows import layouts
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farfield.architectures import Rows
from farfield.memory.grid import chosen, grid
from farfield.memory.segments import steps


@settings(max_examples=60)
@given(layouts(), st.integers(1, 9))
def test_the_grid_is_the_steps_side_by_side(calls: list[Tensor], segment: int) -> None:
    for positions in calls:
        rows = Rows.at(positions)
        cells = grid(rows, segment)
        x = 1 + torch.arange(positions.numel(), dtype=torch.float64).view(rows.batch, 1, rows.time, 1)
        cut = cells.cut(x)
        real = torch.ones_like(cut[:, 0, ..., 0], dtype=torch.bool) if cells.real is None else cells.real
        assert torch.equal(
            torch.where(rows.real[:, None, :, None], cells.join(cut), 0), torch.where(rows.real[:, None, :, None], x, 0)
        )
        every = torch.ones(rows.batch, dtype=torch.bool)
        for n, step in enumerate(steps(rows, segment)):
            for row in range(rows.batch):
                slots = cut[row, 0, n, :, 0][real.expand(rows.batch, -1, -1)[row, n]]
                assert slots.tolist() == step.take(x[:, 0])[row, :, 0][step.rows.real[row]].tolist()
            for flag, expected in ((cells.begins[n], step.begins), (cells.ends[n], step.ends)):
                assert torch.equal(every & flag, expected)


def test_a_run_that_begins_and_ends_with_segments_is_not_copied() -> None:
    x = torch.randn(2, 3, 12, 5)
    cells = grid(Rows.at(torch.arange(4, 16).expand(2, -1)), 4)
    assert cells.cut(x).data_ptr() == x.data_ptr()
    assert cells.real is None
    assert cells.begins == (False, False, False)
    assert cells.ends == (True, True, True)


def test_a_part_of_a_segment_has_no_empty_slots() -> None:
    cells = grid(Rows.at(torch.arange(5, 8).expand(2, -1)), 16)
    assert (cells.segments, cells.real, cells.ends) == (1, None, (False,))


def test_tokens_that_are_decoded_at_different_places() -> None:
    cells = grid(Rows.at(torch.tensor([[3], [0], [8]])), 4)
    assert torch.equal(torch.as_tensor(cells.begins[0]), torch.tensor([False, True, False]))
    assert torch.equal(torch.as_tensor(cells.ends[0]), torch.tensor([True, False, False]))


def test_gradients_reach_what_was_cut() -> None:
    rows = Rows.at(positions_of("5 -1 3", "-2 7"))
    cells, x = grid(rows, 3), torch.randn(2, 1, 9, 2, dtype=torch.float64, requires_grad=True)
    y = rows.masked(cells.join(2 * cells.cut(x))[:, 0])
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient[:, 0], 2 * rows.real[..., None].expand(-1, -1, 2).double())


def test_rows_are_chosen_by_flag() -> None:
    yes, no = torch.ones(1, 3), torch.zeros(2, 3)
    assert torch.equal(chosen(True, yes, no), torch.ones(2, 3))
    assert chosen(False, yes, no) is no
    assert chosen(torch.tensor([True, False]), yes, no).tolist() == [[1.0] * 3, [0.0] * 3]
