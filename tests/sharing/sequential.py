"""Layers that share keys, once more: from the equations, one token after another through all layers.

Nothing of the library is called; only weights and settings are taken from it. Slow on purpose.

Shapes: T time, D width, H heads, G heads of keys and values, W width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from contract.parts import rope, slope, softmax_read
from torch import Tensor

Weights = dict[str, Tensor]
Made = list[list[tuple[Tensor, Tensor]]]
"""By layer and token: keys and values (H, W), those of layers that keep none empty."""


def norm(x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
    """Of one token (D,)."""
    return x / (x.square().mean() + epsilon).sqrt() * gain


def swiglu(x: Tensor, weights: Weights, at: str) -> Tensor:
    """Down(silu(gate x) * up x), with gate and up in one matrix."""
    gate, up = (weights[f"{at}.up.weight"] @ x).chunk(2)
    return weights[f"{at}.down.weight"] @ (gate * torch.sigmoid(gate) * up)


class Layer:
    """A layer of queries, with or without keys, that remembers what its convolution has read."""

    def __init__(self, mixer: Any, keeping: Any, weights: Weights, at: str, place: tuple[int, int, int]) -> None:
        self.mixer, self.keeping, self.weights, self.at = mixer, keeping, weights, at
        self.index, self.keeper, self.depth = place
        self.read: list[Tensor] = []

    def queries_keys_values(self, x: Tensor, time: int) -> list[Tensor]:
        """Each (heads, W) of a normalised token (D,), queries and keys turned; keys for each head of queries."""
        self.read.append(self.weights[f"{self.at}.mixer.projection.qkv.weight"] @ x)
        mixed, taps = self.read[-1], self.weights.get(f"{self.at}.mixer.projection.taps")
        if taps is not None:
            mixed = sum(taps[:, j] * self.read[time - j] for j in range(min(taps.shape[1], time + 1)))
        heads = self.mixer.heads
        width = x.shape[0] // heads
        kept = self.mixer.kv_heads if self.index == self.keeper else 0
        parts = [part.reshape(-1, width) for part in mixed.split([heads * width, kept * width, kept * width])]
        if self.mixer.position == "rope":
            parts[:2] = [
                torch.stack([rope(one, time, self.mixer.base) for one in part]) if len(part) else part
                for part in parts[:2]
            ]
        serves = [head * kept // heads for head in range(heads)] if kept else []
        return [parts[0], parts[1][serves], parts[2][serves]]

    def sees(self, head: int, time: int) -> list[int]:
        """The tokens whose keys a head reads: of its keeper's near field, from above without its own."""
        tokens = range(time + (self.keeper <= self.index))
        if self.keeping.kind == "attention":
            return list(tokens)
        window, dilation = self.keeping.window, self.keeping.dilation
        window = window if isinstance(window, int) else window[self.keeper * len(window) // self.depth]
        step = dilation if isinstance(dilation, int) else dilation[head * len(dilation) // self.mixer.heads]
        return [m for m in tokens if time - m <= window * step and (time - m) % step == 0]

    def answer(self, queries: Tensor, kept: list[tuple[Tensor, Tensor]], time: int) -> Tensor:
        """(D,) of the queries (H, W) over what is kept by token."""
        outputs = []
        for head, query in enumerate(queries):
            seen = self.sees(head, time)
            if not seen:
                outputs.append(torch.zeros_like(query))
                continue
            keys, values = ([kept[m][which][head] for m in seen] for which in (0, 1))
            each = slope(head, self.mixer.heads) if self.mixer.position == "alibi" else 0.0
            outputs.append(softmax_read(query, keys, values, [-each * (time - m) for m in seen]))
        return self.weights[f"{self.at}.mixer.projection.out.weight"] @ torch.cat(outputs)


def one_pass(architecture: Any, weights: Weights, x: Tensor, above: Made | None) -> tuple[Tensor, Made]:
    """The answer (T, D) to a document (T, D), and the keys and values of all layers.

    Args:
        above: what queries read that take keys from above; None: what this pass itself has made of earlier tokens.
    """
    depth, names = architecture.depth, architecture.names()
    keepers = architecture.keepers()
    settings = [architecture.layers[name].mixer for name in names]
    layers = [
        Layer(settings[i], settings[keepers[i]], weights, f"decoder.layers.{i}", (i, keepers[i], depth))
        for i in range(depth)
    ]
    made: Made = [[] for _ in range(depth)]
    answers = []
    for time, token in enumerate(x):
        stream = token
        for index, layer in enumerate(layers):
            gains = [weights[f"{layer.at}.{name}.weight"] for name in ("mixer_norm", "feedforward_norm")]
            q, k, v = layer.queries_keys_values(norm(stream, gains[0], architecture.epsilon), time)
            made[index].append((k, v))
            source = made if above is None or layer.keeper <= index else above
            stream = stream + layer.answer(q, source[layer.keeper], time)
            stream = stream + swiglu(norm(stream, gains[1], architecture.epsilon), weights, f"{layer.at}.feedforward")
        answers.append(norm(stream, weights["decoder.norm.weight"], architecture.epsilon))
    return torch.stack(answers), made


def formula(architecture: Any, weights: Weights, x: Tensor) -> Tensor:
    """The answer (T, D) to a document (T, D): token by token, or in as many passes as the settings name."""
    plan = architecture.sharing.plan
    if plan is None:
        return one_pass(architecture, weights, x, None)[0]
    depth, time = architecture.depth, x.shape[0]
    sizes = [architecture.layers[name].mixer.heads for name in architecture.names()]
    zeros = [torch.zeros(heads, x.shape[1] // heads, dtype=x.dtype) for heads in sizes]
    above: Made = [[(zeros[i], zeros[i])] * time for i in range(depth)]
    answer = x
    for count in range(sum(plan)):
        answer, made = one_pass(architecture, weights, x, above)
        above = made if count >= plan[0] else [[(k.detach(), v.detach()) for k, v in layer] for layer in made]
    return answer
