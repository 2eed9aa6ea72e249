"""What Infini-attention's memory holds and what a query reads of it."""

from __future__ import annotations

import pytest
import torch
from contract.families.readouts import _compressive
from contract.runs import assert_close, cut, in_calls, positions_of, sample, through, whole
from contract.subjects import settings_of
from contract.test_rows import layouts
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farfield.architectures import KeyedMixer, Rows, build_mixer
from farfield.memory.infini import Compressed, Infini, InfiniConfig, Rule, compressive, feature

WIDTH, HEADS = 16, 4
RULES = ("linear", "delta", "delta_once")


def infini(kind: str = "attention", **values: object) -> Infini:
    torch.manual_seed(2)
    mixer = build_mixer({"kind": kind, "heads": HEADS, "kv_heads": 2, "position": "none"}, WIDTH)
    assert isinstance(mixer, KeyedMixer)
    return Infini(mixer, InfiniConfig(**values), HEADS).double()  # type: ignore[arg-type]


def empty(batch: int, heads: int, width: int) -> Compressed:
    nothing = torch.zeros(batch, heads, width, width + 1, dtype=torch.float64)
    return Compressed(nothing, nothing.clone())


def written(keys: Tensor, values: Tensor, rule: Rule) -> Tensor:
    """What each of the keys (N, W) reads, once all of them were written one after another, a segment each."""
    time = keys.shape[0]
    rows = Rows.fresh_documents(1, time)
    k, v = keys[None, None], values[None, None]
    _, _, state = compressive(k, k, v, rows, empty(1, 1, keys.shape[1]), 1, rule)
    after = Rows.at(torch.arange(time, 2 * time)[None])
    reads = [
        compressive(k[:, :, n : n + 1], k[:, :, :1], v[:, :, :1], after.part(0, 1), state, 10**9, rule)[0]
        for n in range(time)
    ]
    return torch.cat(reads, 2)[0, 0]


# Invariant 8: what a key reads after one write and after two


@pytest.mark.parametrize("rule", RULES)
def test_a_key_reads_its_value_after_one_write(rule: Rule) -> None:
    key, value = torch.randn(2, 1, 8, dtype=torch.float64).unbind(0)
    assert_close(written(key, value, rule), value, 1e-12)


@pytest.mark.parametrize(("rule", "share"), [("linear", 1.0), ("delta", 0.5), ("delta_once", 1.0)])
def test_a_second_identical_write(rule: Rule, share: float) -> None:
    """Published: M stays as it is and z grows, so the key reads half its value. The variant leaves both."""
    key, value = torch.randn(2, 1, 8, dtype=torch.float64).unbind(0)
    assert_close(written(key.repeat(2, 1), value.repeat(2, 1), rule)[1:], share * value, 1e-12)
    k, v = (x.repeat(2, 1)[None, None] for x in (key, value))
    once = compressive(k[:, :, :1], k[:, :, :1], v[:, :, :1], Rows.fresh_documents(1, 1), empty(1, 1, 8), 1, rule)[2]
    twice = compressive(k, k, v, Rows.fresh_documents(1, 2), empty(1, 1, 8), 1, rule)[2]
    if rule != "linear":
        assert_close(twice.written[..., :-1], once.written[..., :-1], 1e-12)
    grown = 1 if rule == "delta_once" else 2
    assert_close(twice.written[..., -1], grown * once.written[..., -1], 1e-12)


def test_another_value_takes_the_place_of_the_first_under_delta_once() -> None:
    """The published rule: M holds v' times the feature, z twice the feature: v' / 2."""
    key, first, second = torch.randn(3, 1, 8, dtype=torch.float64).unbind(0)
    keys, values = key.repeat(2, 1), torch.cat((first, second))
    assert_close(written(keys, values, "delta_once")[1:], second, 1e-12)
    assert_close(written(keys, values, "delta")[1:], second / 2, 1e-12)
    assert_close(written(keys, values, "linear")[1:], (first + second) / 2, 1e-12)


def test_the_feature_is_elu_plus_one_and_never_zero_where_elu_would_be() -> None:
    x = torch.linspace(-30, 30, 61)
    assert_close(feature(x), torch.nn.functional.elu(x) + 1, 1e-6)
    assert (feature(x) > 0).all()
    assert (torch.nn.functional.elu(x) + 1 == 0).any()


# The op against the loop, in any calls


def random_state(batch: int, generator: torch.Generator) -> Compressed:
    written, fresh = torch.rand(2, batch, 2, 3, 4, generator=generator, dtype=torch.float64).unbind(0)
    return Compressed(written.requires_grad_(), fresh.requires_grad_())


def begun(calls: list[Tensor], begin: int) -> list[Tensor]:
    """The calls with the first document of each row going on at `begin`."""
    positions = torch.cat(calls, 1)
    first = (positions >= 0) & ((positions == 0).cumsum(1) == 1)
    return list(torch.where(first, positions + begin, positions).split([call.shape[1] for call in calls], 1))


