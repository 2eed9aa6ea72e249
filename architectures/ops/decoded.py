"""What a decoded token costs most, in C++ (`native/decoding.cpp`). Without gradients and for few rows alone.

    linear     x W^T + b. MKL reads the weights of 4 to 13 rows at half the speed of memory or less, and so does
               PyTorch with those of bfloat16 where the processor has no instructions for it
    one_query  attention of a single query a head, whose keys several heads may share; rows may be of unequal length
    norm       the RMS norm, which PyTorch makes of seven operators
    turned     rotary positions, which are a dozen

All but `linear` are None where PyTorch's operators are as fast, or where they have to do: see `backend.native`. A row's
answer does not depend on the rows beside it in any of them; of `linear`, as long as they are as many as it takes.

Shapes: B batch, T time, D width, I inputs, O outputs, H heads, G heads of keys and values, S keys, W width of a head.
"""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor, nn

from farfield.architectures.ops.backend import native

__all__ = ["Linear", "linear", "norm", "one_query", "turned"]

NAMES = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "Brain"}
ROWS = {torch.float32: range(4, 17), torch.float64: range(4, 14), torch.bfloat16: range(1, 33)}
SMALL = 2**16  # numbers: a matrix that stays in the cache, where a call costs as much as its product


class Linear(nn.Linear):
    """A map of PyTorch's, by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., O) of `x` (..., I), weight (O, I) and bias (O,)."""
    outputs, inputs = weight.shape
    if torch.is_grad_enabled() or weight.numel() < SMALL or x.numel() // inputs not in ROWS.get(x.dtype, ()):
        return nn.functional.linear(x, weight, bias)
    fits = x.shape[-1] == inputs and weight.is_contiguous()
    fits = fits and (bias is None or (bias.shape == weight.shape[:1] and bias.is_contiguous()))
    kernels = _kernels(x, weight, *(() if bias is None else (bias,))) if fits else None
    if kernels is None:
        return nn.functional.linear(x, weight, bias)
    x, out = x.contiguous(), x.new_empty(*x.shape[:-1], outputs)
    added = None if bias is None else bias.data_ptr()
    sizes = (x.numel() // inputs, inputs, outputs, torch.get_num_threads())
    kernels.few_rows(x.data_ptr(), weight.data_ptr(), added, out.data_ptr(), *sizes)
    return out


def one_query(
    q: Tensor, k: Tensor, v: Tensor, scale: float, spans: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor] | None:
    """Output (B, H, 1, W) and log-sum-exp (B, H, 1) of queries (B, H, 1, W) over keys and values (B, G, S, W).

    `spans` are int64 (B,) each: row b sees the keys from the first to before the second alone, among its S.
    """
    if torch.is_grad_enabled() or q.shape[2] != 1 or not (_in_rows(k) and _in_rows(v)):
        return None
    fits = k.shape[:3] == v.shape[:3] and q.shape[0] == k.shape[0] and q.shape[3] == k.shape[3] and k.numel()
    fits = fits and q.shape[1] % k.shape[1] == 0
    fits = fits and all(one.shape == q.shape[:1] and one.dtype == torch.int64 and one.is_cpu for one in spans or ())
    kernels = _kernels(q, k, v) if fits else None
    if kernels is None:
        return None
    q, out = q.contiguous(), q.new_empty(*q.shape[:3], v.shape[3])
    lse = q.new_empty(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))
    batch, heads, keys, width = k.shape
    sizes = (batch, heads, q.shape[1] // heads, keys, width, v.shape[3])
    steps = (*k.stride()[:2], *v.stride()[:2])
    at = (q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), lse.data_ptr())
    held = () if spans is None else tuple(one.contiguous() for one in spans)  # alive until the call has read them
    bounds: list[int | None] = [one.data_ptr() for one in held] or [None, None]
    kernels.one_query(*at, *bounds, *sizes, *steps, scale, torch.get_num_threads())
    return out, lse


def norm(x: Tensor, gain: Tensor, epsilon: float) -> Tensor | None:
    """`x` (..., D) with its root mean square made 1, times `gain` (D,)."""
    if torch.is_grad_enabled() or not 0 < x.numel() <= SMALL:
        return None
    kernels = _kernels(x, gain) if gain.shape == x.shape[-1:] and gain.is_contiguous() else None
    if kernels is None:
        return None
    x, out, width = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format), x.shape[-1]
    kernels.norm(x.data_ptr(), gain.data_ptr(), out.data_ptr(), x.numel() // width, width, epsilon)
    return out


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor | None:
    """`x` (B, H, 1, W) turned in pairs of its halves by the angles (B, 1, 1, W / 2) of a wider dtype."""
    if torch.is_grad_enabled() or x.shape[2] != 1 or x.stride(3) != 1:
        return None
    fits = cos.shape == sin.shape == (x.shape[0], 1, 1, x.shape[3] // 2) and x.shape[3] % 2 == 0
    fits = fits and cos.dtype == sin.dtype == torch.promote_types(x.dtype, torch.float32) and cos.is_cpu and sin.is_cpu
    kernels = _kernels(x) if fits else None
    if kernels is None:
        return None
    (batch, heads, _, width), cos, sin = x.shape, cos.contiguous(), sin.contiguous()
    out = x.new_empty(x.shape)
    at = (x.data_ptr(), cos.data_ptr(), sin.data_ptr(), out.data_ptr())
    kernels.turn(*at, batch, heads, width, *x.stride()[:2])
    return out


def _in_rows(x: Tensor) -> bool:
    """Whether a head's rows (S, W) of (B, G, S, W) stand one behind the other."""
    return x.stride(3) == 1 and x.stride(2) == x.shape[3]


def _kernels(*tensors: Tensor) -> ctypes.CDLL | None:
    found = native("decoding", *tensors, numbers=NAMES)
    return None if found is None else _typed(found)


@functools.cache
def _typed(kernels: ctypes.CDLL) -> ctypes.CDLL:
    """With the types of their arguments."""
    at, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
    kernels.few_rows.argtypes = [at] * 4 + [size] * 4
    kernels.one_query.argtypes = [at] * 7 + [size] * 10 + [number, size]
    kernels.norm.argtypes = [at] * 3 + [size] * 2 + [number]
    kernels.turn.argtypes = [at] * 4 + [size] * 5
    for kernel in (kernels.few_rows, kernels.one_query, kernels.norm, kernels.turn):
        kernel.restype = None
    return kernels
