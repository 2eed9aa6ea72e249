"""Weights, gradients and cost: what the settings say of them is so."""

from __future__ import annotations

import pytest
import torch
from contract.cases import DTYPES, clause
from contract.runs import in_calls, positions_of, sample, whole
from contract.test_cost import SHORT, made

from encoders.subjects import SUBJECTS, EncoderSubject
from farfield.architectures.encoders import EncoderSettings, build_encoder, encoder_kinds
from farfield.config import ConfigError

NAMED = {"argvalues": SUBJECTS, "ids": lambda subject: subject.name}
LINEAR = [subject for subject in SUBJECTS if "linear" in subject.settings.form]


@pytest.mark.parametrize("subject", **NAMED)
def test_parameters_are_as_many_as_the_settings_say(subject: EncoderSubject) -> None:
    built = sum(parameter.numel() for parameter in subject.build().parameters())
    assert built == subject.settings.parameters(subject.width, subject.layer, subject.depth)


@clause(SUBJECTS, dtype=(*DTYPES, torch.bfloat16), packed=(False, True))
def test_every_parameter_gets_a_finite_gradient(subject: EncoderSubject, dtype: torch.dtype, packed: bool) -> None:
    calls = [positions_of("30 -2 98", "-1 129")] if packed else whole(2, 130)
    found = in_calls(subject.build(dtype), *sample(2, 130, subject.width, dtype), calls)
    for name, gradient in found.gradients.items():
        assert gradient.isfinite().all(), name
        assert gradient.any(), name
        assert gradient.dtype == dtype


@pytest.mark.parametrize("subject", **NAMED)
def test_fresh_weights_depend_on_the_seed_alone_and_give_sensible_sizes(subject: EncoderSubject) -> None:
    def fresh() -> torch.nn.Module:
        torch.manual_seed(5)
        return subject.settings.build(subject.width, subject.layer, subject.depth)

    first, second = fresh(), fresh()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), second.buffers(), strict=True))
    assert all(parameter.isfinite().all() for parameter in first.parameters())
    x, cotangent = sample(2, 63, subject.width, torch.float32)
    mixer = subject.build(torch.float32)
    mixer.encoder = first
    assert 1e-3 < in_calls(mixer, x, cotangent, whole(2, 63), grad=False).y.square().mean().sqrt() < 10


@pytest.mark.parametrize("subject", **NAMED)
def test_settings_come_back_from_their_mapping(subject: EncoderSubject) -> None:
    again = build_encoder(subject.settings.mapping(), subject.width, subject.layer, subject.depth)
    expected = subject.settings.build(subject.width, subject.layer, subject.depth)
    assert {name: p.shape for name, p in again.named_parameters()} == {
        name: p.shape for name, p in expected.named_parameters()
    }


@pytest.mark.parametrize("subject", **NAMED)
def test_operations_grow_as_claimed(subject: EncoderSubject) -> None:
    """Of one token: without end where time is quadratic, to a bound where it is linear."""
    place = subject.width, subject.layer, subject.depth
    width, *rest = place
    flops = [subject.settings.flops(width, tokens, *rest) for tokens in (1, 100, 10_000, 20_000)]
    assert flops == sorted(flops)
    assert flops[0] > 2 * subject.settings.parameters(*place) * (
        subject.settings.kind not in ("linformer", "longformer")
    )  # type: ignore[attr-defined]
    assert (flops[3] == flops[2]) == (subject in LINEAR)


def test_all_but_full_attention_claim_linear_time() -> None:
    assert {subject.settings.kind for subject in SUBJECTS} - {subject.settings.kind for subject in LINEAR} == {
        "attention"
    }  # type: ignore[attr-defined]


@clause(LINEAR, every=3)
def test_twice_the_length_is_twice_the_work(subject: EncoderSubject) -> None:
    """Counted in bytes that operations give, forward and backward: see `contract.test_cost`."""
    if subject.settings.longest is not None:
        settings = subject.settings.model_copy(update={"length": 2 * SHORT})
        subject = EncoderSubject(subject.name, settings, subject.width)
    once, twice = made(subject, SHORT), made(subject, 2 * SHORT)
    assert twice.sum <= 2.2 * once.sum
    assert twice.largest <= 2.2 * once.largest


def test_full_attention_holds_nothing_of_time_by_time() -> None:
    subject = next(subject for subject in SUBJECTS if subject.name == "attention.nope")
    once, twice = made(subject, SHORT), made(subject, 2 * SHORT)
    assert twice.largest <= 2.2 * once.largest


@pytest.mark.parametrize("kind", encoder_kinds())
def test_every_setting_is_described_and_every_kind_has_one_line(kind: str) -> None:
    settings: type[EncoderSettings] = encoder_kinds()[kind]
    assert settings.__doc__
    assert "\n" not in settings.__doc__.strip()
    assert settings.form != EncoderSettings.form
    assert settings.source.startswith("arxiv.org/abs/")
    told = {"kind", "backend", "position", "base"}
    assert [name for name, field in settings.model_fields.items() if name not in told and not field.description] == []


@pytest.mark.parametrize("kind", encoder_kinds())
def test_a_width_that_does_not_fit_is_told_in_one_line(kind: str) -> None:
    with pytest.raises(ConfigError) as mistake:
        build_encoder({"kind": kind}, width=63)
    text = str(mistake.value)
    assert text.startswith("mixer.")
    assert "63" in text
    assert "\n" not in text
