"""Padding and documents: whatever stands beside a document, it answers as if it were alone, in both directions."""

from __future__ import annotations

import pytest
import torch
from contract.cases import DTYPES, LENGTHS, clause
from contract.runs import assert_close, documents, in_calls, positions_of, sample, through, whole
from contract.test_rows import check
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from encoders.subjects import SUBJECTS, EncoderSubject
from farfield.architectures import Rows

REACHES = [
    subject
    for subject in SUBJECTS
    if subject.settings.kind in ("attention", "linformer", "performer") or getattr(subject.settings, "globals", 0)
]
"""Those whose first token sees the last one of any document, and is seen by it."""


@clause(SUBJECTS, dtype=DTYPES, length=LENGTHS, left=(1, 20))
def test_left_padding_changes_nothing(subject: EncoderSubject, dtype: torch.dtype, length: int, left: int) -> None:
    positions = positions_of(f"-{left} {length}", f"{length + left}", f"-{left - left // 2} {length + left // 2}")
    check(subject, *sample(3, length + left, subject.width, dtype), [positions])


@clause(SUBJECTS, dtype=DTYPES, length=LENGTHS)
def test_right_padding_changes_nothing(subject: EncoderSubject, dtype: torch.dtype, length: int) -> None:
    """Rows that begin their document at column 0 are not copied."""
    positions = positions_of(f"{length} -9", f"{length + 9}", f"1 -{length + 8}")
    check(subject, *sample(3, length + 9, subject.width, dtype), [positions])


@clause(SUBJECTS, dtype=DTYPES, length=LENGTHS)
def test_packed_documents_answer_as_if_alone(subject: EncoderSubject, dtype: torch.dtype, length: int) -> None:
    rows = (f"{length} 1 2 {length}", f"1 {length} {length} 2", f"2 {length} -1 {length}", f"-1 {2 * length + 2}")
    check(subject, *sample(4, 2 * length + 3, subject.width, dtype), [positions_of(*rows)])


@clause(SUBJECTS, length=(63, 130), dtype=(torch.float64,))
def test_rows_of_a_batch_do_not_see_one_another(subject: EncoderSubject, dtype: torch.dtype, length: int) -> None:
    """Not even in the last bit, and not when one of them holds what is no number."""
    mixer, (x, _) = subject.build(dtype), sample(3, length, subject.width, dtype)
    with torch.no_grad():
        before, _ = through(mixer, x, whole(3, length))
        x[1] = float("nan")
        after, _ = through(mixer, x, whole(3, length))
    assert torch.equal(before[[0, 2]], after[[0, 2]])


TOGETHER = [
    subject
    for subject in SUBJECTS
    if subject.settings.kind != "reformer" or subject.settings.across  # type: ignore[attr-defined]
]
"""All but those in which tokens of different buckets do not see each other."""


@pytest.mark.parametrize("subject", TOGETHER, ids=lambda subject: subject.name)
def test_two_tokens_see_each_other(subject: EncoderSubject) -> None:
    x = sample(1, 2, subject.width, torch.float64)[0].requires_grad_()
    y, _ = through(subject.build(), x, whole(1, 2))
    for query, key in ((0, 1), (1, 0)):
        (gradient,) = torch.autograd.grad(y[0, query].square().sum(), x, retain_graph=True)
        assert gradient[0, key].any()


@clause(REACHES, length=(63, 130))
def test_the_ends_of_a_document_see_each_other(subject: EncoderSubject, length: int) -> None:
    x = sample(2, length, subject.width, torch.float64)[0].requires_grad_()
    y, _ = through(subject.build(), x, whole(2, length))
    for query, key in ((0, -1), (-1, 0)):
        (gradient,) = torch.autograd.grad(y[0, query].square().sum(), x, retain_graph=True)
        assert gradient[0, key].any()
        assert not gradient[1].any()


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_nothing_but_padding_answers_zeros(subject: EncoderSubject) -> None:
    x, cotangent = sample(2, 5, subject.width, torch.float64)
    assert not in_calls(subject.build(), x, cotangent, [positions_of("-5", "-5")], grad=False).y.any()


@clause(SUBJECTS, every=3, layout=("packed", "right"))
def test_the_phase_is_what_positions_are_encoded_by(subject: EncoderSubject, layout: str) -> None:
    """It goes with its tokens when documents are taken apart."""
    positions = positions_of("-2 9 20 1", "31 -1") if layout == "packed" else positions_of("32", "31 -1")
    encoder, (x, _) = subject.build().encoder, sample(2, 32, subject.width, torch.float64)
    phase = torch.randint(0, 100, positions.shape)
    with torch.no_grad():
        found = encoder.encode(x, Rows(positions, phase))
        unturned = subject.settings.position != "rope"  # type: ignore[attr-defined]
        assert torch.equal(found, encoder.encode(x, Rows.at(positions))) == unturned
        for row, columns in documents(positions):
            own = Rows(positions[row : row + 1, columns], phase[row : row + 1, columns])
            assert_close(found[row, columns], encoder.encode(x[row : row + 1, columns], own)[0], 1e-9)


@st.composite
def layouts(draw: st.DrawFn) -> Tensor:
    """Positions of random documents, with padding left, between and right."""
    run = st.tuples(st.integers(0, 4), st.integers(1, 30))
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        runs = draw(st.lists(run, min_size=1, max_size=4))
        rows.append([at for padding, length in runs for at in [*[-1] * padding, *range(length)]])
    time = max(len(row) for row in rows) + draw(st.integers(0, 3))
    return torch.tensor([row + [-1] * (time - len(row)) for row in rows])


def _random_layouts(subject: EncoderSubject, examples: int) -> None:
    @settings(max_examples=examples)
    @given(layouts(), st.integers(0, 2**16))
    def holds(positions: Tensor, seed: int) -> None:
        check(subject, *sample(*positions.shape, subject.width, torch.float64, seed), [positions])

    holds()


@clause(SUBJECTS, every=3)
def test_random_layouts(subject: EncoderSubject) -> None:
    _random_layouts(subject, 3)


@pytest.mark.contract_full
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_many_random_layouts(subject: EncoderSubject) -> None:
    _random_layouts(subject, 60)
