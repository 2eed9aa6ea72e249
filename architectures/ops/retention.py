"""What stands between the projections of RetNet and of Lightning Attention, as one operator.

    q, k, v = turn(a(q)), scale turn(a(k)), a(v)      a: silu or nothing; turn: by position, or nothing
    S_t = gamma S_{t-1} + k_t^T v_t,  o_t = q_t S_t   gamma: a constant of the head
    y = b(gate) * gain * o / rms(o)                   b: silu or sigmoid; rms of a head or of all heads together

`retention` has two forms. In PyTorch it is composed of `linear_attention` and the operators around it, each of which
goes through memory by itself. In C++ (`native/retention.cpp`) a chunk goes through all of them while it is in the
cache, forward and backward, and the gradients of queries, keys and values stand side by side, as the projection wants
them. The second is taken wherever it can be built and can read the tensors (`backend.native`).

Shapes: B batch, T time, H heads, K width of a key, V width of a value.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import rms_norm, silu

from farfield.architectures.ops.backend import native
from farfield.architectures.ops.linear_attention import linear_attention
from farfield.architectures.ops.pieces import in_pieces
from farfield.architectures.ops.rotary import Layout, angles, rotate
from farfield.architectures.rows import Rows

__all__ = ["Retention", "composed", "retention"]


@dataclass(frozen=True, eq=False)
class Retention:
    """Which operator it is: sizes, and what of the file's head is there."""

    key: int
    value: int
    log_decay: Tensor
    """log gamma (H,), float64."""

    chunk: int
    """Tokens in a chunk; 0: all of the call, the dense form."""

    activated: bool = False
    frequency: Tensor | None = None
    """Radians a token (K / 2,), float64; None: nothing is turned."""

    layout: Layout = "halves"
    scale: float = 1.0
    gate: Literal["silu", "sigmoid"] = "silu"
    together: bool = False
    """One norm of all heads; otherwise each has its own."""

    epsilon: float = 1e-6

    @property
    def heads(self) -> int:
        return self.log_decay.shape[0]

    @property
    def sizes(self) -> list[int]:
        """Numbers of a token's queries, keys and values."""
        return [self.heads * self.key, self.heads * self.key, self.heads * self.value]

    def standing(self) -> bool:
        """Whether what all calls share stands in the memory of the CPU, as it was made."""
        shared = (x for x in (self.log_decay, self.frequency) if x is not None)
        return all(x.is_cpu and x.is_contiguous() and x.dtype == torch.float64 for x in shared)

    def turned(self, x: Tensor, rows: Rows, scale: float = 1.0) -> Tensor:
        """Queries or keys (B, H, T, K) turned to where they stand, times `scale`."""
        frequency = self.frequency
        if frequency is None:
            return x if scale == 1.0 else x * scale
        kind = torch.promote_types(x.dtype, torch.float32)

        def make() -> tuple[Tensor, Tensor]:
            cos, sin = angles(rows.phase, rows.here(frequency), kind)
            return cos * scale, sin * scale

        return rotate(x, *rows.once(("retention", self.key, self.layout, kind, scale), make), self.layout)


def retention(
    form: Retention, qkv: Tensor, gate: Tensor, gain: Tensor | None, rows: Rows, state: Tensor
) -> tuple[Tensor, Tensor]:
    """y (B, T, H V) in the dtype of `gate`, zero at padding, and the state (B, H, K, V) behind the call, in its own.

    Args:
        qkv: (B, T, H (2 K + V)), all queries, then all keys, then all values.
        gate: (B, T, H V). gain: (H V,) of a norm of all heads together; None: 1.
        rows: documents and padding of the call.
        state: float32 or wider; it is not looked at where a row begins a document.
    """
    assert gain is None or form.together
    kernels = None
    numbered = rows.device == qkv.device and rows.positions.dtype == rows.phase.dtype == torch.int64
    if form.chunk and qkv.numel() and form.standing() and numbered:
        kernels = native("retention", qkv, gate, state, *(() if gain is None else (gain,)))
    if kernels is None:
        return composed(form, qkv, gate, gain, rows, state)
    tensors = qkv, gate, gain, state
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors):
        found: tuple[Tensor, Tensor] = _Native.apply(form, kernels, rows.positions, rows.phase, *tensors)  # type: ignore[no-untyped-call]
        return found
    return _Call(form, kernels, rows.positions, rows.phase, qkv, gate, gain).forward(state)


