"""Feed-forwards against their equations, token by token; the mixture's balance, load and independence of tokens."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from farfield.architectures import Rows
from farfield.architectures.feedforward import GELUConfig, MixtureConfig, MixtureOfExperts, SwiGLUConfig

WIDTH = 16


def rows_of(*counts: int) -> Rows:
    """Rows of so many tokens, padded on the right."""
    time = max(counts)
    return Rows.at(torch.tensor([[*range(count), *[-1] * (time - count)] for count in counts]))


def mixture(dtype: torch.dtype = torch.float64, **settings: float) -> MixtureOfExperts:
    torch.manual_seed(0)
    return MixtureConfig.model_validate({"experts": 6, "top": 2, "balance": 0.1, **settings}).build(WIDTH).to(dtype)


def swiglu(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Of one token (D,), by one expert."""
    gate, value = (x @ up).chunk(2)
    return (gate * torch.sigmoid(gate) * value) @ down


def definition(module: MixtureOfExperts, x: Tensor) -> Tensor:
    """Every token by itself, its experts one after the other."""
    outputs = []
    for token in x.flatten(0, 1):
        p = torch.softmax(module.router.weight @ token, 0)
        best = sorted(range(len(p)), key=lambda e: -float(p[e].detach()))[: module.config.top]
        whole = sum((p[e] for e in best), torch.zeros(())) if module.config.renormalise else 1.0
        parts = [p[e] / whole * swiglu(token, module.up[e], module.down[e]) for e in best]
        outputs.append(torch.stack(parts).sum(0))
    return torch.stack(outputs).unflatten(0, x.shape[:2])


@pytest.mark.parametrize(
    "settings", [{}, {"renormalise": True}, {"top": 1}, {"top": 6}, {"experts": 1, "top": 1}], ids=str
)
@pytest.mark.parametrize("time", [1, 63])
def test_a_mixture_is_its_definition(settings: dict[str, float], time: int) -> None:
    module = mixture(**settings)
    x = torch.randn(2, time, WIDTH, dtype=torch.float64, requires_grad=True)
    weights = [x, *module.parameters()]
    found, _ = module(x, rows_of(time, time))
    expected = definition(module, x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    cotangent = torch.randn_like(found)
    ours = torch.autograd.grad((found * cotangent).sum(), weights)
    theirs = torch.autograd.grad((expected * cotangent).sum(), weights)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_a_token_is_answered_as_if_it_were_alone() -> None:
    """No capacity: what others choose changes nothing."""
    module, x = mixture(), torch.randn(2, 40, WIDTH, dtype=torch.float64)
    together, _ = module(x, rows_of(40, 40))
    for time in (0, 17, 39):
        alone, _ = module(x[1:, time : time + 1], rows_of(1))
        torch.testing.assert_close(alone[0, 0], together[1, time], rtol=0, atol=1e-12)


def test_balance_and_load_count_real_tokens_only() -> None:
    module, x = mixture(), torch.randn(2, 9, WIDTH, dtype=torch.float64)
    _, padded = module(x, rows_of(9, 4))
    whole, alone = module(x[:1], rows_of(9))[1], module(x[1:, :4], rows_of(4))[1]
    torch.testing.assert_close(padded.metrics["load"], (9 * whole.metrics["load"] + 4 * alone.metrics["load"]) / 13)
    assert float(padded.metrics["load"].sum()) == pytest.approx(1)
    probabilities = torch.cat(
        [(x[0] @ module.router.weight.T).softmax(-1), (x[1, :4] @ module.router.weight.T).softmax(-1)]
    )
    picks = torch.zeros_like(probabilities).scatter_(1, probabilities.topk(2).indices, 1.0)
    expected = 0.1 * 6 * (picks.mean(0) * probabilities.mean(0)).sum()
    torch.testing.assert_close(padded.losses["balance"], expected)


def test_balance_is_least_where_the_load_is_equal_and_its_gradient_levels_it() -> None:
    """k for a uniform router, more for any other; following its gradient spreads the load."""
    module, x = mixture(balance=1.0), torch.randn(1, 512, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        module.router.weight[0] += 0.5 * x.mean((0, 1)).sign()
    x = x + 0.5 * x.mean((0, 1)).sign()
    rows = rows_of(512)
    before = float(module(x, rows)[1].losses["balance"].detach())
    crowded = float(module(x, rows)[1].metrics["load"].max())
    assert before > 2
    optimizer = torch.optim.SGD([module.router.weight], 0.5)
    for _ in range(60):
        optimizer.zero_grad()
        module(x, rows)[1].losses["balance"].backward()
        optimizer.step()
    after = module(x, rows)[1]
    assert float(after.losses["balance"].detach()) < before
    assert float(after.metrics["load"].max()) < crowded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_numbers(dtype: torch.dtype) -> None:
    module = mixture(dtype)
    x = torch.randn(1, 30, WIDTH, dtype=dtype)
    found, auxiliary = module(x, rows_of(30))
    assert found.dtype == dtype
    assert auxiliary.losses["balance"].dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert mixture(torch.float32)(x.float(), rows_of(30))[0].isfinite().all()


def test_gelu_is_its_equation() -> None:
    module = GELUConfig(ratio=2.0).build(WIDTH).double()
    x = torch.randn(1, 5, WIDTH, dtype=torch.float64)
    inner = x @ module.up.weight.T
    expected = (inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))) @ module.down.weight.T
    torch.testing.assert_close(module(x, rows_of(5))[0], expected)


@pytest.mark.parametrize(
    "config", [SwiGLUConfig(), GELUConfig(), MixtureConfig(), MixtureConfig(experts=5, top=3, ratio=1.3)], ids=str
)
def test_sizes_are_as_the_settings_say(config: SwiGLUConfig | GELUConfig | MixtureConfig) -> None:
    module = config.build(WIDTH)
    assert sum(parameter.numel() for parameter in module.parameters()) == config.parameters(WIDTH)
    if isinstance(config, MixtureConfig):
        expert = module.up[0].numel() + module.down[0].numel()
        assert config.flops(WIDTH) == 2 * (module.router.weight.numel() + config.top * expert)
    else:
        assert config.flops(WIDTH) == 2 * config.parameters(WIDTH)


def test_more_experts_a_token_than_there_are() -> None:
    with pytest.raises(ValueError, match=r"^top: 3 experts a token given, but there are 2\.$"):
        MixtureConfig(experts=2, top=3).check(WIDTH)
