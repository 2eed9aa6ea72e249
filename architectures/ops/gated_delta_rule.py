"""The gated delta rule: the recurrence behind Gated DeltaNet, whose state is corrected and not only added to.

    S_t = exp(g_t) (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T          S: (K, V) a head
    o_t = q_t S_t

`gated_delta_rule_definition` is the loop. `gated_delta_rule` cuts time into chunks of C tokens (the WY form, Yang et
al., https://arxiv.org/abs/2412.06464). With c the running sum of g in a chunk and S its initial state,

    S_i = exp(c_i) S + sum_{j <= i} exp(c_i - c_j) k_j u_j^T
    u_i = b_i (v_i - exp(c_i) k_i S - sum_{j < i} exp(c_i - c_j) (k_i k_j) u_j)

so that one triangular system gives U = W_v - W_k S for every chunk at once, before S is known, and from a chunk to the
next the state moves by one product:

    (I + A) [W_v, W_k] = [b V, b exp(c) K]          A_ij = b_i exp(c_i - c_j) (k_i k_j) for j < i
    S  <- (exp(c_C) I - K_out^T W_k) S + K_out^T W_v          K_out = exp(c_C - c) K
    O   = exp(c) Q S + (Q K^T exp(c_i - c_j)) (W_v - W_k S)          over j <= i

Pairs of different documents are masked, and the carried state reaches only tokens of the document that it belongs to;
padding has k = 0 and b = 0. All is computed in the dtype of the state.

Shapes: B batch, H heads, T time, K width of a key, V width of a value, C chunk, N chunks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad

from farfield.architectures.ops.backend import recurrence
from farfield.architectures.ops.fla_kernels import fla_gated_delta_rule
from farfield.architectures.rows import Rows

__all__ = ["gated_delta_rule", "gated_delta_rule_definition"]


def gated_delta_rule_definition(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, rows: Rows, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition, token by token: o (B, H, T, V) and the state (B, H, K, V). Arguments as in the chunked form."""
    outputs = []
    for t in range(q.shape[2]):
        state = torch.where((rows.positions[:, t] == 0)[:, None, None, None], 0.0, state)
        kept = log_decay[:, :, t, None, None].exp() * state
        found = torch.einsum("bhk,bhkv->bhv", k[:, :, t], kept)
        change = beta[:, :, t, None] * (v[:, :, t] - found)
        real = rows.real[:, t, None, None, None]
        state = torch.where(real, kept + k[:, :, t, :, None] * change[:, :, None, :], state)
        outputs.append(torch.where(real[..., 0], torch.einsum("bhk,bhkv->bhv", q[:, :, t], state), 0.0))
    return torch.stack(outputs, dim=2), state


def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    rows: Rows,
    state: Tensor,
    chunk: int = 64,
    narrow: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """o (B, H, T, V) in the dtype of `v`, and the state after the last token (B, H, K, V) in its own dtype.

    Args:
        q, k: (B, H, T, K), the keys of length at most 1; v: (B, H, T, V).
        log_decay: g (B, H, T), at most 0.
        beta: b (B, H, T), from 0 to 1.
        rows: documents and padding of the call.
        state: (B, H, K, V), usually float32; it is not looked at where a row begins a document.
        chunk: C, tokens in a chunk.
        narrow: what products may be rounded to by a kernel that takes nothing wider; None: by none.
    """
    kind, dtype, time = state.dtype, v.dtype, q.shape[2]
    if rows.fresh:
        state = torch.zeros_like(state)
    q, k, v, log_decay, beta = (x.to(kind) for x in (q, k, v, log_decay, beta))
    if rows.plain and time == 1:
        with torch.autocast(q.device.type, enabled=False):
            out, state = _step(q, k, v, log_decay, beta, state)
        return out.to(dtype), state
    if narrow is not None and recurrence(q.device, narrow, q.shape[-1], v.shape[-1], rows.plain) == "fla":
        with torch.autocast(q.device.type, enabled=False):
            out, state = fla_gated_delta_rule(q.to(narrow), k.to(narrow), v.to(narrow), log_decay, beta, state)
        return out.to(dtype), state
    masks = None
    chunk = min(chunk, time)
    if not rows.plain:
        real = rows.real[:, None, :]
        k = torch.where(real[..., None], k, 0.0)
        log_decay, beta = torch.where(real, log_decay, 0.0), torch.where(real, beta, 0.0)
        masks = rows.once(("gated_delta_rule", chunk), lambda: _Masks.of(rows.document, chunk))
    more = -time % chunk
    q, k, v = (rearrange(pad(x, (0, 0, 0, more)), "b h (n c) d -> n b h c d", c=chunk) for x in (q, k, v))
    log_decay, beta = (rearrange(pad(x, (0, more)), "b h (n c) -> n b h c", c=chunk) for x in (log_decay, beta))
    with torch.autocast(q.device.type, enabled=False):  # its products would be of half precision, the system not
        out, state = _chunks(q, k, v, log_decay, beta, masks, state)
    out = rearrange(out, "n b h c d -> b h (n c) d")[:, :, :time].to(dtype)
    return (out if rows.plain else rows.masked(out.transpose(1, 2)).transpose(1, 2)), state


