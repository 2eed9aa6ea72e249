"""A network a head whose weights are learnt while reading: gradient descent with momentum and decay, token by token.

    l(M; k, v) = |M(k) - v|^2                              M(x) = gelu(... gelu(x W_1) ...) W_n
    S_t = eta_t S_(t-1) - theta_t c_t grad l(M_0; k_t, v_t)    momentum; c_t clips the token's gradient to a norm
    M_t = (1 - alpha_t) M_(t-1) + S_t                      and decay
    y_t = M_0(q_t)                                         M_0: the weights at the start of the token's segment

`regressed` takes a segment at once, and nothing about it is approximate. The gradient of a token by a layer's weights
is an outer product, input^T error; unrolled to the end of the segment the two recurrences weigh it by scalars,

    S_C = R S_0 - sum_t s_t theta_t c_t grad_t            s_t = E_tC
    M_C = P M_0 + Q S_0 - sum_t m_t theta_t c_t grad_t    m_t = sum_(s >= t) E_ts A_s

with E_ts the product of eta_j over t < j <= s and A_s that of 1 - alpha_j over j > s; R = E_0C, P = A_0, Q is m_0 less
A_0. So a layer costs one product of its inputs with its weighted errors. The state carries M_0 beside the running M and
S, so that a segment may be cut anywhere. Gradients are written out: autograd goes through them as through all else.

Behrouz et al., https://arxiv.org/abs/2501.00663, equations 9 to 14.
Shapes: B batch, H heads, T time, S segments, L slots of a segment, K width in, V width out of a layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import gelu

from farfield.architectures.rows import Rows
from farfield.architectures.state import State
from farfield.memory.grid import Flag, chosen, grid

__all__ = ["Learnt", "Rates", "Weights", "regressed"]

Weights = tuple[Tensor, ...]
"""Of each layer (B, H, K, V)."""


@dataclass(frozen=True, eq=False)
class Rates:
    """theta, log eta and log(1 - alpha) of each token, (B, H, T) each."""

    step: Tensor
    momentum: Tensor
    keep: Tensor


@dataclass(frozen=True, eq=False)
class Learnt(State):
    """Weights at the start of the open segment, weights and momentum behind the last token."""

    start: Weights
    weights: Weights
    momentum: Weights

    def reset(self, rows: Flag, initial: Weights) -> Learnt:
        """With the initial weights (1, H, K, V) in the rows where a document begins."""
        if rows is False:
            return self
        fresh = [tuple(chosen(rows, new, x) for new, x in zip(initial, of, strict=True)) for of in self._weights()]
        still = tuple(chosen(rows, torch.zeros_like(x[:1]), x) for x in self.momentum)
        return Learnt(fresh[0], fresh[1], still)

    def closed(self, rows: Flag) -> Learnt:
        """With a new segment begun in the rows."""
        pairs = zip(self.weights, self.start, strict=True)
        return Learnt(tuple(chosen(rows, new, old) for new, old in pairs), self.weights, self.momentum)

    def _weights(self) -> tuple[Weights, Weights]:
        return self.start, self.weights


def regressed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rates: Rates,
    rows: Rows,
    segment: int,
    initial: Weights,
    state: Learnt,
    limit: float | None,
) -> tuple[Tensor, Learnt]:
    """What the weights at the start of its segment answer each query (B, H, T, V), and the state behind the call.

    Args:
        q, k: (B, H, T, K); v: (B, H, T, V). rows: documents and padding of the call.
        initial: weights with which a document begins, of each layer (H, K, V).
        state: in the dtype in which all is computed.
        limit: the norm that a token's gradient is clipped to, over all layers of a head; None: never.
    """
    kind, cells = state.momentum[0].dtype, grid(rows, segment)
    with torch.autocast(q.device.type, enabled=False):
        told = torch.stack((rates.step, rates.momentum, rates.keep), -1).to(kind)
        step, momentum, keep = cells.cut(told).unbind(-1)
        weighed = _Weighed.of(momentum, keep, cells.real)
        queries, keys, values = (cells.cut(x.to(kind)) for x in (q, k, v))
        both = torch.cat((queries, keys), 3)
        fresh = tuple(layer.to(kind)[None] for layer in initial)
        pieces = zip(both.unbind(2), values.unbind(2), step.unbind(2), weighed.segments(), strict=True)
        found = []
        for n, (inputs, value, rate, weigh) in enumerate(pieces):
            state = state.reset(cells.begins[n], fresh)
            read, state = _segment(inputs, value, rate, weigh, state, limit)
            state = state.closed(cells.ends[n])
            found.append(read)
        return cells.join(torch.stack(found, 2)), state


@dataclass(frozen=True, eq=False)
class _Weighed:
    """What each token's gradient and what stood before weigh at the end of its segment; see the file's head.

    `on_momentum`, `on_weights` (B, H, S, L): s and m. `kept`, `moved`, `lasting` (B, H, S): P, Q and R.
    """

    on_momentum: Tensor
    on_weights: Tensor
    kept: Tensor
    moved: Tensor
    lasting: Tensor

    @staticmethod
    def of(momentum: Tensor, keep: Tensor, real: Tensor | None) -> _Weighed:
        """From log eta and log(1 - alpha) (B, H, S, L), 0 in the empty slots that `real` (B or 1, S, L) leaves out."""
        kind, length = momentum.dtype, momentum.shape[-1]
        ran, held = momentum.double().cumsum(-1), keep.double().cumsum(-1)  # differences of sums
        rest = (held[..., -1:] - held).to(kind).exp()
        if real is not None:
            rest = rest * real[:, None]
        earlier = torch.ones(length, length, dtype=torch.bool, device=momentum.device).tril(-1)
        gaps = (ran[..., None, :] - ran[..., :, None]).to(kind).masked_fill(earlier, -math.inf).exp()  # from t to s
        on_weights = (gaps @ rest[..., None])[..., 0]
        moved = (ran.to(kind).exp() * rest).sum(-1)
        ends = ((ran[..., -1:] - ran), held[..., -1], ran[..., -1])
        on_momentum, kept, lasting = (x.to(kind).exp() for x in ends)
        return _Weighed(on_momentum, on_weights, kept, moved, lasting)

    def segments(self) -> list[_Weighed]:
        """Of each segment, without its dimension."""
        parts = (self.on_momentum, self.on_weights, self.kept, self.moved, self.lasting)
        return [_Weighed(*each) for each in zip(*(part.unbind(2) for part in parts), strict=True)]


def _segment(
    inputs: Tensor, values: Tensor, rate: Tensor, weigh: _Weighed, state: Learnt, limit: float | None
) -> tuple[Tensor, Learnt]:
    """Readouts (B, H, L, V) of queries, the first half of `inputs` (B, H, 2 L, K), and the state that keys leave."""
    length = values.shape[2]
    taken, before, out = _forward(state.start, inputs)
    taken, before = ([x[:, :, length:] for x in each] for each in (taken, before))
    errors = _errors(state.start, before, out[:, :, length:] - values)
    if limit is not None:
        square = sum(_squared(x) * _squared(error) for x, error in zip(taken, errors, strict=True))
        rate = rate * limit * torch.as_tensor(square).clamp(min=limit * limit).rsqrt()
    on_momentum, on_weights = (rate * weigh.on_momentum)[..., None], (rate * weigh.on_weights)[..., None]
    kept, moved, lasting = (x[..., None, None] for x in (weigh.kept, weigh.moved, weigh.lasting))
    weights, momentum = [], []
    for x, error, old, still in zip(taken, errors, state.weights, state.momentum, strict=True):
        weighted = torch.cat((on_momentum * error, on_weights * error), -1)
        first, second = (x.transpose(-1, -2) @ weighted).chunk(2, -1)
        momentum.append(lasting * still - first)
        weights.append(kept * old + moved * still - second)
    return out[:, :, :length], Learnt(state.start, tuple(weights), tuple(momentum))


def _squared(x: Tensor) -> Tensor:
    return x.square().sum(-1)


def _forward(weights: Weights, x: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """The input of each layer, what stood before the activations between them, and the answer (B, H, N, V)."""
    taken, before = [], []
    for layer, weight in enumerate(weights):
        if layer:
            before.append(x)
            x = gelu(x)
        taken.append(x)
        x = x @ weight
    return taken, before, x


def _slope(x: Tensor) -> Tensor:
    """The derivative of gelu."""
    return (1 + torch.erf(x / math.sqrt(2))) / 2 + x * torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)


def _errors(weights: Weights, before: list[Tensor], off: Tensor) -> list[Tensor]:
    """The gradient of |off|^2 by the output of each layer, from bottom to top."""
    error = 2 * off
    errors = [error]
    for weight, x in zip(reversed(weights[1:]), reversed(before), strict=True):
        error = (error @ weight.transpose(-1, -2)) * _slope(x)
        errors.append(error)
    return errors[::-1]
