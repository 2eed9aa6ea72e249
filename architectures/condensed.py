"""Keys from above: queries of lower layers read the keys of a higher one, which exist only behind a token's own pass.

    token n, layer i < keeper:   q_i,n reads (k_m, v_m) of the keeper, m < n        its own is not there yet
    token n, layer = keeper:     as ever, m <= n

Token by token that is plain: a decoded token reads what the state has. A call of many tokens needs keys that it is
about to make: they are the fixed point k = f(k) of a pass through the layers, in which a token depends on the tokens
before it only. Layer-Condensed KV Cache (https://arxiv.org/abs/2405.10637) makes 7 passes without gradients and 2 with
them; here passes are made until no key changes any more, which is what one token after another would give, whatever
the split into calls. The published form is a setting beside it.

Work: as many passes through these layers as it takes, see docs/log.md; two of them keep activations for the gradients.
Shapes: B batch, T time, G heads of keys and values, W width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from farfield.architectures.mixer import Kept
from farfield.architectures.ops.fixed_point import Values, causal_fixed_point, repeated
from farfield.architectures.rows import Rows
from farfield.architectures.state import KeyValueBuffer

__all__ = ["condensed_keys"]

Pass = Callable[[Mapping[int, Kept]], Mapping[int, Kept]]


def condensed_keys(
    run: Pass, before: Mapping[int, KeyValueBuffer], rows: Rows, plan: tuple[int, int] | None
) -> dict[int, Kept]:
    """What the keepers keep of the call, by layer, for queries that do not see the key of their own token.

    Args:
        run: a pass through the layers, from what was kept in the pass before it to what they keep.
        before: what each keeper has of earlier calls.
        plan: passes without and with gradients, the one that follows included; None: until nothing changes.
    """

    def lent(values: Values) -> dict[int, Kept]:
        pairs = zip(before.items(), values[::2], values[1::2], strict=True)
        return {index: Kept(keys, held, near, own=False) for (index, near), keys, held in pairs}

    def step(values: Values) -> Values:
        kept = run(lent(values))
        return tuple(part for index in before for part in (kept[index].keys, kept[index].values))

    start: list[Tensor] = []
    for near in before.values():
        start += [
            part.new_zeros(rows.batch, part.shape[1], rows.time, part.shape[3]) for part in (near.keys, near.values)
        ]
    place = _place(rows)
    if not bool(place.any()):
        return lent(tuple(start))
    if plan is not None:
        return lent(repeated(step, tuple(start), plan[0], plan[1] - 1))
    return lent(causal_fixed_point(step, tuple(start), place))


def _place(rows: Rows) -> Tensor:
    """(B, T): how many tokens of its own document stand before each one in the call; 0 for padding."""

    def make() -> Tensor:
        first = torch.where(rows.document == 0, rows.following, 0)
        return torch.where(rows.real, rows.positions - first, 0)

    return rows.once("place in the call", make)
