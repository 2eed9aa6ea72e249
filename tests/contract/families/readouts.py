"""Memories that answer by a readout: a matrix of all segments, a network learnt while reading."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from contract.families.segments import s2_near, sparse_near
from contract.parts import Softmax, convolved
from farfield.architectures import Rows
from farfield.memory.infini import Compressed, compressive
from farfield.memory.inner_network import Learnt, Rates, Weights, regressed

if TYPE_CHECKING:
    from contract.subjects import Subject


def feature(x: Tensor) -> Tensor:
    """ELU + 1."""
    return torch.where(x > 0, x + 1, torch.exp(torch.where(x > 0, 0.0, x)))


def added(key: Tensor, value: Tensor, matrix: Tensor, norm: Tensor, rule: str) -> tuple[Tensor, Tensor]:
    """What a key (W,), through its feature, and a value add to M (W, W) and z (W,) of the segments before."""
    held = key @ norm > 0
    if rule != "linear" and held:
        value = value - (key @ matrix) / (key @ norm)
    share = 1 - key @ norm / (key @ key) if rule == "delta_once" and key.any() else torch.ones((), dtype=key.dtype)
    return torch.outer(key, value), torch.clamp(share, min=0) * key


def infini(subject: Subject, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Equations 7 to 10, a head and a token at a time."""
    from contract.dense import attention_near, longformer_globals, longformer_near

    memory: Any = subject.memory
    gate = weights["gate"]
    heads = Softmax(subject, {name.removeprefix("mixer."): weight for name, weight in weights.items()}, x)
    kind = subject.settings.kind  # type: ignore[attr-defined]
    fields = {"attention": attention_near, "longformer": longformer_near, "s2": s2_near, "sparse": sparse_near}
    near = heads.attend(fields[kind](subject, heads))
    near = longformer_globals(heads, near) if kind == "longformer" else near
    rows = []
    for head in range(heads.heads):
        width, share = heads.head_width, torch.sigmoid(gate[head])
        matrix, norm = torch.zeros(width, width, dtype=x.dtype), torch.zeros(width, dtype=x.dtype)
        open_matrix, open_norm = torch.zeros_like(matrix), torch.zeros_like(norm)
        for time in range(x.shape[0]):
            query, key, value = feature(heads.q[head, time]), heads.k[head, time], heads.v[head, time]
            if not memory.gradient:
                key, value = key.detach(), value.detach()
            out = near[head, time]
            if query @ norm > 0:
                out = share * (query @ matrix) / (query @ norm) + (1 - share) * out
            rows.append(out)
            more_matrix, more_norm = added(feature(key), value, matrix, norm, memory.rule)
            open_matrix, open_norm = open_matrix + more_matrix, open_norm + more_norm
            if (time + 1) % memory.segment == 0:
                matrix, norm = matrix + open_matrix, norm + open_norm
                open_matrix, open_norm = torch.zeros_like(matrix), torch.zeros_like(norm)
    return heads.joined(torch.stack(rows).unflatten(0, (heads.heads, -1)))


def _compressive(
    q: Tensor, k: Tensor, v: Tensor, rows: Rows, state: Compressed, segment: int, rule: str
) -> tuple[Tensor, Tensor, Compressed]:
    """The loop, a row, a head and a token at a time, in the dtype of the state."""
    kind, group = state.written.dtype, q.shape[1] // k.shape[1]
    reads = [[[torch.zeros(q.shape[3] + 1, dtype=kind)] * q.shape[2] for _ in range(q.shape[1])] for _ in q]
    written, opened = ([list(one.unbind(0)) for one in each.unbind(0)] for each in (state.written, state.open))
    for row in range(q.shape[0]):
        for head in range(k.shape[1]):
            held, fresh = written[row][head], opened[row][head]
            for time, position in enumerate(rows.positions[row].tolist()):
                if position < 0:
                    continue
                if position == 0:
                    held, fresh = torch.zeros_like(held), torch.zeros_like(fresh)
                matrix, norm = held[:, :-1], held[:, -1]
                for each in range(head * group, (head + 1) * group):
                    query = feature(q[row, each, time].to(kind))
                    if query @ norm > 0:
                        one = torch.ones(1, dtype=kind)
                        reads[row][each][time] = torch.cat((query @ matrix / (query @ norm), one))
                key = feature(k[row, head, time].to(kind))
                more, share = added(key, v[row, head, time].to(kind), matrix, norm, rule)
                fresh = fresh + torch.cat((more, share[:, None]), 1)
                if (position + 1) % segment == 0:
                    held, fresh = held + fresh, torch.zeros_like(fresh)
            written[row][head], opened[row][head] = held, fresh
    both = torch.stack([torch.stack([torch.stack(times) for times in heads]) for heads in reads])
    after = (torch.stack([torch.stack(one) for one in each]) for each in (written, opened))
    return both[..., :-1], both[..., -1], Compressed(*after)


def unit(x: Tensor) -> Tensor:
    return x / (x.square().sum() + 1e-6).sqrt()


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def answered(weights: Weights, x: Tensor) -> Tensor:
    """M(x) = gelu(... gelu(x W_1) ...) W_n."""
    for layer, weight in enumerate(weights):
        if layer:
            x = x * (1 + torch.erf(x / math.sqrt(2))) / 2
        x = x @ weight
    return x


