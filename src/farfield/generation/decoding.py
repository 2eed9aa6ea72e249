"""Rows that are being continued, one token after another.

Shapes: B batch, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from farfield.captured import CapturedDecoding, uncaptured
from farfield.config import ModelError
from farfield.fetching import Fetching
from farfield.knn import Mixing
from farfield.model import LanguageModel, ModelState
from farfield.sampling import GenerationConfig, choose, drawing

__all__ = ["Continues", "Decoding", "Held", "continuing", "no_graph"]


class Continues(Protocol):
    """Rows that are being continued, by whatever model."""

    @property
    def config(self) -> GenerationConfig:
        """How."""

    @property
    def rows(self) -> list[int]:
        """Those that go on."""

    def ids(self) -> dict[int, int]:
        """The next id of every row that goes on, by row."""

    def advance(self, ended: set[int]) -> None:
        """Read the ids just chosen, but for rows that have `ended`."""


@dataclass
class Decoding:
    """Rows that are being continued. Rows that have ended are taken out, so that they cost nothing more."""

    model: LanguageModel
    logits: Tensor
    state: ModelState
    config: GenerationConfig
    fetching: Fetching | None = None
    mixing: Mixing | None = None
    rows: list[int] = field(default_factory=list)
    generators: list[torch.Generator] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = list(range(self.logits.shape[0]))
        self.generators = drawing(self.config, len(self.rows))

    @torch.no_grad()
    def ids(self) -> dict[int, int]:
        """The next id of every row that goes on, by row."""
        self._next = choose(self.logits, self.config, self.generators)
        return dict(zip(self.rows, self._next.tolist(), strict=True))

    @torch.no_grad()
    def advance(self, ended: set[int]) -> None:
        """Read the ids just chosen, but for rows that have `ended`."""
        kept = [place for place, row in enumerate(self.rows) if row not in ended]
        tokens = self._next
        if self.mixing is not None:
            self.mixing.came(tokens.tolist())
        if len(kept) < len(self.rows):
            index = torch.tensor(kept, dtype=torch.int64, device=tokens.device)
            tokens, self.state = tokens[index], self.state.select(index)
            self.rows = [self.rows[place] for place in kept]
            self.generators = [self.generators[place] for place in kept]
            if self.fetching is not None:
                self.fetching.select(kept)
            if self.mixing is not None:
                self.mixing.select(kept)
        if self.rows:
            tokens = tokens[:, None]
            found = None if self.fetching is None else self.fetching.read(tokens, torch.ones_like(tokens).bool())
            read = self.model.hidden if self.mixing is None else self.mixing.read
            hidden, self.state = read(tokens, self.state, passages=found)
            self.logits = (self.model.head if self.mixing is None else self.mixing.logits)(hidden[:, -1])


class Held(Continues, Protocol):
    """Rows of a model of ours that are being continued."""

    @property
    def logits(self) -> Tensor:
        """Logits (B, V) behind the rows that go on."""

    @property
    def state(self) -> ModelState:
        """The state behind the rows that go on."""


def continuing(
    model: LanguageModel,
    logits: Tensor,
    state: ModelState,
    config: GenerationConfig,
    fetching: Fetching | None = None,
    mixing: Mixing | None = None,
) -> Held:
    """Rows that are being continued behind what `prefill` returned: by a captured graph where that is possible.

    Raises:
        ModelError: a graph is asked for, and none can be captured.
    """
    reason = no_graph(model, config, mixing, state)
    if reason is None and config.capture:
        return CapturedDecoding(model, logits, state, config)
    return Decoding(model, logits, state, config, fetching, mixing)


def no_graph(
    model: LanguageModel, config: GenerationConfig, mixing: Mixing | None, state: ModelState | None = None
) -> str | None:
    """Why no graph can be captured; raises ModelError where one is asked for."""
    reason = uncaptured(model, state)
    if reason is None and mixing is not None:
        reason = "a datastore is searched for every token"
    if reason is not None and config.capture is True:
        raise ModelError(f"generation.capture: true given, but {reason}. Take auto or false.")
    return reason
