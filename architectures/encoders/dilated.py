"""Dilated attention in both directions: branches of longer and longer segments, of which each head keeps fewer tokens.

    branch i of segment w_i and rate r_i: a head with offset o keeps the positions p with (p mod w_i) mod r_i = o
    branch i of a query that is kept sees the kept m of the same segment, floor(m / w_i) = floor(n / w_i)
    o_n = one softmax over the keys of all branches; a key that several branches hold counts once in each

    w 4, r 1   |0 1 2 3|4 5 6 7|8 9        w 8, r 2, offset 1   |. 1 . 3 . 5 . 7|. 9

LongNet, Ding et al., https://arxiv.org/abs/2307.02486. One softmax over the multiset is the paper's mixing of branches
by their log-sum-exps, with its exact gradient: the published code takes the weights of the mixing as constants. It also
fills the last segment with zeros, which take weight; here it ends where the document does.

A branch of rate 1 is needed, so that every query sees itself, and r_i divides w_i.

Work a token: that of the projections and at most 4 H W sum_i w_i / r_i^2. Linear in length.
Shapes: W width of a head, H heads.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from farfield.architectures.derived import Group, cut, serving, taken
from farfield.architectures.dilated import Branches, Offsets, branch_groups, check_branches
from farfield.architectures.encoders.documents import count
from farfield.architectures.encoders.softmax import SoftmaxEncoder, SoftmaxEncoderSettings
from farfield.architectures.mixer import Heads
from farfield.architectures.ops.alibi import alike
from farfield.architectures.ops.attention import Part, attention
from farfield.architectures.ops.place import Place
from farfield.architectures.ops.runs import Aligned
from farfield.architectures.rows import Rows

__all__ = ["DilatedEncoder", "DilatedEncoderConfig"]


class DilatedEncoderConfig(SoftmaxEncoderSettings):
    """LongNet's dilated segments in both directions; linear time."""

    form = "softmax in dilated segments, linear"
    source = "arxiv.org/abs/2307.02486"

    kind: Literal["dilated"] = "dilated"
    branches: Branches = Field(
        ((16, 1), (32, 2), (64, 4)), description="[segment in tokens, rate] of each branch; a rate divides its segment"
    )
    offsets: Offsets = Field(
        "grouped", description="which tokens a head keeps: grouped as the published code; modulo: head modulo rate"
    )

    def check(self, width: int) -> None:
        self.sizes(width)
        check_branches(self.branches)

    def build(self, width: int, layer: int, depth: int) -> DilatedEncoder:
        return DilatedEncoder(self, width)

    def seen(self, heads: int, tokens: int, layer: int, depth: int) -> float:
        groups = branch_groups(self.branches, self.offsets, heads)
        return sum(len(group.heads) * min(group.segment, tokens) / group.rate**2 for group in groups)


class DilatedEncoder(SoftmaxEncoder):
    """See the file's head."""

    def __init__(self, config: DilatedEncoderConfig, width: int) -> None:
        super().__init__(config, width)
        self.groups = branch_groups(config.branches, config.offsets, self.heads)

    def attend(self, heads: Heads, x: Tensor, rows: Rows) -> Tensor:
        parts = [self._part(group, heads, rows) for group in self.groups if group.offset < rows.time]
        return attention(parts, self.scale, self.backend)[0]

    def _part(self, group: Group, heads: Heads, rows: Rows) -> Part:
        """The kept tokens of a group, every rate-th column: its segments are runs of them."""
        some, kept = serving(group.heads, self.heads, self.kv_heads), slice(group.offset, None, group.rate)
        keys, values = (taken(part, some)[:, :, kept] for part in (heads.keys, heads.values))
        real = count(rows)
        if real is not None:
            real = (real - group.offset + group.rate - 1).div(group.rate, rounding_mode="floor")
        slopes = alike(self.slopes, keys)
        if slopes is not None:  # of a kept token, which stands for `rate` of them
            slopes = slopes[cut(group.heads)] * group.rate
        layout = Aligned(group.length, real, slopes)
        return Part(heads.queries, keys, values, layout, Place(cut(group.heads), kept))
