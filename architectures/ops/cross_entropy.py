"""Cross entropy of a linear head, in pieces, so that (tokens, vocabulary) never exists at once.

    nll = sum_i -log softmax(h_i W^T)[y_i]

The gradients of a piece are computed while its logits are at hand, so nothing is computed twice.

Shapes: N tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["IGNORED", "linear_cross_entropy", "linear_cross_entropy_definition"]

IGNORED = -100
"""The target of a token that is not scored."""


def linear_cross_entropy_definition(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The definition: the summed negative log-likelihood in nats."""
    return torch.nn.functional.cross_entropy(
        (hidden @ weight.T).to(torch.promote_types(hidden.dtype, torch.float32)),
        targets,
        ignore_index=IGNORED,
        reduction="sum",
    )


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, piece: int = 1024) -> Tensor:
    """Summed negative log-likelihood in nats, a scalar in float32 or wider.

    Args:
        hidden: (N, D). weight: (V, D). targets: (N,) int64, -100 where a token is not scored.
        piece: tokens whose logits exist at once.
    """
    assert targets.shape == hidden.shape[:1], "one target for each hidden state"
    kept = targets != IGNORED
    if not bool(kept.all()):
        hidden, targets = hidden[kept], targets[kept]
    found: Tensor = _InPieces.apply(hidden, weight, targets, piece)  # type: ignore[no-untyped-call]  # torch's own
    return found


class _InPieces(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, piece: int) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        needed = any(ctx.needs_input_grad[:2])
        weight = weight.to(hidden.dtype)
        on_hidden = torch.empty_like(hidden) if needed else None
        on_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device) if needed else None
        total = torch.zeros((), dtype=wide, device=hidden.device)
        for begin in range(0, hidden.shape[0], piece):
            at = slice(begin, begin + piece)
            log_likelihood = (hidden[at] @ weight.T).to(wide).log_softmax(-1)
            total -= log_likelihood.gather(1, targets[at, None]).sum()
            if on_hidden is not None and on_weight is not None:
                surplus = log_likelihood.exp_()
                surplus.scatter_add_(1, targets[at, None], -torch.ones_like(targets[at, None], dtype=wide))
                narrow = surplus.to(hidden.dtype)
                on_hidden[at] = narrow @ weight
                on_weight += narrow.T @ hidden[at]
        ctx.save_for_backward(on_hidden, on_weight)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        on_hidden, on_weight = ctx.saved_tensors
        return on_hidden * gradient.to(on_hidden.dtype), on_weight * gradient, None, None
