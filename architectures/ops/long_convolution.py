"""A state space whose recurrence is the same at every token, which makes it a convolution as long as the document.

    s_t = exp(L) s_{t-1} + v_t            s: (E, N), complex; L: (N,), of negative real part
    y_t = Re(C s_t)                       so that y = K * v with K_l = Re sum_n C_n exp(L_n l)

`long_convolution_definition` is the recurrence, which also decodes. `long_convolution` multiplies Fourier transforms,
each document in a row of its own (Gupta et al., https://arxiv.org/abs/2203.14343), and goes on from a state exactly:

    y_t += Re(C exp(L) s exp(L t))            what the state s that is handed in adds to the token t after it
    s   <- exp(L T) s + sum_t exp(L (T - 1 - t)) v_t

All three sums over powers of exp(L) are matrix products with a table of PIECE powers, for all pieces of time at once;
beyond one piece only of the states that have not decayed to nothing by then. Exponents are float64, all else is
computed in the dtype of the state. By the transforms, the future moves the past in its last bits.

Shapes: B batch, T time, E channels, N states a channel, P tokens in a piece.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import hardshrink, pad

from farfield.architectures.ops.transforms import transformed
from farfield.architectures.rows import Rows

__all__ = ["long_convolution", "long_convolution_definition"]

PIECE = 512


def long_convolution_definition(
    v: Tensor, rates: Tensor, C: Tensor, rows: Rows, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition, token by token: y (B, T, E) and the state (B, E, N, 2). Arguments as in the other form."""
    now = torch.view_as_complex(state)
    decay, outputs = rates.exp().to(now.dtype), []
    for t in range(v.shape[1]):
        now = torch.where((rows.positions[:, t] == 0)[:, None, None], 0.0, now)
        real = rows.real[:, t, None, None]
        now = torch.where(real, decay * now + v[:, t, :, None], now)
        outputs.append(torch.where(real[..., 0], (C.to(now.dtype) * now).sum(-1).real, 0.0))
    return torch.stack(outputs, dim=1), torch.view_as_real(now)


def long_convolution(v: Tensor, rates: Tensor, C: Tensor, rows: Rows, state: Tensor) -> tuple[Tensor, Tensor]:
    """y (B, T, E) in the dtype of `v`, and the state after the last token (B, E, N, 2) in its own dtype.

    Args:
        v: (B, T, E).
        rates: L (N,), complex128, of negative real part; C: (E, N), complex.
        rows: documents and padding of the call.
        state: (B, E, N, 2), real and imaginary parts, usually float32; not looked at where a row begins a document.
    """
    dtype = v.dtype
    before = torch.view_as_complex(torch.zeros_like(state) if rows.fresh else state)
    v, C = rows.masked(v.to(state.dtype)), C.to(before.dtype)
    with torch.autocast(v.device.type, enabled=False):  # its products would be of half precision
        if rows.plain and rows.time == 1:
            before = rates.exp().to(before.dtype) * before + v[:, 0, :, None]
            return (C * before).sum(-1).real[:, None].to(dtype), torch.view_as_real(before)
        y = _convolved(v, rates, C, rows)
        if not rows.fresh:
            y = y + _from_state(rates, C, rows, before)
        return y.to(dtype), torch.view_as_real(_last_state(v, rates, rows, before))


def _convolved(v: Tensor, rates: Tensor, C: Tensor, rows: Rows) -> Tensor:
    """y (B, T, E) of v (B, T, E), every document from nothing."""
    if rows.plain:
        return _by_fourier(v, _powers_read(C, rates, rows.time))
    documents = rows.unpack(v)
    if not documents:
        return v
    kernel = _powers_read(C, rates, max(document.shape[1] for document in documents))
    return rows.repack([_by_fourier(document, kernel[:, : document.shape[1]]) for document in documents], v)


