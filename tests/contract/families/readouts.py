"""Memories that answer by a readout: a matrix of all segments, a network learnt while reading."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from contract.families.segments import s2_near, sparse_near
from contract.parts import Softmax
from farfield.architectures import Rows
from farfield.memory.infini import Compressed, compressive

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


MEMORIES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "infini": (("attention", "longformer", "s2"), {"kind": "infini", "segment": 5}),
    "infini-delta": (("attention", "sparse"), {"kind": "infini", "segment": 4, "rule": "delta"}),
    "infini-once": (("longformer",), {"kind": "infini", "segment": 7, "rule": "delta_once"}),
    "infini-cut": (("attention",), {"kind": "infini", "segment": 1, "rule": "delta", "gradient": False}),
}

REMEMBERED: dict[str, Callable[..., Any]] = {name: infini for name in MEMORIES if name.startswith("infini")}

DEFINITIONS: dict[Callable[..., Any], Callable[..., Any]] = {compressive: _compressive}
