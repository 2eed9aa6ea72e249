"""Dilated attention: branches of longer and longer segments, of which each head keeps fewer and fewer tokens.

    branch i of segment w_i and rate r_i: a head with offset o keeps the positions p with (p mod w_i) mod r_i = o
    branch i of a query that is kept sees the kept m <= n of the same segment, floor(m / w_i) = floor(n / w_i)
    o_n = one softmax over the keys of all branches; a key that several branches hold counts once in each

    w 4, r 1   |0 1 2 3|4 5 6 7|8 9        w 8, r 2, offset 1   |. 1 . 3 . 5 . 7|. 9

One softmax over the multiset is the paper's mixing of branches by their log-sum-exps, with its exact gradient: the
published code takes the weights of the mixing as constants. Offsets follow the published code, o = floor(h / ceil(H /
r)), or the paper, o = h mod r. LongNet, Ding et al., https://arxiv.org/abs/2307.02486.

A branch of rate 1 is needed, so that every query sees itself. r_i divides w_i: the published code misplaces outputs
otherwise.

State: keys and values that each branch keeps of its open segments, at most sum_i 2 G W w_i / r_i numbers and a
little more where heads of keys serve several offsets: bounded. Work a token: at most 4 H W sum_i w_i / r_i.
Shapes: W width of a head, H heads, G heads of keys and values.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from farfield.architectures.derived import DerivedSettings, Group

__all__ = ["Branches", "DilatedConfig", "Offsets", "branch_groups", "check_branches"]

Branches = tuple[tuple[int, int], ...]
Offsets = Literal["grouped", "modulo"]


class DilatedConfig(DerivedSettings):
    """LongNet's dilated segments; bounded state, linear time."""

    form = "softmax in dilated segments, linear"
    source = "arxiv.org/abs/2307.02486"

    kind: Literal["dilated"] = "dilated"
    branches: Branches = Field(
        ((4, 1), (8, 2), (16, 4)), description="[segment in tokens, rate] of each branch; a rate divides its segment"
    )
    offsets: Offsets = Field(
        "grouped", description="which tokens a head keeps: grouped as the published code; modulo: head modulo rate"
    )

    def reach(self, layer: int, depth: int) -> int | None:
        """A token that begins a segment of every branch sees itself only."""
        return 0

    def bounded(self) -> str:
        return f"branches: the longest segment has {max((segment for segment, _ in self.branches), default=0)} tokens."

    def check(self, width: int) -> None:
        self.sizes(width)
        check_branches(self.branches)

    def patterns(self, heads: int, layer: int) -> list[Group]:
        return branch_groups(self.branches, self.offsets, heads)


def check_branches(branches: Branches) -> None:
    """Raise ValueError, in one line, where a rate does not divide its segment, or none is 1."""
    for segment, rate in branches:
        if segment < 1 or rate < 1:
            raise ValueError(f"branches: [{segment}, {rate}] given; both are at least 1.")
        if segment % rate:
            raise ValueError(
                f"branches: rate {rate} does not divide the segment {segment}. "
                f"Nearest segment: {max(1, round(segment / rate)) * rate}."
            )
    if all(rate > 1 for _, rate in branches):
        raise ValueError("branches: none has rate 1, so that some tokens would see nothing. Add one, as [16, 1].")


def branch_groups(branches: Branches, offsets: Offsets, heads: int) -> list[Group]:
    """The heads of each offset of each branch, and what they keep."""
    found = []
    for segment, rate in branches:
        share = -(-heads // rate)
        for offset in range(min(rate, heads)):
            some = range(offset * share, min((offset + 1) * share, heads))
            if offsets == "modulo":
                some = range(offset, heads, rate)
            if some:
                found.append(Group(some, segment, rate, offset))
    return found
