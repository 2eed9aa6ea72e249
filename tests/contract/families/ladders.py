"""A side network on a ladder: its reading of the backbone's keys and values, token by token and head by head.

The layers themselves are called as without a memory: they are tested by themselves. Written anew are the ladder, what
is kept, what is found of it, and the gate.

Shapes: T time, D width, H heads, G heads of keys and values, W width of a head.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from farfield.architectures import KeyedMixer, Rows

if TYPE_CHECKING:
    from contract.subjects import Subject


def _under(weights: dict[str, Tensor], place: str) -> dict[str, Tensor]:
    return {name.removeprefix(place): weight for name, weight in weights.items() if name.startswith(place)}


def _normed(x: Tensor, gain: Tensor, epsilon: float = 1e-5) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt() * gain


def _parts(subject: Subject, weights: dict[str, Tensor], x: Tensor, segment: int) -> dict[str, Tensor]:
    """Heads before rotation, and the near field's output and log-sum-exp, of a mixer with these weights on x (T, D)."""

    class Opened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixer = subject.settings.build(subject.width, 0, subject.depth)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            mixer, rows = self.mixer, Rows.fresh_documents(1, x.shape[1])
            assert isinstance(mixer, KeyedMixer)
            heads, state = mixer.project(x, rows, mixer.start(1))
            near = rows.segmented(segment) if mixer.reach is None else rows
            found, _ = mixer.attend(heads, near, state)
            seen = mixer.near(rows.positions, rows.positions)[0].expand(heads.queries.shape[1], -1, -1)
            finished = mixer.finish(found.out, x, rows)
            return {
                "q": heads.queries[0],
                "k": heads.keys[0],
                "v": heads.values[0],
                "out": found.out[0],
                "y": finished[0],
                "near": seen,
            }

    opened = Opened().double()
    found: dict[str, Tensor] = functional_call(
        opened, {f"mixer.{name}": weight for name, weight in weights.items()}, (x[None],)
    )
    return found


def _finished(subject: Subject, weights: dict[str, Tensor], out: Tensor) -> Tensor:
    """The output projection of heads (H, T, W)."""
    return out.transpose(0, 1).flatten(1) @ weights["projection.out.weight"].T


def remembered(query: Tensor, keys: Tensor, values: Tensor, time: int, seen: Tensor, settings: Any) -> Tensor | None:
    """What a query (W,) at `time` reads of one head's keys and values (T, W): the best chunks of complete segments."""
    written = time // settings.segment * settings.segment
    oldest = max(0, written - settings.capacity)
    chunks = [range(n, n + settings.unit) for n in range(oldest, written, settings.unit)]
    chunks = [chunk for chunk in chunks if not all(seen[m] for m in chunk)]
    score = {chunk[0]: float(query.detach() @ keys[list(chunk)].mean(0).detach()) for chunk in chunks}
    best = sorted(chunks, key=lambda chunk: -score[chunk[0]])[: settings.top]
    tokens = [m for chunk in best for m in chunk if not seen[m]]
    if not tokens:
        return None
    weights = torch.softmax(keys[tokens] @ query / math.sqrt(len(query)), 0)
    found: Tensor = weights @ values[tokens]
    return found


def ladder(subject: Subject, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """h = f(h) + (H_2 - H_0), where f reads the keys and values of the backbone's second layer."""
    settings: Any = subject.memory
    weights = _under(weights, "stack.")
    layers = [_under(weights, f"stack.layers.{n}.") for n in range(2)]
    outputs, kept = [x], {}
    for layer in layers:
        found = _parts(
            subject, _under(layer, "mixer."), _normed(outputs[-1], layer["mixer_norm.weight"]), settings.segment
        )
        outputs.append(outputs[-1] + found["y"])
        kept = found
    side = _under(weights, "memory.1.")
    own = _under(side, "mixer.mixer.")
    found = _parts(subject, own, _normed(x, side["mixer_norm.weight"]), settings.segment)
    keys, values, rows = kept["k"].detach(), kept["v"].detach(), []
    for head, queries in enumerate(found["q"]):
        share, group = torch.sigmoid(side["mixer.gate"][head]), head * len(keys) // len(found["q"])
        for time, query in enumerate(queries):
            near = found["out"][head, time]
            seen = found["near"][head, time] if subject.settings.reach(0, 2) is not None else torch.zeros(len(x))
            far = remembered(query, keys[group], values[group], time, seen, settings)
            rows.append(near if far is None else share * far + (1 - share) * near)
    mixed = torch.stack(rows).unflatten(0, (len(found["q"]), -1))
    h = x + _finished(subject, own, mixed) + outputs[2] - outputs[0]
    return _normed(h, weights["stack.norm.weight"])


MEMORIES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "longmem": (
        ("attention", "longformer"),
        {"kind": "longmem", "capacity": 16, "segment": 4, "unit": 2, "top": 2, "keeps": -1, "frozen": False},
    ),
}
DEPTHS = {"longmem": 2}
REMEMBERED = {"longmem": ladder}
