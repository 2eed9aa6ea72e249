"""Parity of sparse softmax with torch's own: a mask (H, T, T) from each definition, by plain arithmetic on indices.

Whole layers, with rotation and groups of heads: torch's unfused attention under the mask; for dilated attention, whose
keys may count several times, a softmax a branch, and branches mixed by their log-sum-exps, as published.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from contract.families.segments import scrambled
from parity import FLOAT64, WIDTH, Parity, mixer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

HEADS, KV_HEADS = 4, 2
LENGTHS = (1, 63, 130)

Sees = Callable[[int, int, int], bool]
"""Whether head h sees, from position n, the position m <= n."""


def heads(ours: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (B, H, T, W), keys and values (B, G, T, W), rotated: pairs as complex numbers."""
    width = WIDTH // HEADS
    mixed = ours.projection.qkv(x).unflatten(-1, (-1, width)).transpose(1, 2)
    omega = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * omega
    turn = torch.polar(torch.ones_like(angle), angle)
    turned = torch.complex(*mixed[:, : HEADS + KV_HEADS].chunk(2, -1)) * turn
    q, k = torch.cat((turned.real, turned.imag), -1).split((HEADS, KV_HEADS), 1)
    return q, k, mixed[:, HEADS + KV_HEADS :]


def mask(sees: Sees, time: int) -> Tensor:
    """(H, T, T), the upper triangle left out."""
    table = [[[m <= n and sees(h, n, m) for m in range(time)] for n in range(time)] for h in range(HEADS)]
    return torch.tensor(table)


def masked(ours: Any, sees: Sees) -> Callable[[Tensor], Tensor]:
    """The layer (B, T, D) by torch's unfused attention."""

    def layer(x: Tensor) -> Tensor:
        q, k, v = heads(ours, x)
        with sdpa_kernel(SDPBackend.MATH):
            out = scaled_dot_product_attention(q, k, v, mask(sees, x.shape[1]), enable_gqa=True)
        return ours.projection.out(out.transpose(1, 2).flatten(2))

    return layer


@pytest.mark.parity("longformer", "torch's SDPA under a dense mask")
@pytest.mark.parametrize("time", LENGTHS)
@pytest.mark.parametrize(("window", "dilation"), [(9, [1]), (9, [1, 3])])
def test_windows(window: int, dilation: list[int], time: int, parity: Parity) -> None:
    """Every `dilation`-th key back to `window` of them."""
    ours = mixer("longformer", heads=HEADS, kv_heads=KV_HEADS, window=window, dilation=dilation)

    def sees(h: int, n: int, m: int) -> bool:
        step = dilation[h * len(dilation) // HEADS]
        return (n - m) % step == 0 and n - m <= window * step

    parity.layer(ours, masked(ours, sees), FLOAT64, time)


@pytest.mark.parity("s2", "torch's SDPA under a dense mask")
@pytest.mark.parametrize("time", LENGTHS)
@pytest.mark.parametrize("group", [2, 16, 200])
def test_shifted_groups(group: int, time: int, parity: Parity) -> None:
    """Groups, and for the second half of the heads groups that begin half a group earlier."""
    ours = mixer("s2", heads=HEADS, kv_heads=KV_HEADS, group=group)

    def sees(h: int, n: int, m: int) -> bool:
        shift = group // 2 if h >= HEADS // 2 else 0
        return (n + shift) // group == (m + shift) // group

    parity.layer(ours, masked(ours, sees), FLOAT64, time)


SPARSE: dict[str, Sees] = {
    "local": lambda h, n, m: n - m < 8,
    "strided": lambda h, n, m: n - m < 8 or (n - m) % 8 == 0,
    "fixed": lambda h, n, m: n // 8 == m // 8 or m % 8 >= 6,
    "bigbird": lambda h, n, m: n - m <= 8 or m < 3 or m // 8 in drawn(h, n // 8),
}
"""By pattern, with a stride of 8, 2 columns of summary, 3 global positions and 2 random blocks."""


def drawn(head: int, block: int) -> list[int]:
    """Slot j draws from the blocks 1 + j, 3 + j, ... before the last but one: block 0 holds the prefix."""
    slots = [list(range(1 + slot, block - 1, 2)) for slot in range(2)]
    return [some[scrambled(0, 0, head, block, slot) % len(some)] for slot, some in enumerate(slots) if some]


@pytest.mark.parity("sparse", "torch's SDPA under a dense mask")
@pytest.mark.parametrize("time", LENGTHS)
@pytest.mark.parametrize("pattern", SPARSE)
def test_sparse_patterns(pattern: str, time: int, parity: Parity) -> None:
    ours = mixer("sparse", heads=HEADS, kv_heads=KV_HEADS, pattern=pattern, stride=8, summary=2, globals=3, random=2)
    parity.layer(ours, masked(ours, SPARSE[pattern]), FLOAT64, time)


def branch(q: Tensor, k: Tensor, v: Tensor, kept: Tensor, segment: int) -> tuple[Tensor, Tensor]:
    """Output (B, H, T, W), 0 where nothing is seen, and log-sum-exp (B, H, T) among the kept (H, T) of each segment."""
    at = torch.arange(q.shape[2])
    seen = kept[:, :, None] & kept[:, None, :] & (at[:, None] // segment == at // segment) & (at[:, None] >= at)
    scores = (q @ k.mT / math.sqrt(q.shape[3])).masked_fill(~seen, -torch.inf)
    blind = ~seen.any(-1)
    weights = scores.masked_fill(blind[..., None], 0.0).softmax(-1).masked_fill(blind[..., None], 0.0)
    return weights @ v, scores.masked_fill(blind[..., None], 0.0).logsumexp(-1).masked_fill(blind, -torch.inf)


def mixed_branches(ours: Any, branches: Sequence[tuple[int, int]], offsets: str) -> Callable[[Tensor], Tensor]:
    """The layer (B, T, D): sum_i softmax_i(lse_i) softmax(scores_i) v, heads of keys repeated."""

    def layer(x: Tensor) -> Tensor:
        q, k, v = heads(ours, x)
        k, v = (part.repeat_interleave(HEADS // KV_HEADS, 1) for part in (k, v))
        at, outs, sums = torch.arange(x.shape[1]), [], []
        for segment, rate in branches:
            offset = [h % rate if offsets == "modulo" else h // math.ceil(HEADS / rate) for h in range(HEADS)]
            out, lse = branch(q, k, v, at % segment % rate == torch.tensor(offset)[:, None], segment)
            outs.append(out)
            sums.append(lse)
        shares = torch.stack(sums).softmax(0)
        out = (shares[..., None] * torch.stack(outs)).sum(0)
        return ours.projection.out(out.transpose(1, 2).flatten(2))

    return layer


@pytest.mark.parity("dilated", "branches mixed by log-sum-exp")
@pytest.mark.parametrize("time", LENGTHS)
@pytest.mark.parametrize("offsets", ["grouped", "modulo"])
@pytest.mark.parametrize("branches", [((4, 1), (8, 2), (16, 4)), ((5, 1), (6, 3), (40, 8))], ids=["powers", "odd"])
def test_dilated_segments(branches: Sequence[tuple[int, int]], offsets: str, time: int, parity: Parity) -> None:
    ours = mixer("dilated", heads=HEADS, kv_heads=KV_HEADS, branches=branches, offsets=offsets)
    parity.layer(ours, mixed_branches(ours, branches, offsets), FLOAT64, time)
