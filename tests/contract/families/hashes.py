"""Attention among tokens of the same bucket.

Shapes of the formulas: T time, D width, H heads, W width of a head, R rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from contract.parts import convolved, rope, slope, stands, xpos
from farfield.architectures.dual_chunk import DualChunk
from farfield.architectures.self_extend import SelfExtend
from farfield.architectures.shared_heads import SharedHeads
from farfield.architectures.stretching import YaRN

if TYPE_CHECKING:
    from contract.subjects import Subject


def bucket(x: Tensor, rotation: Tensor) -> int:
    """argmax([x R; -x R]) of x (W,)."""
    turned = [float(value) for value in x.detach() @ rotation]
    turned += [-value for value in turned]
    return turned.index(max(turned))


def placed(settings: Any, tokens: list[Tensor], sign: int) -> list[Tensor]:
    """Tokens (W,) where they stand: turned, and scaled up by xPos for queries, sign 1, and down for keys, -1."""
    if settings.position in ("alibi", "none"):
        return tokens
    turned = [rope(one, n, settings.base, settings.scaling) for n, one in enumerate(tokens)]
    if settings.position == "rope":
        return turned
    return [xpos(one, sign * n, settings.scale_base) for n, one in enumerate(turned)]


def score(settings: Any, queries: list[Tensor], keys: list[Tensor], n: int, m: int) -> Tensor:
    """q_n k_m of vectors that are turned to n and m, as an extension lets them stand to each other."""
    key = keys[m]
    if settings.extension is not None:
        asking, asked = stands(settings.extension, n, m)
        key = rope(key, n - asking + asked - m, settings.base, settings.scaling)
    sharpness = 1.0 if settings.scaling is None else (0.1 * math.log(settings.scaling.factor) + 1) ** 2
    return queries[n] @ key * sharpness


def reformer(subject: Subject, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Rounds merged as published: each a softmax of its own, weighted by exp(lse of the round - lse of all)."""
    settings: Any = subject.settings
    heads = settings.heads or subject.width // settings.head_width
    mixed = convolved(x @ weights["projection.qv.weight"].T, weights.get("projection.taps"))
    q, v = (part.reshape(x.shape[0], heads, -1) for part in mixed.split(subject.width, 1))
    outputs = []
    for head in range(heads):
        rotations = weights["projection.rotations"][head]
        buckets = [[bucket(q[n, head], rotation) for n in range(x.shape[0])] for rotation in rotations]
        units = [one / (one.square().mean() + 1e-6).sqrt() / one.shape[0] ** 0.5 for one in q[:, head]]
        turned, keys = placed(settings, list(q[:, head]), 1), placed(settings, units, -1)
        fall = slope(head, heads) if settings.position == "alibi" else 0.0
        rows = []
        for n in range(x.shape[0]):
            found, sums = [], []
            for names in buckets:
                seen = [m for m in range(n) if names[m] == names[n]][-settings.window :]
                if seen:
                    scores = torch.stack([score(settings, turned, keys, n, m) - fall * (n - m) for m in seen])
                    found.append(torch.softmax(scores, 0) @ v[seen, head])
                    sums.append(scores.logsumexp(0))
            share = torch.softmax(torch.stack(sums), 0) if sums else None
            rows.append(v[n, head] if share is None else share @ torch.stack(found))
        outputs.append(torch.stack(rows))
    return torch.cat(outputs, 1) @ weights["projection.out.weight"].T


EXTRA: dict[str, dict[str, dict[str, Any]]] = {
    "reformer": {
        "conv": {"heads": 4, "buckets": 4, "rounds": 1, "window": 5, "conv": 4},
        "nope": {"heads": 2, "buckets": 6, "rounds": 3, "window": 3, "position": "none"},
        "last": {"heads": 2, "buckets": 2, "rounds": 3, "window": 1},
        "wide": {"heads": 4, "buckets": 2, "rounds": 2, "window": 70},
        "alibi": {"heads": 6, "buckets": 4, "rounds": 2, "window": 5, "conv": 3, "position": "alibi"},
        "alibi-wide": {"heads": 3, "buckets": 2, "rounds": 1, "window": 70, "position": "alibi"},
        "xpos": {"heads": 4, "buckets": 4, "rounds": 2, "window": 6, "position": "xpos", "scale_base": 2},
        "dual-chunk": {
            "heads": 4,
            "buckets": 4,
            "rounds": 2,
            "window": 5,
            "conv": 3,
            "extension": DualChunk(chunk=7, window=3),
        },
        "self-extend": {
            "heads": 2,
            "buckets": 2,
            "rounds": 3,
            "window": 40,
            "extension": SelfExtend(window=5, group=3),
            "scaling": YaRN(factor=4, trained=40),
        },
        "xpos-wide": {"heads": 2, "buckets": 2, "rounds": 3, "window": 40, "position": "xpos", "scale_base": 1.5},
    },
}

FORMULAS: dict[str, Callable[..., Any]] = {"reformer": reformer}

DEFINITIONS: dict[Callable[..., Any], Callable[..., Any]] = {}

CHOICES: list[tuple[type, str]] = [(SharedHeads, "buckets")]
