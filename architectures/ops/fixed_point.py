"""The fixed point of a step in which a token depends on earlier tokens only, computed for all tokens at once.

    k = f(k),  f(k)_t a function of k_s, s < t

From any start the n-th application fixes the n-th token, so that as many as there are tokens give what one token after
another would. Mostly far fewer do: a token is settled once neither it nor one before it has changed by more than
rounding, and from then on it stays. Whether it is depends on it and on tokens before it alone, so that neither the
future nor other rows move its last bits.

Gradients are those of the fixed point, with J = df/dk, without a history of the applications:

    dL/df = g + J^T g + J^T J^T g + ...        ends for the same reason, backward in time

That is implicit differentiation, as of deep equilibrium models (https://arxiv.org/abs/1909.01377), for a step whose
inverse is a finite sum.

Shapes: B batch, H heads, T time, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Step", "Values", "causal_fixed_point", "causal_fixed_point_definition", "repeated"]

ROUNDING = 8
"""Units in the last place of a token's largest number up to which it has not changed."""

Values = tuple[Tensor, ...]
"""Tensors (B, H, T, W), of whatever H and W each."""

Step = Callable[[Values], Values]


def causal_fixed_point_definition(step: Step, start: Values, time: int) -> Values:
    """`time` applications to `start`, with their history."""
    for _ in range(time):
        start = step(start)
    return start


def repeated(step: Step, start: Values, passes: int, tracked: int) -> Values:
    """`passes` applications without gradients, then `tracked` with them."""
    with torch.no_grad():
        start = causal_fixed_point_definition(step, start, passes)
    return causal_fixed_point_definition(step, start, tracked)


def causal_fixed_point(step: Step, start: Values, place: Tensor) -> Values:
    """The values with step(values) = values, and their gradients in all that `step` uses.

    Args:
        start: of the shapes of the result; their numbers do not matter, and no gradient reaches them.
        place: (B, T) int64, how many tokens before each one `step` makes it depend on; they stand just before it.
    """
    found = _settled(step, start, place)
    if not torch.is_grad_enabled():
        return found
    given = tuple(one.detach().requires_grad_() for one in found)
    made = step(given)
    solved: Values = _Solved.apply(given, made, int(place.max()), *made)  # type: ignore[no-untyped-call]
    return solved


@torch.no_grad()
def _settled(step: Step, start: Values, place: Tensor) -> Values:
    """Step after step, until every token is settled."""
    settled = torch.zeros_like(place, dtype=torch.bool)
    found = start
    for count in range(int(place.max()) + 1):
        after = step(found)
        now = place <= count
        if count:
            now = now | _quiet(found, after, place)
            kept = settled[:, None, :, None]
            after = tuple(torch.where(kept, old, new) for old, new in zip(found, after, strict=True))
        found, settled = after, settled | now
        if bool(settled.all()):
            break
    return found


def _quiet(before: Values, after: Values, place: Tensor) -> Tensor:
    """Which tokens (B, T) have not changed, nor has one that they depend on."""
    changed = torch.zeros_like(place, dtype=torch.bool)
    for old, new in zip(before, after, strict=True):
        allowed = ROUNDING * torch.finfo(new.dtype).eps * new.abs().amax((1, 3))
        changed |= ~((new - old).abs().amax((1, 3)) <= allowed)
    count = changed.cumsum(1)
    first = torch.arange(place.shape[1], device=place.device) - place
    return count == (count - changed.long()).gather(1, first)


class _Solved(torch.autograd.Function):
    """What a last application of the step makes of its own result, with the gradients of the fixed point."""

    @staticmethod
    def forward(ctx: Any, given: Values, made: Values, most: int, *values: Tensor) -> Values:
        ctx.given, ctx.made, ctx.most = given, made, most
        return tuple(one.view_as(one) for one in values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        total = term = gradients
        for _ in range(ctx.most):
            found = torch.autograd.grad(ctx.made, ctx.given, term, retain_graph=True, allow_unused=True)
            term = tuple(torch.zeros_like(a) if b is None else b for a, b in zip(total, found, strict=True))
            if all(_negligible(*pair) for pair in zip(term, total, strict=True)):
                break
            total = tuple(a + b for a, b in zip(total, term, strict=True))
        return (None, None, None, *total)


def _negligible(term: Tensor, total: Tensor) -> bool:
    """Whether `term` is below the rounding of the largest number of `total`, in every row."""
    largest = total.abs().amax((1, 2, 3))
    return bool((term.abs().amax((1, 2, 3)) <= torch.finfo(total.dtype).eps * largest).all())
