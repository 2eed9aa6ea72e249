"""Clause 12: each mixer and memory once more, from the equations for one document, token by token and head by head.

Nothing of the library is called; only weights and settings are taken from the module. Slow on purpose.

Shapes: T time, D width, H heads, G heads of keys and values, W width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from contract import families
from contract.parts import Keys, Softmax, convolved, softmax_read, turned
from contract.subjects import Subject


def attention_near(subject: Subject, heads: Softmax) -> Keys:
    """With a memory, the open segment; without, the document so far."""
    segment = subject.memory.segment if subject.memory else 10**9
    return lambda head, time: range(time // segment * segment, time + 1)


def longformer_near(subject: Subject, heads: Softmax) -> Keys:
    """The window of the head, dilated, without the global positions, and those."""
    settings: Any = subject.settings
    window, dilation = settings.window, settings.dilation
    if not isinstance(window, int):
        window = window[subject.layer * len(window) // subject.depth]

    def near(head: int, time: int) -> list[int]:
        step = dilation if isinstance(dilation, int) else dilation[head * len(dilation) // heads.heads]
        local = [m for m in range(time + 1) if time - m <= window * step and (time - m) % step == 0]
        return sorted({m for m in local if m >= settings.globals} | set(range(min(settings.globals, time + 1))))

    return near


def longformer_globals(heads: Softmax, out: Tensor) -> Tensor:
    """Global tokens n < G anew: over m <= n, with the global projections of x and no convolution."""
    if not heads.settings.globals:
        return out
    q, k, v = heads.cut(heads.x @ heads.weights["prefix_qkv.weight"].T + heads.weights.get("prefix_qkv.bias", 0))
    q, k, out = heads.turn(q, 1), heads.turn(k, -1), out.clone()
    for head in range(heads.heads):
        for time in range(min(heads.settings.globals, heads.x.shape[0])):
            keys, values = (list(part[head, : time + 1]) for part in (k, v))
            out[head, time] = softmax_read(q[head, time], keys, values, heads.added(head, time, range(time + 1)))
    return out


def remembered(subject: Subject, heads: Softmax, near: Keys, gate: Tensor | None) -> Callable[..., Tensor]:
    """Memorizing Transformers: the best `top` of the complete segments' last `capacity` tokens that are not near."""
    memory = subject.memory
    assert memory is not None
    original = memory.position == "original"
    q, k, v = (heads.turned_q, heads.turned_k, heads.v) if original else (heads.q, heads.k, heads.v)
    if not memory.gradient:
        k, v = k.detach(), v.detach()

    def read(head: int, time: int, query: Tensor) -> Tensor:
        seen = list(near(head, time))
        keys, values = ([part[head, m] for m in seen] for part in (heads.turned_k, heads.v))
        falls = heads.added(head, time, seen)
        written = time // memory.segment * memory.segment
        bank = [m for m in range(max(0, written - memory.capacity), written) if m not in seen]
        root = math.sqrt(heads.head_width)
        fall = dict(zip(bank, heads.added(head, time, bank) if original else [0.0] * len(bank), strict=True))
        scores = {m: q[head, time] @ k[head, m] / root + fall[m] for m in bank}
        best = sorted(bank, key=lambda m: -float(scores[m].detach()))[: memory.top]
        if gate is not None:
            out = softmax_read(query, keys, values, falls)
            if not best:
                return out
            share, found = torch.sigmoid(gate[head]), torch.softmax(torch.stack([scores[m] for m in best]), 0)
            return share * (found @ torch.stack([v[head, m] for m in best])) + (1 - share) * out
        every = [query @ key / root + less for key, less in zip(keys, falls, strict=True)]
        joint = torch.softmax(torch.stack(every + [scores[m] for m in best]), 0)
        return joint @ torch.stack(values + [v[head, m] for m in best])

    return read


def softmax_mixer(near_of: Callable[[Subject, Softmax], Keys], after: Callable[[Softmax, Tensor], Tensor]) -> Any:
    """A softmax mixer by which keys are near, with the memory around it where there is one."""

    def formula(subject: Subject, weights: dict[str, Tensor], x: Tensor) -> Tensor:
        gate = weights.get("gate")
        if subject.memory is not None:
            weights = {name.removeprefix("mixer."): weight for name, weight in weights.items()}
        heads = Softmax(subject, weights, x)
        near = near_of(subject, heads)
        remember = remembered(subject, heads, near, gate) if subject.memory is not None else None
        return heads.joined(after(heads, heads.attend(near, remember)))

    return formula


def retention(subject: Subject, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """The parallel form with its matrix D: O = (Q K^T * D) V, D_nm = gamma^(n - m) for n >= m."""
    settings: Any = subject.settings
    heads = settings.heads or subject.width // settings.head_width
    key = subject.width // heads
    value = key * settings.value_ratio
    q, k, v = convolved(x @ weights["qkv.weight"].T, weights.get("taps")).split([heads * key] * 2 + [heads * value], 1)
    if settings.rotation == "halves":
        pairs = [(i, i + key // 2) for i in range(key // 2)]
        frequency = [10000 ** -(2 * i / key) for i in range(key // 2)]
    else:
        pairs = [(2 * i, 2 * i + 1) for i in range(key // 2)]
        frequency = [10000 ** -(i / max(key // 2 - 1, 1)) for i in range(key // 2)]
    outputs = []
    for head in range(heads):
        at, into = slice(head * key, (head + 1) * key), slice(head * value, (head + 1) * value)
        queries = torch.stack([turned(q[n, at], n, frequency, pairs) for n in range(x.shape[0])])
        keys = torch.stack([turned(k[n, at], n, frequency, pairs) for n in range(x.shape[0])]) / math.sqrt(key)
        gamma = 1 - 2.0 ** (-5 - head)
        if settings.decay == "linspace":  # 1 - exp(linspace(log 1/32, log 1/512, heads))
            first, last = math.log(1 / 32), math.log(1 / 512)
            gamma = 1 - math.exp(first + (last - first) * (head / (heads - 1) if heads > 1 else 0))
        times = range(x.shape[0])
        decay = torch.tensor([[gamma ** (n - m) if n >= m else 0.0 for m in times] for n in times], dtype=x.dtype)
        out = (queries @ keys.T * decay) @ v[:, into]
        outputs.append(out / (out.square().mean(1, keepdim=True) + 1e-6).sqrt())
    gate = x @ weights["gate.weight"].T
    return (gate * torch.sigmoid(gate) * torch.cat(outputs, 1)) @ weights["out.weight"].T


Formula = Callable[[Subject, dict[str, Tensor], Tensor], Tensor]

FORMULAS: dict[str, Formula] = {
    "attention": softmax_mixer(attention_near, lambda heads, out: out),
    "longformer": softmax_mixer(longformer_near, longformer_globals),
    "retnet": retention,
    **families.FORMULAS,
}
"""By kind: the answer (T, D) to one document (T, D), from the weights by their names."""