def _by_fourier(v: Tensor, kernel: Tensor) -> Tensor:
    """sum_l K_l v_{t-l} (B, T, E) of v (B, T, E) and K (E, T)."""
    v = v.transpose(1, 2).contiguous()
    if transformed():
        return _product(v, kernel)[0].transpose(1, 2)
    found: Tensor = _Fourier.apply(v, kernel)  # type: ignore[no-untyped-call]  # torch's
    return found.transpose(1, 2)


def _product(v: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sum_l K_l v_{t-l} (B, E, T) of v (B, E, T) and K (E, T), and the transforms of both."""
    size = _size(v)
    of_v, of_kernel = (torch.fft.rfft(part, n=size) for part in (v, kernel))
    y: Tensor = torch.fft.irfft(of_v * of_kernel, n=size)
    return y[..., : v.shape[2]], of_v, of_kernel


def _size(v: Tensor) -> int:
    """The length of transforms in which the end of v (B, E, T) does not come round to its beginning."""
    return int(2 ** (2 * v.shape[2] - 1).bit_length())


class _Fourier(torch.autograd.Function):
    """sum_l K_l v_{t-l} (B, E, T) of v (B, E, T) and K (E, T): a product of transforms of twice the length.

    Time stands last, where transforms are three times as fast. PyTorch's own backward transforms complex numbers, which
    is twice the work of real ones.
    """

    @staticmethod
    def forward(ctx: Any, v: Tensor, kernel: Tensor) -> Tensor:
        y, of_v, of_kernel = _product(v, kernel)
        ctx.save_for_backward(of_v, of_kernel)
        ctx.sizes = _size(v), v.shape[2]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, Tensor]:
        of_v, of_kernel = ctx.saved_tensors
        size, time = ctx.sizes
        of_above = torch.fft.rfft(above.contiguous(), n=size)
        on_kernel = torch.fft.irfft((of_above * of_v.conj()).sum(0), n=size)
        on_v = torch.fft.irfft(of_above.mul_(of_kernel.conj()), n=size)
        return on_v[..., :time], on_kernel[..., :time]


def _table(rates: Tensor, count: int, kind: torch.dtype) -> Tensor:
    """exp(L j) (P, N) for j = 0 .. count - 1, by products of two powers, which cost less than exponentials."""
    step = math.isqrt(count - 1) + 1
    short, long = _powers(rates, range(step)), _powers(rates, range(0, step * step, step))
    return _normal((long[:, None] * short).flatten(0, 1)[:count].to(kind))


def _powers(rates: Tensor, exponents: range) -> Tensor:
    """exp(L j) (P, N) for j of `exponents`."""
    steps = torch.arange(exponents.start, exponents.stop, exponents.step, device=rates.device)
    return (steps[:, None] * rates).exp()


def _normal(powers: Tensor) -> Tensor:
    """Complex powers, zero where they are so small that products with them may be subnormal: those take a CPU thirty
    times as long, and powers of fast decays are full of them. Beside exp(0) = 1 they are nothing.
    """
    parts = torch.view_as_real(powers)
    return torch.view_as_complex(hardshrink(parts, _least(parts.dtype)))


def _least(kind: torch.dtype) -> float:
    """What is smaller is nothing."""
    return float(torch.finfo(kind).tiny ** 0.75)


def _lasting(rates: Tensor, tokens: int, kind: torch.dtype) -> Tensor | slice:
    """The states whose power `tokens` is not nothing: of rates as they are drawn, a fiftieth after 512 tokens.

    Where a device or a compiler would have to wait for the numbers, or a transform has several of each, all.
    """
    if rates.device.type != "cpu" or torch.compiler.is_compiling() or transformed():
        return slice(None)
    return (rates.detach().real * tokens >= math.log(_least(kind))).nonzero()[:, 0]


def _powers_read(z: Tensor, rates: Tensor, time: int) -> Tensor:
    """Re sum_n z_n exp(L_n t) (..., T) of z (..., N), for t = 0 .. T - 1."""
    piece = min(PIECE, time)
    first = _piece_read(z, rates, piece)
    if time == piece:
        return first
    lasting = _lasting(rates, piece, z.dtype)
    z, rates = z[..., lasting], rates[lasting]
    moved = _normal(z[..., None, :] * _normal(_powers(rates, range(piece, time, piece)).to(z.dtype)))
    return torch.cat((first, _piece_read(moved, rates, piece).flatten(-2)), dim=-1)[..., :time]


def _piece_read(z: Tensor, rates: Tensor, piece: int) -> Tensor:
    """Re sum_n z_n exp(L_n t) (..., P) of z (..., N), for t = 0 .. P - 1."""
    table = torch.view_as_real(_table(rates.conj(), piece, z.dtype)).flatten(1)
    return torch.view_as_real(z).flatten(-2) @ table.T


def _from_state(rates: Tensor, C: Tensor, rows: Rows, before: Tensor) -> Tensor:
    """What the state (B, E, N) adds to the tokens (B, T, E) that go on with its document."""
    place = rows.continued.cumsum(1) - 1
    time = int(place.max()) + 1
    if not time:
        return torch.zeros((), dtype=before.real.dtype, device=before.device)
    read = _powers_read(C * rates.exp().to(C.dtype) * before, rates, time).transpose(1, 2)
    read = read.gather(1, place.clamp(min=0)[..., None].expand(-1, -1, read.shape[2]))
    return torch.where(rows.continued[..., None], read, 0.0)


def _last_state(v: Tensor, rates: Tensor, rows: Rows, before: Tensor) -> Tensor:
    """The state (B, E, N) of each row's open document."""
    time = rows.time
    if not rows.plain:
        v, kept = _at_the_end(v, rows)
    else:
        kept = torch.full((rows.batch,), time, device=v.device)
    state = _written(v.transpose(1, 2), rates, before.dtype)
    if rows.fresh:
        return state
    carried = (rates * kept[:, None]).exp().to(before.dtype)[:, None, :] * before
    return state + torch.where((rows.last_document == 0)[:, None, None], carried, 0.0)


def _written(v: Tensor, rates: Tensor, kind: torch.dtype) -> Tensor:
    """sum_t exp(L (T - 1 - t)) v_t (B, E, N) of v (B, E, T)."""
    time = v.shape[2]
    piece = min(PIECE, time)
    parts = pad(v, (-time % piece, 0)).unflatten(2, (-1, piece))  # zeros before the first change nothing
    state = _piece_written(parts[:, :, -1], rates, kind)
    if time == piece:
        return state
    lasting = _lasting(rates, piece, kind)
    rates = rates[lasting]
    further = _normal(_powers(rates, range(piece, time, piece)).flip(0).to(kind))
    earlier = (_piece_written(parts[:, :, :-1], rates, kind) * further).sum(2)
    return state + earlier if isinstance(lasting, slice) else state.index_add(2, lasting, earlier)


def _piece_written(v: Tensor, rates: Tensor, kind: torch.dtype) -> Tensor:
    """sum_t exp(L (P - 1 - t)) v_t (..., N) of v (..., P)."""
    table = torch.view_as_real(_table(rates, v.shape[-1], kind).flip(0)).flatten(1)
    return torch.view_as_complex((v @ table).unflatten(-1, (-1, 2)))


def _at_the_end(v: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """v (B, T, E) of each row's open document alone, moved so that it ends in the last column, and its length (B,)."""
    kept = rows.real & (rows.document == rows.last_document[:, None])
    place = torch.arange(rows.time, device=v.device)
    behind = rows.time - 1 - torch.where(rows.real, place, -1).amax(1, keepdim=True)
    source = place - behind
    index = source.clamp(min=0)
    chosen = (source >= 0) & kept.gather(1, index)
    moved = v.gather(1, index[..., None].expand(-1, -1, v.shape[2]))
    return torch.where(chosen[..., None], moved, 0.0), kept.sum(1)
