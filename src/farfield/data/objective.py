"""What a model learns of a text: the next token, or tokens that were hidden from it.

    objective=next_token    tokens   T h e . A n d         targets  h e . ^ n d ^
    objective=masked        tokens   T ? e . A x d         targets  - h - - - n d      ? the mask, - not scored

Masked language modelling (BERT, https://arxiv.org/abs/1810.04805) is for encoders, which see both sides of a token. Of
the tokens that are chosen, most are replaced by the mask, some by another token at random, the rest stay. The choice
is drawn anew each time a batch is (RoBERTa's dynamic masking, https://arxiv.org/abs/1907.11692): it is a function of
the seed and of the batch's number alone, so that a run resumed sees the same.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from farfield.config import Config
from farfield.data.batch import PADDING, UNSCORED, Batch, Description, Source
from farfield.tokenizers import Tokenizer

__all__ = ["MaskedConfig", "MaskedSource", "NextTokenConfig", "ObjectiveConfig"]


class NextTokenConfig(Config):
    """Each token from those before it."""

    kind: Literal["next_token"] = "next_token"

    def vocabulary(self, tokenizer: int) -> int:
        """Ids that the model has, where its tokenizer has so many."""
        return tokenizer

    def source(self, source: Source, seed: int) -> Source:
        """The batches that the model learns from."""
        return source


class MaskedConfig(Config):
    """Hidden tokens from those on both sides."""

    kind: Literal["masked"] = "masked"
    share: float = Field(0.15, gt=0, lt=1, description="share of the tokens that are chosen, and scored")
    mask: float = Field(0.8, ge=0, le=1, description="share of the chosen tokens that the mask replaces")
    random: float = Field(0.1, ge=0, le=1, description="share of the chosen tokens that another token replaces")

    @model_validator(mode="after")
    def _fits(self) -> MaskedConfig:
        if self.mask + self.random > 1:
            raise ValueError(f"mask {self.mask} and random {self.random} are more than all chosen tokens (1.0).")
        return self

    def vocabulary(self, tokenizer: int) -> int:
        """One more than the tokenizer's: the last id is the mask."""
        return tokenizer + 1

    def source(self, source: Source, seed: int) -> Source:
        """The batches that the model learns from."""
        return MaskedSource(self, source, seed)


ObjectiveConfig = Annotated[NextTokenConfig | MaskedConfig, Field(discriminator="kind")]


class MaskedSource:
    """The batches of another source with hidden tokens; the mask is the id behind the tokenizer's last."""

    def __init__(self, config: MaskedConfig, source: Source, seed: int) -> None:
        self.config, self.inner, self.seed = config, source, seed

    @property
    def tokenizer(self) -> Tokenizer:
        return self.inner.tokenizer

    @property
    def tokens_per_batch(self) -> int:
        return self.inner.tokens_per_batch

    @property
    def validation_batches(self) -> int:
        return self.inner.validation_batches

    def batch(self, step: int) -> Batch:
        return self._hidden(self.inner.batch(step), (self.seed, 0, step))

    def validation(self, index: int) -> Batch:
        """The same tokens are hidden each time."""
        return self._hidden(self.inner.validation(index), (self.seed, 1, index))

    def describe(self) -> Description:
        config = self.config
        how = f"{config.share:g} of the tokens, of which {config.mask:g} masked and {config.random:g} random"
        return {**self.inner.describe(), "hidden": how}

    def _hidden(self, batch: Batch, key: tuple[int, int, int]) -> Batch:
        """At least one token of a batch that has any is chosen."""
        generator = np.random.default_rng(np.random.SeedSequence(key))
        shape, config, vocabulary = batch.tokens.shape, self.config, self.tokenizer.vocabulary
        draw = np.where(batch.positions != PADDING, generator.random(shape), np.inf)
        chosen = (draw < config.share) | (np.isfinite(draw) & (draw == draw.min()))
        how = generator.random(shape)
        others = generator.integers(0, vocabulary, shape)
        tokens = np.where(chosen & (how < config.mask), vocabulary, batch.tokens)
        tokens = np.where(chosen & (how >= config.mask) & (how < config.mask + config.random), others, tokens)
        return Batch(tokens, np.where(chosen, batch.tokens, UNSCORED), batch.positions)
