"""What formulas of clause 12 are made of, from the equations, one token at a time. Nothing of the library is called.

Shapes: T time, C channels, D width, H heads, G heads of keys and values, W width of a head.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from contract.subjects import Subject

Keys = Callable[[int, int], Iterable[int]]


def convolved(x: Tensor, taps: Tensor | None) -> Tensor:
    """y_t = sum_j w_j x_(t-j) of x (T, C) with w (C, K)."""
    if taps is None:
        return x
    rows = []
    for time in range(x.shape[0]):
        rows.append(sum(taps[:, j] * x[time - j] for j in range(min(taps.shape[1], time + 1))))
    return torch.stack(rows)


def turned(x: Tensor, position: int, frequency: list[float], pairs: list[tuple[int, int]]) -> Tensor:
    """Each pair (i, j) of x (W,) turned by the angle position * frequency."""
    out: list[Tensor] = [torch.zeros(())] * x.shape[0]
    for (i, j), omega in zip(pairs, frequency, strict=True):
        c, s = math.cos(position * omega), math.sin(position * omega)
        out[i], out[j] = c * x[i] - s * x[j], s * x[i] + c * x[j]
    return torch.stack(out)


def rope(x: Tensor, position: int, base: float, scaling: Any = None) -> Tensor:
    """Llama's: the first half of x (W,) is paired with the second, frequencies base^(-2 i / W), stretched or not."""
    half = x.shape[0] // 2
    if scaling is not None and scaling.kind == "ntk":
        base *= scaling.factor ** (2 * half / (2 * half - 2))
    frequency = [base ** (-2 * i / x.shape[0]) for i in range(half)]
    if scaling is not None and scaling.kind == "yarn":
        frequency = [yarn(omega, i, 2 * half, base, scaling) for i, omega in enumerate(frequency)]
    if scaling is not None and scaling.kind == "llama3":
        frequency = [llama3(omega, scaling) for omega in frequency]
    return turned(x, position, frequency, [(i, i + half) for i in range(half)])


def yarn(omega: float, pair: int, width: int, base: float, scaling: Any) -> float:
    """Divided by the factor from the pair that turns `slow` times in the trained length, as it is up to `fast`."""
    first, last = (
        width / 2 * math.log(scaling.trained / (2 * math.pi * turns), base) for turns in (scaling.fast, scaling.slow)
    )
    first, last = max(math.floor(first), 0), min(math.ceil(last), width - 1)
    share = min(max((pair - first) / (last - first), 0), 1)
    return (1 - share) * omega + share * omega / scaling.factor


def llama3(omega: float, scaling: Any) -> float:
    """As transformers has it: by wavelengths, divided above N / slow, as it is below N / fast, blended between."""
    wavelength, known = 2 * math.pi / omega, scaling.trained
    if wavelength < known / scaling.fast:
        return omega
    if wavelength > known / scaling.slow:
        return omega / scaling.factor
    smooth = (known / wavelength - scaling.slow) / (scaling.fast - scaling.slow)
    return (1 - smooth) * omega / scaling.factor + smooth * omega


