"""Shifted sparse attention: half of the heads attend inside groups of tokens, half inside groups shifted by a half.

    heads h < H / 2     o_n = softmax_m(q_n . k_m / sqrt(W)) v_m,  m <= n,  floor(m / g) = floor(n / g)
    the other heads     the same with floor((m + g / 2) / g) = floor((n + g / 2) / g)

    g = 4, first half   |0 1 2 3|4 5 6 7|8 9      second half   |0 1|2 3 4 5|6 7 8 9|

S^2-Attn of LongLoRA, Chen et al., https://arxiv.org/abs/2309.12307, with a fixed g in place of a quarter of the length,
and counted from the document's start. The first half-group stands alone: the released code without FlashAttention rolls
the sequence around and lets it attend to the last tokens. There it is a form of training for models that answer with
full attention; here one trains and answers with it. Information moves on by half a group a layer.

State: keys and values of the open groups, at most 2 G W g numbers: bounded. Work a token: at most 4 H W g.
Shapes: W width of a head, H heads, G heads of keys and values, g tokens in a group.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from farfield.architectures.derived import DerivedSettings, Group

__all__ = ["S2Config"]


class S2Config(DerivedSettings):
    """LongLoRA's shifted groups of tokens; bounded state, linear time."""

    form = "softmax in groups, linear"
    source = "arxiv.org/abs/2309.12307"

    kind: Literal["s2"] = "s2"
    group: int = Field(16, ge=2, description="tokens in a group; even")

    def reach(self, layer: int, depth: int) -> int | None:
        """Of the two halves of the heads, one at least sees half a group back."""
        return self.group // 2

    def bounded(self) -> str:
        return f"group: {self.group} tokens see each other."

    def check(self, width: int) -> None:
        heads, _, _ = self.sizes(width)
        if heads % 2:
            raise ValueError(f"heads: {heads} given; half of them are shifted, so an even number is needed.")
        if self.group % 2:
            raise ValueError(f"group: {self.group} given; groups are shifted by half, so an even number is needed.")

    def patterns(self, heads: int, layer: int) -> list[Group]:
        half = heads // 2
        return [Group(range(half), self.group), Group(range(half, heads), self.group, first=self.group // 2)]
