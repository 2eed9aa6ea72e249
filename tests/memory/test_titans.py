"""What Titans' networks learn while reading: the rule against the loop, and that they stay finite."""

from __future__ import annotations

import pytest
import torch
from contract.families.readouts import _regressed, answered, descended
from contract.runs import assert_close, cut, sample, through, whole
from contract.test_rows import layouts
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farfield.architectures import Rows, build_mixer
from farfield.memory.inner_network import Learnt, Rates, Weights, _errors, _forward, regressed
from farfield.memory.titans import Titans, TitansConfig

WIDTH = 16


def titans(kind: str = "longformer", **values: object) -> Titans:
    torch.manual_seed(2)
    mixer = build_mixer({"kind": kind, "heads": 2}, WIDTH)
    return Titans(mixer, TitansConfig(heads=2, **values), WIDTH)  # type: ignore[arg-type]


def layers(depth: int, *lead: int, generator: torch.Generator) -> Weights:
    sizes = [(3, 3)] if depth == 1 else [(3, 5), *[(5, 5)] * (depth - 2), (5, 3)]
    return tuple(torch.randn(*lead, *size, generator=generator, dtype=torch.float64) / 2 for size in sizes)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_the_gradient_written_out_is_torch_funcs(depth: int) -> None:
    """Of each token alone: input^T error of each layer."""
    weights = layers(depth, 2, 2, generator=torch.Generator().manual_seed(0))
    keys, values = torch.randn(2, 2, 2, 6, 3, dtype=torch.float64).unbind(0)
    taken, before, out = _forward(weights, keys)
    errors = _errors(weights, before, out - values)
    for t in range(6):
        expected = descended(weights, keys[:, :, t : t + 1], values[:, :, t : t + 1], None)
        for x, error, gradient in zip(taken, errors, expected, strict=True):
            assert_close(x[:, :, t, :, None] * error[:, :, t, None, :], gradient, 1e-12)


def begun(calls: list[Tensor], begin: int) -> list[Tensor]:
    """The calls with the first document of each row going on at `begin`."""
    positions = torch.cat(calls, 1)
    first = (positions >= 0) & ((positions == 0).cumsum(1) == 1)
    return list(torch.where(first, positions + begin, positions).split([call.shape[1] for call in calls], 1))


@settings(max_examples=20)
@given(
    calls=layouts(),
    begin=st.integers(0, 12),
    segment=st.integers(1, 9),
    depth=st.integers(1, 4),
    limit=st.sampled_from([None, 0.3, 5.0]),
    seed=st.integers(0, 2**16),
)
def test_any_layout_is_the_loop(
    calls: list[Tensor], begin: int, segment: int, depth: int, limit: float | None, seed: int
) -> None:
    """Readouts, what is left, and gradients, those of the weights and the state handed in too, of any calls."""
    generator, calls = torch.Generator().manual_seed(seed), begun(calls, begin)
    batch, time = calls[0].shape[0], sum(call.shape[1] for call in calls)
    q, k, v = torch.randn(3, batch, 2, time, 3, generator=generator, dtype=torch.float64).requires_grad_().unbind(0)
    told = torch.randn(3, batch, 2, time, generator=generator, dtype=torch.float64).requires_grad_()
    initial = tuple(layer.requires_grad_() for layer in layers(depth, 2, generator=generator))
    held = [tuple(x.requires_grad_() for x in layers(depth, batch, 2, generator=generator)) for _ in range(3)]
    inputs = [told, *initial, *(x for of in held for x in of), q, k, v]
    outcomes = []
    for op in (regressed, _regressed):
        state, parts, at = Learnt(*held), [], 0
        for positions in calls:
            now = slice(at, at + positions.shape[1])
            step, momentum, keep = told[..., now].unbind(0)
            rates = Rates(torch.sigmoid(step) / 4, *(torch.nn.functional.logsigmoid(x) for x in (momentum, keep)))
            some = (x[:, :, now] for x in (q, k, v))
            read, state = op(*some, rates, Rows.at(positions), segment, initial, state, limit)
            parts.append(torch.where((positions >= 0)[:, None, :, None], read, 0.0))
            at = now.stop
        every = [torch.cat(parts, 2), *(x for of in (state.start, state.weights, state.momentum) for x in of)]
        total = sum((x * torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape)).sum() for x in every)
        slopes = torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)
        outcomes.append((*every, *slopes))
    for found, expected in zip(*outcomes, strict=True):
        assert_close(found.detach(), expected.detach(), 1e-9)


