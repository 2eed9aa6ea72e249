"""Clause 11: weights and their gradients, and that sizes that do not fit are told in one line."""

from __future__ import annotations

import pytest
import torch

from contract.cases import DTYPES, clause
from contract.runs import in_calls, positions_of, sample, whole
from contract.subjects import SUBJECTS, Subject
from farfield.architectures import MixerSettings, build_mixer, mixer_kinds
from farfield.config import ConfigError


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_11_parameters_are_as_many_as_the_settings_say(subject: Subject) -> None:
    built = sum(parameter.numel() for parameter in subject.build().parameters())
    assert built == subject.parameters()


@clause(dtype=(*DTYPES, torch.bfloat16), packed=(False, True))
def test_11_every_parameter_gets_a_finite_gradient(subject: Subject, dtype: torch.dtype, packed: bool) -> None:
    x, cotangent = sample(2, 130, subject.width, dtype)
    calls = [positions_of("30 -2 98", "-1 129")] if packed else whole(2, 130)
    found = in_calls(subject.build(dtype), x, cotangent, calls)
    for name, gradient in found.gradients.items():
        assert gradient.isfinite().all(), name
        assert gradient.any(), name
        assert gradient.dtype == dtype


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_fresh_weights_depend_on_the_seed_alone_and_give_sensible_sizes(subject: Subject) -> None:
    """Building draws from torch's generator and nothing else; the answer is neither nothing nor an explosion."""

    first, second = subject.fresh(5), subject.fresh(5)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert all(parameter.isfinite().all() for parameter in first.parameters())
    x, cotangent = sample(2, 63, subject.width, torch.float32)
    y = in_calls(first, x, cotangent, whole(2, 63), grad=False).y
    assert 1e-3 < y.square().mean().sqrt() < 10


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_settings_come_back_from_their_mapping(subject: Subject) -> None:
    again = build_mixer(subject.settings.mapping(), subject.width, subject.layer, subject.depth)
    expected = subject.settings.build(subject.width, subject.layer, subject.depth)
    assert {name: p.shape for name, p in again.named_parameters()} == {
        name: p.shape for name, p in expected.named_parameters()
    }


@pytest.mark.parametrize("kind", mixer_kinds())
def test_every_setting_is_described_and_every_kind_has_one_line(kind: str) -> None:
    settings: type[MixerSettings] = mixer_kinds()[kind]
    assert settings.__doc__
    assert "\n" not in settings.__doc__.strip()
    assert settings.form != MixerSettings.form
    assert settings.source.startswith(("arxiv.org/abs/", "github.com/"))
    told = {"kind", "backend", "position", "base"}
    assert [name for name, field in settings.model_fields.items() if name not in told and not field.description] == []


ANY_WIDTH = ("gss", "mamba")
"""Kinds without heads, which every width fits."""


@pytest.mark.parametrize("kind", ANY_WIDTH)
def test_every_width_fits(kind: str) -> None:
    for width in (1, 63):
        x, _ = sample(2, 9, width, torch.float32)
        assert in_calls(build_mixer({"kind": kind}, width), x, x, whole(2, 9)).y.shape == x.shape


@pytest.mark.parametrize("kind", [kind for kind in mixer_kinds() if kind not in ANY_WIDTH])
def test_a_width_that_does_not_fit_is_told_in_one_line(kind: str) -> None:
    with pytest.raises(ConfigError) as mistake:
        build_mixer({"kind": kind}, width=63)
    text = str(mistake.value)
    assert text.startswith("mixer.")
    assert "63" in text
    assert "\n" not in text
