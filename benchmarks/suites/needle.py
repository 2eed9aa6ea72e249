"""The suite `needle`.

farfield evaluate suite=needle 'suite.lengths=[512,2048,8192]' suite.depths=5 suite.samples=50
farfield evaluate suite=needle 'suite.tasks=[multi_key,multi_value,multi_query,passkey,no_literal]'
"""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from farfield.benchmarks.suites.depths import Depths, depths_of
from farfield.benchmarks.suites.suite import AskedSuite, Count, Lengths, Several, chosen
from farfield.benchmarks.tasks.haystack import Haystack, load_haystack
from farfield.benchmarks.tasks.needle import Ground, Spacing, TokenNeedle
from farfield.benchmarks.tasks.no_literal import NO_LITERAL, NoLiteral
from farfield.benchmarks.tasks.pairs import Disjoint, Pairs
from farfield.benchmarks.tasks.sample import Task, Tokenizer
from farfield.benchmarks.tasks.stories import Keyed, ManyKeys, OneKey, Passkey, Story
from farfield.benchmarks.tasks.text_needle import TextNeedle
from farfield.benchmarks.tasks.token_plans import KeyedPairs, ManyPairs, OneKeyPairs, Plan, SaidTwice
from farfield.benchmarks.tasks.wording import KEYED, MANY_KEYS, ONE_KEY, PASSKEY
from farfield.benchmarks.tasks.wording_file import Wording
from farfield.config import ConfigError

__all__ = ["NeedleSuite"]

TEXTS = {
    "needle": KEYED,
    "multi_key": KEYED,
    "multi_value": ONE_KEY,
    "multi_query": MANY_KEYS,
    "passkey": PASSKEY,
    "no_literal": NO_LITERAL,
}
GROUNDS: dict[str, Ground] = {"noise": "noise", "repeat": "repeat", "needles": "needles"}


class NeedleSuite(AskedSuite):
    """Needle in a haystack: a heat map of recall over length and depth."""

    model_config = pydantic.ConfigDict(serialize_by_alias=True)

    kind: Literal["needle"] = "needle"
    named: Several[str] = pydantic.Field(("needle",), alias="tasks")
    # tokens: keys and values are single ids; text: sentences; auto: tokens for a model of the ids tokenizer.
    mode: Literal["auto", "tokens", "text"] = "auto"
    lengths: Lengths = (256, 512, 1024, 2048, 4096)
    depths: Depths = 11
    spacing: Spacing = "linear"
    # Of the task `needle`. Haystacks a cell (`samples`): each is asked `queries` questions, the first about the needle
    # at the cell's depth. One needle asks whether a value is remembered; several ask whether it is found by its key.
    needles: Count = 1
    queries: Count = 1
    # Needles of the other tasks that have several.
    several: Annotated[int, pydantic.Field(ge=2, le=64)] = 4
    # noise, repeat, needles, or a text file or a folder of them (text mode), read again from the start if `repeat`.
    # None: the usual of each task.
    haystack: str | None = None
    repeat: bool = False
    disjoint: Disjoint = "pairs"

    @pydantic.model_validator(mode="after")
    def _fit(self) -> NeedleSuite:
        if self.queries > self.needles:
            raise ValueError(f"queries={self.queries} asks for more than the needles={self.needles} there are.")
        chosen("needle", self.named, tuple(TEXTS))
        if self.mode != "auto":
            self._fits(self.mode)
        return self

    def places(self) -> tuple[float | None, ...]:
        return depths_of(self.depths, self.spacing)

    def tasks(self, tokenizer: Tokenizer) -> tuple[Task, ...]:
        mode: Literal["tokens", "text"] = "tokens" if tokenizer.kind == "ids" else "text"
        if self.mode not in ("auto", mode):
            raise ConfigError(
                f"needle: mode={self.mode} does not fit a model of the {tokenizer.kind} tokenizer. Take mode={mode}."
            )
        try:
            names = self._fits(mode)
        except ValueError as error:
            raise ConfigError(f"needle: {error}") from None
        return self._tokens(names, tokenizer) if mode == "tokens" else self._texts(names, tokenizer)

    def _tokens(self, names: tuple[str, ...], tokenizer: Tokenizer) -> tuple[Task, ...]:
        if self.wording is not None:
            raise ConfigError("suite.wording: text, and a model of the ids tokenizer reads none. Leave it out.")
        pairs = Pairs(tokenizer.vocabulary, self.disjoint)
        plans: dict[str, Plan] = {
            "needle": KeyedPairs(self.needles, self.queries),
            "multi_key": KeyedPairs(self.several, apart=True, name="multi_key"),
            "multi_value": OneKeyPairs(self.several),
            "multi_query": ManyPairs(self.several),
            "passkey": SaidTwice(),
        }
        return tuple(TokenNeedle(pairs, plans[name], GROUNDS[self._haystack(name)]) for name in names)

    def _texts(self, names: tuple[str, ...], tokenizer: Tokenizer) -> tuple[Task, ...]:
        wording = {name: Wording.of(name, TEXTS[name], self.wording, tuple(TEXTS)) for name in TEXTS}
        stories: dict[str, Story] = {
            "needle": Keyed(self.needles, self.queries, wording=wording["needle"]),
            "multi_key": Keyed(self.several, apart=True, name="multi_key", wording=wording["multi_key"]),
            "multi_value": OneKey(self.several, wording["multi_value"]),
            "multi_query": ManyKeys(self.several, wording["multi_query"]),
            "passkey": Passkey(wording["passkey"]),
            "no_literal": NoLiteral(self.several, wording["no_literal"]),
        }
        loaded: dict[str, Haystack | None] = {"needles": None}
        for haystack in {self._haystack(name) for name in names} - {"needles"}:
            loaded[haystack] = load_haystack(haystack, tokenizer, self.repeat, tuple(GROUNDS))
        return tuple(TextNeedle(tokenizer, loaded[self._haystack(name)], stories[name]) for name in names)

    def _haystack(self, name: str) -> str:
        """What a task is hidden in: the passkey, as published, in one text repeated, the others in noise."""
        return self.haystack or ("repeat" if name == "passkey" else "noise")

    def _fits(self, mode: Literal["tokens", "text"]) -> tuple[str, ...]:
        """The names of the tasks. Raises ValueError if the settings do not fit the mode, or a task does not."""
        if mode == "tokens" and self.haystack not in (None, *GROUNDS):
            raise ValueError(f"haystack={self.haystack} is text, and mode=tokens has none. Take {', '.join(GROUNDS)}.")
        names = chosen("needle", self.named, tuple(TEXTS))
        reasons = {name: self._misfit(name, mode) for name in names}
        for name in self.named:
            if reasons[name]:
                raise ValueError(reasons[name])
        return tuple(name for name in names if not reasons[name])

    def _misfit(self, name: str, mode: Literal["tokens", "text"]) -> str:
        """Why a task cannot be made; mostly empty."""
        if name == "no_literal" and mode == "tokens":
            return "no_literal asks what words mean, and mode=tokens has none. Leave it out of suite.tasks."
        if name == "passkey" and self.haystack == "needles":
            return "passkey hides the only password there is, haystack=needles would hide more. Take another haystack."
        return ""
