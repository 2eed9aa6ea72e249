"""Each bidirectional mixer once more, from its equations for one document. Nothing of the library is called.

How often a query sees a key is a matrix (T, T) for each head, by definitions of sets of indices; the rest is dense.

Shapes: T time, D width, H heads, G heads of keys and values, W width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from contract.families.segments import scrambled
from contract.parts import slope
from torch import Tensor

from encoders.subjects import EncoderSubject

Weights = dict[str, Tensor]


def turned(x: Tensor, base: float) -> Tensor:
    """x (H, T, W) with the pair of channels (i, i + W / 2) of token n turned by n base^(-2 i / W)."""
    time, width = x.shape[1:]
    frequency = base ** (-2 * torch.arange(width // 2, dtype=torch.float64) / width)
    angle = torch.arange(time, dtype=torch.float64)[:, None] * frequency
    first, second = x.double().chunk(2, -1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos * first - sin * second, sin * first + cos * second), -1).to(x.dtype)


class Heads:
    """Queries, keys and values (H, T, W) of a document x (T, D), each head with keys and values of its own."""

    def __init__(self, subject: EncoderSubject, weights: Weights, x: Tensor) -> None:
        settings: Any = subject.settings
        self.x, self.weights, self.time = x, weights, x.shape[0]
        self.count = settings.heads or subject.width // settings.head_width
        self.shared = getattr(settings, "kv_heads", None) or self.count
        self.width = subject.width // self.count
        self.base = settings.base if settings.position == "rope" else None
        self.alibi = settings.position == "alibi"
        self.q, self.k, self.v = self.cut(x @ weights["encoder.projection.qkv.weight"].T)

    def cut(self, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries, rotated keys, and values of (T, (H + 2 G) W)."""
        wide, narrow = self.count * self.width, self.shared * self.width
        q, k, v = (
            part.unflatten(1, (-1, self.width)).transpose(0, 1) for part in mixed.split([wide, narrow, narrow], 1)
        )
        if self.base is not None:
            q, k = turned(q, self.base), turned(k, self.base)
        serves = [head * self.shared // self.count for head in range(self.count)]
        return q, k[serves], v[serves]

    def read(self, q: Tensor, k: Tensor, v: Tensor, often: Tensor) -> Tensor:
        """As `read`, of queries and keys that are all tokens, with what ALiBi takes from their scores."""
        return read(q, k, v, often, fallen(self.count, self.time) if self.alibi else None)

    def joined(self, out: Tensor) -> Tensor:
        """(T, D) of heads' outputs (H, T, W)."""
        return out.transpose(0, 1).flatten(1) @ self.weights["encoder.projection.out.weight"].T


def fallen(heads: int, time: int) -> Tensor:
    """-s_h |n - m|, (H, T, T)."""
    column = torch.arange(time, dtype=torch.float64)
    slopes = torch.tensor([slope(head, heads) for head in range(heads)], dtype=torch.float64)
    return -slopes[:, None, None] * (column[:, None] - column).abs()


def read(q: Tensor, k: Tensor, v: Tensor, often: Tensor, added: Tensor | None = None) -> Tensor:
    """Softmax of q (H, T, W) over keys and values (H, S, W), each as `often` (H, T, S) as said; `added` to scores."""
    scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    if added is None:
        return torch.softmax(scores + often.log().to(scores.dtype), -1) @ v
    return torch.softmax(scores.double() + often.double().log() + added, -1).to(v.dtype) @ v


def counted(heads: Heads, often: Callable[[int, int, int], int]) -> Tensor:
    """How often token n of head h sees token m, (H, T, T)."""
    times = range(heads.time)
    found = [[[often(h, n, m) for m in times] for n in times] for h in range(heads.count)]
    return torch.tensor(found, dtype=torch.float64)


def attention(subject: EncoderSubject, weights: Weights, x: Tensor, marked: Tensor | None) -> Tensor:
    heads = Heads(subject, weights, x)
    return heads.joined(heads.read(heads.q, heads.k, heads.v, torch.ones(1, heads.time, heads.time)))


def longformer(subject: EncoderSubject, weights: Weights, x: Tensor, marked: Tensor | None) -> Tensor:
    """Local rows by the local projections, global rows by the global ones."""
    heads, settings = Heads(subject, weights, x), subject.settings
    window, dilation = settings.window, settings.dilation  # type: ignore[attr-defined]
    if not isinstance(window, int):
        window = window[subject.layer * len(window) // subject.depth]
    everywhere = torch.arange(heads.time) < settings.globals if marked is None else marked  # type: ignore[attr-defined]

    def sees(head: int, n: int, m: int) -> bool:
        step = dilation if isinstance(dilation, int) else dilation[head * len(dilation) // heads.count]
        return bool(everywhere[m]) or (abs(n - m) <= window * step and abs(n - m) % step == 0)

    out = heads.read(heads.q, heads.k, heads.v, counted(heads, sees))
    if bool(everywhere.any()):
        found = heads.read(
            *heads.cut(x @ weights["encoder.global_qkv.weight"].T), torch.ones(1, heads.time, heads.time)
        )
        out = torch.where(everywhere[:, None], found, out)
    return heads.joined(out)


def bigbird(subject: EncoderSubject, weights: Weights, x: Tensor, marked: Tensor | None) -> Tensor:
    """Three blocks, a prefix, and for each slot one of the blocks that are left to it."""
    heads, settings = Heads(subject, weights, x), subject.settings
    size, prefix, slots = settings.block, settings.globals, settings.random  # type: ignore[attr-defined]

    def drawn(head: int, block: int) -> list[int]:
        far = [b for b in range(math.ceil(heads.time / size)) if b * size >= prefix and abs(b - block) > 1]
        key = (settings.seed, subject.layer, head, block)  # type: ignore[attr-defined]
        left = [far[slot::slots] for slot in range(slots)]
        return [some[scrambled(*key, slot) % len(some)] for slot, some in enumerate(left) if some]

    blocks = {(h, b): drawn(h, b) for h in range(heads.count) for b in range(math.ceil(heads.time / size))}

    def sees(head: int, n: int, m: int) -> bool:
        near = abs(n // size - m // size) <= 1 or m // size in blocks[head, n // size]
        return near or m < prefix or n < prefix

    return heads.joined(heads.read(heads.q, heads.k, heads.v, counted(heads, sees)))


def dilated(subject: EncoderSubject, weights: Weights, x: Tensor, marked: Tensor | None) -> Tensor:
    """The kept tokens of each branch, as often as branches keep them."""
    heads, settings = Heads(subject, weights, x), subject.settings

    def often(head: int, n: int, m: int) -> int:
        found = 0
        for segment, rate in settings.branches:  # type: ignore[attr-defined]
            grouped = settings.offsets == "grouped"  # type: ignore[attr-defined]
            offset = head // math.ceil(heads.count / rate) if grouped else head % rate
            found += n // segment == m // segment and all(p % segment % rate == offset for p in (n, m))
        return found

    return heads.joined(heads.read(heads.q, heads.k, heads.v, counted(heads, often)))


def linformer(subject: EncoderSubject, weights: Weights, x: Tensor, marked: Tensor | None) -> Tensor:
    """K~ = E^T K and V~ = F^T V, by the first T rows of E and F."""
    heads = Heads(subject, weights, x)
    serves = [head * heads.shared // heads.count for head in range(heads.count)]
    keys, values = (
        torch.einsum("hlr,hlw->hrw", (maps[serves] if maps.shape[0] > 1 else maps.expand(heads.count, -1, -1)), part)
        for maps, part in ((weights[f"encoder.{name}_rows"][:, : heads.time], part) for name, part in heads_of(heads))
    )
    return heads.joined(read(heads.q, keys, values, torch.ones(1, heads.time, keys.shape[1])))


def heads_of(heads: Heads) -> list[tuple[str, Tensor]]:
    return [("key", heads.k), ("value", heads.v)]


def performer(subject: EncoderSubject, weights: Weights, x: Tensor, marked: Tensor | None) -> Tensor:
    """phi(Q) phi(K)^T V over its sums; exponents less their largest, which cancels."""
    heads = Heads(subject, weights, x)

    def exponents(part: Tensor) -> Tensor:
        part = part.double() / heads.width**0.25
        projected = part @ weights["encoder.random.matrix"].double().T
        if subject.settings.features == "relu":  # type: ignore[attr-defined]
            return (projected.clamp(min=0) + 1e-3).log()
        return projected - part.square().sum(-1, keepdim=True) / 2

    q, k = exponents(heads.q), exponents(heads.k)
    q, k = (q - q.amax(-1, keepdim=True)).exp(), (k - k.amax((1, 2), keepdim=True)).exp()
    pairs = q.to(x.dtype) @ k.to(x.dtype).transpose(1, 2)
    return heads.joined(pairs @ heads.v / pairs.sum(-1, keepdim=True))


def reformer(subject: EncoderSubject, weights: Weights, x: Tensor, marked: Tensor | None) -> Tensor:
    """Rounds of softmax over neighbours by rank, merged by exp(lse of the round - lse of all)."""
    settings: Any = subject.settings
    heads, time = settings.heads or subject.width // settings.head_width, x.shape[0]
    mixed = (x @ weights["encoder.projection.qv.weight"].T).chunk(2, 1)
    q, v = (part.unflatten(1, (heads, -1)).transpose(0, 1) for part in mixed)
    hashes = torch.einsum("hnw,hrwb->hrnb", q.detach().double(), weights["encoder.projection.rotations"].double())
    buckets = torch.cat((hashes, -hashes), -1).argmax(-1)
    q = turned(q, settings.base) if settings.position == "rope" else q
    k = q / (q.double().square().sum(-1, keepdim=True) + q.shape[2] * 1e-6).sqrt().to(q.dtype)
    counts = torch.stack([
        torch.stack([hash_neighbours(one.tolist(), settings.chunk, settings.across) for one in turns])
        for turns in buckets
    ]).sum(1)  # fmt: skip
    counts += torch.eye(time, dtype=counts.dtype) * (counts.sum(-1, keepdim=True) == 0)
    scores = (q @ k.transpose(1, 2)).double() + counts.double().log()
    scores = scores + fallen(heads, time) if settings.position == "alibi" else scores
    out = scores.softmax(-1).to(x.dtype) @ v
    return out.transpose(0, 1).flatten(1) @ weights["encoder.projection.out.weight"].T


def hash_neighbours(buckets: list[int], chunk: int, across: bool) -> Tensor:
    """(T, T): whether n sees m, by rank when sorted by (bucket, position)."""
    order = sorted(range(len(buckets)), key=lambda m: (buckets[m], m))
    number = {m: rank // chunk for rank, m in enumerate(order)}
    last = max(number.values())

    def sees(n: int, m: int) -> bool:
        near = number[m] in (number[n], number[n] - 1) or (across and number[n] == 0 and number[m] == last)
        return n != m and near and (across or buckets[n] == buckets[m])

    times = range(len(buckets))
    return torch.tensor([[float(sees(n, m)) for m in times] for n in times])


FORMULAS: dict[str, Callable[[EncoderSubject, Weights, Tensor, Tensor | None], Tensor]] = {
    "attention": attention,
    "bigbird": bigbird,
    "dilated": dilated,
    "linformer": linformer,
    "longformer": longformer,
    "performer": performer,
    "reformer": reformer,
}
"""By kind: the answer (T, D) to one document (T, D), from the weights by their names, and `marked` (T,) or None."""
