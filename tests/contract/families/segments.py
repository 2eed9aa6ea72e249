"""Softmax attention over parts of a document: dilated, shifted, sparse, projected."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from contract.parts import Keys, Softmax, rope, softmax_read, stands
from farfield.architectures.dual_chunk import DualChunk
from farfield.architectures.self_extend import SelfExtend
from farfield.architectures.stretching import NTK, YaRN

if TYPE_CHECKING:
    from contract.subjects import Subject

Near = Callable[["Subject", Softmax], Keys]


def s2_near(subject: Subject, heads: Softmax) -> Keys:
    """The earlier tokens of the group; the second half of the heads counts from half a group before the document."""
    group = subject.settings.group  # type: ignore[attr-defined]

    def near(head: int, time: int) -> list[int]:
        shift = group // 2 if head >= heads.heads // 2 else 0
        return [m for m in range(time + 1) if (m + shift) // group == (time + shift) // group]

    return near


def dilated_near(subject: Subject, heads: Softmax) -> Keys:
    """The kept tokens of each branch, as often as branches keep them."""
    settings: Any = subject.settings

    def near(head: int, time: int) -> list[int]:
        seen = []
        for segment, rate in settings.branches:
            offset = head % rate if settings.offsets == "modulo" else head // math.ceil(heads.heads / rate)
            for m in range(time + 1):
                if m // segment == time // segment and all(p % segment % rate == offset for p in (m, time)):
                    seen.append(m)
        return seen

    return near


def scrambled(*parts: int) -> int:
    """The hash of the random blocks, of 32 bits: seed, layer, head, block, slot."""
    found = parts[0]
    for part in parts[1:]:
        found = ((found ^ part) * 2654435761 + 974711) % 2**32
        found ^= found >> 15
    return found


def sparse_near(subject: Subject, heads: Softmax) -> Keys:
    """Child et al.'s sets of indices, and bands, prefixes and random blocks."""
    settings: Any = subject.settings
    stride, count = settings.stride, settings.random
    begin = math.ceil(settings.globals / stride)

    def drawn(head: int, block: int) -> list[int]:
        found = []
        for slot in range(count):
            candidates = list(range(begin + slot, block - 1, count))
            if candidates:
                found.append(candidates[scrambled(settings.seed, subject.layer, head, block, slot) % len(candidates)])
        return found

    def sees(head: int, n: int, m: int) -> bool:
        if settings.pattern == "local":
            return n - m < stride
        if settings.pattern == "strided":
            return n - m < stride or (n - m) % stride == 0
        if settings.pattern == "fixed":
            return n // stride == m // stride or m % stride >= stride - settings.summary
        return n - m <= stride or m < settings.globals or m // stride in drawn(head, n // stride)

    return lambda head, time: [m for m in range(time + 1) if sees(head, time, m)]


def softmax(near: Near) -> Callable[[Subject, dict[str, Tensor], Tensor], Tensor]:
    """A softmax mixer by which keys are near; `contract.dense` knows the memory around it."""

    def formula(subject: Subject, weights: dict[str, Tensor], x: Tensor) -> Tensor:
        from contract.dense import softmax_mixer  # it imports the families

        found: Tensor = softmax_mixer(near, lambda heads, out: out)(subject, weights, x)
        return found

    return formula


def seen_at(settings: Any, keys: Tensor, n: int, end: int) -> Tensor:
    """Turned keys (T, W) as the query at n, turned to n, sees those of a segment that ends at `end`."""
    if settings.extension is None:
        return keys
    asking, asked = stands(settings.extension, n, end)
    shift = n - asking + asked - end  # so that n and `end` stand to each other as `asking` and `asked` do
    return torch.stack([rope(key, shift, settings.base, settings.scaling) for key in keys])


