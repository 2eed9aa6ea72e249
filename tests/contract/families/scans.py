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
from farfield.architectures.ops.long_convolution import long_convolution, long_convolution_definition
from farfield.architectures.ops.selective_scan import selective_scan, selective_scan_definition

if TYPE_CHECKING:
    from contract.subjects import Subject

EXTRA: dict[str, dict[str, dict[str, Any]]] = {
    "gated_deltanet": {
        "values-chunk": {"heads": 2, "value_heads": 6, "value_ratio": 3, "chunk": 16},
        "narrow": {"heads": 4, "value_ratio": 1, "conv": 0, "chunk": 1000},
    },
    "gss": {
        "narrow": {"channels": 3, "state": 5, "expand": 1},
    },
    "mamba": {
        "jamba": {"state": 3, "rank": 2, "conv": 1, "inner_norm": True, "inner_epsilon": 1e-2},
        "biases": {"state": 3, "inner": 37, "conv": 3, "bias": True, "conv_bias": False},
        "wide": {"state": 1, "expand": 3, "rank": 5, "conv": 2},
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


def mamba(subject: Subject, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Channel by channel: h_t = exp(Delta_t A) h_(t-1) + Delta_t u_t B_t, y_t = C_t . h_t + D u_t."""
    settings: Any = subject.settings
    channels, states = settings.inner or settings.expand * subject.width, settings.state
    u, gate = (x @ weights["input.weight"].T + weights.get("input.bias", 0)).split([channels, channels], 1)
    u = silu(convolved(u, weights["taps"]) + weights.get("conv_bias", 0))
    rank = settings.rank or math.ceil(subject.width / 16)
    low, into, out_of = (u @ weights["select.weight"].T).split([rank, states, states], 1)
    if settings.inner_norm:
        gains = weights["gain"].split([rank, states, states])
        low, into, out_of = (
            part / (part.square().mean(1, keepdim=True) + settings.inner_epsilon).sqrt() * gain
            for part, gain in zip((low, into, out_of), gains, strict=True)
        )
    step = torch.log(1 + torch.exp(low @ weights["step.weight"].T + weights["step.bias"]))
    columns = []
    for channel in range(channels):
        state, column = torch.zeros(states, dtype=x.dtype), []
        rates = -weights["A_log"][channel].exp()
        for t in range(x.shape[0]):
            delta, value = step[t, channel], u[t, channel]
            state = torch.exp(delta * rates) * state + delta * into[t] * value
            column.append(out_of[t] @ state + weights["D"][channel] * value)
        columns.append(torch.stack(column))
    return (torch.stack(columns, 1) * silu(gate)) @ weights["out.weight"].T + weights.get("out.bias", 0)


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def gated_state_spaces(subject: Subject, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """The kernel of each channel, K_l = Re sum_n C_n (e^L_n - 1) / L_n e^(L_n l), and its convolution written out."""
    u, v = gelu(x @ weights["gate.weight"].T), gelu(x @ weights["input.weight"].T)
    centred = v - v.mean(1, keepdim=True)
    v = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() * weights["norm.weight"] + weights["norm.bias"]
    rates = -weights["log_decay"].exp() + 1j * weights["log_frequency"].exp()
    read = weights["read"][..., 0] + 1j * weights["read"][..., 1]
    times = range(x.shape[0])
    kernel = [(read * (torch.exp(rates) - 1) / rates * torch.exp(rates * t)).sum(1).real for t in times]
    y = [sum(kernel[n] * v[t - n] for n in range(t + 1)) + weights["skip"] * v[t] for t in times]
    return ((torch.stack(y) @ weights["spread.weight"].T) * u) @ weights["out.weight"].T + weights["out.bias"]


FORMULAS: dict[str, Callable[..., Any]] = {
    "gss": gated_state_spaces,
    "mamba": mamba,
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
    narrow: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """The loop in the dtype of the state."""
    wide = (part.to(state.dtype) for part in (q, k, v, log_decay, beta))
    out, state = gated_delta_rule_definition(*wide, rows, state)
    return out.to(v.dtype), state


def _selective_scan(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, rows: Rows, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The loop in the dtype of the state."""
    wide = (part.to(state.dtype) for part in (x, delta, A, B, C, D))
    out, state = selective_scan_definition(*wide, rows, state)
    return out.to(x.dtype), state


def _long_convolution(v: Tensor, rates: Tensor, C: Tensor, rows: Rows, state: Tensor) -> tuple[Tensor, Tensor]:
    """The loop in the dtype of the state."""
    out, state = long_convolution_definition(v.to(state.dtype), rates, C, rows, state)
    return out.to(v.dtype), state


DEFINITIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    long_convolution: _long_convolution,
    selective_scan: _selective_scan,
    gated_delta_rule: _gated_delta_rule,
}