def test_a_token_learnt_is_answered_in_the_next_segment() -> None:
    """One step at rate 1/2 of a linear network makes the answer to a key of length 1 the value; not before."""
    key = torch.nn.functional.normalize(torch.randn(1, 1, 1, 4, dtype=torch.float64), dim=-1)
    value = torch.randn(1, 1, 1, 4, dtype=torch.float64)
    initial = (torch.randn(1, 4, 4, dtype=torch.float64),)
    nothing = (torch.zeros(1, 1, 4, 4, dtype=torch.float64),)
    far = torch.full((1, 1, 3), -1e9, dtype=torch.float64)  # no momentum
    rates = Rates(torch.tensor([[[0.5, 0.0, 0.0]]], dtype=torch.float64), far, torch.zeros_like(far))
    keys, values = key.expand(1, 1, 3, 4), value.expand(1, 1, 3, 4)
    state = Learnt(nothing, nothing, nothing)
    read, _ = regressed(keys, keys, values, rates, Rows.fresh_documents(1, 3), 2, initial, state, None)
    assert_close(read[:, :, :2], (key @ initial[0]).expand(1, 1, 2, 4), 1e-12)
    assert_close(read[:, :, 2:], value, 1e-12)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_sixteen_thousand_tokens_stay_finite(depth: int) -> None:
    """Of inputs a hundred times the usual size, at the highest rate and the longest memory there is."""
    memory = titans(depth=depth, segment=64, max_rate=1.0)
    with torch.no_grad():
        memory.rates.bias.copy_(torch.tensor([9.0, 9.0, -9.0, 0.0]).repeat_interleave(2))
    x, _ = sample(1, 16384, WIDTH, torch.float32)
    with torch.no_grad():
        y, state = through(memory, 100 * x, whole(1, 16384))
    assert y.isfinite().all()
    assert all(tensor.isfinite().all() for tensor in state.learnt.tensors().values())  # type: ignore[attr-defined]


def test_it_is_the_clip_that_keeps_them_finite() -> None:
    memory = titans(depth=2, segment=64, max_rate=1.0, max_grad_norm=None)
    x, _ = sample(1, 2048, WIDTH, torch.float32)
    with torch.no_grad():
        y, _ = through(memory, 100 * x, whole(1, 2048))
    assert not y.isfinite().all()


def test_gradients_of_a_long_document_are_finite() -> None:
    memory = titans(depth=2, segment=64)
    x = sample(1, 4096, WIDTH, torch.float32)[0].requires_grad_()
    y, _ = through(memory, x, whole(1, 4096))
    found = torch.autograd.grad(y.square().mean(), [x, *memory.parameters()])
    assert all(gradient.isfinite().all() for gradient in found)
    assert found[0][:, :64].any()


def test_far_along_a_document_nothing_changes() -> None:
    memory = titans(kind="retnet", segment=4).double()
    x, _ = sample(2, 40, WIDTH, torch.float64)
    with torch.no_grad():
        _, state = through(memory, x[:, :8], whole(2, 8))
        learnt = []
        for begin in (8, 8 + 10**12):
            _, after, _ = memory.remember(x[:, 8:], Rows.at(torch.arange(begin, begin + 32).expand(2, -1)), state)  # type: ignore[arg-type]
            learnt.append(after.tensors())
    assert all(torch.equal(learnt[0][name], learnt[1][name]) for name in learnt[0])


def test_the_state_is_wide_whatever_the_weights_are() -> None:
    memory = titans(segment=4).bfloat16()
    x, _ = sample(2, 30, WIDTH, torch.bfloat16)
    with torch.no_grad():
        y, state = through(memory, x, cut(whole(2, 30)[0], [7]))
    assert y.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in state.learnt.tensors().values()} == {torch.float32}  # type: ignore[attr-defined]


def test_a_network_answers_as_the_formula_says() -> None:
    weights = layers(3, 2, 2, generator=torch.Generator().manual_seed(1))
    x = torch.randn(2, 2, 5, 3, dtype=torch.float64)
    assert_close(_forward(weights, x)[2], answered(weights, x), 1e-12)
