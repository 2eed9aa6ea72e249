"""Memory of amortized contexts: a bank of what each segment was about, read into a few vectors in front of the next.

    e_n = encoder(u; h_n)                         M learned queries u read the layers' outputs h_n of segment n
    p_n = aggregate(w + e_(n-1); e_0 .. e_(n-1))  learned queries w, told of the newest segment, read the whole bank
    [.; h_n] = layers([p_n; x_n])                 nothing stands before the first segment

Encoder and aggregate are blocks of cross-attention. In Tack et al., https://arxiv.org/abs/2403.04317, a second model
(T5) encodes each document by itself and a question that is known beforehand; the aggregate becomes keys and values of
every layer. Here the layers' own outputs are read, and the newest segment asks: nothing is computed twice, and text is
read as it comes. As there, `frozen` trains nothing but the memory, `lift` lets gradients reach a random share of the
bank's entries only (in training: a function of a seed, the steps done, and the number of the segment), and `group`
aggregates a large bank as a tree: groups of so many entries each become one, until one group is left. The tree is that
of the bank's limit, from the newest entry on, however many entries there are: rows do not depend on one another.

That is one document's stream. The bank of a set of documents, each read from its own start, is the same state: it holds
what each document `left`, and behind that the entry of a question, which is then the newest and asks. See
`farfield.amortized`.

State: limit D numbers, the keys and values of the open segment, and the layers'.
Shapes: B batch, L time of a step, M vectors of a segment, S vectors in the bank, D width, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from farfield.architectures.decoder import DecoderConfig
from farfield.architectures.feedforward import GELUConfig
from farfield.architectures.mixer import head_sizes
from farfield.architectures.state import KeyValueBuffer, State, static
from farfield.memory.cross_attention import CrossAttention, some
from farfield.memory.drawn import Drawn
from farfield.memory.framed import Frame, Place
from farfield.memory.prefix import Prefix, PrefixSettings

__all__ = ["AmortizedContexts", "AmortizedContextsConfig", "AmortizedState"]

DRAWN = 64  # segments after which the draw of which are lifted repeats
FINE = 2**20  # a share is compared with draws of so many values


class AmortizedContextsConfig(PrefixSettings):
    """A bank of vectors for every segment, aggregated by cross-attention in front of the next."""

    source = "arxiv.org/abs/2403.04317"

    kind: Literal["amortized"] = "amortized"
    name: str = Field("mac", description="what tables call it")
    tokens: int = Field(24, ge=1, description="vectors that a segment leaves, and that stand before a later one")
    limit: int = Field(
        1536, ge=1, description="vectors in the bank, a multiple of tokens; the oldest are dropped first"
    )
    blocks: int = Field(4, ge=1, description="blocks of cross-attention that aggregate the bank")
    heads: int | None = Field(None, ge=1, description="heads of cross-attention; null: width / head_width")
    head_width: int = Field(32, ge=1, description="width of a head where heads is null")
    group: int | None = Field(None, ge=2, description="segments aggregated at once, as a tree; null: all there are")
    lift: float = Field(1.0, gt=0, le=1, description="share of the bank's entries that gradients reach in training")
    frozen: bool = Field(False, description="train the memory alone, and leave layers, embedding and head as they are")

    @model_validator(mode="after")
    def _fits(self) -> AmortizedContextsConfig:
        if self.limit % self.tokens:
            near = max(1, round(self.limit / self.tokens)) * self.tokens
            raise ValueError(
                f".limit: {self.limit} given, but a segment leaves {self.tokens} vectors. Nearest multiple: {near}."
            )
        return self

    @property
    def freezes(self) -> bool:
        return self.frozen

    @property
    def frame(self) -> Frame:
        return Frame(self.tokens, 0, self.tokens, 0)

    def check(self, architecture: DecoderConfig) -> None:
        head_sizes(architecture.width, self.heads, self.head_width)

    def prefix(self, width: int) -> AmortizedContexts:
        return AmortizedContexts(self, width)

    def parameters(self, architecture: DecoderConfig) -> int:
        width = architecture.width
        return 2 * self.tokens * width + (1 + self.blocks) * CrossAttention.count(width)

    def own_bytes(self, width: int, tokens: int, element: int) -> int:
        open_tokens = (tokens - 1) % self.segment + 1 if tokens else 0
        return self.limit * width * element + open_tokens * 2 * width * element

    def own_flops(self, width: int, tokens: int) -> int:
        held = min(tokens // self.segment * self.tokens, self.limit)
        feedforward = GELUConfig().flops(width)
        query = self.tokens * (4 * width * width + feedforward)
        read = [query + 4 * width * self.tokens * self.segment]
        read += [query + held * (4 * width * width + 4 * width * self.tokens)] * (self.blocks if held else 0)
        return 4 * width * width + sum(read) // self.segment

    def levels(self) -> int:
        """How often groups become entries before the last aggregation."""
        entries, found = self.limit // self.tokens, 0
        while self.group is not None and entries > self.group:
            entries, found = -(-entries // self.group), found + 1
        return found


@dataclass(frozen=True, eq=False)
class AmortizedState(State):
    """The bank (B, S, D), the newest vectors last, and the keys and values of the open segment for the encoder.

    `drawn` says whether gradients reach a share of the entries only, where the settings have one.
    """

    bank: Tensor
    seen: KeyValueBuffer
    drawn: bool = static()


class AmortizedContexts(Prefix):
    """See the file's head."""

    def __init__(self, config: AmortizedContextsConfig, width: int) -> None:
        super().__init__()
        self.config, self.levels = config, config.levels()
        self.heads, self.head_width = head_sizes(width, config.heads, config.head_width)
        self.written, self.asked = (nn.Parameter(torch.empty(config.tokens, width)) for _ in range(2))
        for queries in (self.written, self.asked):
            nn.init.normal_(queries, std=width**-0.5)  # as embeddings
        self.encoder = CrossAttention(width, self.heads)
        self.blocks = nn.ModuleList(CrossAttention(width, self.heads) for _ in range(config.blocks))
        self.random = Drawn(DRAWN, 0, FINE - 1) if config.lift < 1 else None

    def start(self, batch: int) -> AmortizedState:
        return self.holding(self.written.new_zeros(batch, 0, self.written.shape[1]))

    def holding(self, vectors: Tensor, drawn: bool = True) -> AmortizedState:
        """The state whose bank holds these vectors (B, S, D), the newest last, at most the limit; nothing is open."""
        bank = nn.functional.pad(vectors, (0, 0, self.config.limit - vectors.shape[1], 0))
        seen = KeyValueBuffer.empty(len(bank), self.heads, self.head_width, self.written, self.config.segment)
        return AmortizedState(bank, seen, drawn)

    def left(self, state: AmortizedState, length: Tensor) -> tuple[Tensor, Tensor]:
        """What documents of `length` (B,) tokens leave when they end: an open segment leaves its vectors too.

        Returns:
            vectors (B, S, D), the newest last, and how many of them, the last ones, are a row's own (B,).
        """
        config, bank = self.config, state.bank
        opened = length % config.segment > 0
        if bool(opened.any()):
            longer = torch.cat((bank[:, config.tokens :], self._entry(state.seen).to(bank.dtype)), 1)
            bank = torch.where(opened[:, None, None], longer, bank)
        segments = length.add(config.segment - 1).div(config.segment, rounding_mode="floor")
        count = (segments * config.tokens).clamp(max=config.limit)
        return bank[:, config.limit - int(count.max()) :], count

    def lifted(self, number: Tensor) -> Tensor:
        """Which of the entries, or documents, of these numbers (N,) gradients reach (N,), where a share is set."""
        if self.random is None or not self.training:
            return torch.ones_like(number, dtype=torch.bool)
        return self.random.values[number % DRAWN] < self.config.lift * FINE

    def opened(self, state: AmortizedState, place: Place) -> AmortizedState:
        bank = place.begins.choose(torch.zeros_like(state.bank), state.bank) if place.begins.any else state.bank
        return AmortizedState(bank, state.seen.detach() if place.opens.every else state.seen, state.drawn)

    def before(self, state: AmortizedState, place: Place, count: int) -> Tensor:
        held = (place.number * self.config.tokens).clamp(max=self.config.limit)
        if place.known is not None:
            most = min(place.known * self.config.tokens, self.config.limit)
        else:
            most = int((held * place.opens.rows).max())
        unit = (self.config.group or 1) * self.config.tokens  # whole groups, counted from the newest entry
        columns = min(-(-most // unit) * unit, self.config.limit)
        bank = state.bank[:, self.config.limit - columns :]
        valid = torch.arange(columns, device=bank.device) >= columns - held[:, None]
        question = self.asked + bank[:, columns - self.config.tokens :]
        return self._aggregated(question, bank, valid)

    def _aggregated(self, question: Tensor, bank: Tensor, valid: Tensor) -> Tensor:
        """What the question (B, M, D) reads from the bank (B, S, D), where valid (B, S): level by level."""
        unit = (self.config.group or 1) * self.config.tokens
        for _ in range(self.levels):
            short = -bank.shape[1] % unit
            groups = nn.functional.pad(bank, (0, 0, short, 0)).unflatten(1, (-1, unit))
            inside = nn.functional.pad(valid, (short, 0)).unflatten(1, (-1, unit))
            count = groups.shape[1]
            asked = question[:, None].expand(-1, count, -1, -1).flatten(0, 1)
            bank = self._read(asked, groups.flatten(0, 1), inside.flatten(0, 1)).unflatten(0, (-1, count)).flatten(1, 2)
            valid = inside.any(2).repeat_interleave(self.config.tokens, 1)
        return self._read(question, bank, valid)

    def _read(self, question: Tensor, bank: Tensor, valid: Tensor) -> Tensor:
        """Through all blocks."""
        for block in self.blocks:
            assert isinstance(block, CrossAttention)
            question = block(question, *block.keys(bank), some(valid))
        return question

    def behind(self, state: AmortizedState) -> Tensor:
        raise AssertionError("nothing stands behind its segments")

    def closed(self, state: AmortizedState, tokens: Tensor, behind: Tensor, place: Place) -> AmortizedState:
        keys, values = self.encoder.keys(tokens)
        seen = state.seen.cast(keys.dtype).append(keys, values, place.within)
        if not place.ends.any:
            return AmortizedState(state.bank, seen, state.drawn)
        entry = self._entry(seen).to(state.bank.dtype)
        if self.random is not None and self.training and state.drawn:
            entry = torch.where(self.lifted(place.number)[:, None, None], entry, entry.detach())
        bank = place.ends.choose(torch.cat((state.bank[:, self.config.tokens :], entry), 1), state.bank)
        return AmortizedState(bank, seen, state.drawn)

    def _entry(self, seen: KeyValueBuffer) -> Tensor:
        """The vectors (B, M, D) of what has been seen of a segment; they mean nothing in rows that have seen none."""
        keys, values, valid = seen.read()
        queries = self.written.expand(len(keys), -1, -1)
        found: Tensor = self.encoder(queries, keys, values, None if valid is None else some(valid))
        return found
