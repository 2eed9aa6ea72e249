"""Linear attention with decay: the recurrence behind RetNet, Lightning Attention, Mamba-2 and Performer.

    S_t = exp(g_t) S_{t-1} + k_t^T v_t          S: (K, V) a head
    o_t = q_t S_t

`linear_attention_definition` is the loop; `linear_attention` cuts time into chunks of C tokens, so that inside a chunk
it is a masked matrix product and between chunks one product with the carried state:

    o_i = sum_{j <= i} exp(c_i - c_j) (q_i k_j) v_j + exp(c_i) q_i S        c: running sum of g in the chunk
    S  <- exp(c_C) S + sum_j exp(c_C - c_j) k_j^T v_j

Documents packed into a row (reference: the masks of Mamba-2's `seq_idx`, https://arxiv.org/abs/2405.21060): pairs of
different documents are masked, the carried state reaches only tokens of the document that it belongs to.

The backward is written out. It goes through the same pieces of a few chunks, from the right; of the forward it keeps
the arguments, the state before each chunk and what is left of pairs. With E the gradient of the output, r that of the
state behind a chunk and D_ij = exp(c_i - c_j),

    dA = E V^T,    dQ = (dA * D) K + exp(c) E S^T,    dK = (dA * D)^T Q + exp(c_C - c) V r^T
    dV = (Q K^T * D)^T E + exp(c_C - c) K r,    r <- exp(c_C) r + (exp(c) Q)^T E

The logarithm of the decay at t counts in every pair j < t <= i of a chunk, in what i has of S, in what j gives to the
next state, and in what is left of S. Sums over rows and columns of all pairs would give the first as a difference, and
lose it where decays are fast: it is one more product, of the pairs with a triangle of ones.

Queries and keys may have fewer heads than values, G groups of them: R = H / G heads of values share one head of queries
and keys (Mamba-2), whose products are made once.

Shapes: B batch, H heads, G groups, R heads a group, T time, K width of a key, V width of a value, C chunk, N chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.autograd.function import once_differentiable

from farfield.architectures.ops.backend import recurrence
from farfield.architectures.ops.fla_kernels import fla_linear_attention
from farfield.architectures.ops.pieces import pieces
from farfield.architectures.ops.transforms import transformed
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
    if recurrence(v.device, v.dtype, q.shape[-1], v.shape[-1], rows.plain) == "fla":
        return fla_linear_attention(q, k, v, log_decay, state)
    if transformed():
        kind = state.dtype
        given = q.to(kind), k.to(kind), v.to(kind), log_decay.to(kind)
        out, state = linear_attention_definition(*given, rows, state)
        return out.to(v.dtype), state
    document = None
    if not rows.plain:
        real = rows.real[:, None, :]
        k = torch.where(real[..., None], k, 0.0)
        log_decay = torch.where(real, log_decay, 0.0)
        document = rows.document
    if log_decay.requires_grad and torch.is_grad_enabled():  # its gradient is made for every head and token
        log_decay = log_decay.expand(*v.shape[:3])
    with torch.autocast(q.device.type, enabled=False):  # products are of the arguments' dtype
        out, state = _Chunked.apply(q, k, v, log_decay.to(state.dtype), document, state, chunk)  # type: ignore[no-untyped-call]
    return (out if rows.plain else rows.masked(out.transpose(1, 2)).transpose(1, 2)), state


def _step(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token: the recurrence itself, in the state's dtype."""
    kind, groups = state.dtype, q.shape[1]
    q, k = q.to(kind)[:, :, None], k.to(kind)[:, :, None]  # (B, G, 1, 1, K)
    added = k.transpose(3, 4) * v.to(kind).unflatten(1, (groups, -1))
    state = log_decay.to(kind).exp()[..., None] * state + added.flatten(1, 2)
    return (q @ state.unflatten(1, (groups, -1))).flatten(1, 2).to(v.dtype), state


