"""The segments of a call, one after another: every token once, in order, cut where its document says."""

from __future__ import annotations

import torch
from contract.runs import positions_of, whole
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield.architectures import Rows
from farfield.memory.segments import Step, joined, parted, steps


def drawn(runs: list[list[int]], begins: list[int]) -> torch.Tensor:
    """Positions of rows of runs (documents, or padding where negative), each row's first document begun before."""
    rows = [positions_of(" ".join(map(str, row)))[0] for row in runs]
    for row, (first, at) in enumerate(zip(runs, begins, strict=True)):
        if first[0] > 0:
            rows[row][: first[0]] += at
    time = max(map(len, rows))
    return torch.stack([torch.nn.functional.pad(row, (0, time - len(row)), value=-1) for row in rows])


RUNS = st.lists(st.integers(-3, 9).filter(bool), min_size=1, max_size=4)


@settings(max_examples=200)
@given(runs=st.lists(RUNS, min_size=1, max_size=3), data=st.data(), segment=st.integers(1, 6))
def test_every_token_is_in_the_step_of_its_segment(runs: list[list[int]], data: st.DataObject, segment: int) -> None:
    """By brute force from the positions alone, and what the steps give comes back where it was."""
    begins = data.draw(st.lists(st.integers(0, 10), min_size=len(runs), max_size=len(runs)))
    rows = Rows.at(drawn(runs, begins))
    found = steps(rows, segment)
    x = torch.arange(rows.batch * rows.time * 2.0).view(rows.batch, rows.time, 2) + 1
    for row in range(rows.batch):
        expected: list[list[int]] = []
        before = -1
        for position in rows.positions[row].tolist():
            if position >= 0 and (before < 0 or position % segment == 0):
                expected.append([])
            if position >= 0:
                expected[-1].append(position)
            before = position
        held = [step.rows.positions[row][step.rows.real[row]].tolist() for step in found]
        assert [one for one in held if one] == expected
        assert [bool(step.begins[row]) for step, one in zip(found, held, strict=True) if one] == [
            one[0] == 0 for one in expected
        ]
        ends = [(one[-1] + 1) % segment == 0 if one else False for one in held]
        assert [bool(step.ends[row]) for step in found] == ends
    back = joined([step.take(x) for step in found], found, rows) if found else torch.zeros_like(x)
    assert torch.equal(back, rows.masked(x))
    assert all(agrees(step) for step in found)


def agrees(step: Step) -> bool:
    """Whether a step that says that its rows are alike tells the truth."""
    alike = all(len(set(flag.tolist())) <= 1 for flag in (step.begins, step.ends))
    return not step.whole or (alike and not step.rows.padded)


def test_rows_that_are_alike_are_sliced() -> None:
    """Views of the call, nothing gathered; a part of an open segment first."""
    rows = Rows.at(torch.arange(6, 20).expand(2, -1))
    found = steps(rows, 4)
    assert [(step.at.start, step.at.stop) for step in found if step.at] == [(0, 2), (2, 6), (6, 10), (10, 14)]
    assert [bool(step.ends[0]) for step in found] == [True, True, True, True]
    assert all(step.whole for step in found)
    x = torch.randn(2, 14, 3)
    assert found[1].take(x).data_ptr() == x[:, 2:].data_ptr()


def test_one_token_is_one_step_wherever_rows_stand() -> None:
    rows = Rows.at(torch.tensor([[3], [0], [8]]))
    (step,) = steps(rows, 4)
    assert step.at == slice(0, 1)
    assert step.begins.tolist() == [False, True, False]
    assert step.ends.tolist() == [True, False, False]
    assert not step.whole


def test_a_step_of_whole_segments_needs_no_padding() -> None:
    (first, second) = steps(Rows.at(whole(2, 8)[0]), 4)
    assert first.begins.all()
    assert first.ends.all()
    assert not second.begins.any()


def test_gradients_reach_what_was_taken() -> None:
    rows = Rows.at(positions_of("5 -1 3", "-2 7"))
    x = torch.randn(2, 9, 2, dtype=torch.float64, requires_grad=True)
    found = steps(rows, 3)
    y = joined([2 * step.take(x) for step in found], found, rows)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, 2 * rows.real[..., None].expand_as(x).double())


def test_parted_at_once_is_what_each_step_takes() -> None:
    """Values and gradients, of slices and of rows that differ."""
    for positions in (whole(2, 11)[0], positions_of("5 -1 5", "-2 9")):
        rows = Rows.at(positions)
        taken = steps(rows, 4)
        x = torch.randn(2, 11, 3, dtype=torch.float64).requires_grad_()
        found, expected = parted(x, taken), [step.take(x) for step in taken]
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        weights = [torch.randn_like(piece) for piece in expected]
        ours, theirs = (
            torch.autograd.grad(sum((w * p).sum() for w, p in zip(weights, pieces, strict=True)), x)[0]
            for pieces in (found, expected)
        )
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
