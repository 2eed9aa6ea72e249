"""What a training step does between its products, in C++ (`native/passes.cpp`): each goes through memory once.

    gated, gated_backward      silu(gate) value of rows that hold both
    normed, normed_backward    the RMS norm with its gain
    to_heads, from_heads       queries, keys and values of a token to heads, turned by position, and back
    shares                     the softmax of scores, and the loss of targets

`passes` is None where PyTorch's operators have to do (`backend.native`). They are the definition, and a dozen small
operators each, whose loops are too short for several threads: here a loop is a whole pass.

Shapes: N tokens, D width, I inner width, V vocabulary, B batch, T time, H heads, G heads of keys, W width of a head.
"""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from farfield.architectures.ops.backend import native

__all__ = ["Passes", "passes"]

Triple = tuple[Tensor, Tensor, Tensor]


class Passes:
    """The library. All tensors are contiguous but for those of heads, and of its dtype."""

    def __init__(self, kernels: ctypes.CDLL) -> None:
        self.kernels = kernels

    def gated(self, both: Tensor, product: Tensor) -> None:
        """silu(g) v in `product` (N, I) of `both` = [g, v] (N, 2 I)."""
        self.kernels.gate(*_crew(), *_at(both, product), *product.shape)

    def gated_backward(self, both: Tensor, above: Tensor, product: Tensor, on_both: Tensor) -> None:
        """Of `both` (N, 2 I) and the gradient (N, I) of their product: the product, and the gradient of both."""
        self.kernels.gate_backward(*_crew(), *_at(both, above, product, on_both), *product.shape)

    def normed(self, x: Tensor, gain: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """x (N, D) normed, times `gain` (D,), and what each token was multiplied by (N,)."""
        y, rate = torch.empty_like(x), x.new_empty(len(x))
        self.kernels.norm(*_crew(), *_at(x, gain, y, rate), *x.shape, epsilon)
        return y, rate

    def normed_backward(self, x: Tensor, gain: Tensor, rate: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of x (N, D) and of the gain (D,)."""
        on_x, on_gain = torch.empty_like(x), x.new_empty(self.kernels.norm_blocks(len(x)), x.shape[1])
        self.kernels.norm_backward(*_crew(), *_at(x, gain, rate, above, on_x, on_gain), *x.shape)
        return on_x, on_gain.sum(0)

    def shares(self, scores: Tensor, targets: Tensor, surplus: bool) -> Tensor:
        """The losses (N,) of targets (N,), nats; scores (N, V) become their softmax, in place.

        With `surplus` the targets' shares are less by one: that is the gradient of the summed loss.
        """
        losses = scores.new_empty(len(scores))
        self.kernels.shares(*_crew(), *_at(scores, targets, losses), *scores.shape, surplus)
        return losses

    def to_heads(self, qkv: Tensor, cos: Tensor, sin: Tensor, sizes: tuple[int, int, int]) -> Triple:
        """Queries (B, H, T, W) and keys (B, G, T, W), turned, and values (B, G, T, W) of `qkv` (B, T, (H + 2 G) W).

        Args:
            cos: with `sin`, of the angles (B or 1, 1, T, W / 2). sizes: H, G and W.
        """
        heads, groups, width = sizes
        batch, time = qkv.shape[:2]
        q, k, v = (qkv.new_empty(batch, count, time, width) for count in (heads, groups, groups))
        self._heads(qkv, cos, sin, (q, k, v), backward=False)
        return q, k, v

    def from_heads(self, above: Triple, cos: Tensor, sin: Tensor) -> Tensor:
        """The gradient of `qkv`, in one tensor, of those of what `to_heads` made of it."""
        q, k, v = (x if x.stride(3) == 1 else x.contiguous() for x in above)
        batch, heads, time, width = q.shape
        on_qkv = q.new_empty(batch, time, (heads + 2 * k.shape[1]) * width)
        self._heads(on_qkv, cos, sin, (q, k, v), backward=True)
        return on_qkv

    def _heads(self, together: Tensor, cos: Tensor, sin: Tensor, apart: Triple, backward: bool) -> None:
        cos, sin, first, kinds = cos.contiguous(), sin.contiguous(), 0, []
        for place, one in enumerate(apart):
            kinds.append(_Kind(one.data_ptr(), one.shape[1], first, *one.stride()[:3], place < 2))
            first += one.shape[1] * one.shape[3]
        batch, time, every = together.shape
        row = 0 if cos.shape[0] == 1 else cos.stride(0)
        sizes = (batch, time, apart[0].shape[3], every)
        strides = together.stride()[:2]
        split = _Split(*sizes, together.data_ptr(), *strides, cos.data_ptr(), sin.data_ptr(), row, (_Kind * 3)(*kinds))
        self.kernels.heads(*_crew(), ctypes.byref(split), backward)


def passes(*tensors: Tensor) -> Passes | None:
    """For tensors of one dtype on a CPU; None where PyTorch's operators have to do."""
    found = native("passes", *tensors)
    return None if found is None else _passes(found)


class _Kind(ctypes.Structure):
    """As `Kind` in native/passes.cpp."""

    _fields_ = [
        ("at", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("heads", "first", "row", "head", "token", "turned")),
    ]


class _Split(ctypes.Structure):
    """As `Split` in native/passes.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "time", "width", "all")),
        ("together", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("row", "token")),
        *((name, ctypes.c_void_p) for name in ("cosine", "sine")),
        ("angles_row", ctypes.c_int64),
        ("kinds", _Kind * 3),
    ]


@functools.cache
def _passes(kernels: ctypes.CDLL) -> Passes:
    """With the types of their arguments."""
    at, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
    crew: list[type[ctypes.c_void_p | ctypes.c_int64 | ctypes.c_double]] = [at, size]
    kernels.gate.argtypes = [*crew, *[at] * 2, *[size] * 2]
    kernels.gate_backward.argtypes = [*crew, *[at] * 4, *[size] * 2]
    kernels.norm.argtypes = [*crew, *[at] * 4, *[size] * 2, number]
    kernels.norm_backward.argtypes = [*crew, *[at] * 6, *[size] * 2]
    kernels.norm_blocks.argtypes = [size]
    kernels.shares.argtypes = [*crew, *[at] * 3, *[size] * 3]
    kernels.heads.argtypes = [*crew, at, size]
    for kernel in (kernels.gate, kernels.gate_backward, kernels.norm, kernels.norm_backward):
        kernel.restype = None
    kernels.shares.restype = kernels.heads.restype = None
    kernels.norm_blocks.restype = size
    return Passes(kernels)


def _at(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(x.data_ptr() for x in tensors)


def _crew() -> tuple[int | None, int]:
    """How PyTorch's own threads are called, and how many there are."""
    return _begin(), torch.get_num_threads()


@functools.cache
def _begin() -> int | None:
    """The address of GNU OpenMP's parallel region among what PyTorch has loaded for all; None: it has another one."""
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value
    except AttributeError:
        return None
