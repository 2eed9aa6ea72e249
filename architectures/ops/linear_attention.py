"""Linear attention with decay: the recurrence behind RetNet, Lightning Attention, Mamba-2 and Performer.

    S_t = exp(g_t) S_{t-1} + k_t^T v_t          S: (K, V) a head
    o_t = q_t S_t

`linear_attention_definition` is the loop; `linear_attention` cuts time into chunks of C tokens, so that inside a chunk
it is a masked matrix product and between chunks one product with the carried state:

    o_i = sum_{j <= i} exp(c_i - c_j) (q_i k_j) v_j + exp(c_i) q_i S        c: running sum of g in the chunk
    S  <- exp(c_C) S + sum_j exp(c_C - c_j) k_j^T v_j

Documents packed into a row (reference: the masks of Mamba-2's `seq_idx`, https://arxiv.org/abs/2405.21060): pairs of
different documents are masked, the carried state reaches only tokens of the document that it belongs to.

Queries and keys may have fewer heads than values, G groups of them: R = H / G heads of values share one head of queries
and keys (Mamba-2), whose products are made once.

Shapes: B batch, H heads, G groups, R heads a group, T time, K width of a key, V width of a value, C chunk, N chunks.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor

from farfield.architectures.rows import Rows

__all__ = ["linear_attention", "linear_attention_definition"]


def linear_attention_definition(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, rows: Rows, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition, token by token: o (B, H, T, V) and the state (B, H, K, V). Arguments as in the chunked form."""
    decay = log_decay.exp().expand(v.shape[0], v.shape[1], v.shape[2])
    q, k = (repeat(x, "b g t k -> b (g r) t k", r=v.shape[1] // q.shape[1]) for x in (q, k))
    outputs = []
    for t in range(q.shape[2]):
        state = torch.where((rows.positions[:, t] == 0)[:, None, None, None], 0.0, state)
        updated = decay[:, :, t, None, None] * state + k[:, :, t, :, None] * v[:, :, t, None, :]
        real = rows.real[:, t, None, None, None]
        state = torch.where(real, updated, state)
        outputs.append(torch.where(real[..., 0], torch.einsum("bhk,bhkv->bhv", q[:, :, t], state), 0.0))
    return torch.stack(outputs, dim=2), state


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, rows: Rows, state: Tensor, chunk: int = 64
) -> tuple[Tensor, Tensor]:
    """o (B, H, T, V) in the dtype of `v`, and the state after the last token (B, H, K, V) in its own dtype.

    Args:
        q, k: (B, G, T, K); v: (B, H, T, V). G divides H; head h of the values reads group h // R.
        log_decay: g, at most 0, broadcastable to (B, H, T); (1, H, 1) is a constant decay a head and the fastest.
        rows: documents and padding of the call.
        state: (B, H, K, V), usually float32; it is not looked at where a row begins a document.
        chunk: C, tokens in a chunk; 0: all of the call in one, which takes memory quadratic in T.
    """
    chunk = chunk or q.shape[2]
    if rows.fresh:
        state = torch.zeros_like(state)
    if rows.plain and q.shape[2] == 1:
        return _step(q, k, v, log_decay, state)
    document = None
    if not rows.plain:
        real = rows.real[:, None, :]
        k = torch.where(real[..., None], k, 0.0)
        log_decay = torch.where(real, log_decay, 0.0)
        document = rows.document
    whole = q.shape[2] // chunk * chunk
    outputs = []
    for part, size in ((slice(0, whole), chunk), (slice(whole, None), q.shape[2] - whole)):
        if size and q[:, :, part].shape[2]:
            decay = log_decay if log_decay.shape[2] == 1 else log_decay[:, :, part]
            ids = None if document is None else document[:, part]
            last = None if document is None or part.start == 0 else document[:, part.start - 1]
            out, state = _chunks(q[:, :, part], k[:, :, part], v[:, :, part], decay, ids, last, state, size)
            outputs.append(out)
    out = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
    return (out if rows.plain else rows.masked(out.transpose(1, 2)).transpose(1, 2)), state


def _step(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token: the recurrence itself, in the state's dtype."""
    kind, groups = state.dtype, q.shape[1]
    q, k = q.to(kind)[:, :, None], k.to(kind)[:, :, None]  # (B, G, 1, 1, K)
    added = k.transpose(3, 4) * v.to(kind).unflatten(1, (groups, -1))
    state = log_decay.to(kind).exp()[..., None] * state + added.flatten(1, 2)
    return (q @ state.unflatten(1, (groups, -1))).flatten(1, 2).to(v.dtype), state


def _chunks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    document: Tensor | None,
    last: Tensor | None,
    state: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Whole chunks. `document` (B, T) or None; `last` (B,) the document that `state` belongs to, None for 0."""
    kind, dtype, heads, groups = state.dtype, v.dtype, v.shape[1], q.shape[1]
    q, k = (rearrange(x, "b g (n c) k -> n b g c k", c=chunk) for x in (q, k))
    v = rearrange(v, "b (g r) (n c) v -> n b g r c v", g=groups, c=chunk)
    log_decay = log_decay.to(kind).expand(-1, heads, -1)
    if log_decay.shape[2] == 1:  # one decay a head: the same masks for every chunk
        log_decay = log_decay.expand(-1, -1, chunk)[None]
    else:
        log_decay = rearrange(log_decay, "b h (n c) -> n b h c", c=chunk)
    since = log_decay[..., None].expand(*log_decay.shape, chunk).tril(-1).cumsum(-2)  # sum over j < l <= i
    running = log_decay.cumsum(-1)
    visible = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).tril()
    into, whole = running.exp(), running[..., -1:].exp()
    if document is not None:
        ids = rearrange(document, "b (n c) -> n b 1 c", c=chunk)
        first = torch.zeros_like(ids[0, :, 0, 0]) if last is None else last
        owner = torch.cat((first[None, :, None, None], ids[:-1, ..., -1:]))
        visible = visible & (ids[..., :, None] == ids[..., None, :])
        into, whole = into * (ids == owner), whole * (ids[..., -1:] == owner)
    decay = since.exp().masked_fill(~visible, 0.0)
    decay, into = (x.to(dtype).unflatten(2, (groups, -1)) for x in (decay, into))
    out_of = decay[..., -1, :]
    inside = ((q @ k.transpose(-1, -2))[:, :, :, None] * decay) @ v
    added = k.transpose(-1, -2) @ rearrange(v * out_of[..., None], "n b g r c v -> n b g c (r v)")
    added = rearrange(added.to(kind), "n b g k (r v) -> n b (g r) k v", r=heads // groups)
    states, state = _carry(added, whole[..., None], state)
    across = q @ rearrange(states.to(dtype), "n b (g r) k v -> n b g k (r v)", g=groups)
    across = rearrange(across, "n b g c (r v) -> n b g r c v", r=heads // groups) * into[..., None]
    return rearrange(inside + across, "n b g r c v -> b (g r) (n c) v"), state


def _carry(added: Tensor, decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The state before each chunk (N, B, H, K, V) and after the last, from what each chunk adds and its decay."""
    before = []
    steps = decay.unbind(0) if decay.shape[0] > 1 else [decay[0]] * added.shape[0]
    for more, factor in zip(added.unbind(0), steps, strict=True):
        before.append(state)
        state = factor * state + more
    return torch.stack(before), state
