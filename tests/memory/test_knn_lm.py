"""kNN-LM's mixture by its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from farfield.memory.knn_lm import Found, Weight, log_mixture, log_mixture_of, neighbour_log_probs

VOCABULARY = 7


def found(source: torch.Generator, rows: int = 5, k: int = 6, missing: int = 2) -> Found:
    values = torch.randint(0, VOCABULARY, (rows, k), generator=source)
    distances = torch.rand(rows, k, generator=source, dtype=torch.float64).sort(1).values
    values[1, k - missing :], distances[1, k - missing :] = -1, torch.inf
    values[2], distances[2] = -1, torch.inf
    return Found(values, distances)


def definition(logits: Tensor, near: Found, temperature: float, weight: float) -> list[list[float]]:
    out = []
    for row in range(len(logits)):
        own = (logits[row] - logits[row].logsumexp(0)).exp().tolist()
        there = [
            (v, math.exp(-d / temperature))
            for v, d in zip(near.values[row].tolist(), near.distances[row].tolist(), strict=True)
            if v >= 0
        ]
        mass = sum(share for _, share in there)
        used = weight if there else 0.0
        knn = [sum(share for v, share in there if v == y) / mass if there else 0.0 for y in range(VOCABULARY)]
        out.append([used * knn[y] + (1 - used) * own[y] for y in range(VOCABULARY)])
    return out


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_the_definition(weight: float, temperature: float) -> None:
    source = torch.Generator().manual_seed(0)
    logits = torch.randn(5, VOCABULARY, generator=source, dtype=torch.float64)
    near = found(source)
    expected = torch.tensor(definition(logits, near, temperature, weight), dtype=torch.float64)
    mixed = log_mixture(logits, near, temperature, weight)
    assert torch.allclose(mixed.exp(), expected, atol=1e-12, rtol=1e-9)
    assert torch.allclose(mixed.exp().sum(1), torch.ones(5, dtype=torch.float64), atol=1e-12)
    for target in range(VOCABULARY):
        targets = torch.full((5,), target)
        own = logits.log_softmax(1)[:, target]
        one = log_mixture_of(own, targets, near, temperature, torch.tensor(weight, dtype=torch.float64))
        assert torch.allclose(one.exp(), expected[:, target], atol=1e-12, rtol=1e-9)


def test_weight_zero_is_the_model_to_the_last_bit() -> None:
    source = torch.Generator().manual_seed(1)
    logits = torch.randn(5, VOCABULARY, generator=source)
    near = found(source)
    near = Found(near.values, near.distances.float())
    assert torch.equal(log_mixture(logits, near, 1.0, 0.0), logits.log_softmax(1))


def test_an_exact_context_takes_it_all_as_the_temperature_falls() -> None:
    near = Found(torch.tensor([[3, 2, 2, 2]]), torch.tensor([[0.0, 1e-3, 2e-3, 2e-3]], dtype=torch.float64))
    logits = torch.zeros(1, VOCABULARY, dtype=torch.float64)
    mass = [float(log_mixture(logits, near, t, 1.0).exp()[0, 3]) for t in (1.0, 1e-3, 1e-5)]
    assert mass == sorted(mass)
    assert mass[-1] > 1 - 1e-9


def test_distances_beyond_what_exp_holds() -> None:
    near = Found(torch.tensor([[3, 2]]), torch.tensor([[4.0, 4.0]]))
    shares = neighbour_log_probs(near, 1e-6).exp()
    assert torch.allclose(shares, torch.tensor([[0.5, 0.5]]))


def test_gradients_of_the_weight_and_the_temperature() -> None:
    source = torch.Generator().manual_seed(2)
    logits = torch.randn(5, VOCABULARY, generator=source, dtype=torch.float64)
    near, targets = found(source), torch.randint(0, VOCABULARY, (5,), generator=source)
    own = logits.log_softmax(1).gather(1, targets[:, None])[:, 0]

    def nll(weight: Tensor, temperature: Tensor) -> Tensor:
        return -log_mixture_of(own, targets, near, temperature, weight).sum()

    weight = torch.full((5,), 0.3, dtype=torch.float64, requires_grad=True)
    temperature = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(nll, (weight, temperature))


def test_the_learned_weight_begins_as_told_and_learns() -> None:
    source = torch.Generator().manual_seed(3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        learned = Weight(4, weight=0.2, temperature=0.5)
    assert sum(one.numel() for one in learned.parameters()) == Weight.count(4)
    near = found(source)
    near = Found(near.values, near.distances.float())
    key, logits = torch.randn(5, 4, generator=source), torch.randn(5, VOCABULARY, generator=source)
    assert torch.allclose(learned(key, logits, near), torch.full((5,), 0.2))
    assert math.isclose(float(learned.temperature.detach()), 0.5, rel_tol=1e-6)
    targets = near.values[:, 0].clamp(min=0)
    own = logits.log_softmax(1).gather(1, targets[:, None])[:, 0]
    optimizer = torch.optim.Adam(learned.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        loss = -log_mixture_of(own, targets, near, learned.temperature, learned(key, logits, near)).mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(one.grad is None or bool(one.grad.isfinite().all()) for one in learned.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.2
