"""Softmax attention over the whole document, in both directions: the yardstick of the others.

    o_n = softmax_m(q_n . k_m / sqrt(W)) v_m,  m in the same document

Vaswani et al., https://arxiv.org/abs/1706.03762, as the encoder of BERT, https://arxiv.org/abs/1810.04805, has it.
Work a token of a document of S: that of the projections and 4 H W S. Memory is linear in length.
Shapes: H heads, W width of a head, S tokens of the document.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from farfield.architectures.encoders.documents import all_tokens
from farfield.architectures.encoders.softmax import SoftmaxEncoder, SoftmaxEncoderSettings
from farfield.architectures.mixer import Heads
from farfield.architectures.ops.alibi import Alibi, alike
from farfield.architectures.ops.attention import Part, attention
from farfield.architectures.rows import Rows

__all__ = ["AttentionEncoder", "AttentionEncoderConfig"]


class AttentionEncoderConfig(SoftmaxEncoderSettings):
    """Softmax attention over the whole document, in both directions."""

    form = "softmax in blocks, quadratic"
    source = "arxiv.org/abs/1706.03762"

    kind: Literal["attention"] = "attention"

    def build(self, width: int, layer: int, depth: int) -> AttentionEncoder:
        return AttentionEncoder(self, width)

    def seen(self, heads: int, tokens: int, layer: int, depth: int) -> float:
        return heads * tokens


class AttentionEncoder(SoftmaxEncoder):
    """See the file's head."""

    def attend(self, heads: Heads, x: Tensor, rows: Rows) -> Tensor:
        alibi = Alibi.run(alike(self.slopes, heads.queries), rows.time, rows.time)
        part = Part(heads.queries, heads.keys, heads.values, all_tokens(rows, alibi))
        return attention([part], self.scale, self.backend)[0]