class _Chunked(torch.autograd.Function):
    """See the file's head. `document` (B, T) or None; at padding, keys and the logarithm of the decay are 0."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_decay: Tensor,
        document: Tensor | None,
        state: Tensor,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        out, kept = _like(v), []
        state = rearrange(state, "b (g r) k v -> b g k r v", g=q.shape[1])
        for at, decays in _pieces(v, log_decay, document, q.shape[1], chunk):
            found, before, state = _Piece.of(at, q, k, v, decays).forward(state)
            out[:, :, at] = rearrange(found, "n b g c r v -> b (g r) (n c) v")
            if any(ctx.needs_input_grad):
                kept += [before, *decays]
        ctx.save_for_backward(q, k, v, *kept)
        ctx.chunk = chunk
        return out, rearrange(state, "b g k r v -> b (g r) k v")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor, on_state: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        on_q, on_k, on_v = _like(q), _like(k), _like(v)
        on_decay = v.new_empty(v.shape[:3], dtype=on_state.dtype) if ctx.needs_input_grad[3] else None
        on_state = rearrange(on_state, "b (g r) k v -> b g k r v", g=q.shape[1])
        places = _places(v, ctx.chunk)
        for number, at in reversed(list(enumerate(places))):
            before, *decays = kept[5 * number : 5 * number + 5]
            with torch.autocast(v.device.type, enabled=False):
                piece = _Piece.of(at, q, k, v, _Decays(*decays))
                on = piece.backward(piece.values(above), before, on_state, on_decay is not None)
            on_q[:, :, at], on_k[:, :, at] = (rearrange(x, "n b g c k -> b g (n c) k") for x in (on.q, on.k))
            on_v[:, :, at] = rearrange(on.v, "n b g c r v -> b (g r) (n c) v")
            if on_decay is not None and on.decay is not None:
                on_decay[:, :, at] = rearrange(on.decay, "n b g r c -> b (g r) (n c)")
            on_state = on.state
        return on_q, on_k, on_v, on_decay, None, rearrange(on_state, "b g k r v -> b (g r) k v"), None


def _like(x: Tensor) -> Tensor:
    """Room for a tensor (B, H, T, D), the heads of a token side by side as projections have them."""
    return x.new_empty(x.shape[0], x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2)


def _places(v: Tensor, chunk: int) -> list[slice]:
    """Pieces of whole chunks, and what is left behind the last."""
    time = v.shape[2]
    whole = time // chunk * chunk
    found = pieces(whole, v.shape[0] * v.shape[1] * max(chunk, v.shape[3]), v, chunk)
    return [*found, *([slice(whole, time)] if time > whole else [])]


def _pieces(
    v: Tensor, log_decay: Tensor, document: Tensor | None, groups: int, chunk: int
) -> Iterator[tuple[slice, _Decays]]:
    """Each piece with its decays; those of a constant rate, without documents, are the same for all."""
    constant = log_decay.shape[2] == 1
    shared: dict[int, _Decays] = {}
    for at in _places(v, chunk):
        size = min(chunk, at.stop - at.start)
        decays = shared.get(size)
        if decays is None:
            part, ids = log_decay if constant else log_decay[:, :, at], None
            if document is not None:
                first = document[:, at.start - 1] if at.start else torch.zeros_like(document[:, 0])
                ids = document[:, at], first
            decays = _Decays.of(part, ids, size, v.shape[1], groups, v.dtype)
            if constant and document is None:
                shared[size] = decays
        yield at, decays


class _Decays(NamedTuple):
    """What is left of a pair of tokens of a chunk, of the state before it at a token, of a token behind it, and of the
    state behind it; zero between documents. N and B are 1 where all are alike.

    `pairs` (N, B, G, R, C, C), `into` and `out_of` (N, B, G, C, R, 1), `whole` (N, B, G, 1, R, 1) in the state's dtype.
    """

    pairs: Tensor
    into: Tensor
    out_of: Tensor
    whole: Tensor

    @staticmethod
    def of(
        log_decay: Tensor, ids: tuple[Tensor, Tensor] | None, chunk: int, heads: int, groups: int, dtype: torch.dtype
    ) -> _Decays:
        """Of g (B, H, T) or (B, H, 1), and the documents of the tokens (B, T) and of the state before (B,)."""
        kind, log_decay = log_decay.dtype, log_decay.expand(-1, heads, -1)
        if log_decay.shape[2] == 1:
            log_decay = log_decay.expand(-1, -1, chunk)
        running = rearrange(log_decay, "b h (n c) -> n b h c", c=chunk).double().cumsum(-1)
        visible = torch.ones(chunk, chunk, dtype=torch.bool, device=log_decay.device).tril()
        gaps = (running, running[..., -1:] - running, running[..., -1:])
        into, out_of, whole = (gap.to(kind).exp() for gap in gaps)
        if ids is not None:
            own, first = rearrange(ids[0], "b (n c) -> n b 1 c", c=chunk), ids[1][None, :, None, None]
            owner, last = torch.cat((first, own[:-1, ..., -1:])), own[..., -1:]
            visible = visible & (own[..., :, None] == own[..., None, :])
            into, out_of, whole = into * (own == owner), out_of * (own == last), whole * (last == owner)
        # Differences of sums, exact in float64: many tokens may have forgotten all before the two of a pair.
        gap = (running[..., :, None] - running[..., None, :]).to(kind)
        pairs = gap.masked_fill_(~visible, -torch.inf).exp_().to(dtype).unflatten(2, (groups, -1))
        into, out_of, whole = (rearrange(x, "n b (g r) c -> n b g c r 1", g=groups) for x in (into, out_of, whole))
        return _Decays(pairs, into.to(dtype), out_of.to(dtype), whole)


@dataclass(frozen=True, eq=False)
class _Gradients:
    """Of q, k (N, B, G, C, K), v (N, B, G, C, R, V), state (B, G, K, R, V), logarithms of decays (N, B, G, R, C)."""

    q: Tensor
    k: Tensor
    v: Tensor
    state: Tensor
    decay: Tensor | None


@dataclass(frozen=True, eq=False)
class _Piece:
    """Columns `at` as chunks, contiguous: q, k (N, B, G, C, K), v (N, B, G, C, R, V)."""

    at: slice
    q: Tensor
    k: Tensor
    v: Tensor
    decays: _Decays

    @staticmethod
    def of(at: slice, q: Tensor, k: Tensor, v: Tensor, decays: _Decays) -> _Piece:
        chunk, dtype = decays.pairs.shape[-1], v.dtype
        q, k = (rearrange(x[:, :, at], "b g (n c) k -> n b g c k", c=chunk).to(dtype) for x in (q, k))
        v = rearrange(v[:, :, at], "b (g r) (n c) v -> n b g c r v", c=chunk, g=q.shape[2])
        return _Piece(at, q.contiguous(), k.contiguous(), v.contiguous(), decays)

    def values(self, x: Tensor) -> Tensor:
        """What belongs to the values, (N, B, G, C, R, V) of (B, H, T, V)."""
        _, _, groups, chunk, _, _ = self.v.shape
        return rearrange(x[:, :, self.at], "b (g r) (n c) v -> n b g c r v", c=chunk, g=groups).contiguous()

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """o (N, B, G, C, R, V), the state before each chunk (N, B, G, K, R V) and behind the last (B, G, K, R, V)."""
        pairs = (self.q @ self.k.mT)[:, :, :, None] * self.decays.pairs
        inside = (pairs @ self.v.transpose(3, 4)).transpose(3, 4)
        before, state = self._states(self._outwards(), state)
        across = (self.q @ before).unflatten(-1, self.v.shape[4:])
        return torch.addcmul(inside, across, self.decays.into), before, state

    def backward(self, above: Tensor, before: Tensor, on_state: Tensor, decaying: bool) -> _Gradients:
        """For the gradient of o (N, B, G, C, R, V) and of the state (B, G, K, R, V) behind the piece.

        `before` (N, B, G, K, R V) are the states before each chunk.
        """
        decays, values, by_head = self.decays, self.v.transpose(3, 4).contiguous(), above.transpose(3, 4).contiguous()
        outwards, inwards = self._outwards(), (above * decays.into).flatten(-2)
        behind, on_before = self._behind(inwards, on_state)
        later = behind.to(self.v.dtype).flatten(-2)
        products = self.q @ self.k.mT
        on_pairs = (by_head @ values.mT).mul_(decays.pairs)
        on_products = on_pairs.sum(3) if on_pairs.shape[3] > 1 else on_pairs[:, :, :, 0]
        on_q = _added(inwards @ before.mT, on_products, self.k)
        on_k = _added(outwards @ later.mT, on_products.mT, self.q)
        sent = (self.k @ later).unflatten(-1, self.v.shape[4:]).mul_(decays.out_of)
        own = ((products[:, :, :, None] * decays.pairs).mT @ by_head).transpose(3, 4)
        on_decay = None
        if decaying:
            on_decay = self._within(on_pairs, products) + self._across(inwards, before, behind, sent)
        return _Gradients(on_q, on_k, own.add_(sent), on_before, on_decay)

    @staticmethod
    def _within(on_pairs: Tensor, products: Tensor) -> Tensor:
        """Of log decays (N, B, G, R, C), by the pairs of a chunk."""
        every = torch.ones_like(products[0, 0, 0])
        return (every.triu() @ (on_pairs * products[:, :, :, None])).mul_(every.tril(-1)).sum(-1)

    def _across(self, inwards: Tensor, before: Tensor, behind: Tensor, sent: Tensor) -> Tensor:
        """Of log decays (N, B, G, R, C), by the states before and behind each chunk."""
        kind, shape = behind.dtype, self.v.shape[4:]
        reached = (self.q @ before).mul_(inwards).unflatten(-1, shape).sum(-1, dtype=kind).transpose(3, 4)
        gave = (self.v * sent).sum(-1, dtype=kind).transpose(3, 4)
        passed = (before.unflatten(-1, shape) * behind).sum((3, 5))[..., None] * self.decays.whole[:, :, :, 0]
        total: Tensor = reached.flip(-1).cumsum(-1).flip(-1) + (gave.cumsum(-1) - gave) + passed
        return total

    def _outwards(self) -> Tensor:
        """Values as they are behind their chunk (N, B, G, C, R V)."""
        return (self.v * self.decays.out_of).flatten(-2)

    def _states(self, outwards: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The state before each chunk (N, B, G, K, R V), in the dtype of the values, and behind the last."""
        every = torch.empty(len(self.k) + 1, *state.shape, dtype=state.dtype, device=state.device)
        every[0] = state
        every[1:] = (self.k.mT @ outwards).view(every[1:].shape)
        for before, after, factor in zip(every, every[1:], self._whole(), strict=False):
            after.addcmul_(factor, before)
        return every[:-1].to(self.v.dtype).flatten(-2), every[-1].clone()

    def _behind(self, inwards: Tensor, on_state: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of the state behind each chunk (N, B, G, K, R, V), and before the first."""
        every = torch.empty(len(self.q) + 1, *on_state.shape, dtype=on_state.dtype, device=on_state.device)
        every[-1] = on_state
        every[:-1] = (self.q.mT @ inwards).view(every[1:].shape)
        for chunk, factor in reversed(list(enumerate(self._whole()))):
            every[chunk].addcmul_(factor, every[chunk + 1])
        return every[1:], every[0].clone()

    def _whole(self) -> list[Tensor]:
        """What is left behind each chunk of the state before it."""
        whole, count = self.decays.whole, self.q.shape[0]
        return list(whole.unbind(0)) if whole.shape[0] > 1 else [whole[0]] * count


def _added(to: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """`to` + left @ right of contiguous (N, B, G, ., .), in one step."""
    to.flatten(0, 2).baddbmm_(left.flatten(0, 2), right.flatten(0, 2))
    return to
