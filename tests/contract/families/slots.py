"""Banks of slots: a formula for each policy, one token and head at a time, with lists of positions for banks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from contract.parts import Keys, Softmax, rope, xpos
from farfield.memory.camelot import Merging
from farfield.memory.choosing import Choosing

_SLOTS = {"kind": "key_value"}
MEMORIES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "sinks": (
        ("attention", "longformer"),
        {**_SLOTS, "keep": "sinks", "capacity": 11, "initial": 2, "segment": 8, "position": "index"},
    ),
    "heavy": (
        ("attention", "longformer"),
        {
            **_SLOTS,
            "keep": "heavy",
            "capacity": 12,
            "recent": 3,
            "segment": 7,
            "position": "original",
            "gradient": True,
        },
    ),
    "snap": (
        ("attention",),
        {**_SLOTS, "keep": "snap", "capacity": 6, "recent": 2, "segment": 5, "observe": 3, "pool": 3},
    ),
    "norm-gate": (
        ("longformer",),
        {**_SLOTS, "keep": "norm", "capacity": 13, "initial": 1, "segment": 8, "position": "index", "combine": "gate"},
    ),
    "merge": (("attention",), {**_SLOTS, "keep": "merge", "capacity": 6, "segment": 4, "threshold": 0.5}),
    "merge-original": (
        ("attention",),
        {**_SLOTS, "keep": "merge", "capacity": 9, "segment": 3, "threshold": 0.2, "position": "original"}
        | {"gradient": True},
    ),
}

CHOICES: list[tuple[type, str]] = [(Choosing, "_chosen"), (Merging, "_found")]


@dataclass
class Read:
    """What one query has attended to: positions, and with which weights."""

    out: Tensor
    weights: dict[int, float] = field(default_factory=dict)


class Document:
    """A document's heads, and how one query reads its near field and the keys of a memory."""

    def __init__(self, subject: Any, weights: dict[str, Tensor], x: Tensor) -> None:
        from contract import dense  # it imports the families

        self.gate = weights.get("gate")
        inner = {name.removeprefix("mixer."): weight for name, weight in weights.items()}
        self.memory, self.settings, self.heads = subject.memory, subject.settings, Softmax(subject, inner, x)
        self.time, self.kv = x.shape[0], self.heads.kv_heads
        near_of: dict[str, Callable[..., Keys]] = {
            "attention": dense.attention_near,
            "longformer": dense.longformer_near,
        }
        self.near = near_of[self.settings.kind](subject, self.heads)
        self.apart, self.reach = 0, 0
        self.globals = lambda out: out
        if self.settings.kind == "longformer":
            self.apart, self.reach = self.settings.globals, self.settings.window
            self.globals = lambda out: dense.longformer_globals(self.heads, out)

    def group(self, head: int) -> int:
        """The head of keys that a head of queries reads."""
        return head * self.kv // self.heads.heads

    def of(self, group: int) -> int:
        """A head of queries that reads the head `group` of keys."""
        return group * self.heads.heads // self.kv

    def placed(self, x: Tensor, position: int, sign: int) -> Tensor:
        """x (W,) as the mixer's positions turn it."""
        if self.settings.position in ("alibi", "none"):
            return x
        x = rope(x, position, self.settings.base)
        return xpos(x, sign * position, self.settings.scale_base) if self.settings.position == "xpos" else x

    def read(self, head: int, time: int, memory: list[tuple[int, Tensor, Tensor, int | None]]) -> Read:
        """A query over its near field and `memory`: names, keys, values, positions or None for no positions."""
        heads, seen, root = self.heads, list(self.near(head, time)), math.sqrt(self.heads.head_width)
        query = self.placed(heads.q[head, time], time, 1)
        scores = [query @ heads.turned_k[head, m] / root for m in seen]
        scores = [score + fall for score, fall in zip(scores, heads.added(head, time, seen), strict=True)]
        values, names = [heads.v[head, m] for m in seen], [*seen, *(name for name, *_ in memory)]
        others = []
        for _, key, _, position in memory:
            if position is None:
                others.append(heads.q[head, time] @ key / root)
            else:
                fall = heads.added(head, time, [position])[0]
                others.append(query @ self.placed(key, position, -1) / root + fall)
        found = [value for _, _, value, _ in memory]
        if self.gate is not None:
            out = torch.softmax(torch.stack(scores), 0) @ torch.stack(values)
            if others:
                share = torch.sigmoid(self.gate[head])
                out = share * (torch.softmax(torch.stack(others), 0) @ torch.stack(found)) + (1 - share) * out
            return Read(out)
        weights = torch.softmax(torch.stack(scores + others), 0)
        told: dict[int, float] = {}
        for name, weight in zip(names, weights.detach().tolist(), strict=True):
            told[name] = told.get(name, 0.0) + weight
        return Read(weights @ torch.stack(values + found), told)

    def answered(self, out: list[list[Tensor]]) -> Tensor:
        """(T, D) of each head's outputs."""
        return self.heads.joined(self.globals(torch.stack([torch.stack(row) for row in out])))


