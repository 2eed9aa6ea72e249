"""Neighbours of a context at the output: kNN-LM (Khandelwal et al. 2020, https://arxiv.org/abs/1911.00172).

    p_knn(y) = sum over neighbours of [value = y] exp(-d / T)  /  sum over neighbours of exp(-d / T)
    p(y)     = w p_knn(y) + (1 - w) p_model(y)

d is the squared distance of unit vectors. Where nothing is near, p is the model's. The weight w is a number, or learned
for each token: a small network sees what the search found, how sure the model is, and the key itself.

Shapes: n tokens, K neighbours, V vocabulary, D width of a key.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from farfield.architectures.decoder import DecoderConfig
from farfield.config import Config

__all__ = ["Found", "OutputConfig", "Weight", "log_mixture", "log_mixture_of", "neighbour_log_probs"]

FEATURES = 6
FEW = (1, 4, 16)
HIDDEN = 32
BEGIN = 0.1  # what a learned weight begins with


class OutputConfig(Config):
    """How what a datastore finds is mixed with the model's distribution."""

    kind: Literal["output"] = "output"
    key: Literal["feedforward", "output"] = Field(
        "feedforward", description="what a context's key is: the input of the last feed-forward, or the layers' output"
    )
    k: int = Field(64, ge=1, description="neighbours of a token")
    weight: Literal["learned"] | float = Field(0.1, description="of the neighbours' distribution, or learned a token")
    temperature: float = Field(0.05, gt=0, description="of their distances; a learned weight learns it too, from here")
    least: int | None = Field(
        None, ge=1, description="pointers of the automaton that save a search; null: every token searches"
    )
    most: int = Field(1024, ge=1, description="pointers that are measured, with the members of their clusters")

    @field_validator("weight")
    @classmethod
    def _share(cls, weight: str | float) -> str | float:
        if isinstance(weight, str) or 0 <= weight <= 1:
            return weight
        raise ValueError(f"{weight} given. It should be a share from 0 to 1, or learned.")

    def check(self, architecture: DecoderConfig) -> None:
        """Any layers do."""

    def build(self, architecture: DecoderConfig) -> Weight | None:
        """What is learned of it, with fresh weights."""
        return Weight(architecture.width, BEGIN, self.temperature) if self.weight == "learned" else None

    def parameters(self, architecture: DecoderConfig) -> int:
        """Number of its weights."""
        return Weight.count(architecture.width) if self.weight == "learned" else 0


class Found(NamedTuple):
    """Neighbours of n contexts: values (n, K) int64, -1 for none, and distances (n, K), infinite there."""

    values: Tensor
    distances: Tensor


def neighbour_log_probs(found: Found, temperature: Tensor | float) -> Tensor:
    """log of each neighbour's share (n, K); -inf where there is none."""
    none = found.values < 0
    scores = (-found.distances.masked_fill(none, 0) / temperature).masked_fill(none, -torch.inf)
    largest = scores.amax(-1, keepdim=True)
    scores = scores - largest.masked_fill(largest == -torch.inf, 0)
    return scores - scores.exp().sum(-1, keepdim=True).clamp(min=1e-38).log()


def log_mixture(logits: Tensor, found: Found, temperature: Tensor | float, weight: Tensor | float) -> Tensor:
    """log p (n, V) of logits (n, V); `weight` is a number or (n,)."""
    shares = neighbour_log_probs(found, temperature).exp()
    near = torch.zeros_like(logits, dtype=shares.dtype).scatter_add(1, found.values.clamp(min=0), shares)
    return _mixed(logits.log_softmax(-1), near.log(), _weights(weight, found)[:, None])


def log_mixture_of(own: Tensor, targets: Tensor, found: Found, temperature: Tensor | float, weight: Tensor) -> Tensor:
    """log p (n,) of targets (n,), whose log-probability in the model is `own` (n,)."""
    shares = neighbour_log_probs(found, temperature).masked_fill(found.values != targets[:, None], -torch.inf)
    return _mixed(own, _log_sum(shares), _weights(weight, found))


def _weights(weight: Tensor | float, found: Found) -> Tensor:
    """(n,): nothing where nothing is near."""
    some = (found.values >= 0).any(-1)
    return torch.where(some, torch.as_tensor(weight, dtype=found.distances.dtype, device=some.device), 0)


def _mixed(own: Tensor, near: Tensor, weight: Tensor) -> Tensor:
    """log((1 - w) exp(own) + w exp(near)), the model's own to the last bit where w is 0."""
    safe = weight.clamp(min=1e-38, max=1 - 1e-7)
    both = torch.logaddexp(own + torch.log1p(-safe), near.clamp(min=-1e30) + safe.log())
    both = torch.where(weight >= 1, near, both)
    return torch.where(weight > 0, both, own)


def _log_sum(scores: Tensor) -> Tensor:
    """log-sum-exp over the last axis, with gradients of zero where all are -inf."""
    none = (scores == -torch.inf).all(-1)
    found = scores.masked_fill(none[..., None], 0).logsumexp(-1)
    return found.masked_fill(none, -torch.inf)


class Weight(nn.Module):
    """The weight (n,) and the temperature, learned: w = sigmoid(b + u^T gelu(W [features; key]))."""

    def __init__(self, width: int, weight: float, temperature: float) -> None:
        super().__init__()
        self.inner = nn.Linear(FEATURES + width, HIDDEN)
        self.outer = nn.Linear(HIDDEN, 1)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        nn.init.zeros_(self.outer.weight)
        nn.init.constant_(self.outer.bias, math.log(weight / (1 - weight)))

    @staticmethod
    def count(width: int) -> int:
        """Number of weights."""
        return (FEATURES + width + 1) * HIDDEN + HIDDEN + 1 + 1

    @property
    def temperature(self) -> Tensor:
        """A positive number."""
        return self.log_temperature.exp()

    def forward(self, key: Tensor, logits: Tensor, found: Found) -> Tensor:
        """(n,) of keys (n, D), logits (n, V) and neighbours (n, K)."""
        key = nn.functional.normalize(key.float(), dim=-1)
        inner = self.inner(torch.cat([features(logits.float(), found, self.temperature), key], -1))
        return torch.sigmoid(self.outer(nn.functional.gelu(inner))[:, 0])


def features(logits: Tensor, found: Found, temperature: Tensor) -> Tensor:
    """(n, 6): the nearest distance; how many of the first 1, 4, 16 agree with the nearest; how sure the model is."""
    shares = neighbour_log_probs(found, temperature).exp()
    nearest = found.distances.amin(-1).nan_to_num(posinf=4.0)
    first = found.values[:, :1]
    agreeing = [
        (shares[:, :few] * (found.values[:, :few] == first)).sum(-1) / shares[:, :few].sum(-1).clamp(min=1e-9)
        for few in FEW
    ]
    own = logits.log_softmax(-1)
    return torch.stack([nearest, *agreeing, own.amax(-1).exp(), -(own.exp() * own).sum(-1)], -1)
