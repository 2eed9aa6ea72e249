"""Clauses 1 to 4: along time. The future does not change the past, splits do not matter, forms agree, bfloat16."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from contract.cases import DTYPES, LENGTHS, clause
from contract.definitions import defined, recorded, replayed
from contract.runs import TOLERANCE, Outcome, assert_close, compare, cut, in_calls, positions_of, sample, through, whole
from contract.subjects import SUBJECTS, Subject
from farfield.architectures import KeyedMixer, Mixer, Rows
from farfield.architectures.ops import attention as op
from farfield.architectures.ops.backend import Kernel, choose

SPLITS = {"tokens": [1], "random": [5, 17, 1, 1, 30, 2, 40, 3], "pieces": [1, 63, 130], "63": [63]}

NOT_BITWISE: dict[str, str] = {
    subject.name: "every output of a Fourier transform is a sum over all of its inputs"
    for subject in SUBJECTS
    if subject.group == "gss"
}
"""By name of a subject, why the future may change the last bits of the past (an op by Fourier transform, say)."""

SEES_PHASE: dict[str, str] = {
    "performer.default": "random features approximate each rotated query and key anew",
    "performer.relu": "the kernel is no function of the angle between queries and keys",
}
"""By name of a subject, why an answer depends on more than differences of phase."""

LAYOUT = ("-4 9 30 1 -5 20 61", "130", "7 -1 90 32", "-130")
"""130 columns: documents, padding on the left, between documents, and a row of nothing else."""


def changed_from(x: Tensor, time: int) -> Tensor:
    """Other numbers from `time` on, large ones."""
    generator = torch.Generator().manual_seed(time)
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype)
    return torch.cat((x[:, :time], 30 * noise[:, time:]), 1)


@clause(dtype=(*DTYPES, torch.bfloat16), length=(63, 130))
def test_1_future_does_not_change_the_past(subject: Subject, dtype: torch.dtype, length: int) -> None:
    mixer = subject.build(dtype)
    x, _ = sample(2, length, subject.width, dtype)
    with torch.no_grad():
        before, _ = through(mixer, x, whole(2, length))
        for time in (1, 17, length - 1):
            after, _ = through(mixer, changed_from(x, time), whole(2, length))
            if subject.name in NOT_BITWISE:  # in bfloat16, last bits may move the rounding of the answer
                assert_close(after[:, :time], before[:, :time], TOLERANCE.get(dtype, 2**-7))
            else:
                assert torch.equal(after[:, :time], before[:, :time])
            assert not torch.equal(after[:, time:], before[:, time:])


@clause(dtype=DTYPES, length=(63, 130))
def test_1_no_gradient_flows_back_from_the_future(subject: Subject, dtype: torch.dtype, length: int) -> None:
    x = sample(2, length, subject.width, dtype)[0].requires_grad_()
    y, _ = through(subject.build(dtype), x, whole(2, length))
    for time in (0, 17, length - 2):
        (gradient,) = torch.autograd.grad(y[:, time].square().sum(), x, retain_graph=True)
        if subject.name in NOT_BITWISE:
            assert gradient[:, time + 1 :].abs().max() <= TOLERANCE[dtype] * gradient.abs().max()
        else:
            assert not gradient[:, time + 1 :].any()
        assert gradient[:, time].any()


@clause(dtype=DTYPES, length=LENGTHS, split=tuple(SPLITS), grad=(True, False))
def test_2_any_split_is_the_whole(subject: Subject, dtype: torch.dtype, length: int, split: str, grad: bool) -> None:
    x, cotangent = sample(2, length, subject.width, dtype)
    calls = cut(whole(2, length)[0], SPLITS[split])
    compare(
        subject,
        x,
        cotangent,
        lambda *run: in_calls(*run, calls, grad),
        lambda *run: in_calls(*run, whole(2, length), grad),
    )


@clause(dtype=DTYPES, split=("whole", "pieces"))
def test_3_definitions_agree(subject: Subject, dtype: torch.dtype, split: str) -> None:
    calls = cut(positions_of(*LAYOUT), SPLITS.get(split, [130]))

    def definition(mixer: Mixer, x: Tensor, cotangent: Tensor) -> Outcome:
        with defined() as replaced:
            assert replaced
            return in_calls(mixer, x, cotangent, calls)

    x, cotangent = sample(len(LAYOUT), 130, subject.width, dtype)
    compare(subject, x, cotangent, lambda *run: in_calls(*run, calls), definition)


FORMS = {"backend": ("fused", "blocked"), "chunk": (1, 7, 1000, 0)}
"""By the name of a setting that chooses a form: values, none of which changes an answer; 0 where a kind knows it."""

WITH_FORMS = [subject for subject in SUBJECTS if FORMS.keys() & subject.settings.mapping().keys()]


@clause(WITH_FORMS, dtype=DTYPES, split=("whole", "pieces"))
def test_3_forms_agree(subject: Subject, dtype: torch.dtype, split: str) -> None:
    calls = cut(positions_of(*LAYOUT), SPLITS.get(split, [130]))
    x, cotangent = sample(len(LAYOUT), 130, subject.width, dtype)
    for name in FORMS.keys() & subject.settings.mapping().keys():
        for value in FORMS[name]:
            if value == 0 and not _knows_zero(subject, name):
                continue
            settings = subject.settings.model_copy(update={name: value})
            compare(
                subject,
                x,
                cotangent,
                lambda _, *run, settings=settings: in_calls(subject.build(dtype, settings), *run, calls),
                lambda *run: in_calls(*run, calls),
            )


def _knows_zero(subject: Subject, name: str) -> bool:
    try:
        return bool(type(subject.settings)(**{name: 0}))
    except ValidationError:
        return False


@clause(length=(63, 130))
def test_4_bfloat16_is_as_good_as_the_definition_in_bfloat16(subject: Subject, length: int) -> None:
    """Errors are root mean squares of the output and of each gradient; weights and input are the same in all three.

    How far a gradient of a few numbers is off, such as that of a rate a head, is luck: it is allowed the error of the
    worst in the definition.
    """
    rounded = subject.build(torch.bfloat16)
    exact = subject.build(torch.float64)
    exact.load_state_dict(rounded.state_dict())
    x, cotangent = sample(2, length, subject.width, torch.bfloat16)
    calls, choices = cut(whole(2, length)[0], [length // 2 + 1]), []
    with recorded(choices):
        truth = in_calls(exact, x.double(), cotangent.double(), calls)
    with replayed(choices):
        found = in_calls(rounded, x, cotangent, calls)
    with replayed(choices), defined():
        definition = in_calls(rounded, x, cotangent, calls)
    assert found.y.dtype == torch.bfloat16
    allowed = off(definition, truth)
    few = {name for name, gradient in truth.gradients.items() if gradient.numel() < 64}
    for name in allowed:
        far = max(allowed.values()) if name in few else allowed[name]
        assert off(found, truth)[name] <= 2 * far + 2**-9, name


def off(found: Outcome, truth: Outcome) -> dict[str, float]:
    """Root mean square errors of the output and of each gradient, relative to the root mean square of the truth."""
    pairs = {name: (found.gradients[name], true) for name, true in truth.gradients.items()} | {"y": (found.y, truth.y)}
    return {
        name: float(
            (ours.double() - true).square().mean().sqrt() / true.double().square().mean().sqrt().clamp(min=1e-30)
        )
        for name, (ours, true) in pairs.items()
    }


@clause(every=2, calls=("whole", "pieces"))
def test_4_autocast_to_bfloat16(subject: Subject, calls: str) -> None:
    """Training in mixed precision: weights and states begin in float32, projections come in bfloat16."""
    mixer, choices = subject.build(torch.float32), []
    x, cotangent = sample(len(LAYOUT), 130, subject.width, torch.float32)
    layout = cut(positions_of(*LAYOUT), SPLITS.get(calls, [130]))
    with recorded(choices):
        exact = in_calls(mixer, x, cotangent, layout)
    with replayed(choices), torch.autocast("cpu", torch.bfloat16):
        found = in_calls(mixer, x, cotangent, layout)
    errors = off(found, exact)
    if max(errors.values()) > 0.05:  # as clause 4: at most twice as far as the definition in bfloat16
        with replayed(choices), defined():
            narrow = subject.build(torch.bfloat16)
            definition = in_calls(narrow, x.bfloat16(), cotangent.bfloat16(), layout)
        allowed = off(definition, exact)
        errors = {name: error for name, error in errors.items() if error > 2 * allowed[name]}
    assert max(errors.values(), default=0.0) <= 0.05


SOFTMAX = [
    subject for subject in SUBJECTS if isinstance(getattr(subject.build(), "mixer", subject.build()), KeyedMixer)
]


@clause(SOFTMAX, every=3, size=(1, 9, 130))
def test_no_empty_key_set_reaches_a_kernel(subject: Subject, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, in the middle, with nothing but padding: the fused kernel would not survive it."""
    seen: list[int] = []

    class Spy:
        name, whole = "spy", True

        def __init__(self, kernel: Kernel) -> None:
            self.kernel = kernel

        def forward(self, q: Tensor, k: Tensor, *rest: Any) -> Any:
            seen.append(min(q.shape[2], k.shape[2]))
            return self.kernel.forward(q, k, *rest)

    monkeypatch.setattr(op, "choose", lambda q, backend: Spy(choose(q, backend)))
    positions = positions_of("-4 3 1 -2 16", "-26", "26")
    with torch.no_grad():
        through(subject.build(), sample(3, 26, subject.width, torch.float64)[0], cut(positions, [size]))
    assert seen
    assert min(seen) > 0


@clause([subject for subject in SUBJECTS if subject.name not in SEES_PHASE], every=2, dtype=DTYPES)
def test_only_differences_of_phase_matter(subject: Subject, dtype: torch.dtype) -> None:
    """Positional encodings see the phase: moved by a thousand, it leaves every answer as it was."""
    mixer, (x, _) = subject.build(dtype), sample(2, 63, subject.width, dtype)
    with torch.no_grad():
        expected, _ = through(mixer, x, whole(2, 63))
        state, outputs = mixer.start(2), []
        for positions in cut(whole(2, 63)[0], [40, 23]):
            begin, end = int(positions[0, 0]), int(positions[0, -1]) + 1
            y, state = mixer(x[:, begin:end], Rows(positions, positions + 1000), state)
            outputs.append(y)
    assert_close(torch.cat(outputs, 1), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("name", SPLITS)
def test_splits_cover_every_token(name: str) -> None:
    calls = cut(whole(1, 130)[0], SPLITS[name])
    assert torch.cat(calls, 1).tolist() == [list(range(130))]
    assert len(calls) > 1
