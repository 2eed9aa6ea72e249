"""Cross entropy of a linear head, in pieces, so that (tokens, vocabulary) never exists at once.

    nll = sum_i -log softmax(h_i W^T)[y_i]

The gradients of a piece are computed while its logits are at hand, so nothing is computed twice.

Shapes: N tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from farfield.architectures.ops.passes import Passes, passes
from farfield.architectures.ops.transforms import transformed

__all__ = ["IGNORED", "linear_cross_entropy", "linear_cross_entropy_definition"]

IGNORED = -100
"""The target of a token that is not scored."""

CACHED = 2**18  # numbers: a megabyte of float32


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
    if transformed():
        return linear_cross_entropy_definition(hidden, weight, targets)
    kept = targets != IGNORED
    if not bool(kept.all()):
        hidden, targets = hidden[kept], targets[kept]
    found: Tensor = _InPieces.apply(hidden, weight, targets, piece)  # type: ignore[no-untyped-call]  # torch's own
    return found


class _InPieces(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, piece: int) -> Tensor:
        wide, dtype = torch.promote_types(hidden.dtype, torch.float32), _multiplied(hidden)
        needed = any(ctx.needs_input_grad[:2])
        given, weight = hidden.to(dtype), weight.to(dtype)
        on_hidden = torch.empty_like(hidden) if needed else None
        on_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device) if needed else None
        total = torch.zeros((), dtype=wide, device=hidden.device)
        # One piece after the other in the same memory: fresh memory costs more than what is computed in it.
        logits = given.new_empty(min(piece, len(given)), len(weight))
        scores = logits if dtype == wide else torch.empty_like(logits, dtype=wide)
        fused = passes(scores)
        for begin in range(0, len(given), piece):
            ours, target = given[begin : begin + piece], targets[begin : begin + piece, None]
            narrow, share = logits[: len(ours)], scores[: len(ours)]
            torch.mm(ours, weight.T, out=narrow)
            if dtype != wide:
                share.copy_(narrow)
            total += _to_surplus(fused, share, target, needed)
            if on_hidden is not None and on_weight is not None:
                _add_gradients(narrow.copy_(share), ours, weight, on_hidden[begin : begin + piece], on_weight)
        ctx.save_for_backward(on_hidden, on_weight)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        on_hidden, on_weight = ctx.saved_tensors
        return on_hidden * gradient.to(on_hidden.dtype), on_weight * gradient, None, None


def _multiplied(hidden: Tensor) -> torch.dtype:
    """What the products are computed in: within autocast its dtype, as those of the layers are."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _to_surplus(fused: Passes | None, scores: Tensor, target: Tensor, surplus: bool) -> Tensor:
    """As `_to_shares`; with `surplus` less one at the targets, which is the gradient of the loss."""
    if fused is not None and _known(target, scores.shape[1]):
        return fused.shares(scores, target.contiguous(), surplus).sum()
    loss = _to_shares(scores, target)
    if surplus:
        scores.scatter_add_(1, target, -torch.ones_like(target, dtype=scores.dtype))
    return loss


def _known(target: Tensor, vocabulary: int) -> bool:
    """Whether all are ids; PyTorch's operators say of others that they are none."""
    if target.dtype != torch.int64 or not target.is_cpu or not target.numel():
        return False
    low, high = target.aminmax()
    return int(low) >= 0 and int(high) < vocabulary


def _to_shares(scores: Tensor, target: Tensor) -> Tensor:
    """The summed loss of targets (n, 1), nats; scores (n, V) become their softmax, in place, as many rows as fit into
    the cache at a time.
    """
    loss, rows = scores.new_zeros(()), max(1, CACHED // scores.shape[1])
    for some, its in zip(scores.split(rows), target.split(rows), strict=True):
        right, highest = some.gather(1, its), some.amax(1, keepdim=True)
        total = some.sub_(highest).exp_().sum(1, keepdim=True)
        some.mul_(total.reciprocal())
        loss += (total.log() + highest - right).sum()
    return loss


def _add_gradients(surplus: Tensor, hidden: Tensor, weight: Tensor, on_hidden: Tensor, on_weight: Tensor) -> None:
    """The gradients of a piece: of its hidden states (n, D), and added to that of the weight (V, D)."""
    if surplus.dtype == on_hidden.dtype:
        torch.mm(surplus, weight, out=on_hidden)
    else:
        on_hidden.copy_(surplus @ weight)
    if surplus.dtype == on_weight.dtype:
        on_weight.addmm_(surplus.T, hidden)
    else:
        on_weight += surplus.T @ hidden