def _step(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token: the recurrence itself."""
    kept = log_decay[..., None].exp() * state
    change = beta[..., None] * (v - k @ kept)
    state = kept + k.transpose(2, 3) * change
    return q @ state, state


@dataclass(frozen=True, eq=False)
class _Masks:
    """Which pairs and tokens of a chunk go together, where rows hold several documents.

    `pairs` (N, B, 1, C, C) of one document; tokens (N, B, 1, C) of the document of the state before (`into`) and after
    (`out_of`) the chunk; `keep` (N, B, 1, 1) chunks in which these are the same.
    """

    pairs: Tensor
    into: Tensor
    out_of: Tensor
    keep: Tensor

    @staticmethod
    def of(document: Tensor, chunk: int) -> _Masks:
        """Of document numbers (B, T); tokens that fill up the last chunk belong to the last document."""
        more = document[:, -1:].expand(-1, -document.shape[1] % chunk)
        ids = rearrange(torch.cat((document, more), 1), "b (n c) -> n b 1 c", c=chunk)
        owner = torch.cat((torch.zeros_like(ids[:1, ..., -1:]), ids[:-1, ..., -1:]))
        last = ids[..., -1:]
        return _Masks(ids[..., :, None] == ids[..., None, :], ids == owner, ids == last, last == owner)


def _chunks(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, masks: _Masks | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """o (N, B, H, C, V) of q, k, v (N, B, H, C, .), g and b (N, B, H, C), and the state after the last chunk."""
    kind, running = k.dtype, log_decay.double().cumsum(-1)  # differences of sums: in float32 their gradients suffer
    visible = torch.ones(k.shape[3], k.shape[3], dtype=torch.bool, device=k.device).tril()
    gaps = (running, running[..., -1:] - running, running[..., -1:])
    into, out_of, whole = (gap.to(kind).exp() for gap in gaps)
    if masks is not None:
        visible = visible & masks.pairs
        into, out_of, whole = into * masks.into, out_of * masks.out_of, whole * masks.keep
    gap = (running[..., :, None] - running[..., None, :]).to(kind)
    decay = gap.masked_fill(~visible, -torch.inf).exp()
    system = beta[..., None] * decay * (k @ k.transpose(-1, -2))  # its diagonal is not read
    right = torch.cat((beta[..., None] * v, (beta * into)[..., None] * k), dim=-1)
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    from_values, from_state = solved.split((v.shape[-1], k.shape[-1]), dim=-1)
    outwards = (out_of[..., None] * k).transpose(-1, -2)
    identity = torch.eye(k.shape[-1], dtype=kind, device=k.device)
    moves, added = whole[..., None] * identity - outwards @ from_state, outwards @ from_values
    before = []
    for move, more in zip(moves.unbind(0), added.unbind(0), strict=True):
        before.append(state)
        state = move @ state + more
    states = torch.stack(before)
    changes = from_values - from_state @ states
    return (into[..., None] * q) @ states + (decay * (q @ k.transpose(-1, -2))) @ changes, state
