"""Clauses 5 to 7: padding and documents. Whatever stands beside a document, it answers as if it were alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contract.cases import DTYPES, LENGTHS, clause
from contract.runs import (
    TOLERANCE,
    alone,
    assert_close,
    compare,
    cut,
    documents,
    in_calls,
    positions_of,
    sample,
    through,
    whole,
)
from contract.subjects import SUBJECTS, Subject
from farfield.architectures import Rows

GARBAGE = 1e4
"""What stands in x at padding: large enough to be seen wherever it leaks."""

MORE = 9
"""Tokens with which rows go on."""


def filled(x: Tensor, positions: Tensor) -> Tensor:
    """x with garbage at the padding."""
    return torch.where((positions < 0)[..., None], GARBAGE * x, x)


def check(subject: Subject, x: Tensor, cotangent: Tensor, calls: list[Tensor], grad: bool = True) -> None:
    """The layout against each of its documents alone; zero output, and no gradient, at padding."""
    positions = torch.cat(calls, 1)
    found = compare(
        subject,
        filled(x, positions),
        cotangent,
        lambda *run: in_calls(*run, calls, grad),
        lambda *run: alone(*run, positions, grad),
    )
    assert not found.y[positions < 0].any()
    assert not grad or not found.gradients["x"][positions < 0].any()


@clause(dtype=DTYPES, length=LENGTHS, left=(1, 20))
def test_5_left_padding_changes_nothing(subject: Subject, dtype: torch.dtype, length: int, left: int) -> None:
    positions = positions_of(f"-{left} {length}", f"{length + left}", f"-{left - left // 2} {length + left // 2}")
    x, cotangent = sample(3, length + left, subject.width, dtype)
    check(subject, x, cotangent, [positions])


@clause(dtype=DTYPES, length=LENGTHS, then=(1, MORE))
def test_6_right_padding_then_going_on_changes_nothing(
    subject: Subject, dtype: torch.dtype, length: int, then: int
) -> None:
    """Three rows of unlike lengths, the last of nothing but padding at first; then all go on, by tokens or at once."""
    lengths = torch.tensor([length, length + 7, 0])
    first = torch.arange(length + 7).expand(3, -1)
    first = torch.where(first < lengths[:, None], first, -1)
    rest = lengths[:, None] + torch.arange(MORE)
    x, cotangent = sample(3, length + 7 + MORE, subject.width, dtype)
    check(subject, x, cotangent, [first, *cut(rest, [then])])


@clause(dtype=DTYPES, length=LENGTHS, grad=(True, False))
def test_7_packed_documents_answer_as_if_alone(subject: Subject, dtype: torch.dtype, length: int, grad: bool) -> None:
    rows = (f"{length} 1 2 {length}", f"1 {length} {length} 2", f"2 {length} -1 {length}", f"-1 {2 * length + 2}")
    x, cotangent = sample(4, 2 * length + 3, subject.width, dtype)
    check(subject, x, cotangent, [positions_of(*rows)], grad)


@clause(dtype=DTYPES, size=(1, 63, 130))
def test_7_documents_that_run_on_over_calls(subject: Subject, dtype: torch.dtype, size: int) -> None:
    rows = ("12 3 -4 6", "-9 16", "1 1 1 14 -1 7") if size == 1 else ("100 30 -5 25", "-10 150", "1 1 1 1 120 -1 35")
    positions = positions_of(*rows)
    x, cotangent = sample(3, positions.shape[1], subject.width, dtype)
    check(subject, x, cotangent, cut(positions, [size]))


@clause(dtype=(torch.float64,), length=(63, 130))
def test_rows_of_a_batch_do_not_see_one_another(subject: Subject, dtype: torch.dtype, length: int) -> None:
    """Not even in the last bit, and not when one of them holds what is no number."""
    mixer, (x, _) = subject.build(dtype), sample(3, length, subject.width, dtype)
    with torch.no_grad():
        before, state = through(mixer, x, whole(3, length))
        x[1] = float("nan")
        after, spoilt = through(mixer, x, whole(3, length))
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    kept = torch.tensor([0, 2])
    ours, theirs = (s.select(kept).compact().tensors() for s in (spoilt, state))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@clause(every=3, dtype=DTYPES)
def test_a_known_longest_document_changes_nothing(subject: Subject, dtype: torch.dtype) -> None:
    positions = positions_of("-3 30 17 1 12", "63")
    mixer, (x, _) = subject.build(dtype), sample(2, 63, subject.width, dtype)
    with torch.no_grad():
        expected, _ = mixer(x, Rows.at(positions), mixer.start(2))
        found, _ = mixer(x, Rows(positions, positions, longest=63), mixer.start(2))
    assert_close(found, expected, TOLERANCE[dtype])


@st.composite
def layouts(draw: st.DrawFn) -> list[Tensor]:
    """Calls over rows of random documents, with padding left, between and right, and at the right of any call."""
    batch = draw(st.integers(1, 3))
    run = st.tuples(st.integers(0, 4), st.integers(1, 22))
    rows = []
    for _ in range(batch):
        runs = draw(st.lists(run, min_size=1, max_size=4))
        rows.append([at for padding, length in runs for at in [*[-1] * padding, *range(length)]])
    calls: list[list[list[int]]] = []
    while any(rows):
        size = draw(st.sampled_from([1, 2, 5, 13, 40]))
        taken = [draw(st.integers(0, size)) if draw(st.booleans()) else size for _ in rows]
        if not any(taken):
            continue
        calls.append([row[:n] + [-1] * (size - len(row[:n])) for row, n in zip(rows, taken, strict=True)])
        rows = [row[n:] for row, n in zip(rows, taken, strict=True)]
    return [torch.tensor(call) for call in calls]


def _random_layouts(subject: Subject, examples: int) -> None:
    @settings(max_examples=examples)
    @given(layouts(), st.integers(0, 2**16))
    def holds(calls: list[Tensor], seed: int) -> None:
        time = sum(call.shape[1] for call in calls)
        check(subject, *sample(calls[0].shape[0], time, subject.width, torch.float64, seed), calls)

    holds()


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_random_layouts_in_random_calls(subject: Subject) -> None:
    _random_layouts(subject, 3)


@pytest.mark.contract_full
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_many_random_layouts_in_random_calls(subject: Subject) -> None:
    _random_layouts(subject, 60)


def test_documents_are_found() -> None:
    found: list[tuple[int, Any]] = [
        (row, columns.tolist()) for row, columns in documents(positions_of("-1 2 -1 1", "5"))
    ]
    assert found == [(0, [1, 2]), (0, [4]), (1, [0, 1, 2, 3, 4])]
