"""CAMELoT's slots: means of keys that are alike, and of their values (https://arxiv.org/abs/2402.13449).

    mu(i) = argmax_mu cos(k_i, K_mu)                                   the slot that token i finds
    cos > R    K_mu <- (c_mu K_mu + k_i) / (c_mu + 1), V_mu alike      consolidation
    else       the slot that was renewed least recently becomes (k_i, v_i), c = 1

Of a whole segment at once: every token finds its slot among those before the segment. All that consolidate are added to
their slots by one sum; then the others, of more than there are slots the newest, take the slots that are oldest by
then, oldest first. That is the published rule token by token but for two things: tokens of one segment do not
consolidate with one another, and of the novel ones no two take the same slot.

The age of a slot is told by the newest position in it: tokens since then.

Shapes: B batch, G heads of keys, N slots, S tokens, W width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from farfield.memory.ties import coarse

__all__ = ["consolidated", "found", "slot_of"]


def found(keys: Tensor, slots: Tensor, count: Tensor, threshold: float) -> Tensor:
    """What tokens of keys (B, G, S, W) find among the slots (B, G, N, W) of which `count` (B, G, N) tokens are means.

    The slot mu where its cosine is above the threshold, else -1 - mu, (B, G, S) int64; -1 where there are no slots.
    """
    if not slots.shape[2]:
        return torch.full(keys.shape[:3], -1, dtype=torch.int64, device=keys.device)
    kind = torch.promote_types(keys.dtype, torch.float32)
    slots = slots.to(kind)
    length = torch.linalg.vector_norm(slots, dim=-1).clamp(min=1e-12)
    # Products are divided, not slots: a decoded token reads the bank and copies none of it.
    cosine = coarse(normalize(keys.to(kind), dim=-1) @ slots.transpose(-1, -2) / length[:, :, None])
    best = cosine.masked_fill((count == 0)[:, :, None], -2.0).max(-1)
    return torch.where(best.values > threshold, best.indices, -1 - best.indices)


def slot_of(match: Tensor) -> Tensor:
    """The slots that tokens have found, whether they are like them or not."""
    return torch.where(match < 0, -1 - match, match)


def consolidated(
    slots: tuple[Tensor, Tensor, Tensor, Tensor],
    keys: Tensor,
    values: Tensor,
    position: Tensor,
    match: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The slots with a segment's tokens in them.

    Args:
        slots: keys and values (B, G, N, W), newest positions and counts (B, G, N); -1 and 0 where there is none yet.
        keys, values: (B, G, S, W). position: (B, S), -1 for what is no token. match: (B, G, S), as `found` tells.
    """
    real = (position >= 0)[:, None]
    place = position[:, None].expand_as(match)
    merged = _added(slots, keys, values, place, torch.where(real & (match >= 0), match, slots[2].shape[2]))
    return _replaced(merged, keys, values, place, real & (match < 0))


def _added(
    slots: tuple[Tensor, Tensor, Tensor, Tensor], keys: Tensor, values: Tensor, place: Tensor, into: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens added to the slots `into` (B, G, S), N for none."""
    old_keys, old_values, newest, count = slots
    more = torch.zeros_like(pad(count, (0, 1))).scatter_add(2, into, torch.ones_like(into))[..., :-1]
    latest = pad(newest, (0, 1)).scatter_reduce(2, into, place, "amax")[..., :-1]
    total = (count + more).clamp(min=1)[..., None]
    means = []
    for old, new in ((old_keys, keys), (old_values, values)):
        kind = torch.promote_types(old.dtype, torch.float32)
        sums = pad(old.to(kind) * count[..., None], (0, 0, 0, 1))
        sums = sums.scatter_add(2, into[..., None].expand_as(new), new.to(kind))[:, :, :-1]
        means.append(torch.where(more[..., None] > 0, (sums / total).to(old.dtype), old))
    return means[0], means[1], latest, count + more


def _replaced(
    slots: tuple[Tensor, Tensor, Tensor, Tensor], keys: Tensor, values: Tensor, place: Tensor, novel: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The `novel` (B, G, S) tokens, of more than N the newest, in the places of the oldest slots."""
    slot_keys, slot_values, newest, count = slots
    slot_count = newest.shape[2]
    oldest = newest.argsort(dim=2, stable=True)
    rank = novel.cumsum(2) - 1 - (novel.sum(2, keepdim=True) - slot_count).clamp(min=0)
    into = torch.where(novel & (rank >= 0), oldest.gather(2, rank.clamp(0, slot_count - 1)), slot_count)
    wide = into[..., None].expand_as(keys)
    one = torch.ones_like(into)
    return (
        pad(slot_keys, (0, 0, 0, 1)).scatter(2, wide, keys.to(slot_keys.dtype))[:, :, :-1],
        pad(slot_values, (0, 0, 0, 1)).scatter(2, wide, values.to(slot_values.dtype))[:, :, :-1],
        pad(newest, (0, 1)).scatter(2, into, place)[..., :-1],
        pad(count, (0, 1)).scatter(2, into, one)[..., :-1],
    )
