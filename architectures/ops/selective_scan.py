"""The selective scan of Mamba: a diagonal recurrence whose step, input and output depend on the token.

    h_t = exp(Delta_t A) h_{t-1} + Delta_t x_t B_t          h: (E, N)
    y_t = C_t h_t + D x_t

`selective_scan_definition` is the loop. `selective_scan` goes through the text in pieces of `PIECE` tokens, each from
the state behind the one before. It cuts a piece of T tokens into M chunks of L, about sqrt(T), tokens each, and runs
the recurrence over the L positions of a chunk, for all chunks at once: first from nothing, which gives what each chunk
adds and, with the product of its decays, the state before each chunk; then the carried states are added.

                   chunk 0    chunk 1    chunk 2          l steps over columns of (B, M, E, N)
    position 0        |          |          |
    position 1        v          v          v             then M steps from chunk to chunk
    position 2        o ---------o----------o

The backward runs the states once more, and its own recurrence from the right; nothing of the forward is kept but its
arguments. Channels are taken in tiles, so that what is held at once, (B, T, tile, N), is bounded by `HELD` numbers, or
by a single channel. Without pieces the tiles of a long text would be narrow, and half as fast. A document begins with
a decay of zero; padding has Delta = 0, which leaves the state as it is.
All is computed in the dtype of the state. Gu and Dao, https://arxiv.org/abs/2312.00752.

Shapes: B batch, T time, E channels, N states a channel, L positions in a chunk, M chunks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from farfield.architectures.ops.transforms import transformed
from farfield.architectures.ops.uncompiled import uncompiled
from farfield.architectures.rows import Rows

__all__ = ["selective_scan", "selective_scan_definition"]

HELD = 2**21
PIECE = 2**9


def selective_scan_definition(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, rows: Rows, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition, token by token: y (B, T, E) and the state (B, E, N). Arguments as in the chunked form."""
    outputs = []
    # Unbound at once: the gradient of a token taken alone would be as large as that of all.
    tokens = zip(*(part.unbind(1) for part in (x, delta, B, C, rows.positions == 0, rows.real)), strict=True)
    for x_t, delta_t, B_t, C_t, first, real in tokens:
        state = torch.where(first[:, None, None], 0.0, state)
        more = (delta_t * x_t)[..., None] * B_t[:, None, :]
        state = torch.where(real[:, None, None], (delta_t[..., None] * A).exp() * state + more, state)
        y = torch.einsum("ben,bn->be", state, C_t) + D * x_t
        outputs.append(torch.where(real[:, None], y, 0.0))
    return torch.stack(outputs, dim=1), state


def selective_scan(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, rows: Rows, state: Tensor
) -> tuple[Tensor, Tensor]:
    """y (B, T, E) in the dtype of `x`, and the state after the last token (B, E, N) in its own dtype.

    Args:
        x: (B, T, E); delta: steps (B, T, E), not negative.
        A: rates (E, N), at most 0; D: (E,).
        B, C: (B, T, N).
        rows: documents and padding of the call.
        state: (B, E, N), usually float32; it is not looked at where a row begins a document.
    """
    kind, dtype, time = state.dtype, x.dtype, x.shape[1]
    if rows.fresh:
        state = torch.zeros_like(state)
    x, delta, A, B, C, D = (part.to(kind) for part in (x, delta, A, B, C, D))
    delta = rows.masked(delta)
    if rows.plain and time == 1:
        state = (delta[:, 0, :, None] * A).exp() * state + (delta * x)[:, 0, :, None] * B
        return ((state * C).sum(-1)[:, None] + D * x).to(dtype), state
    if transformed():
        y, state = selective_scan_definition(x, delta, A, B, C, D, rows, state)
        return y.to(dtype), state
    begins = None if rows.single else (rows.positions == 0).to(kind)[..., None]
    outputs = []
    pieces = [part.split(PIECE, dim=1) for part in (x, delta, B, C, *([] if begins is None else [begins]))]
    for piece in zip(*pieces, strict=True):
        y, state = _piece(A, state, *piece)
        outputs.append(y)
    return rows.masked(torch.cat(outputs, dim=1) + D * x).to(dtype), state


