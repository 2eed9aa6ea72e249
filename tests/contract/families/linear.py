"""Linear attention: kinds whose state is a matrix of keys by values, with decay.

Shapes of the formulas: T time, D width, H heads, W width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from contract.parts import convolved, rope
from farfield.architectures.ops.random_features import running_maximum, running_maximum_definition

if TYPE_CHECKING:
    from contract.subjects import Subject


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def lightning(subject: Subject, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """O = (Q K^T * M) V a head, M_nm = exp(-s (n - m)) for n >= m; slopes read off ALiBi's table."""
    settings: Any = subject.settings
    heads = settings.heads or subject.width // settings.head_width
    at_two, at_four = [1 / 16, 1 / 256], [1 / 4, 1 / 16, 1 / 64, 1 / 256]
    table = {2: at_two, 3: [*at_two, 1 / 4], 4: at_four, 6: [*at_four, 1 / 2, 1 / 8]}[heads]
    share = 1 + 1e-5 if subject.depth == 1 else 1 - subject.layer / (subject.depth - 1) + 1e-5
    mixed = silu(convolved(x @ weights["projection.qkv.weight"].T, weights.get("projection.taps")))
    q, k, v = (part.reshape(x.shape[0], heads, -1) for part in mixed.split(subject.width, 1))
    rows = []
    for n in range(x.shape[0]):
        joined = []
        for head, slope in enumerate(table):
            pairs = [math.exp(-slope * share * (n - m)) * (q[n, head] @ k[m, head]) * v[m, head] for m in range(n + 1)]
            joined.append(torch.stack(pairs).sum(0))
        out = torch.cat(joined)
        out = out / (out.square().mean() + 1e-6).sqrt() * weights["norm.weight"]
        rows.append(out / (1 + torch.exp(-(weights["gate.weight"] @ x[n]))))
    return torch.stack(rows) @ weights["projection.out.weight"].T


def mamba2(subject: Subject, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """The recurrence, token by token: S = exp(dt A) S + dt x B^T, y = S C + D x, the gate before the norm."""
    settings: Any = subject.settings
    inner, width, groups = settings.expand * subject.width, settings.state, settings.groups
    heads = settings.heads or inner // settings.head_width
    part = inner // heads
    into = x @ weights["into.weight"].T + weights.get("into.bias", 0)
    z, mixed, dt = into.split([inner, inner + 2 * groups * width, heads], 1)
    mixed = silu(convolved(mixed, weights["taps"]) + weights.get("taps_bias", 0))
    dt = torch.log(1 + torch.exp(dt + weights["dt_bias"])).clamp(settings.step_low, settings.step_high)
    states, rows = [torch.zeros(part, width, dtype=x.dtype)] * heads, []
    for n in range(x.shape[0]):
        y = []
        for head in range(heads):
            group = head * groups // heads
            u = mixed[n, head * part : (head + 1) * part]
            b, c = (mixed[n, start + group * width :][:width] for start in (inner, inner + groups * width))
            decay = torch.exp(-dt[n, head] * torch.exp(weights["A_log"][head]))
            states[head] = decay * states[head] + dt[n, head] * torch.outer(u, b)
            y.append(states[head] @ c + weights["D"][head] * u)
        pieces = (torch.cat(y) * silu(z[n])).chunk(groups)
        normed = [piece / (piece.square().mean() + settings.epsilon).sqrt() for piece in pieces]
        rows.append(torch.cat(normed) * weights["gain"])
    return torch.stack(rows) @ weights["out.weight"].T + weights.get("out.bias", 0)


def performer(subject: Subject, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Weights of all pairs from the features as they are, without any maximum taken out: float64 holds them."""
    settings: Any = subject.settings
    heads = settings.heads or subject.width // settings.head_width
    width = subject.width // heads
    mixed = convolved(x @ weights["projection.qkv.weight"].T, weights.get("projection.taps"))
    q, k, v = (part.reshape(x.shape[0], heads, width) for part in mixed.split(subject.width, 1))

    def phi(y: Tensor, n: int) -> Tensor:
        if settings.position == "rope":
            y = rope(y, n, settings.base)
        y = y / width**0.25
        projected = weights["random.matrix"] @ y
        if settings.features == "relu":
            return projected.clamp(min=0) + 1e-3
        return torch.exp(projected - y @ y / 2)

    outputs = []
    for head in range(heads):
        queries, keys = (torch.stack([phi(part[n, head], n) for n in range(x.shape[0])]) for part in (q, k))
        pairs = (queries @ keys.T).tril()
        outputs.append(pairs / pairs.sum(1, keepdim=True) @ v[:, head])
    return torch.cat(outputs, 1) @ weights["projection.out.weight"].T


EXTRA: dict[str, dict[str, dict[str, Any]]] = {
    "lightning": {
        "conv-chunk": {"heads": 4, "conv": 4, "chunk": 16},
        "last": {"heads": 3, "chunk": 1000},
        "middle": {"heads": 6},
    },
    "mamba2": {
        "groups": {"heads": 4, "groups": 2, "state": 5, "chunk": 16},
        "own": {"heads": 3, "expand": 1, "groups": 3, "state": 4, "conv": 1, "chunk": 1000},
        "biases": {"heads": 6, "groups": 3, "state": 5, "conv_bias": False, "bias": True, "epsilon": 1e-2},
        "limits": {"heads": 4, "state": 5, "step_low": 0.02, "step_high": 0.06},
    },
    "performer": {
        "conv-chunk": {"heads": 4, "count": 9, "conv": 4, "chunk": 16, "position": "none"},
        "constant": {"heads": 2, "scaling": "constant", "position": "none", "redraw": 3},
        "relu": {"heads": 2, "features": "relu", "count": 20},
    },
}

PLACES: dict[str, tuple[int, int]] = {"lightning.last": (2, 3), "lightning.middle": (1, 4)}

FORMULAS: dict[str, Callable[..., Any]] = {"lightning": lightning, "mamba2": mamba2, "performer": performer}

DEFINITIONS: dict[Callable[..., Any], Callable[..., Any]] = {running_maximum: running_maximum_definition}
