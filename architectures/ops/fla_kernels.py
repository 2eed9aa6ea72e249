"""Linear recurrences by the kernels of flash-linear-attention, where `backend.recurrence` says so.

They take (B, T, H, .) where ours are (B, H, T, .), logarithms of decays as ours, and states (B, H, K, V) of float32.
https://github.com/fla-org/flash-linear-attention

Shapes: B batch, H heads, G groups of heads, T time, K width of a key, V width of a value.
"""

from __future__ import annotations

from einops import rearrange, repeat
from torch import Tensor

__all__ = ["fla_gated_delta_rule", "fla_linear_attention"]


def fla_linear_attention(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """As `linear_attention` of plain rows: q, k (B, G, T, K), v (B, H, T, V), log_decay broadcastable to (B, H, T)."""
    from fla.ops.simple_gla import chunk_simple_gla

    shared = v.shape[1] // q.shape[1]
    q, k = (repeat(x.to(v.dtype), "b g t k -> b t (g r) k", r=shared) for x in (q, k))
    if log_decay.shape[0] == log_decay.shape[2] == 1 and not log_decay.requires_grad:  # one rate a head, for all
        decay = {"g_gamma": log_decay.float().expand(-1, v.shape[1], -1)[0, :, 0]}
    else:
        decay = {"g": log_decay.float().expand(*v.shape[:3]).transpose(1, 2)}
    out, after = chunk_simple_gla(
        q, k, v.transpose(1, 2), **decay, scale=1.0, initial_state=state.float(), output_final_state=True
    )
    return out.transpose(1, 2).to(v.dtype), after.to(state.dtype)


def fla_gated_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """As `gated_delta_rule` of plain rows: q, k (B, H, T, K), v (B, H, T, V), log_decay and beta (B, H, T)."""
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    q, k, v = (rearrange(x, "b h t d -> b t h d") for x in (q, k, v))
    log_decay, beta = (rearrange(x.float(), "b h t -> b t h") for x in (log_decay, beta))
    out, after = chunk_gated_delta_rule(
        q, k, v, log_decay, beta, scale=1.0, initial_state=state.float(), output_final_state=True
    )
    return rearrange(out, "b t h v -> b h t v"), after.to(state.dtype)
