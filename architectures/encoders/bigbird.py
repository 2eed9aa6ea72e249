"""BigBird: a window of blocks, global tokens, and a few random blocks for each block.

    block i of `block` tokens, block i of position n: i = floor(n / block)
    token n          one softmax over blocks i - 1, i, i + 1, {m < g} and r random blocks; a key once
    global token n   (n < g) one softmax over all m

    block 1, g 1, r 1:   x x x x x x
                         x x x . x .
                         x x x x . x
                         x . x x x x
                         x x . x x x
                         x . x . x x

Slot j of the r random blocks draws among the j-th, (j + r)-th, (j + 2 r)-th, ... of the blocks that begin behind the g
global positions and are not in the window, by a hash of (seed, layer, head, i, j): no block is drawn twice, and a
document sees the same blocks wherever it stands. Zaheer et al., https://arxiv.org/abs/2007.14062, with tokens of the
document itself as global ones.

Work a token: that of the projections and 4 H W ((3 + r) block + 2 g): linear in length.
Shapes: N documents, S tokens of the longest of them, H heads, W width of a head, B blocks, R slots.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from farfield.architectures.encoders.documents import all_tokens, count
from farfield.architectures.encoders.softmax import SoftmaxEncoder, SoftmaxEncoderSettings
from farfield.architectures.mixer import Heads
from farfield.architectures.ops.alibi import Alibi, alike
from farfield.architectures.ops.attention import Part, attention
from farfield.architectures.ops.counted import Blocks, Counted
from farfield.architectures.ops.layouts import Full
from farfield.architectures.rows import Rows
from farfield.architectures.sparse import draw

__all__ = ["BigBirdEncoder", "BigBirdEncoderConfig"]


class BigBirdEncoderConfig(SoftmaxEncoderSettings):
    """A window of blocks, global tokens and random blocks; linear time."""

    form = "softmax in blocks of a sparse pattern, linear"
    source = "arxiv.org/abs/2007.14062"

    kind: Literal["bigbird"] = "bigbird"
    block: int = Field(16, ge=1, description="tokens in a block; a token sees its own block and both neighbours")
    globals: int = Field(2, ge=0, description="positions at the start of a document that see all and that all see")
    random: int = Field(2, ge=0, description="further blocks that are drawn for each block")
    seed: int = Field(0, ge=0, lt=2**31, description="what the draws depend on, with layer, head and block")

    def build(self, width: int, layer: int, depth: int) -> BigBirdEncoder:
        return BigBirdEncoder(self, width, layer)

    def seen(self, heads: int, tokens: int, layer: int, depth: int) -> float:
        prefix = min(self.globals, tokens)
        return heads * (min(tokens, (3 + self.random) * self.block + prefix) + prefix)


class BigBirdEncoder(SoftmaxEncoder):
    """See the file's head."""

    def __init__(self, config: BigBirdEncoderConfig, width: int, layer: int) -> None:
        super().__init__(config, width)
        self.config, self.layer = config, layer
        self.block, self.globals = config.block, config.globals

    def attend(self, heads: Heads, x: Tensor, rows: Rows) -> Tensor:
        q, k, v, prefix = heads.queries, heads.keys, heads.values, min(self.globals, rows.time)
        real = count(rows)
        index = rows.once(("bigbird", self.config, self.layer, self.heads), lambda: self._named(rows))
        slopes = alike(self.slopes, q)
        parts = [Part(q, k, v, Blocks(self.block, index, self.globals, real, slopes))]
        if prefix:
            alibi = Alibi.run(slopes, rows.time, prefix)
            first = Full(alibi) if real is None else Counted(real.clamp(max=prefix), alibi)
            parts.append(Part(q, k[:, :, :prefix], v[:, :, :prefix], first))
        out, _ = attention(parts, self.scale, self.backend)
        if not prefix:
            return out
        layout = all_tokens(rows, Alibi.run(slopes, prefix, rows.time))
        every, _ = attention([Part(q[:, :, :prefix], k, v, layout)], self.scale, self.backend)
        return torch.cat((every, out[:, :, prefix:]), 2)

    def _named(self, rows: Rows) -> Tensor:
        """The blocks (N or 1, H, B, 3 + R) that each block sees, -1 where there is none."""
        most, real = -(-rows.time // self.block), count(rows)
        blocks = torch.tensor([rows.time], device=rows.device) if real is None else real
        blocks = -(-blocks // self.block)
        near = torch.arange(most, device=rows.device)[:, None] + torch.tensor([-1, 0, 1], device=rows.device)
        near = torch.where(near < blocks.view(-1, 1, 1, 1), near, -1).clamp(min=-1)
        return torch.cat((near.expand(-1, self.heads, -1, -1), self._drawn(blocks, most)), -1)

    def _drawn(self, blocks: Tensor, most: int) -> Tensor:
        """The random blocks (N, H, most, R) of documents of `blocks` (N,) blocks, -1 where there is none."""
        first, slots, device = -(-self.globals // self.block), self.config.random, blocks.device
        block, slot = torch.arange(most, device=device)[:, None], torch.arange(slots, device=device)
        head, total = torch.arange(self.heads, device=device).view(-1, 1, 1), blocks.view(-1, 1, 1, 1)
        low, high = (block - 1).clamp(min=first), torch.minimum(block + 1, total - 1)
        window = (high - low + 1).clamp(min=0)
        many = (total - first - window - slot + slots - 1).div(max(slots, 1), rounding_mode="floor")
        chosen = slot + slots * (draw(self.config.seed, self.layer, head, block, slot) % many.clamp(min=1)) + first
        return torch.where(many > 0, chosen + torch.where(chosen >= low, window, 0), -1)
