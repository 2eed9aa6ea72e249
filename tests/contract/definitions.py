"""The definitions of the ops in the place of their fast forms, in every mixer and memory that uses them.

A mixer that is made of the shared ops is compared with its definition by that alone. One with an op of its own adds a
line to `DEFINITIONS`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from contract import families
from farfield.architectures import Rows
from farfield.architectures.ops.attention import Part, attention, attention_definition
from farfield.architectures.ops.linear_attention import linear_attention, linear_attention_definition
from farfield.architectures.ops.rotary import rotate
from farfield.architectures.ops.short_convolution import (
    ConvolutionState,
    short_convolution,
    short_convolution_definition,
)
from farfield.memory import WithMemory


def _attention(parts: Sequence[Part], scale: float, backend: str = "auto") -> tuple[Tensor, Tensor]:
    return attention_definition(parts, scale)


def _linear_attention(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, rows: Rows, state: Tensor, chunk: int = 64
) -> tuple[Tensor, Tensor]:
    """The loop in the dtype of the state: of what is narrower only the result is rounded."""
    out, state = linear_attention_definition(*(x.to(state.dtype) for x in (q, k, v)), log_decay, rows, state)
    return out.to(v.dtype), state


def _short_convolution(
    x: Tensor, weight: Tensor, rows: Rows, state: ConvolutionState
) -> tuple[Tensor, ConvolutionState]:
    """The loop, and what it leaves: the last inputs of each row's open document, zeros before its start."""
    left = []
    for row in range(rows.batch):
        inputs = list(state.inputs[row])
        for time in range(rows.time):
            if rows.positions[row, time] == 0:
                inputs = [torch.zeros_like(i) for i in inputs]
            if rows.positions[row, time] >= 0:
                inputs = [*inputs, x[row, time]][1:] if inputs else []
        left.append(torch.stack(inputs) if inputs else state.inputs[row])
    return short_convolution_definition(x, weight, rows, state), ConvolutionState(torch.stack(left))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, layout: str) -> Tensor:
    """Each pair as a complex number."""
    turn = torch.complex(cos.double(), sin.double())
    if layout == "halves":
        turned = torch.complex(*x.double().chunk(2, dim=-1)) * turn
        return torch.cat((turned.real, turned.imag), dim=-1).to(x.dtype)
    turned = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous()) * turn
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


DEFINITIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    attention: _attention,
    linear_attention: _linear_attention,
    short_convolution: _short_convolution,
    rotate: _rotate,
    **families.DEFINITIONS,
}


@contextmanager
def defined() -> Iterator[int]:
    """Within it, mixers and memories run on definitions. Yields how many names were replaced."""
    replaced = []
    for name, module in list(sys.modules.items()):
        if not name.startswith(("farfield.architectures.", "farfield.memory.")) or ".ops" in name:
            continue
        for key, value in list(vars(module).items()):
            if callable(value) and value in DEFINITIONS:
                replaced.append((module, key, value))
                setattr(module, key, DEFINITIONS[value])
    try:
        yield len(replaced)
    finally:
        for module, key, value in replaced:
            setattr(module, key, value)


CHOICES: list[tuple[type, str]] = [(WithMemory, "_select"), *families.CHOICES]
"""Methods that choose: what is compared in a dtype in which a choice may fall otherwise is handed the choices."""


@contextmanager
def recorded(choices: list[Any]) -> Iterator[None]:
    """Within it, every choice is appended to `choices`."""
    with _choosing(lambda original: lambda *args: choices.append(original(*args)) or choices[-1]):
        yield


@contextmanager
def replayed(choices: list[Any]) -> Iterator[None]:
    """Within it, the choices are those recorded before, in their order."""
    coming = iter(choices)
    with _choosing(lambda original: lambda *args: next(coming)):
        yield


@contextmanager
def _choosing(change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    originals = [(owner, name, getattr(owner, name)) for owner, name in CHOICES]
    for owner, name, original in originals:
        setattr(owner, name, change(original))
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
