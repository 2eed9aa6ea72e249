"""Softmax attention in parts: each part is computed apart, all are joined by their log-sum-exps into one softmax.

    out = sum_i exp(lse_i - lse) out_i        lse = logsumexp_i(lse_i)

A window and global tokens, a past and a present, a near field and a memory are parts of one softmax. The gradients of
every part follow from the output and the log-sum-exp of the *joined* softmax, so one backward serves the whole and no
gradient ever flows through a log-sum-exp (FlashAttention, https://arxiv.org/abs/2205.14135, section B.2).

A `Part` pairs queries, keys and values with a layout, which says which query sees which key: see `layouts` and `runs`.
A part may be for some heads and some columns of its queries only: its `Place` says which. The others see none of its
keys, and nothing is computed for them.

Shapes: B batch, H heads, G heads of keys (H a multiple of G), T queries, S keys, D width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor

from farfield.architectures.ops.backend import Backend, Kernel, choose
from farfield.architectures.ops.layouts import Full, Layout, wide
from farfield.architectures.ops.place import EVERYWHERE, Place
from farfield.architectures.ops.spans import Spans
from farfield.architectures.ops.transforms import transformed
from farfield.architectures.ops.units import Grouped, Units
from farfield.architectures.ops.written import Written

__all__ = ["Part", "attention", "attention_definition", "merge"]


@dataclass(frozen=True, eq=False)
class Part:
    """Queries (B, H, T, D) over keys and values (B, G, S, D), S > 0; with a place, only the queries there."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    layout: Layout
    place: Place | None = None


