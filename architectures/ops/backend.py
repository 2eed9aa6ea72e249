"""Which kernel computes: a function of device, dtype and shape, in this one place. Of a piece of softmax attention:

    cpu      PyTorch's fused CPU kernel, forward and backward, with or without a mask
    cuda     FlashAttention as PyTorch ships it: half precision, whole calls and bands of them, no other mask
    blocked  matrix products over blocks of queries: any device, any dtype

Of a linear recurrence:

    fla      the Triton kernels of flash-linear-attention, where it is installed: CUDA, half precision, plain rows
    chunked  ours, in PyTorch

Recurrences have a form in C++ beside those in PyTorch (`farfield.architectures.ops.native`), for plain tensors of a CPU
in float32 or float64: `native`.

A kernel computes (output, log-sum-exp) of a block of queries, and the gradients of the block from the output and the
log-sum-exp of the *whole* softmax that the block is a part of. A query that sees no key has output 0 and
log-sum-exp -inf.

Shapes: B batch, H heads, T queries, S keys, D width of a head.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor, nn

from farfield.architectures.ops.native.library import library
from farfield.architectures.ops.transforms import transformed

if TYPE_CHECKING:
    import ctypes

__all__ = ["Backend", "FlashKernel", "Kernel", "choose", "native", "recurrence"]

Backend = Literal["auto", "fused", "blocked"]
WIDEST = 256  # of a head, in the kernels for half precision
Gradients = tuple[Tensor, Tensor, Tensor]


class Kernel(Protocol):
    """Softmax attention of queries (B, H, T, D) over keys and values (B, H, S, D) with S > 0.

    `mask` is None, or broadcastable to (B, H, T, S): bool, true where a query sees a key, or numbers that are added to
    the scores, -inf where it does not. `causal` (T = S, no mask) lets query t see keys 0 .. t.
    """

    name: str
    whole: bool
    """Whether a call without a mask takes memory that is linear in T and S, so that it need not be cut into blocks."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Output (B, H, T, D) and log-sum-exp (B, H, T), float32 or wider."""

    def backward(
        self,
        gradient: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        mask: Tensor | None,
        causal: bool,
        scale: float,
    ) -> Gradients:
        """Gradients of q, k, v for the gradient (B, H, T, D) of the whole's output, given that output and its lse."""


def choose(q: Tensor, backend: Backend) -> Kernel:
    """The kernel for queries like `q`; `blocked` is always possible, `fused` falls back to it where none is fused."""
    if backend == "blocked":
        return _BLOCKED
    if q.device.type == "cpu":
        return _CPU
    width = q.shape[-1]
    if _half(q.device, q.dtype) and width % 8 == 0 and width <= WIDEST:
        return _CUDA
    return _BLOCKED


NUMBERS = MappingProxyType({torch.float32: "float", torch.float64: "double"})


def native(name: str, *tensors: Tensor, numbers: Mapping[torch.dtype, str] = NUMBERS) -> ctypes.CDLL | None:
    """The library `name` in C++ for these tensors; None where the form in PyTorch has to do.

    `numbers`: what the library calls the numbers of the dtypes that it is for.

    That is where there is no library, and wherever an operator is more than memory that is gone through: on other
    devices, in other or several dtypes, in graphs that are compiled or traced, under autocast, transforms and modes
    that look at operators.
    """
    dtype = tensors[0].dtype
    if (
        torch.compiler.is_compiling()
        or dtype not in numbers
        or not all(_plain(x, dtype) for x in tensors)
        or _watched()
    ):
        return None
    return library(name, numbers[dtype])