def stands(extension: Any, n: int, m: int) -> tuple[int, int]:
    """Where the query n and the key m stand to each other, as ChunkLlama and SelfExtend were published."""
    if extension.kind == "self_extend":
        window, group = extension.window, extension.group
        return (n, m) if n - m < window else (n // group + window - window // group, m // group)
    size = extension.chunk - extension.window
    between = n // size - m // size
    if between == 0:
        return n % size, m % size
    if between == 1:
        return min(n % size + size, extension.chunk), m % size
    return min(2 * size - 1, extension.chunk), m % size


def xpos(x: Tensor, count: int, scale_base: float) -> Tensor:
    """Pair i of halves times zeta_i^count, zeta_i = ((2 i / W + 0.4) / 1.4)^(1 / scale_base), torchscale's."""
    half = x.shape[0] // 2
    zeta = [((2 * i / x.shape[0] + 0.4) / 1.4) ** (count / scale_base) for i in range(half)]
    return x * torch.tensor(zeta * 2, dtype=x.dtype)


def slope(head: int, heads: int) -> float:
    """ALiBi's 2^(-8 (h + 1) / H); the heads beyond the power P of two below H have the odd ones of 2 P heads."""
    power = 2 ** (heads.bit_length() - 1)
    if head < power:
        return 2.0 ** (-8 * (head + 1) / power)
    return 2.0 ** (-8 * (2 * (head - power) + 1) / (2 * power))


def softmax_read(query: Tensor, keys: list[Tensor], values: list[Tensor], added: list[float] | None = None) -> Tensor:
    """sum_m softmax_m(q . k_m / sqrt(W) + b_m) v_m."""
    scores = torch.stack([query @ key for key in keys]) / math.sqrt(query.shape[0])
    if added is not None:
        scores = scores + torch.tensor(added, dtype=scores.dtype)
    return torch.softmax(scores, 0) @ torch.stack(values)


class Softmax:
    """Queries, keys and values (heads, T, W) of a document x (T, D), before and after rotation, by weight names."""

    def __init__(self, subject: Subject, weights: dict[str, Tensor], x: Tensor) -> None:
        self.settings: Any = subject.settings
        self.x, self.weights = x, weights
        self.heads = self.settings.heads or subject.width // self.settings.head_width
        self.kv_heads = self.settings.kv_heads or self.heads
        self.head_width = getattr(self.settings, "head_size", None) or subject.width // self.heads
        mixed = x @ weights["projection.qkv.weight"].T + weights.get("projection.qkv.bias", 0)
        self.q, self.k, self.v = self.cut(convolved(mixed, weights.get("projection.taps")))
        self.q, self.k = self.normed(self.q, "query"), self.normed(self.k, "key")
        self.turned_q, self.turned_k = self.turn(self.q, 1), self.turn(self.k, -1)
        self.placed: dict[tuple[int, int, int], Tensor] = {}

    def normed(self, x: Tensor, name: str) -> Tensor:
        """x (heads, T, W) over its root mean square, times the gain of its name, where there is one."""
        gain = self.weights.get(f"projection.{name}_gain")
        return x if gain is None else x * (x.square().mean(-1, keepdim=True) + self.settings.qk_norm) ** -0.5 * gain

    def cut(self, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(T, (H + 2 G) W) to heads; a head of queries h uses the head h // (H / G) of keys and values."""
        wide, narrow = self.heads * self.head_width, self.kv_heads * self.head_width
        q, k, v = mixed.split([wide, narrow, narrow], 1)
        serves = [head * self.kv_heads // self.heads for head in range(self.heads)]
        by_heads = [part.reshape(part.shape[0], -1, self.head_width).transpose(0, 1) for part in (q, k, v)]
        return by_heads[0], by_heads[1][serves], by_heads[2][serves]

    def far(self, time: int, m: int) -> bool:
        """Whether the pair is of what is seen from far, which an extension moves; the rest is never longer apart."""
        kind = self.settings.kind
        if kind == "longformer":
            return m < int(self.settings.globals)
        if kind == "sparse" and self.settings.pattern == "fixed":
            return time // self.settings.stride > m // self.settings.stride
        return True

    def extended(self, extension: Any, head: int, time: int, near: list[int]) -> Tensor:
        """The query of a head over the keys at `near`, each pair turned to where the two stand to each other."""
        scaling = self.settings.scaling
        sharper = (0.1 * math.log(scaling.factor) + 1) ** 2 if scaling is not None and scaling.kind == "yarn" else 1.0

        @functools.cache  # many pairs stand at the same positions
        def query(position: int) -> Tensor:
            return rope(self.q[head, time], position, self.settings.base, scaling)

        scores = []
        for m in near:
            asking, asked = stands(extension, time, m) if self.far(time, m) else (time, m)
            if (head, m, asked) not in self.placed:
                self.placed[head, m, asked] = rope(self.k[head, m], asked, self.settings.base, scaling)
            scores.append(query(asking) @ self.placed[head, m, asked] * sharper / math.sqrt(self.head_width))
        return torch.softmax(torch.stack(scores), 0) @ self.v[head, near]

    def turn(self, x: Tensor, sign: int) -> Tensor:
        """x (heads, T, W) as its positions turn it, and scale it: up by zeta for queries, sign 1, down for keys, -1."""
        if self.settings.position in ("alibi", "none"):
            return x
        scaling = getattr(self.settings, "scaling", None)
        base = self.settings.base
        rotated = [[rope(x[h, n], n, base, scaling) for n in range(x.shape[1])] for h in range(x.shape[0])]
        if scaling is not None and scaling.kind == "yarn" and sign == 1:  # sharper: as if both were longer
            rotated = [[one * (0.1 * math.log(scaling.factor) + 1) ** 2 for one in row] for row in rotated]
        if self.settings.position == "xpos":
            base = self.settings.scale_base
            rotated = [[xpos(one, sign * n, base) for n, one in enumerate(row)] for row in rotated]
        return torch.stack([torch.stack(row) for row in rotated])

    def added(self, head: int, time: int, near: Iterable[int]) -> list[float]:
        """What ALiBi adds to the scores of a query at `time` and keys at `near`."""
        each = slope(head, self.heads) if self.settings.position == "alibi" else 0.0
        return [-each * abs(time - m) for m in near]

    def joined(self, out: Tensor) -> Tensor:
        """(T, D) of heads' outputs (H, T, W)."""
        return out.transpose(0, 1).reshape(out.shape[1], -1) @ self.weights[
            "projection.out.weight"
        ].T + self.weights.get("projection.out.bias", 0)

    def attend(self, near: Keys, remember: Callable[[int, int, Tensor], Tensor] | None = None) -> Tensor:
        """Every head h and token n over the keys near(h, n); `remember` may make another answer of it."""
        rows = []
        extension = getattr(self.settings, "extension", None)
        for head in range(self.heads):
            for time in range(self.x.shape[0]):
                if extension is not None:
                    rows.append(self.extended(extension, head, time, list(near(head, time))))
                    continue
                if remember is not None:
                    rows.append(remember(head, time, self.turned_q[head, time]))
                    continue
                seen = list(near(head, time))
                keys, values = ([part[head, m] for m in seen] for part in (self.turned_k, self.v))
                rows.append(softmax_read(self.turned_q[head, time], keys, values, self.added(head, time, seen)))
        return torch.stack(rows).unflatten(0, (self.heads, -1))