def merge(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """One softmax from outputs (..., D) and log-sum-exps (...) of its parts, differentiable in all of them.

    Where no part sees a key, the output is 0 and the log-sum-exp -inf.
    """
    joined = torch.stack([lse for _, lse in parts]).logsumexp(0)
    finite = joined.masked_fill(joined.isneginf(), 0.0)
    total = sum((out * (lse - finite).exp()[..., None].to(out.dtype) for out, lse in parts), torch.zeros(()))
    return total.to(parts[0][0].dtype), joined


def attention_definition(parts: Sequence[Part], scale: float) -> tuple[Tensor, Tensor]:
    """The definition: one dense softmax over the keys of all parts. Output (B, H, T, D), log-sum-exp (B, H, T)."""
    scores, values = [], []
    for part in parts:
        queries = part.queries if part.place is None else part.place.take(part.queries)
        group = queries.shape[1] // part.keys.shape[1]
        keys, value = (x.repeat_interleave(group, dim=1) for x in (part.keys, part.values))
        if isinstance(part.layout, Grouped):
            found = part.layout.scores(queries, keys, scale)
        else:
            found = queries @ keys.transpose(-1, -2) * scale
        mask = part.layout.mask(found.shape[2], found.shape[3])
        if mask.dtype != torch.bool:
            found, mask = found + mask.masked_fill(mask.isneginf(), 0.0), ~mask.isneginf()
        found = found.masked_fill(~mask, -math.inf)
        if part.place is not None:
            heads, time = part.queries.shape[1:3]
            found = part.place.spread(found, heads, time, -math.inf)
            value = Place(part.place.heads, slice(None)).spread(value, heads, value.shape[2], 0.0)
        scores.append(found)
        values.append(value)
    joined = torch.cat(scores, -1)
    lse = joined.logsumexp(-1)
    weights = (joined - lse.masked_fill(lse.isneginf(), 0.0)[..., None]).exp()
    return weights.to(values[0].dtype) @ torch.cat(values, 2), lse


def attention(parts: Sequence[Part], scale: float, backend: Backend = "auto") -> tuple[Tensor, Tensor]:
    """One softmax over the keys of all parts: output (B, H, T, D) and log-sum-exp (B, H, T), float32 or wider.

    Gradients reach queries, keys and values through the output; the log-sum-exp carries none. A query without a
    visible key gets output 0 and log-sum-exp -inf.
    """
    assert all(part.keys.shape[2] for part in parts), "a part without keys: the CPU kernel does not survive it"
    if transformed():
        out, lse = attention_definition(parts, scale)
        return out, lse.detach()
    kernel, (first, *more) = choose(parts[0].queries, backend), parts
    if not more and first.place is None and isinstance(first.layout, (Full, Spans)):
        alone = first.layout.decoded(kernel, first.queries, first.keys, first.values, scale)
        if alone is not None:
            return alone
    tensors = [tensor for part in parts for tensor in (part.queries, part.keys, part.values)]
    layouts = [(part.layout, part.place) for part in parts]
    if not torch.is_grad_enabled():
        return _joined(layouts, kernel, scale, tensors)
    found: tuple[Tensor, Tensor] = _Joined.apply(layouts, kernel, scale, *tensors)  # type: ignore[no-untyped-call]
    return found


def _joined(
    layouts: list[tuple[Layout, Place | None]], kernel: Kernel, scale: float, tensors: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of parts whose queries, keys and values follow one another."""
    found = []
    for (layout, place), (q, k, v) in zip(layouts, _triples(tensors), strict=True):
        taken = q if place is None else place.take(q)
        found.append(layout.forward(kernel, taken, *_shared(taken, k, v, layout), scale))
    if any(place is not None for _, place in layouts):
        return _placed(found, [place or EVERYWHERE for _, place in layouts], tensors[0])
    return found[0] if len(found) == 1 else merge(found)


class _Joined(torch.autograd.Function):
    """All parts of one softmax, with one backward for the joined whole."""

    @staticmethod
    def forward(
        ctx: Any, layouts: list[tuple[Layout, Place | None]], kernel: Kernel, scale: float, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        out, lse = _joined(layouts, kernel, scale, tensors)
        ctx.layouts, ctx.kernel, ctx.scale = layouts, kernel, scale
        ctx.first = [next(i for i, other in enumerate(tensors[::3]) if other is q) for q in tensors[::3]]
        ctx.save_for_backward(out, lse, *tensors)
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Any, ...]:
        out, lse, *tensors = ctx.saved_tensors
        lse = lse.masked_fill(lse.isneginf(), 0.0)
        if gradient.stride(-1) != 1:  # vectors are read whole, wherever they lie
            gradient = gradient.contiguous()
        found: list[Tensor | None] = []
        for (layout, place), (q, k, v), first in zip(ctx.layouts, _triples(tensors), ctx.first, strict=True):
            above = (gradient, q, out, lse)
            if place is not None:
                above = tuple(place.take(x).contiguous() for x in above)
            shared = _shared(above[1], k, v, layout)
            on_q, on_k, on_v = layout.backward(ctx.kernel, above[0], above[1], *shared, *above[2:], ctx.scale)
            queries = None
            if place is None and first == len(found) // 3:
                queries = on_q
            else:  # queries that several parts share get one gradient, added up in place
                queries = wide(q) if first == len(found) // 3 else None
                (place or EVERYWHERE).add(found[3 * first] if queries is None else queries, on_q)
            found += [queries, _summed(on_k, k), _summed(on_v, v)]
        cast = [x if x is None else x.to(like.dtype) for x, like in zip(found, tensors, strict=True)]
        return (None, None, None, *cast)


def _placed(found: Sequence[tuple[Tensor, Tensor]], places: Sequence[Place], like: Tensor) -> tuple[Tensor, Tensor]:
    """As `merge`, of parts each of which is for some of the queries: output like `like` (B, H, T, D)."""
    out = wide(like)
    lse = out.new_full(out.shape[:3], -math.inf)
    for (part, its), place in zip(found, places, strict=True):
        before = place.take(lse)
        joined = torch.logaddexp(before, its.to(lse.dtype))
        finite = joined.masked_fill(joined.isneginf(), 0.0)
        old, new = ((one - finite).exp()[..., None] for one in (before, its))
        place.put(out, place.take(out) * old + part * new)
        place.put(lse, joined)
    return out.to(like.dtype), lse


def _triples(tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for i in range(0, len(tensors), 3):
        yield tensors[i], tensors[i + 1], tensors[i + 2]


def _shared(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Keys and values with one head for each head of the queries, but for layouts that take them as they are."""
    group = q.shape[1] // k.shape[1]
    if group == 1 or isinstance(layout, (Written, Units, Grouped)):
        return k, v
    return repeat(k, "b g s d -> b (g r) s d", r=group), repeat(v, "b g s d -> b (g r) s d", r=group)


def _summed(gradient: Tensor, like: Tensor) -> Tensor:
    """The gradient of shared heads, summed back to those of `like`."""
    if gradient.shape[1] != like.shape[1]:
        gradient = rearrange(gradient, "b (g r) s d -> b g r s d", g=like.shape[1]).sum(2)
    return gradient.to(like.dtype)