def composed(
    form: Retention, qkv: Tensor, gate: Tensor, gain: Tensor | None, rows: Rows, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The form in PyTorch: see `retention`."""
    if form.activated:
        qkv = silu(qkv)
    q, k, v = (rearrange(x, "b t (h d) -> b h t d", h=form.heads) for x in qkv.split(form.sizes, dim=-1))
    q, k = form.turned(q, rows), form.turned(k, rows, form.scale)
    decay = rows.here(form.log_decay).to(state.dtype)[None, :, None]
    out, state = linear_attention(q, k, v, decay, rows, state, form.chunk)

    def finished(out: Tensor, gate: Tensor, *gains: Tensor) -> Tensor:
        """(B, T, H V) of what was read (B, T, H, V), the gate (B, T, H V) and the gain."""
        out = out.flatten(-2) if form.together else out
        if gains:
            normed = rms_norm(out.to(gains[0].dtype), out.shape[-1:], gains[0], form.epsilon)
        else:
            normed = rms_norm(out, out.shape[-1:], None, form.epsilon).view(gate.shape)
        return (silu(gate) if form.gate == "silu" else torch.sigmoid(gate)) * normed.to(gate.dtype)

    along = rearrange(out, "b h t d -> b t h d"), gate
    return rows.masked(in_pieces(finished, along, () if gain is None else (gain,))), state


class _Native(torch.autograd.Function):
    """The form in C++."""

    @staticmethod
    def forward(
        ctx: Any,
        form: Retention,
        kernels: ctypes.CDLL,
        positions: Tensor,
        phase: Tensor,
        qkv: Tensor,
        gate: Tensor,
        gain: Tensor | None,
        state: Tensor,
    ) -> tuple[Tensor, Tensor]:
        call = _Call(form, kernels, positions, phase, qkv, gate, gain)
        states = call.room()
        out, after = call.forward(state, states)
        ctx.save_for_backward(positions, phase, qkv, gate, gain, states)
        ctx.form, ctx.kernels = form, kernels
        return out, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor, on_after: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, states = ctx.saved_tensors
        call = _Call(ctx.form, ctx.kernels, *tensors)
        return None, None, None, None, *call.backward(above, on_after, states, ctx.needs_input_grad[6])


class _Struct(ctypes.Structure):
    """As `Call` in native/retention.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "time", "heads", "key", "value", "chunk", "threads")),
        *((name, ctypes.c_int64) for name in ("activated", "layout", "sigmoid", "together")),
        *((name, ctypes.c_double) for name in ("scale", "epsilon")),
        *((name, ctypes.c_void_p) for name in ("decay", "frequency", "positions", "phase")),
        *((name, ctypes.c_int64) for name in ("positions_row", "positions_token", "phase_row", "phase_token")),
        *((name, ctypes.c_void_p) for name in ("gain", "qkv")),
        *((name, ctypes.c_int64) for name in ("qkv_row", "qkv_token")),
        ("gate", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("gate_row", "gate_token")),
        ("states", ctypes.c_void_p),
    ]


class _Call:
    """Tensors of one call, as the library takes them."""

    def __init__(
        self,
        form: Retention,
        kernels: ctypes.CDLL,
        positions: Tensor,
        phase: Tensor,
        qkv: Tensor,
        gate: Tensor,
        gain: Tensor | None,
    ) -> None:
        tokens = qkv.shape[:2]
        fits = tokens == gate.shape[:2] == positions.shape == phase.shape and qkv.shape[2] == sum(form.sizes)
        if not (fits and gate.shape[2] == form.sizes[2] and (gain is None or gain.shape == gate.shape[2:])):
            raise ValueError(f"retention: {qkv.shape}, {gate.shape} and {positions.shape} do not fit {form.sizes}.")
        qkv, gate = _dense(qkv), _dense(gate)
        gain = None if gain is None else gain.contiguous()
        self.form, self.kernels, self.qkv, self.gate = form, kernels, qkv, gate
        self.alive = positions, phase, gain  # the structure holds their addresses
        self.struct = _Struct(
            *(*tokens, form.heads, form.key, form.value, form.chunk, torch.get_num_threads()),
            *(form.activated, form.layout == "interleaved", form.gate == "sigmoid", form.together),
            *(form.scale, form.epsilon, form.log_decay.data_ptr()),
            None if form.frequency is None else form.frequency.data_ptr(),
            *(positions.data_ptr(), phase.data_ptr(), *positions.stride(), *phase.stride()),
            None if gain is None else gain.data_ptr(),
            *(qkv.data_ptr(), *qkv.stride()[:2], gate.data_ptr(), *gate.stride()[:2], None),
        )

    def room(self) -> Tensor:
        """For the states before each chunk, which the backward goes back to."""
        chunks, numbers = ctypes.c_int64(), ctypes.c_int64()
        _checked(self.kernels.retention_kept(self._address, ctypes.byref(chunks), ctypes.byref(numbers)))
        return self.qkv.new_empty(chunks.value, numbers.value)

    def forward(self, state: Tensor, states: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y (B, T, H V) and the state behind it; `states` is filled."""
        if state.shape != (self.qkv.shape[0], self.form.heads, self.form.key, self.form.value):
            raise ValueError(f"retention: a state of {state.shape} does not fit.")
        self.struct.states = None if states is None else states.data_ptr()
        state = state.contiguous()
        out, after = torch.empty_like(self.gate, memory_format=torch.contiguous_format), torch.empty_like(state)
        _checked(self.kernels.retention_forward(self._address, *map(_at, (state, out, after))))
        return out, after

    def backward(
        self, above: Tensor, on_after: Tensor, states: Tensor, gained: bool
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """The gradients of qkv, gate, gain (None unless `gained`) and state."""
        self.struct.states = states.data_ptr()
        above, on_after = _dense(above), on_after.contiguous()
        on_qkv, on_gate = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (self.qkv, self.gate))
        on_state = torch.empty_like(on_after)
        on_gain = self.gate.new_zeros(self.gate.shape[0], self.gate.shape[2], dtype=torch.float64) if gained else None
        strides = map(ctypes.c_int64, above.stride()[:2])
        tensors = map(_at, (on_after, on_qkv, on_gate, on_gain, on_state))
        _checked(self.kernels.retention_backward(self._address, _at(above), *strides, *tensors))
        return on_qkv, on_gate, None if on_gain is None else on_gain.sum(0).to(self.gate.dtype), on_state

    @property
    def _address(self) -> Any:
        return ctypes.byref(self.struct)


def _at(x: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def _dense(x: Tensor) -> Tensor:
    """`x` (B, T, N) with the numbers of a token side by side."""
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def _checked(status: int) -> None:
    if status:
        raise MemoryError("retention: the system gave no memory for a chunk of every head.")