def descended(weights: Weights, key: Tensor, value: Tensor, limit: float | None) -> Weights:
    """The gradient of |M(k) - v|^2 by the weights, by torch.func, of each head (..., K, V) clipped to a norm."""
    found = torch.func.grad(lambda held: (answered(held, key) - value).square().sum())(weights)
    if limit is None:
        return found
    norm = sum(layer.square().sum((-1, -2), keepdim=True) for layer in found)
    return tuple(layer * limit / torch.clamp(torch.as_tensor(norm), min=limit**2).sqrt() for layer in found)


def titans(subject: Subject, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Equations 9 to 14 with gradients at the start of each segment, a head and a token at a time."""
    from contract.dense import FORMULAS

    memory: Any = subject.memory
    inner = {name.removeprefix("mixer."): weight for name, weight in weights.items() if name.startswith("mixer.")}
    alone = dataclasses.replace(subject, memory=None)
    width = memory.head_width if memory.heads is None else subject.width // memory.heads
    heads = subject.width // width
    q, k, v = (
        part.unflatten(1, (heads, width))
        for part in silu(convolved(x @ weights["qkv.weight"].T, weights.get("taps"))).chunk(3, 1)
    )
    told = 1 / (1 + torch.exp(-(x @ weights["rates.weight"].T + weights["rates.bias"])))
    step, momentum, decay, gate = told.unflatten(1, (4, heads)).unbind(1)
    rows = []
    for head in range(heads):
        fresh = tuple(weights[f"initial.{layer}"][head] for layer in range(memory.depth))
        start, held, still = fresh, fresh, tuple(torch.zeros_like(layer) for layer in fresh)
        for t in range(x.shape[0]):
            out = answered(start, unit(q[t, head]))
            out = out / (out.square().mean() + 1e-6).sqrt() * weights["gain"][head] * gate[t, head]
            rows.append(out)
            slopes = descended(start, unit(k[t, head]), v[t, head], memory.max_grad_norm)
            rate = memory.max_rate * step[t, head]
            still = tuple(momentum[t, head] * s - rate * g for s, g in zip(still, slopes, strict=True))
            held = tuple((1 - decay[t, head]) * m + s for m, s in zip(held, still, strict=True))
            if (t + 1) % memory.segment == 0:
                start = held
    read = torch.stack(rows).unflatten(0, (heads, -1)).transpose(0, 1).flatten(1) @ weights["out.weight"].T
    mixed = FORMULAS[subject.settings.kind](alone, inner, x + read if memory.form == "layer" else x)  # type: ignore[attr-defined]
    if memory.form == "layer":
        return mixed
    return mixed + read if memory.form == "sum" else mixed / (1 + torch.exp(-read))


def _regressed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rates: Rates,
    rows: Rows,
    segment: int,
    initial: Weights,
    state: Learnt,
    limit: float | None,
) -> tuple[Tensor, Learnt]:
    """The loop, a token at a time, with gradients by torch.func, in the dtype of the state."""
    kind, outputs = state.momentum[0].dtype, []
    q, k, v = (x.to(kind) for x in (q, k, v))
    fresh = tuple(layer.to(kind) for layer in initial)
    start, held, still = state.start, state.weights, state.momentum
    for t, position in enumerate(rows.positions.unbind(1)):
        begins, real, ends = (
            flag[:, None, None, None] for flag in (position == 0, position >= 0, (position + 1) % segment == 0)
        )
        start, held = (
            tuple(torch.where(begins, new, old) for new, old in zip(fresh, of, strict=True)) for of in (start, held)
        )
        still = tuple(torch.where(begins, 0.0, layer) for layer in still)
        query, key, value = (x[:, :, t : t + 1] for x in (q, k, v))
        outputs.append(torch.where(real, answered(start, query), 0.0))
        slopes = descended(start, key, value, limit)
        step, momentum, keep = (
            x[:, :, t, None, None].to(kind) for x in (rates.step, rates.momentum.exp(), rates.keep.exp())
        )
        moved = tuple(momentum * s - step * g for s, g in zip(still, slopes, strict=True))
        after = tuple(keep * m + s for m, s in zip(held, moved, strict=True))
        still = tuple(torch.where(real, new, old) for new, old in zip(moved, still, strict=True))
        held = tuple(torch.where(real, new, old) for new, old in zip(after, held, strict=True))
        start = tuple(torch.where(ends & real, new, old) for new, old in zip(held, start, strict=True))
    return torch.cat(outputs, 2), Learnt(start, held, still)


MEMORIES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "infini": (("attention", "longformer", "s2"), {"kind": "infini", "segment": 5}),
    "infini-delta": (("attention", "sparse"), {"kind": "infini", "segment": 4, "rule": "delta"}),
    "infini-once": (("longformer",), {"kind": "infini", "segment": 7, "rule": "delta_once"}),
    "infini-cut": (("attention",), {"kind": "infini", "segment": 1, "rule": "delta", "gradient": False}),
    "titans": (("longformer", "retnet"), {"kind": "titans", "form": "sum", "segment": 8, "heads": 2}),
    "titans-gate": (
        ("longformer",),
        {"kind": "titans", "form": "gate", "segment": 5, "heads": 4, "depth": 1, "conv": 0},
    ),
    "titans-layer": (
        ("longformer",),
        {
            "kind": "titans",
            "form": "layer",
            "segment": 7,
            "heads": 2,
            "depth": 3,
            "max_grad_norm": 0.5,
            "max_rate": 0.3,
        },
    ),
}

REMEMBERED: dict[str, Callable[..., Any]] = {
    name: infini if values["kind"] == "infini" else titans for name, (_, values) in MEMORIES.items()
}

DEFINITIONS: dict[Callable[..., Any], Callable[..., Any]] = {compressive: _compressive, regressed: _regressed}
