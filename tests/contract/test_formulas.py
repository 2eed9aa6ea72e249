"""Clause 12: values and gradients agree with an independent implementation, written out in dense.py."""

from __future__ import annotations

import sys

import pytest
import torch

from contract import families
from contract.cases import clause
from contract.dense import FORMULAS, Formula
from contract.runs import assert_close, cut, in_calls, sample, whole
from contract.subjects import SUBJECTS, Subject
from farfield.architectures import mixer_kinds
from farfield.architectures.external import ExternalConfig


def formula_of(subject: Subject) -> Formula:
    """Ours by kind, or by the memory; of a mixer from outside, the function `formula` beside its settings."""
    remembered = families.REMEMBERED.get(subject.name.partition("+")[2])
    if remembered is not None:
        return remembered
    if not isinstance(subject.settings, ExternalConfig):
        return FORMULAS[subject.settings.kind]  # type: ignore[attr-defined]
    module = sys.modules[type(subject.settings.resolved()).__module__]
    if not hasattr(module, "formula"):
        pytest.skip(f"{subject.settings.path}: no function 'formula(settings, weights, x)' beside it")
    return lambda subject, weights, x: module.formula(subject.settings.resolved(), weights, x)


@clause(length=(1, 17, 29), split=("whole", "pieces"))
def test_12_the_formula_agrees(subject: Subject, length: int, split: str) -> None:
    mixer, (x, cotangent) = subject.build(), sample(1, length, subject.width, torch.float64)
    calls = whole(1, length) if split == "whole" else cut(whole(1, length)[0], [1, 9, 5])
    found = in_calls(mixer, x, cotangent, calls)
    x.requires_grad_()
    weights = dict(mixer.named_parameters())
    y = formula_of(subject)(subject, weights | dict(mixer.named_buffers()), x[0])[None]
    assert_close(found.y, y.detach(), 1e-9, "output")
    expected = torch.autograd.grad((y * cotangent).sum(), [x, *weights.values()], allow_unused=True)
    for name, gradient in zip(("x", *weights), expected, strict=True):
        if gradient is None:
            assert not found.gradients[name].any(), name
        else:
            assert_close(found.gradients[name], gradient, 1e-9, f"gradient of {name}")


@pytest.mark.parametrize("kind", mixer_kinds())
def test_every_kind_has_a_formula_and_subjects(kind: str) -> None:
    assert kind in FORMULAS
    assert any(subject.settings.kind == kind and subject.memory is None for subject in SUBJECTS)
