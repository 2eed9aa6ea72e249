"""State spaces and delta rules: kinds with a recurrence of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from contract.parts import convolved
from farfield.architectures import Rows
from farfield.architectures.ops.gated_delta_rule import gated_delta_rule, gated_delta_rule_definition

if TYPE_CHECKING:
    from contract.subjects import Subject

EXTRA: dict[str, dict[str, dict[str, Any]]] = {
    "gated_deltanet": {
        "values-chunk": {"heads": 2, "value_heads": 6, "value_ratio": 3, "chunk": 16},
        "narrow": {"heads": 4, "value_ratio": 1, "conv": 0, "chunk": 1000},
    },
}


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def gated_delta_net(subject: Subject, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """S_t = a_t S_(t-1) (I - b_t k_t k_t^T) + b_t v_t k_t^T, as published: values by keys."""
    settings: Any = subject.settings
    heads = settings.heads or subject.width // settings.head_width
    key = subject.width // heads
    value, value_heads = key * settings.value_ratio, settings.value_heads or heads
    qkv = silu(convolved(x @ weights["qkv.weight"].T, weights.get("taps")))
    q, k, v = qkv.split([heads * key, heads * key, value_heads * value], 1)
    step, strength = (x @ weights["rates.weight"].T).split([value_heads, value_heads], 1)
    decay = torch.exp(-weights["log_rate"].exp() * torch.log(1 + torch.exp(step + weights["step_bias"])))
    beta, gate = 1 / (1 + torch.exp(-strength)), silu(x @ weights["gate.weight"].T)
    outputs = []
    for head in range(value_heads):
        used = head * heads // value_heads
        at, into = slice(used * key, (used + 1) * key), slice(head * value, (head + 1) * value)
        state, rows = torch.zeros(value, key, dtype=x.dtype), []
        for t in range(x.shape[0]):
            q_t, k_t = (part[t, at] / (part[t, at].square().sum() + 1e-6).sqrt() for part in (q, k))
            a, b = decay[t, head], beta[t, head]
            state = a * state @ (torch.eye(key, dtype=x.dtype) - b * torch.outer(k_t, k_t)) + b * torch.outer(
                v[t, into], k_t
            )
            out = state @ q_t / math.sqrt(key)
            rows.append(out / (out.square().mean() + 1e-6).sqrt() * weights["gain"] * gate[t, into])
        outputs.append(torch.stack(rows))
    return torch.cat(outputs, 1) @ weights["out.weight"].T


FORMULAS: dict[str, Callable[..., Any]] = {
    "gated_deltanet": gated_delta_net,
}


def _gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    rows: Rows,
    state: Tensor,
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """The loop in the dtype of the state."""
    wide = (part.to(state.dtype) for part in (q, k, v, log_decay, beta))
    out, state = gated_delta_rule_definition(*wide, rows, state)
    return out.to(v.dtype), state


DEFINITIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    gated_delta_rule: _gated_delta_rule,
}