def linformer(subject: Subject, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """softmax(q K~) V~ with K~ = E^T K and V~ = F^T V of each finished segment, and the open one as it is."""
    heads, settings = Softmax(subject, weights, x), subject.settings
    segment, count = settings.segment, settings.rows  # type: ignore[attr-defined]
    out = []
    for head in range(heads.heads):
        group = head * heads.kv_heads // heads.heads
        maps = [weights[name] for name in ("key_rows", "value_rows")]
        on_keys, on_values = (one[0 if one.shape[0] == 1 else group] for one in maps)
        for n in range(x.shape[0]):
            keys, values, where = [], [], []
            for begin in range(0, n // segment * segment, segment):
                moved = seen_at(settings, heads.turned_k[head], n, begin + segment - 1)
                for row in range(count):
                    keys.append(sum(on_keys[i, row] * moved[begin + i] for i in range(segment)))
                    values.append(sum(on_values[i, row] * heads.v[head, begin + i] for i in range(segment)))
                    where.append(begin + segment - 1)
            own = range(n // segment * segment, n + 1)
            keys += [heads.turned_k[head, m] for m in own]
            values += [heads.v[head, m] for m in own]
            out.append(softmax_read(heads.turned_q[head, n], keys, values, heads.added(head, n, [*where, *own])))
    return heads.joined(torch.stack(out).unflatten(0, (heads.heads, -1)))


EXTRA: dict[str, dict[str, dict[str, Any]]] = {
    "dilated": {
        "grouped-conv": {"heads": 4, "kv_heads": 2, "branches": ((4, 1), (8, 4)), "conv": 4},
        "modulo": {"heads": 6, "kv_heads": 3, "branches": ((8, 2), (4, 1), (8, 4)), "offsets": "modulo"},
        "uneven": {"heads": 6, "kv_heads": 2, "branches": ((6, 3), (8, 1), (16, 4)), "position": "none"},
        "twice": {"heads": 2, "branches": ((5, 1), (5, 1), (20, 5), (1, 1))},
        "alibi": {"heads": 6, "kv_heads": 3, "branches": ((6, 3), (8, 1), (16, 4)), "position": "alibi"},
        "xpos": {"heads": 4, "kv_heads": 2, "branches": ((4, 1), (8, 2)), "position": "xpos", "scale_base": 2},
    },
    "linformer": {
        "grouped-conv": {"heads": 4, "kv_heads": 2, "segment": 5, "rows": 2, "conv": 4},
        "apart": {"heads": 4, "kv_heads": 2, "segment": 4, "rows": 4, "share": False, "position": "none"},
        "single": {"heads": 2, "segment": 1, "rows": 1},
        "long": {"heads": 2, "kv_heads": 1, "segment": 40, "rows": 3, "share": False},
        "alibi": {"heads": 6, "kv_heads": 2, "segment": 5, "rows": 3, "position": "alibi"},
        "xpos": {"heads": 4, "kv_heads": 2, "segment": 8, "rows": 2, "conv": 2, "position": "xpos", "scale_base": 2},
        "dual-chunk": {"heads": 4, "kv_heads": 2, "segment": 3, "rows": 2, "extension": DualChunk(chunk=6, window=2)},
        "self-extend": {
            "heads": 2,
            "segment": 4,
            "rows": 2,
            "share": False,
            "conv": 3,
            "extension": SelfExtend(window=5, group=3),
            "scaling": YaRN(factor=4, trained=40),
        },
    },
    "s2": {
        "grouped-conv": {"heads": 4, "kv_heads": 2, "group": 6, "conv": 4},
        "shared": {"heads": 6, "kv_heads": 1, "group": 2, "position": "none"},
        "uneven": {"heads": 6, "kv_heads": 3, "group": 100},
        "alibi": {"heads": 6, "kv_heads": 3, "group": 10, "position": "alibi"},
        "xpos": {"heads": 4, "kv_heads": 2, "group": 40, "position": "xpos", "scale_base": 1.5},
    },
    "sparse": {
        "local-conv": {"heads": 4, "kv_heads": 2, "stride": 5, "conv": 4},
        "strided": {"heads": 4, "kv_heads": 2, "pattern": "strided", "stride": 4},
        "strided-far": {"heads": 2, "pattern": "strided", "stride": 40, "position": "none"},
        "fixed": {"heads": 4, "kv_heads": 1, "pattern": "fixed", "stride": 5, "summary": 2},
        "fixed-conv": {"heads": 2, "pattern": "fixed", "stride": 8, "summary": 8, "conv": 3},
        "bigbird": {"heads": 4, "kv_heads": 2, "pattern": "bigbird", "stride": 4, "globals": 6, "random": 3},
        "bigbird-alone": {"heads": 2, "pattern": "bigbird", "stride": 2, "globals": 0, "random": 1, "seed": 7},
        "local-alibi": {"heads": 3, "stride": 70, "position": "alibi"},
        "strided-alibi": {"heads": 6, "kv_heads": 3, "pattern": "strided", "stride": 4, "position": "alibi"},
        "fixed-alibi": {"heads": 4, "kv_heads": 2, "pattern": "fixed", "stride": 5, "summary": 3, "position": "alibi"},
        "bigbird-alibi": {
            "heads": 6,
            "kv_heads": 2,
            "pattern": "bigbird",
            "stride": 4,
            "globals": 3,
            "position": "alibi",
        },
        "local-xpos": {"heads": 4, "kv_heads": 2, "stride": 9, "position": "xpos", "scale_base": 1},
        "strided-xpos": {"heads": 2, "pattern": "strided", "stride": 8, "position": "xpos", "scale_base": 3},
        "fixed-xpos": {"heads": 4, "kv_heads": 1, "pattern": "fixed", "stride": 5, "position": "xpos", "scale_base": 2},
        "bigbird-xpos": {"heads": 2, "pattern": "bigbird", "stride": 4, "position": "xpos", "scale_base": 4},
        "strided-dual-chunk": {
            "heads": 4,
            "kv_heads": 2,
            "pattern": "strided",
            "stride": 5,
            "extension": DualChunk(chunk=6, window=2),
        },
        "strided-self-extend": {
            "heads": 2,
            "pattern": "strided",
            "stride": 3,
            "conv": 3,
            "extension": SelfExtend(window=5, group=3),
            "scaling": NTK(factor=4),
        },
        "fixed-dual-chunk": {"heads": 2, "pattern": "fixed", "stride": 5, "extension": DualChunk(chunk=9, window=3)},
        "fixed-self-extend": {
            "heads": 4,
            "kv_heads": 1,
            "pattern": "fixed",
            "stride": 4,
            "extension": SelfExtend(window=6, group=2),
        },
        "bigbird-dual-chunk": {
            "heads": 2,
            "pattern": "bigbird",
            "stride": 4,
            "extension": DualChunk(chunk=7, window=1),
        },
        "bigbird-self-extend": {
            "heads": 4,
            "kv_heads": 2,
            "pattern": "bigbird",
            "stride": 4,
            "globals": 6,
            "random": 3,
            "extension": SelfExtend(window=3, group=4),
        },
    },
}

FORMULAS: dict[str, Callable[..., Any]] = {
    "dilated": softmax(dilated_near),
    "linformer": linformer,
    "s2": softmax(s2_near),
    "sparse": softmax(sparse_near),
}

DEFINITIONS: dict[Callable[..., Any], Callable[..., Any]] = {}
