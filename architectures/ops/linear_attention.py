"""Linear attention with decay: the recurrence behind RetNet, Lightning Attention, Mamba-2 and Performer.

    S_t = exp(g_t) S_{t-1} + k_t^T v_t          S: (K, V) a head
    o_t = q_t S_t

`linear_attention_definition` is the loop; `linear_attention` cuts time into chunks of C tokens, so that inside a chunk
it is a masked matrix product and between chunks one product with the carried state:

    o_i = sum_{j <= i} exp(c_i - c_j) (q_i k_j) v_j + exp(c_i) q_i S        c: running sum of g in the chunk
    S  <- exp(c_C) S + sum_j exp(c_C - c_j) k_j^T v_j

Documents packed into a row (reference: the masks of Mamba-2's `seq_idx`, https://arxiv.org/abs/2405.21060): pairs of
different documents are masked, the carried state reaches only tokens of the document that it belongs to.

Shapes: B batch, H heads, T time, K width of a key, V width of a value, C chunk, N chunks.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from farfield.architectures.rows import Rows

__all__ = ["linear_attention", "linear_attention_definition"]


def linear_attention_definition(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, rows: Rows, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition, token by token: o (B, H, T, V) and the state (B, H, K, V). Arguments as in the chunked form."""
    decay = log_decay.exp().expand(q.shape[0], q.shape[1], q.shape[2])
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
        q, k: (B, H, T, K); v: (B, H, T, V).
        log_decay: g, at most 0, broadcastable to (B, H, T); (1, H, 1) is a constant decay a head and the fastest.
        rows: documents and padding of the call.
        state: (B, H, K, V), usually float32; it is not looked at where a row begins a document.
        chunk: C, tokens in a chunk.
    """
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
    kind = state.dtype
    decay = log_decay.to(kind).exp()[..., None]
    state = decay * state + k.to(kind).transpose(2, 3) * v.to(kind)
    return (q.to(kind) @ state).to(v.dtype), state


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
    kind, dtype = state.dtype, v.dtype
    cut = "b h (n c) d -> n b h c d"
    q, k, v = (rearrange(x, cut, c=chunk) for x in (q, k, v))
    if log_decay.shape[2] == 1:  # one decay a head: the same masks for every chunk
        log_decay = log_decay.to(kind).expand(-1, -1, chunk)[None]
    else:
        log_decay = rearrange(log_decay.to(kind), "b h (n c) -> n b h c", c=chunk)
    running = log_decay.cumsum(-1)
    lower = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).tril()
    visible, from_state, to_state, keep = lower, None, None, None
    if document is not None:
        ids = rearrange(document, "b (n c) -> n b 1 c", c=chunk)
        first = torch.zeros_like(ids[0, :, 0, 0]) if last is None else last
        owner = torch.cat((first[None, :, None, None], ids[:-1, ..., -1:]))
        visible = lower & (ids[..., :, None] == ids[..., None, :])
        from_state, to_state, keep = ids == owner, ids == ids[..., -1:], ids[..., -1:] == owner
    gap = (running[..., :, None] - running[..., None, :]).masked_fill(~visible, -torch.inf)
    inside = ((q @ k.transpose(-1, -2)) * gap.exp().to(dtype)) @ v
    into, out_of, whole = running.exp(), (running[..., -1:] - running).exp(), running[..., -1:].exp()
    if from_state is not None and to_state is not None and keep is not None:
        into, out_of, whole = into * from_state, out_of * to_state, whole * keep
    added = (k * out_of[..., None].to(dtype)).transpose(-1, -2) @ v
    states, state = _carry(added.to(kind), whole[..., None], state)
    across = (q * into[..., None].to(dtype)) @ states.to(dtype)
    return rearrange(inside + across, "n b h c d -> b h (n c) d"), state


def _carry(added: Tensor, decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The state before each chunk (N, B, H, K, V) and after the last, from what each chunk adds and its decay."""
    before = []
    steps = decay.unbind(0) if decay.shape[0] > 1 else [decay[0]] * added.shape[0]
    for more, factor in zip(added.unbind(0), steps, strict=True):
        before.append(state)
        state = factor * state + more
    return torch.stack(before), state
