"""Whether a function is being transformed: differentiated or taken in batches by torch.func, or by forward derivatives.

Functions with a backward pass of their own write into memory that is used again, which no transform sees through. Where
one is at work, their ops have the form in PyTorch's operators that they are compared with in tests.
"""

from __future__ import annotations

import torch
from torch.autograd import forward_ad

__all__ = ["transformed"]


def transformed() -> bool:
    """Whether torch.func's grad, jvp or vmap, or a level of forward derivatives is at work; not asked in a graph."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0