@settings(max_examples=60)
@given(layouts(), st.integers(0, 12), st.integers(1, 9), st.sampled_from(RULES), st.integers(0, 2**16))
def test_any_layout_is_the_loop(calls: list[Tensor], begin: int, segment: int, rule: Rule, seed: int) -> None:
    """Values, what is left and gradients, those of the state handed in too: documents, padding, resets, any calls."""
    generator, calls = torch.Generator().manual_seed(seed), begun(calls, begin)
    batch, time = calls[0].shape[0], sum(call.shape[1] for call in calls)
    q, k, v = (
        torch.randn(batch, heads, time, 3, generator=generator, dtype=torch.float64).requires_grad_()
        for heads in (4, 2, 2)
    )
    start = random_state(batch, generator)
    real = torch.cat(calls, 1) >= 0
    outcomes = []
    for op in (compressive, _compressive):
        state, parts, at = start, [], 0
        for positions in calls:
            now = slice(at, at + positions.shape[1])
            read, share, state = op(q[:, :, now], k[:, :, now], v[:, :, now], Rows.at(positions), state, segment, rule)
            parts.append(torch.cat((read, share[..., None]), -1))
            at = now.stop
        out = torch.cat(parts, 2) * real[:, None, :, None]
        total = (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)).sum()
        total = total + (state.written.sin() + state.open.cos()).sum()
        inputs = [q, k, v, start.written, start.open]
        slopes = torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)
        outcomes.append((out, state.written, state.open, *slopes))
    for found, expected in zip(*outcomes, strict=True):
        assert_close(found.detach(), expected.detach(), 1e-9)


# In a model


@pytest.mark.parametrize("rule", RULES)
def test_until_the_first_segment_is_complete_the_near_field_answers_alone(rule: Rule) -> None:
    memory = infini(segment=8, rule=rule)
    x, _ = sample(2, 12, WIDTH, torch.float64)
    with torch.no_grad():
        found, _ = through(memory, x, whole(2, 12))
        expected, _ = through(memory.mixer, x, whole(2, 12))
        memory.gate.fill_(-1e9)  # the near field alone
        near, _ = through(memory, x, whole(2, 12))
    assert torch.equal(found[:, :8], expected[:, :8])
    assert (found[:, 8:] - expected[:, 8:]).abs().max() > 1e-3
    assert (found[:, 8:] - near[:, 8:]).abs().max() > 1e-3


def test_without_gradient_nothing_reaches_the_segments_before() -> None:
    x, cotangent = sample(1, 20, WIDTH, torch.float64)
    late = torch.cat((torch.zeros_like(cotangent[:, :10]), cotangent[:, 10:]), 1)
    cut_off = in_calls(infini(segment=10, rule="delta", gradient=False), x, late, whole(1, 20))
    through_all = in_calls(infini(segment=10, rule="delta"), x, late, whole(1, 20))
    assert_close(cut_off.y, through_all.y, 1e-12)
    assert not cut_off.gradients["x"][:, :10].any()
    assert through_all.gradients["x"][:, :10].any()


@pytest.mark.parametrize("size", [1, 8])
@pytest.mark.parametrize("rule", RULES)
def test_a_document_that_begins_clears_its_own_row_alone(rule: Rule, size: int) -> None:
    memory = infini(segment=4, rule=rule)
    rest = torch.arange(30, 54).expand(2, -1)
    begun = torch.stack((torch.arange(24), rest[1]))
    x, _ = sample(2, 54, WIDTH, torch.float64)
    with torch.no_grad():
        _, state = through(memory, x[:, :30], whole(2, 30))
        on, _ = through(memory, x[:, 30:], cut(rest, [size]), state)
        mixed, _ = through(memory, x[:, 30:], cut(begun, [size]), state)
        fresh, _ = through(memory, x[:1, 30:], whole(1, 24))
    assert_close(mixed[1], on[1], 1e-12)
    assert_close(mixed[0], fresh[0], 1e-12)
    assert (mixed[0] - on[0]).abs().max() > 1e-3


def test_far_along_a_document_nothing_changes() -> None:
    """Segments are cut by position, and that is all that a position does."""
    memory = infini(segment=4, rule="delta")
    x, _ = sample(2, 40, WIDTH, torch.float64)
    with torch.no_grad():
        _, state = through(memory, x[:, :8], whole(2, 8))
        near, _ = through(memory, x[:, 8:], [torch.arange(8, 40).expand(2, -1)], state)
        far, _ = through(memory, x[:, 8:], [torch.arange(8, 40).expand(2, -1) + 10**12], state)
    assert torch.equal(near, far)


def test_the_state_is_wide_whatever_the_weights_are() -> None:
    memory = infini(segment=4).bfloat16()
    x, _ = sample(2, 30, WIDTH, torch.bfloat16)
    with torch.no_grad():
        y, state = through(memory, x, [positions_of("30", "-3 20 7")])
    assert y.dtype == torch.bfloat16
    assert state.memory.written.dtype == state.memory.open.dtype == torch.float32  # type: ignore[attr-defined]


def test_a_segment_beyond_the_window_is_refused() -> None:
    config = InfiniConfig(segment=9)
    with pytest.raises(ValueError, match=r"^segment: 9 is longer than the window of 7 tokens allows; .* At most 8\.$"):
        config.check(settings_of("longformer", heads=HEADS, window=7), WIDTH, 0, 1)
    config.check(settings_of("longformer", heads=HEADS, window=8), WIDTH, 0, 1)
    config.check(settings_of("attention", heads=HEADS), WIDTH, 0, 1)


def test_delta_once_keeps_the_corrections_of_a_long_document_bounded() -> None:
    """Where z is a whole segment's, corrections shrink what is wrong: the readout of 4,000 tokens stays in bounds."""
    generator = torch.Generator().manual_seed(0)
    k, v = torch.randn(2, 1, 1, 4096, 8, generator=generator).unbind(0)
    for rule in RULES:
        read, _, state = compressive(k, k, v, Rows.fresh_documents(1, 4096), _narrow(8), 64, rule)
        assert read.abs().max() <= 2 * v.abs().max()
        assert state.written.isfinite().all()


def _narrow(width: int) -> Compressed:
    nothing = torch.zeros(1, 1, width, width + 1)
    return Compressed(nothing, nothing.clone())
