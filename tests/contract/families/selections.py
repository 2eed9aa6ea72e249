"""Key-value memories by what is searched, how it is placed and how it is joined: Focused Transformer, Transformer-XL,
InfLLM, Landmark Attention, and chunks by their mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from contract.parts import Softmax, rope, slope, softmax_read, xpos
from farfield.memory.units import UnitKeys

if TYPE_CHECKING:
    from contract.subjects import Subject

AROUND = ("attention", "longformer")

MEMORIES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    name: (AROUND, {"kind": "key_value", **values})
    for name, values in {
        "fot": {"capacity": 12, "segment": 4, "top": "all", "position": "first", "gradient": True},
        "xl": {"capacity": 8, "segment": 8, "top": "all", "position": "original"},
        "infllm": {
            "capacity": 24,
            "segment": 8,
            "initial": 4,
            "unit": 4,
            "key": "representative",
            "representatives": 2,
            "query": "mean",
            "stretch": 6,
            "shared": True,
            "top": 2,
            "position": "capped",
        },
        "landmark": {
            "capacity": 16,
            "segment": 4,
            "unit": 4,
            "key": "landmark",
            "combine": "grouped",
            "top": 2,
            "position": "original",
            "gradient": True,
        },
        "chunks": {
            "capacity": 16,
            "segment": 4,
            "unit": 2,
            "key": "mean",
            "combine": "gate",
            "top": 3,
            "gradient": True,
        },
    }.items()
}

CHOICES: list[tuple[type, str]] = [(UnitKeys, "chosen")]


class Remembering:
    """A document in a memory around a softmax mixer, one token and head at a time."""

    def __init__(self, subject: Subject, weights: dict[str, Tensor], x: Tensor) -> None:
        from contract.dense import attention_near, longformer_near  # which need all families themselves

        own = {name.removeprefix("mixer."): weight for name, weight in weights.items() if name.startswith("mixer.")}
        self.memory: Any = subject.memory
        self.heads = Softmax(subject, own, x)
        self.gate, landmark = weights.get("gate"), weights.get("units.landmark.weight")
        windowed = self.heads.settings.kind == "longformer"
        self.near = (longformer_near if windowed else attention_near)(subject, self.heads)
        self.window: int | None = self.heads.settings.window if windowed else None
        self.k, self.v = self.heads.k, self.heads.v
        if not self.memory.gradient:
            self.k, self.v = self.k.detach(), self.v.detach()
        if landmark is not None:
            parts = (x @ landmark.T).unflatten(1, (self.heads.kv_heads, -1)).transpose(0, 1)
            self.landmarks = parts.repeat_interleave(self.heads.heads // self.heads.kv_heads, 0)

    def turned(self, x: Tensor, position: int, sign: int) -> Tensor:
        """x (W,) as a query, sign 1, or a key, -1, at `position`."""
        settings = self.heads.settings
        if settings.position not in ("rope", "xpos"):
            return x
        x = rope(x, position, settings.base)
        return xpos(x, sign * position, settings.scale_base) if settings.position == "xpos" else x

    def distance(self, time: int, key: int) -> int | None:
        """How far a key seems to be; None: nowhere."""
        if self.memory.position == "none":
            return None
        if self.memory.position == "original":
            return time - key
        if self.memory.position == "first":
            return time % self.memory.segment if self.window is None else self.window
        return self.memory.segment if self.window is None else self.window + 1

    def score(self, head: int, time: int, key: Tensor, place: int, query: Tensor | None = None) -> Tensor:
        """Of the query of the token at `time`, or another in its place, and a key (W,) that stands at `place`."""
        query, away = self.heads.q[head, time] if query is None else query, self.distance(time, place)
        if away is None:
            return query @ key / math.sqrt(len(key))
        if self.memory.position == "original":
            query, key = self.turned(query, time, 1), self.turned(key, place, -1)
        else:
            query = self.turned(query, away, 1)
        fall = slope(head, self.heads.heads) * away if self.heads.settings.position == "alibi" else 0.0
        return query @ key / math.sqrt(len(key)) - fall

    def bank(self, time: int) -> range:
        """The tokens that are kept, those that are always read aside."""
        written = time // self.memory.segment * self.memory.segment
        return range(max(self.memory.initial, written - self.memory.capacity), written)

    def free(self, head: int, time: int, tokens: Any) -> list[int]:
        """Those of the tokens that are not near."""
        seen = set(self.near(head, time))
        return [m for m in tokens if m not in seen]

    def unit(self, number: int) -> range:
        return range(number * self.memory.unit, (number + 1) * self.memory.unit)

    def found_by(self, head: int, number: int) -> Tensor:
        """What a unit is found by (W,)."""
        tokens = list(self.unit(number))
        if self.memory.key == "landmark":
            return self.landmarks[head, tokens[-1]]
        if self.memory.key == "representative":
            received = dict.fromkeys(tokens, 0.0)
            for asking in tokens:
                before = [m for m in tokens if m <= asking]
                own = torch.stack([self.heads.turned_q[head, asking] @ self.heads.turned_k[head, m] for m in before])
                falls = torch.tensor(self.heads.added(head, asking, before), dtype=own.dtype)
                shares = torch.softmax(own / math.sqrt(self.heads.head_width) + falls, 0)
                for m, share in zip(before, shares.tolist(), strict=True):
                    received[m] += share
            tokens = sorted(tokens, key=lambda m: -received[m])[: self.memory.representatives]
        return torch.stack([self.k[head, m] for m in tokens]).mean(0)

    def asking(self, head: int, time: int) -> Tensor:
        """The query, or the mean of those of the stretch so far."""
        if self.memory.query == "token":
            return self.heads.q[head, time]
        begin = time // self.memory.stretch * self.memory.stretch
        return self.heads.q[head, begin : time + 1].mean(0)

    def chosen(self, head: int, time: int) -> list[int]:
        """The numbers of the units that a query reads."""
        heads = range(self.heads.heads) if self.memory.shared else [head]
        bank = self.bank(time)
        units = range(bank.start // self.memory.unit, bank.stop // self.memory.unit)
        units = [n for n in units if any(self.free(each, time, self.unit(n)) for each in heads)]
        if self.memory.top == "all":
            return units
        scores = {}
        for n in units:
            last = self.unit(n)[-1]
            each = [self.score(h, time, self.found_by(h, n), last, self.asking(h, time)) for h in heads]
            scores[n] = float(torch.stack(each).mean().detach())
        return sorted(units, key=lambda n: -scores[n])[: self.memory.top]

    def answer(self, head: int, time: int, query: Tensor) -> Tensor:
        """The near field, joined with what is read."""
        seen = list(self.near(head, time))
        turned, values = self.heads.turned_k[head], list(self.heads.v[head, seen])
        falls = self.heads.added(head, time, seen)
        scores = [query @ turned[m] / math.sqrt(len(query)) + fall for m, fall in zip(seen, falls, strict=True)]
        written = time // self.memory.segment * self.memory.segment
        first = self.free(head, time, range(min(self.memory.initial, written)))
        units = self.chosen(head, time)
        if self.memory.combine == "grouped":
            for n in units:
                tokens = self.free(head, time, self.unit(n))
                inner = torch.stack([self.score(head, time, self.k[head, m], m) for m in tokens]).softmax(0)
                scores.append(self.score(head, time, self.landmarks[head, self.unit(n)[-1]], self.unit(n)[-1]))
                values.append(inner @ self.v[head, tokens])
            return torch.softmax(torch.stack(scores), 0) @ torch.stack(values)
        read = first + [m for n in units for m in self.free(head, time, self.unit(n))]
        far = [self.score(head, time, self.k[head, m], m) for m in read]
        if self.gate is None:
            return torch.softmax(torch.stack(scores + far), 0) @ torch.stack(values + list(self.v[head, read]))
        near = softmax_read(query, list(turned[seen]), values, falls)
        if not read:
            return near
        share = torch.sigmoid(self.gate[head])
        return share * (torch.softmax(torch.stack(far), 0) @ self.v[head, read]) + (1 - share) * near


def remembered(subject: Subject, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """The answer (T, D) of mixer and memory to one document (T, D)."""
    from contract.dense import longformer_globals

    reading = Remembering(subject, weights, x)
    heads = reading.heads
    out = heads.attend(reading.near, reading.answer)
    return heads.joined(longformer_globals(heads, out) if reading.window is not None else out)


REMEMBERED: dict[str, Callable[..., Tensor]] = dict.fromkeys(MEMORIES, remembered)
