"""The bidirectional Reformer: the equations for one document, documents in a row, padding, dtypes, sizes, mistakes."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from contract.parts import rope, slope
from contract.runs import TOLERANCE, assert_close, documents, positions_of, sample
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from farfield.architectures import Rows
from farfield.architectures.encoders.reformer import ReformerEncoder, ReformerEncoderConfig
from farfield.config import ConfigError, read

WIDTH = 16

SETTINGS: dict[str, dict[str, Any]] = {
    "default": {"head_width": 8},
    "one-round": {"heads": 4, "buckets": 4, "rounds": 1, "chunk": 5},
    "rounds": {"heads": 2, "buckets": 6, "rounds": 3, "chunk": 4, "position": "none"},
    "single": {"heads": 2, "buckets": 2, "rounds": 2, "chunk": 1},
    "across": {"heads": 4, "buckets": 4, "rounds": 2, "chunk": 6, "across": True},
    "across-single": {"heads": 2, "buckets": 2, "rounds": 1, "chunk": 1, "across": True, "position": "none"},
    "alibi": {"heads": 4, "buckets": 4, "rounds": 2, "chunk": 5, "position": "alibi"},
    "across-two": {"heads": 2, "buckets": 2, "rounds": 2, "chunk": 20, "across": True},
}


def settings_of(name: str, **changes: Any) -> ReformerEncoderConfig:
    return ReformerEncoderConfig(**(SETTINGS[name] | changes))


def encoder_of(name: str, dtype: torch.dtype = torch.float64, **changes: Any) -> ReformerEncoder:
    torch.manual_seed(1)
    built = settings_of(name, **changes).build(WIDTH, 0, 1)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return built.to(dtype)


def bucket_of(x: Tensor, rotation: Tensor) -> int:
    turned = [float(value) for value in x.detach() @ rotation]
    turned += [-value for value in turned]
    return turned.index(max(turned))


def neighbours(buckets: list[int], n: int, chunk: int, across: bool) -> list[int]:
    """S(n) of one round: by rank when sorted by (bucket, position)."""
    order = sorted(range(len(buckets)), key=lambda m: (buckets[m], m))
    chunks = {m: rank // chunk for rank, m in enumerate(order)}
    last, own = max(chunks.values()), chunks[n]
    near = {own, own - 1}
    if across and own == 0:
        near.add(last)
    return [m for m in order if m != n and chunks[m] in near and (across or buckets[m] == buckets[n])]


def formula(encoder: ReformerEncoder, settings: ReformerEncoderConfig, x: Tensor) -> Tensor:
    """The answer (T, D) to one document (T, D): rounds of softmax, merged by exp(lse of the round - lse of all)."""
    weights = dict(encoder.named_parameters()) | dict(encoder.named_buffers())
    heads = settings.heads or WIDTH // settings.head_width
    q, v = ((x @ part.T).unflatten(1, (heads, -1)) for part in weights["projection.qv.weight"].chunk(2))
    outputs = []
    for head in range(heads):
        rotations = weights["projection.rotations"][head]
        buckets = [[bucket_of(one, rotation) for one in q[:, head]] for rotation in rotations]
        turned = list(q[:, head])
        if settings.position == "rope":
            turned = [rope(one, n, settings.base) for n, one in enumerate(turned)]
        keys = [one / (one.square().mean() + 1e-6).sqrt() / one.shape[0] ** 0.5 for one in turned]
        fall = slope(head, heads) if settings.position == "alibi" else 0.0
        rows = []
        for n in range(x.shape[0]):
            found, sums = [], []
            for names in buckets:
                seen = neighbours(names, n, settings.chunk, settings.across)
                if seen:
                    scores = torch.stack([turned[n] @ keys[m] - fall * abs(n - m) for m in seen])
                    found.append(torch.softmax(scores, 0) @ v[seen, head])
                    sums.append(scores.logsumexp(0))
            rows.append(torch.softmax(torch.stack(sums), 0) @ torch.stack(found) if sums else v[n, head])
        outputs.append(torch.stack(rows))
    return torch.cat(outputs, 1) @ weights["projection.out.weight"].T


def gradients(encoder: ReformerEncoder, y: Tensor, x: Tensor, cotangent: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*encoder.named_parameters(), strict=True)
    found = torch.autograd.grad((y * cotangent).sum(), [x, *parameters], allow_unused=True)
    pairs = zip(("x", *names), (x, *parameters), found, strict=True)
    return {name: torch.zeros_like(of) if one is None else one for name, of, one in pairs}


@pytest.mark.parametrize("backend", ["fused", "blocked"])
@pytest.mark.parametrize("length", [1, 2, 17, 43])
@pytest.mark.parametrize("name", SETTINGS)
def test_the_formula_agrees(name: str, length: int, backend: str) -> None:
    settings, encoder = settings_of(name), encoder_of(name, backend=backend)
    x, cotangent = sample(1, length, WIDTH, torch.float64)
    x.requires_grad_()
    found, expected = encoder.encode(x, Rows.fresh_documents(1, length)), formula(encoder, settings, x[0])[None]
    assert_close(found.detach(), expected.detach(), 1e-9)
    ours, theirs = (gradients(encoder, y, x, cotangent) for y in (found, expected))
    for key, gradient in theirs.items():
        if gradient.abs().max() > 1e-9:
            assert_close(ours[key], gradient, 1e-9, key)
        else:  # of a single key, which has all the weight whatever its score
            assert ours[key].abs().max() < 1e-9


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", SETTINGS)
def test_documents_and_padding_change_nothing(name: str, dtype: torch.dtype) -> None:
    """Packed, with padding on the left, between and on the right: each answers as if alone, with its gradients."""
    positions = positions_of("-4 20 1 -5 33 2 -3", "68", "-68", "1 1 1 50 -15")
    encoder, (x, cotangent) = encoder_of(name, dtype), sample(4, 68, WIDTH, dtype)
    x = torch.where((positions < 0)[..., None], 1e4 * x, x).requires_grad_()
    y = encoder.encode(x, Rows.at(positions))
    found = gradients(encoder, y, x, cotangent)
    assert not y[positions < 0].any()
    assert not found["x"][positions < 0].any()
    total = {key: torch.zeros_like(gradient) for key, gradient in found.items() if key != "x"}
    for row, columns in documents(positions):
        alone = x[row : row + 1, columns].detach().requires_grad_()
        answer = encoder.encode(alone, Rows.fresh_documents(1, len(columns)))
        assert_close(y[row, columns].detach(), answer[0].detach(), TOLERANCE[dtype])
        its = gradients(encoder, answer, alone, cotangent[row : row + 1, columns])
        assert (found["x"][row, columns] - its.pop("x")[0]).abs().max() < TOLERANCE[dtype] * found["x"].abs().max()
        total = {key: total[key] + gradient for key, gradient in its.items()}
    for key, gradient in total.items():
        assert (found[key] - gradient).abs().max() <= 10 * TOLERANCE[dtype] * found[key].abs().max(), key


@pytest.mark.parametrize("name", SETTINGS)
def test_rows_of_a_batch_do_not_see_one_another(name: str) -> None:
    encoder, (x, _) = encoder_of(name), sample(3, 63, WIDTH, torch.float64)
    rows = Rows.fresh_documents(3, 63)
    before = encoder.encode(x, rows).detach()
    x[1] = torch.nan
    assert torch.equal(encoder.encode(x, rows).detach()[[0, 2]], before[[0, 2]])


@pytest.mark.parametrize("name", ["default", "across"])
def test_bfloat16_and_float32_are_near_to_float64(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same buckets: they are choices."""
    weights = encoder_of(name, torch.bfloat16).state_dict()
    x, _ = sample(2, 63, WIDTH, torch.bfloat16)
    rows, truth = Rows.fresh_documents(2, 63), None
    for dtype, tolerance in ((torch.float64, 0.0), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
        encoder = encoder_of(name, dtype)
        encoder.load_state_dict(weights)
        if truth is None:
            buckets = encoder.projection.buckets(encoder.projection.split(x.to(dtype), rows, None)[0])
        monkeypatch.setattr(encoder.projection, "buckets", lambda queries, buckets=buckets: buckets)
        y = encoder.encode(x.to(dtype), rows).detach()
        assert y.dtype == dtype
        truth = y if truth is None else truth
        assert_close(y.double(), truth, tolerance)


@pytest.mark.parametrize("name", SETTINGS)
def test_sizes_are_what_the_settings_say(name: str) -> None:
    """Weights, and the work of a token where no chunk is ragged, by PyTorch's own count of its matrix products."""
    settings, encoder = settings_of(name), encoder_of(name, torch.float32, backend="blocked")
    assert sum(parameter.numel() for parameter in encoder.parameters()) == settings.parameters(WIDTH, 0, 1)
    time = 40 * settings.chunk
    x, _ = sample(1, time, WIDTH, torch.float32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder.encode(x, Rows.fresh_documents(1, time))
    said = time * settings.flops(WIDTH, time, 0, 1)
    assert said * 0.9 <= counter.get_total_flops() <= said


def test_fresh_rotations_follow_from_a_seed_that_is_saved() -> None:
    first, second = encoder_of("default"), settings_of("default").build(WIDTH, 0, 1)
    assert {"projection.seed", "projection.rotations"} <= first.state_dict().keys()
    assert not torch.equal(first.projection.rotations.float(), second.projection.rotations)
    torch.manual_seed(1)
    again = settings_of("default").build(WIDTH, 0, 1)
    assert torch.equal(again.projection.rotations, first.projection.rotations.float())


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"buckets": 5}, "mixer.buckets: 5 given. Input should be a multiple of 2."),
        ({"chunk": 0}, "mixer.chunk: 0 given. Input should be greater than or equal to 1."),
        ({"rounds": 0}, "mixer.rounds: 0 given. Input should be greater than or equal to 1."),
        (
            {"acros": True},
            "mixer: unknown key 'acros'. Did you mean 'across'? "
            "Known: across, backend, base, buckets, chunk, head_width, heads, kind, position, rounds.",
        ),
    ],
    ids=str,
)
def test_bad_values_are_told_in_one_line(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as mistake:
        read(ReformerEncoderConfig, values, "mixer")
    assert str(mistake.value) == text


@pytest.mark.parametrize(
    ("values", "width", "text"),
    [
        ({"heads": 3}, 255, "position: rope needs heads of even width, and this one is 85 wide."),
        ({}, 63, "head_width: 32 does not divide the width 63. Nearest width: 64."),
        ({"heads": 5}, 64, "heads: 5 does not divide the width 64. Nearest that does: 4."),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_are_told(values: dict[str, Any], width: int, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text) + "$"):
        ReformerEncoderConfig(**values).check(width)