def _plain(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether `x` is nothing but numbers in memory."""
    known = type(x) in (Tensor, nn.Parameter) and x.is_cpu and x.dtype == dtype
    return known and x.layout == torch.strided and not x.is_neg()


def _watched() -> bool:
    """Whether autocast is on, or somebody wants operators: a trace, torch.func, forward derivatives, a mode."""
    return (
        torch.is_autocast_enabled("cpu")
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or transformed()
    )


def recurrence(
    device: torch.device, dtype: torch.dtype, key: int, value: int, plain: bool
) -> Literal["fla", "chunked"]:
    """Whose form a linear recurrence takes, with numbers of `dtype` and keys and values so wide; `plain` rows are runs.

    In float32 fla's products are of TensorFloat-32, which is a thousand times as far from exact as what we promise. A
    compiled graph would end before its kernels.
    """
    fits = plain and key <= WIDEST and key % 8 == value % 8 == 0
    fits = fits and _half(device, dtype) and not torch.compiler.is_compiling()
    return "fla" if fits and _installed("fla") else "chunked"


def _half(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there are kernels for half precision: on GPUs from Ampere on."""
    return device.type == "cuda" and dtype in (torch.float16, torch.bfloat16) and _generation(device) >= 8


def _generation(device: torch.device) -> int:
    """The first number of a GPU's compute capability."""
    return int(torch.cuda.get_device_properties(device).major)


@functools.lru_cache(maxsize=8)
def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


@functools.lru_cache(maxsize=64)
def _zeros(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.zeros((), dtype=dtype), torch.full((), -math.inf, dtype=dtype)


def _additive(mask: Tensor, like: Tensor, time: int, keys: int) -> Tensor:
    """A mask as the numbers that the CPU kernel adds, (B, H, T, S) with broadcast strides; biases are not narrowed."""
    if mask.dtype == torch.bool:
        mask = torch.where(mask, *_zeros(like.dtype))
    else:
        mask = mask.to(torch.promote_types(like.dtype, torch.float32))
    return mask.expand(*mask.shape[:2], time, keys)


def _blind(mask: Tensor) -> Tensor:
    """Which queries see no key at all."""
    return ~mask.any(-1) if mask.dtype == torch.bool else mask.amax(-1).isneginf()


def _side_by_side(x: Tensor) -> Tensor:
    """With the numbers of a vector next to each other: the CPU's kernels take it for granted, and do not say so."""
    return x if x.stride(-1) == 1 else x.contiguous()


class _Cpu:
    name, whole = "cpu", True

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        added = None if mask is None else _additive(mask, q, q.shape[2], k.shape[2])
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        q, k, v = (_side_by_side(x) for x in (q, k, v))
        out, lse = kernel(q, k, v, 0.0, causal, attn_mask=added, scale=scale)
        if mask is not None:  # the kernel reports 0, not -inf, where a query sees no key
            lse = lse.masked_fill(_blind(mask), -math.inf)
        return out, lse

    def backward(
        self,
        gradient: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        mask: Tensor | None,
        causal: bool,
        scale: float,
    ) -> Gradients:
        added = None if mask is None else _additive(mask, q, q.shape[2], k.shape[2])
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        gradient, q, k, v, out = (_side_by_side(x) for x in (gradient, q, k, v, out))
        found: Gradients = kernel(gradient, q, k, v, out, lse, 0.0, causal, attn_mask=added, scale=scale)
        return found


class FlashKernel:
    """Parts without a mask go to FlashAttention, and so do bands; masked ones and unlike widths to the blocked form."""

    name, whole = "cuda", True

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        if mask is not None or v.shape[-1] != q.shape[-1]:
            return _BLOCKED.forward(q, k, v, mask, causal, scale)
        return _flash(q, k, v, causal, -1, -1, scale)

    def backward(
        self,
        gradient: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        mask: Tensor | None,
        causal: bool,
        scale: float,
    ) -> Gradients:
        if mask is not None or v.shape[-1] != q.shape[-1]:
            return _BLOCKED.backward(gradient, q, k, v, out, lse, mask, causal, scale)
        return _flash_backward(gradient, q, k, v, out, lse, causal, -1, -1, scale)

    def band(
        self, q: Tensor, k: Tensor, v: Tensor, reach: int | None, ahead: int, scale: float
    ) -> tuple[Tensor, Tensor]:
        """As `forward`, of T queries that are the last of S columns: column n sees n - reach .. n + ahead."""
        return _flash(q, k, v, False, -1 if reach is None else reach, ahead, scale)

    def band_backward(
        self,
        gradient: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        reach: int | None,
        ahead: int,
        scale: float,
    ) -> Gradients:
        """As `backward`, of what `band` computes."""
        return _flash_backward(gradient, q, k, v, out, lse, False, -1 if reach is None else reach, ahead, scale)


def _flash(q: Tensor, k: Tensor, v: Tensor, causal: bool, left: int, right: int, scale: float) -> tuple[Tensor, Tensor]:
    """FlashAttention forward; a window of -1 to a side has no end there."""
    bands = {"window_size_left": left, "window_size_right": right}
    sizes = (None, None, q.shape[2], k.shape[2])  # every row is as long as the batch
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    found = torch.ops.aten._flash_attention_forward(q, k, v, *sizes, 0.0, causal, False, scale=scale, **bands)
    return found[0].transpose(1, 2), found[1]


def _flash_backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    causal: bool,
    left: int,
    right: int,
    scale: float,
) -> Gradients:
    """The gradients of `_flash`.

    Lengths of rows are None: of a tensor, an empty one too, the kernel would take them for those of packed rows.
    """
    bands = {"window_size_left": left, "window_size_right": right}
    sizes = (None, None, q.shape[2], k.shape[2])
    seed, unused = (torch.empty(n, dtype=torch.uint64, device=q.device) for n in (2, ()))  # nothing is drawn
    wide = [x.transpose(1, 2) for x in (gradient, q, k, v, out)]
    kernel = torch.ops.aten._flash_attention_backward
    found = kernel(*wide, lse.contiguous(), *sizes, 0.0, causal, seed, unused, scale=scale, **bands)
    on_q, on_k, on_v = (x.transpose(1, 2) for x in found)
    return on_q, on_k, on_v


class _Blocked:
    name, whole = "blocked", False

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        scores = _scores(q, k, mask, causal, scale)
        lse = scores.logsumexp(-1)
        weights = (scores - lse.masked_fill(lse.isneginf(), 0.0)[..., None]).exp()
        return weights.to(v.dtype) @ v, lse

    def backward(
        self,
        gradient: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        mask: Tensor | None,
        causal: bool,
        scale: float,
    ) -> Gradients:
        weights = (_scores(q, k, mask, causal, scale) - lse[..., None]).exp()
        inner = (gradient.to(lse.dtype) * out.to(lse.dtype)).sum(-1, keepdim=True)
        on_scores = (weights * ((gradient @ v.transpose(-1, -2)).to(lse.dtype) - inner) * scale).to(q.dtype)
        on_values = weights.to(gradient.dtype).transpose(-1, -2) @ gradient
        return on_scores @ k, on_scores.transpose(-1, -2) @ q, on_values


def _scores(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    """Scores (B, H, T, S) in float32 or wider, -inf where a query does not see a key."""
    scores = (q @ k.transpose(-1, -2)).to(torch.promote_types(q.dtype, torch.float32)) * scale
    if causal:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
    if mask is None:
        return scores
    return scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask.to(scores.dtype)


_CPU, _CUDA, _BLOCKED = _Cpu(), FlashKernel(), _Blocked()
