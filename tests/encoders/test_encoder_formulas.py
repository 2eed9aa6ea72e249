"""Values and gradients agree with the equations, written out in formulas.py, and narrow dtypes are as good as they."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract.cases import DTYPES, clause
from contract.runs import Outcome, assert_close, compare, documents, gradients, in_calls, positions_of, sample, whole
from contract.test_time import off
from torch import Tensor

from encoders.formulas import FORMULAS
from encoders.subjects import SUBJECTS, EncoderSubject, Whole
from farfield.architectures import Rows
from farfield.architectures.encoders import encoder_kinds
from farfield.config import ModelError

LONGFORMERS = [
    subject
    for subject in SUBJECTS
    if subject.settings.kind == "longformer" and subject.settings.globals  # type: ignore[attr-defined]
]


def by_formula(
    subject: EncoderSubject, mixer: Whole, x: Tensor, cotangent: Tensor, positions: Tensor, marked: Tensor | None = None
) -> Outcome:
    """What the formula answers to each document of a layout."""
    x = x.clone().requires_grad_()
    weights = dict(mixer.named_parameters()) | dict(mixer.named_buffers())
    formula, y = FORMULAS[subject.settings.kind], torch.zeros_like(x)  # type: ignore[attr-defined]
    for row, columns in documents(positions):
        tokens = None if marked is None else marked[row, columns]
        y = y.index_put((torch.tensor(row), columns), formula(subject, weights, x[row, columns], tokens))
    return Outcome(y.detach(), gradients(mixer, y, x, cotangent))


def agree(found: Outcome, expected: Outcome) -> None:
    assert_close(found.y, expected.y, 1e-9, "output")
    for name, gradient in expected.gradients.items():
        if gradient.any():
            assert_close(found.gradients[name], gradient, 1e-9, f"gradient of {name}")
        else:
            assert not found.gradients[name].any(), name


@clause(SUBJECTS, length=(1, 17, 29, 75))
def test_the_formula_agrees(subject: EncoderSubject, length: int) -> None:
    mixer, (x, cotangent) = subject.build(), sample(2, length, subject.width, torch.float64)
    positions = whole(2, length)[0]
    agree(in_calls(mixer, x, cotangent, [positions]), by_formula(subject, mixer, x, cotangent, positions))


@clause(LONGFORMERS, layout=("whole", "right", "packed"))
def test_global_tokens_are_where_the_caller_marks_them(subject: EncoderSubject, layout: str) -> None:
    """Not at the beginning then; documents have unlike numbers of them, and one of them none."""
    rows = {"whole": ("37", "37"), "right": ("37", "20 -17"), "packed": ("9 20 -3 5", "-1 35 1")}[layout]
    positions, (x, cotangent) = positions_of(*rows), sample(2, 37, subject.width, torch.float64)
    marked = torch.zeros_like(positions, dtype=torch.bool)
    marked[0, [3, 7, 12, 30]] = marked[1, 5] = True
    if layout == "packed":
        marked[0, 9:29] = False
    mixer = subject.build()
    expected = by_formula(subject, mixer, x, cotangent, positions, marked)
    x.requires_grad_()
    y = mixer.encoder.encode(x, Rows(positions, positions, marked=marked))
    agree(Outcome(y.detach(), gradients(mixer, y, x, cotangent)), expected)


def test_marks_without_global_tokens_are_told() -> None:
    subject = next(subject for subject in SUBJECTS if subject.name == "longformer.window")
    positions = whole(1, 5)[0]
    nothing = Rows(positions, positions, marked=torch.zeros(1, 5, dtype=torch.bool))
    x, _ = sample(1, 5, subject.width, torch.float64)
    encoder = subject.build().encoder
    assert torch.equal(encoder.encode(x, nothing), encoder.encode(x, Rows.at(positions)))
    with pytest.raises(ModelError) as mistake:
        encoder.encode(x, Rows(positions, positions, marked=positions == 2))
    assert str(mistake.value) == "global tokens are marked, but this longformer has none: its setting globals is 0."


@pytest.mark.parametrize("kind", encoder_kinds())
def test_every_kind_has_a_formula_and_subjects(kind: str) -> None:
    assert kind in FORMULAS
    assert any(subject.settings.kind == kind for subject in SUBJECTS)  # type: ignore[attr-defined]


WITH_KERNELS = [subject for subject in SUBJECTS if "backend" in subject.settings.mapping()]


@clause(WITH_KERNELS, dtype=DTYPES)
def test_kernels_agree(subject: EncoderSubject, dtype: torch.dtype) -> None:
    calls = [positions_of("-4 9 30 1 -5 20 61", "130", "7 -1 90 32")]

    def forced(kind: str) -> Any:
        settings = subject.settings.model_copy(update={"backend": kind})
        return lambda _, *run: in_calls(subject.build(run[0].dtype, settings), *run, calls)

    compare(subject, *sample(3, 130, subject.width, dtype), forced("blocked"), forced("fused"))


@clause(SUBJECTS, length=(63, 130))
def test_bfloat16_is_as_good_as_the_formula_in_bfloat16(subject: EncoderSubject, length: int) -> None:
    """Errors are root mean squares of the output and of each gradient; weights and input are the same in all three."""
    rounded, exact = subject.build(torch.bfloat16), subject.build()
    exact.load_state_dict(rounded.state_dict())
    x, cotangent = sample(2, length, subject.width, torch.bfloat16)
    positions = whole(2, length)[0]
    truth = in_calls(exact, x.double(), cotangent.double(), [positions])
    found = in_calls(rounded, x, cotangent, [positions])
    assert found.y.dtype == torch.bfloat16
    allowed = off(by_formula(subject, rounded, x, cotangent, positions), truth)
    errors = off(found, truth)
    assert {name: error for name, error in errors.items() if error > 2 * allowed[name] + 2**-9} == {}


@clause(SUBJECTS, layout=("whole", "packed"))
def test_autocast_to_bfloat16(subject: EncoderSubject, layout: str) -> None:
    """Training in mixed precision: weights in float32, projections in bfloat16."""
    calls = [positions_of("-4 9 30 1 -5 20 61", "130") if layout == "packed" else whole(2, 130)[0]]
    mixer, run = subject.build(torch.float32), sample(2, 130, subject.width, torch.float32)
    exact = in_calls(mixer, *run, calls)
    with torch.autocast("cpu", torch.bfloat16):
        found = in_calls(mixer, *run, calls)
    errors = off(found, exact)
    if max(errors.values()) > 0.05:  # at most twice as far as all of it in bfloat16
        narrow = [x.bfloat16() for x in run]
        allowed = off(by_formula(subject, subject.build(torch.bfloat16), *narrow, calls[0]), exact)
        errors = {name: error for name, error in errors.items() if error > 2 * allowed[name]}
    assert max(errors.values(), default=0.0) <= 0.05