def chosen(subject: Any, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Policies that keep tokens: at each segment's end the best of bank and segment."""
    document = Document(subject, weights, x)
    memory, heads = document.memory, document.heads
    keys, values = (heads.k, heads.v) if memory.gradient else (heads.k.detach(), heads.v.detach())
    banks: list[list[int]] = [[] for _ in range(document.kv)]
    heard: list[dict[int, float]] = [{} for _ in range(document.kv)]
    out: list[list[Tensor]] = [[] for _ in range(heads.heads)]
    for start in range(0, document.time, memory.segment):
        end = start + memory.segment
        for head in range(heads.heads):
            group = document.group(head)
            place = places(memory.position, banks[group], start - document.reach)
            for time in range(start, min(end, document.time)):
                seen = set(document.near(head, time))
                bank = [(m, keys[head, m], values[head, m], place[m]) for m in banks[group] if m not in seen]
                read = document.read(head, time, bank)
                out[head].append(read.out)
                if time >= document.apart and (memory.keep != "snap" or time >= end - memory.observe):
                    for m, weight in read.weights.items():
                        heard[group][m] = heard[group].get(m, 0.0) + weight
        if end <= document.time:
            for group in range(document.kv):
                candidates = [*banks[group], *range(start, end)]
                lengths = {m: float(keys[document.of(group), m].detach().norm()) for m in candidates}
                banks[group] = stays(memory, candidates, heard[group], lengths)
                heard[group] = (
                    {} if memory.keep == "snap" else {m: heard[group][m] for m in banks[group] if m in heard[group]}
                )
    return document.answered(out)


def places(rule: str, bank: list[int], edge: int) -> dict[int, int | None]:
    """Where slots are said to stand."""
    if rule == "none":
        return dict.fromkeys(bank)
    behind = [m for m in bank if m < edge] if rule == "index" else []
    return {m: edge - len(behind) + behind.index(m) if m in behind else m for m in bank}


def stays(memory: Any, candidates: list[int], heard: dict[int, float], lengths: dict[int, float]) -> list[int]:
    """The candidates, in the order of positions, that the policy keeps."""
    score = {m: heard.get(m, 0.0) for m in candidates}
    if memory.keep == "sinks":
        score = {m: float(m) for m in candidates}
    if memory.keep == "norm":
        score = {m: -lengths[m] for m in candidates}
    if memory.keep == "snap":
        half, ordered = memory.pool // 2, [score[m] for m in candidates]
        score = {m: sum(ordered[max(0, n - half) : n + half + 1]) for n, m in enumerate(candidates)}
    for m in candidates:
        if m < memory.initial or m > candidates[-1] - memory.recent:
            score[m] = math.inf
    best = sorted(candidates, key=lambda m: -score[m])[: memory.capacity]
    return sorted(best)


@dataclass
class Slot:
    """The mean of some tokens: key, value, how many, the newest of them."""

    key: Tensor
    value: Tensor
    count: int
    newest: int


def merged(subject: Any, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """CAMELoT: a query reads the slots that the segment's tokens up to its own are most alike."""
    document = Document(subject, weights, x)
    memory, heads = document.memory, document.heads
    keys, values = (heads.k, heads.v) if memory.gradient else (heads.k.detach(), heads.v.detach())
    banks: list[list[Slot]] = [[] for _ in range(document.kv)]
    out: list[list[Tensor]] = [[] for _ in range(heads.heads)]
    for start in range(0, document.time, memory.segment):
        end = start + memory.segment
        for head in range(heads.heads):
            bank = banks[document.group(head)]
            for time in range(start, min(end, document.time)):
                last = time if not memory.ahead else min(end, document.time) - 1
                slots = [bank[alike(bank, keys[head, m])[0]] for m in range(start, last + 1)] if bank else []
                positions = [slot.newest if memory.position == "original" else None for slot in slots]
                found = [(-1, slot.key, slot.value, at) for slot, at in zip(slots, positions, strict=True)]
                out[head].append(document.read(head, time, found).out)
        if end <= document.time:
            for group, bank in enumerate(banks):
                head = document.of(group)
                tokens = [(m, keys[head, m], values[head, m]) for m in range(start, end)]
                banks[group] = consolidated(bank, tokens, memory.capacity, memory.threshold)
    return document.answered(out)


def alike(bank: list[Slot], key: Tensor) -> tuple[int, float]:
    """The slot whose key is most alike, and the cosine."""
    cosines = [float((key @ slot.key / (key.norm() * slot.key.norm())).detach()) for slot in bank]
    best = max(range(len(bank)), key=lambda n: cosines[n])
    return best, cosines[best]


def consolidated(
    bank: list[Slot], tokens: list[tuple[int, Tensor, Tensor]], capacity: int, threshold: float
) -> list[Slot]:
    """The bank with a segment's tokens: those like a slot in its mean, the newest others in place of the oldest."""
    matches = {m: alike(bank, key) if bank else (0, -2.0) for m, key, _ in tokens}
    after = [Slot(slot.key, slot.value, slot.count, slot.newest) for slot in bank]
    for m, key, value in tokens:
        number, cosine = matches[m]
        if cosine > threshold:
            slot = after[number]
            total = slot.count + 1
            after[number] = Slot(
                (slot.count * slot.key + key) / total, (slot.count * slot.value + value) / total, total, m
            )
    novel = [Slot(key, value, 1, m) for m, key, value in tokens if matches[m][1] <= threshold][-capacity:]
    oldest = sorted(range(len(after)), key=lambda n: after[n].newest)
    for slot in novel:
        if len(after) < capacity:
            after.append(slot)
        else:
            after[oldest.pop(0)] = slot
    return after


REMEMBERED: dict[str, Any] = {name: merged if name.startswith("merge") else chosen for name in MEMORIES}
