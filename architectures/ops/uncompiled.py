"""What torch.compile leaves alone, told without importing the compiler: that takes a second, and few processes compile.

@uncompiled
def read(self, x): ...                  # as torch.compiler.disable

@uncompiled(recursive=False)
def step(self, x): ...                  # this function alone: what it calls may be compiled
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar, overload

import torch

__all__ = ["uncompiled"]

P = ParamSpec("P")
R = TypeVar("R")


@overload
def uncompiled(function: Callable[P, R]) -> Callable[P, R]: ...
@overload
def uncompiled(*, recursive: bool) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def uncompiled(
    function: Callable[P, R] | None = None, *, recursive: bool = True
) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
    """`function`, which is not compiled, nor what it calls if `recursive`.

    The compiler is told at the first call after it was imported: where it was not, nothing is compiled.
    """
    if function is None:
        return functools.partial(_told, recursive=recursive)
    return _told(function, recursive)


def _told(function: Callable[P, R], recursive: bool) -> Callable[P, R]:
    barred: list[Callable[P, R]] = []

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not barred:
            if "torch._dynamo" not in sys.modules:
                return function(*args, **kwargs)
            barred.append(torch.compiler.disable(function, recursive=recursive))
        return barred[0](*args, **kwargs)

    # What torch.compiler.disable sets too: a graph ends before this call instead of going into it.
    call._torchdynamo_disable = True  # type: ignore[attr-defined]
    return call