def _piece(
    A: Tensor, state: Tensor, x: Tensor, delta: Tensor, B: Tensor, C: Tensor, begins: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """C h (B, T, E) and the last state (B, E, N) of a piece; `begins` (B, T, 1) is 1 where a document begins."""
    time = x.shape[1]
    length = math.isqrt(time)
    kept = None if begins is None else 1 - _cut(begins, length)[..., None]
    x, delta, B, C = (_cut(part, length) for part in (x, delta, B, C))
    y, state = _scan(x, delta, A, B, C, kept, state)
    return rearrange(y, "l b m e -> b (m l) e")[:, :time], state


def _cut(x: Tensor, length: int) -> Tensor:
    """(L, B, M, .) of x (B, T, .), with zeros behind its end."""
    return rearrange(pad(x, (0, 0, 0, -x.shape[1] % length)), "b (m l) d -> l b m d", l=length)


class _Scan(torch.autograd.Function):
    """C h (L, B, M, E) and the last state (B, E, N), of x and delta (L, B, M, E), B and C (L, B, M, N).

    `kept` (L, B, M, 1, 1) is 0 where a document begins and 1 elsewhere, or None.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, kept: Tensor | None, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, delta, A, B, C, kept, state)
        y, last = torch.empty_like(x), torch.empty_like(state)
        for tile in _tiles(x, A):
            decays, states = _terms(x[..., tile], delta[..., tile], A[tile], B, kept)
            _, last[:, tile] = _forwards(decays, states, state[:, tile])
            y[..., tile] = states.mul_(C[..., None, :]).sum(-1)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, on_y: Tensor, on_last: Tensor) -> tuple[Tensor | None, ...]:
        x, delta, A, B, C, kept, state = ctx.saved_tensors
        on_x, on_delta, on_A, on_state = (torch.empty_like(part) for part in (x, delta, A, state))
        on_B, on_C = torch.zeros_like(B), torch.zeros_like(C)
        for tile in _tiles(x, A):
            values, steps, rates, above = x[..., tile], delta[..., tile], A[tile], on_y[..., tile, None]
            decays, states = _terms(values, steps, rates, B, kept)
            before, _ = _forwards(decays, states, state[:, tile])
            on_C += (above * states).sum(-2)
            on_states = above * C[..., None, :]
            on_state[:, tile] = _backwards(decays, on_states, on_last[:, tile])
            on_B += (on_states * (steps * values)[..., None]).sum(-2)
            on_inputs = (on_states * B[..., None, :]).sum(-1)
            on_decays = decays.mul_(on_states)  # from here on of their logarithms, Delta A
            on_decays[1:] *= states[:-1]
            on_decays[0] *= before
            on_A[tile] = (on_decays * steps[..., None]).sum((0, 1, 2))
            on_x[..., tile] = steps * on_inputs
            on_delta[..., tile] = values * on_inputs + on_decays.mul_(rates).sum(-1)
        return on_x, on_delta, on_A, on_B, on_C, None, on_state


def _tiles(x: Tensor, A: Tensor) -> Iterator[slice]:
    """Channels, so many at once that what is held of their states stays bounded."""
    channels, states = A.shape
    one = x.numel() // channels * states
    count = min(channels, math.ceil(channels * one / HELD))
    width = math.ceil(channels / count)
    return (slice(at, at + width) for at in range(0, channels, width))


def _terms(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
    """Decays exp(Delta A), zero where a document begins, and inputs Delta x B: both (L, B, M, E, N)."""
    decays = (delta[..., None] * A).exp_()
    if kept is not None:
        decays *= kept
    return decays, (delta * x)[..., None] * B[..., None, :]


def _forwards(decays: Tensor, states: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Makes of inputs u (L, B, M, E, N), in place, h_t = a_t h_{t-1} + u_t.

    Returns the state before each chunk (B, M, E, N) and the last one (B, E, N).
    """
    for now in range(1, len(states)):
        states[now].addcmul_(decays[now], states[now - 1])
    whole, added, before = decays.prod(0), states[-1], torch.empty_like(states[0])
    for chunk in range(before.shape[1]):
        before[:, chunk] = first
        first = torch.addcmul(added[:, chunk], whole[:, chunk], first)
    carried = before.clone()
    for decay, state in zip(decays, states, strict=True):
        state += carried.mul_(decay)
    return before, first


def _backwards(decays: Tensor, adjoints: Tensor, last: Tensor) -> Tensor:
    """Makes of v (L, B, M, E, N), in place, r_t = v_t + a_{t+1} r_{t+1}; returns a_0 r_0 (B, E, N)."""
    for now in reversed(range(len(adjoints) - 1)):
        adjoints[now].addcmul_(decays[now + 1], adjoints[now + 1])
    whole, added, carried = decays.prod(0), decays[0] * adjoints[0], torch.empty_like(adjoints[0])
    for chunk in reversed(range(carried.shape[1])):
        carried[:, chunk] = last
        last = torch.addcmul(added[:, chunk], whole[:, chunk], last)
    for now in reversed(range(len(adjoints))):
        adjoints[now] += carried
        carried *= decays[now]
    return last


_scan: Callable[..., tuple[Tensor, Tensor]] = uncompiled(_Scan.apply)
"""Apart from compiled graphs, in which its loops over positions would be unrolled."""
