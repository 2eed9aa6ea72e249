"""The suite `needle`.

farfield evaluate suite=needle 'suite.lengths=[512,2048,8192]' suite.depths=5 suite.samples=50
"""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from farfield.benchmarks.suites.suite import AskedSuite, Count, Lengths
from farfield.benchmarks.tasks.haystack import load_haystack
from farfield.benchmarks.tasks.needle import Spacing, TokenNeedle, spread
from farfield.benchmarks.tasks.pairs import Disjoint, Pairs
from farfield.benchmarks.tasks.sample import Task, Tokenizer
from farfield.benchmarks.tasks.text_needle import TextNeedle
from farfield.config import ConfigError

__all__ = ["NeedleSuite"]


class NeedleSuite(AskedSuite):
    """Needle in a haystack: a heat map of recall over length and depth."""

    kind: Literal["needle"] = "needle"
    # tokens: keys and values are single ids; text: sentences; auto: tokens for a model of the ids tokenizer.
    mode: Literal["auto", "tokens", "text"] = "auto"
    lengths: Lengths = (256, 512, 1024, 2048, 4096)
    depths: Annotated[int, pydantic.Field(ge=1, le=1000)] | tuple[float, ...] = 11
    spacing: Spacing = "linear"
    # Haystacks a cell (`samples`): each is asked `queries` questions, the first about the needle at the cell's depth.
    # One needle asks whether a value is remembered; several ask whether it is found by its key.
    needles: Count = 1
    queries: Count = 1
    # noise, repeat, or a text file or a folder of them (text mode), read again from the start if `repeat`.
    haystack: str = "noise"
    repeat: bool = False
    disjoint: Disjoint = "pairs"

    @pydantic.field_validator("depths")
    @classmethod
    def _shares(cls, depths: int | tuple[float, ...]) -> int | tuple[float, ...]:
        if isinstance(depths, int):
            return depths
        if not depths or list(depths) != sorted(set(depths)) or depths[0] < 0 or depths[-1] > 1:
            raise ValueError(f"{list(depths)} given. Give a number of depths, or depths from 0 to 1 in rising order.")
        return depths

    @pydantic.model_validator(mode="after")
    def _fit(self) -> NeedleSuite:
        if self.queries > self.needles:
            raise ValueError(f"queries={self.queries} asks for more than the needles={self.needles} there are.")
        if self.mode != "auto":
            self._fits(self.mode)
        return self

    def places(self) -> tuple[float | None, ...]:
        return spread(self.depths, self.spacing) if isinstance(self.depths, int) else self.depths

    def tasks(self, tokenizer: Tokenizer) -> tuple[Task, ...]:
        mode: Literal["tokens", "text"] = "tokens" if tokenizer.kind == "ids" else "text"
        if self.mode not in ("auto", mode):
            raise ConfigError(
                f"needle: mode={self.mode} does not fit a model of the {tokenizer.kind} tokenizer. Take mode={mode}."
            )
        try:
            self._fits(mode)
        except ValueError as error:
            raise ConfigError(f"needle: {error}") from None
        if mode == "tokens":
            pairs = Pairs(tokenizer.vocabulary, self.disjoint)
            return (TokenNeedle(pairs, self.needles, self.queries, repeat=self.haystack == "repeat"),)
        haystack = load_haystack(self.haystack, tokenizer, self.repeat)
        return (TextNeedle(tokenizer, haystack, self.needles, self.queries),)

    def _fits(self, mode: Literal["tokens", "text"]) -> None:
        if mode == "tokens" and self.haystack not in ("noise", "repeat"):
            raise ValueError(f"haystack={self.haystack} is text, and mode=tokens has none. Take noise or repeat.")
        if mode == "text" and self.scoring == "likelihood":
            raise ValueError("scoring=likelihood compares single ids, and mode=text has none. Take scoring=generate.")
