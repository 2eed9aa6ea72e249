"""Passages into a prompt: as many as fit, in an order that suits who reads them. Text only; it knows no model.

[1] Handbook > Leave                        <- `passage`, once for each
Leave is signed by the head of the unit.

Question: Who signs for it?                <- `prompt`, around all of them
Answer:
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator

from farfield.config import Config, ConfigError, unknown
from farfield.retrieval.hits import Hit

__all__ = ["PLACELESS", "Prompt", "PromptConfig", "build_prompt"]

PROMPT_FIELDS = ("passages", "question")
PLACELESS = "prompt.prompt: the template lacks {passages}, which the index finds."
PASSAGE_FIELDS = ("number", "path", "source", "title", "heading", "label", "text")


class PromptConfig(Config):
    """How passages reach a model.

    Attributes:
        tokens: budget of the whole prompt, the question and all words around it included.
        order: `score` puts the best last, next to the question, where every kind of model sees it best (one with a
            decaying state above all); `position` keeps the order of the documents.
        passage: of {number}, {source}, {path}, {title}, {heading}, {label} and {text}; a label is the title, or the
            headings above the passage.
        prompt: of {passages} and {question}; of the question alone where no passages are given.
    """

    tokens: int = Field(default=1024, ge=1)
    order: Literal["score", "position"] = "score"
    passage: str = "[{number}] {label}\n{text}\n\n"
    prompt: str = "{passages}Question: {question}\nAnswer:"

    @field_validator("passage")
    @classmethod
    def _passage_fields(cls, template: str) -> str:
        return _checked(template, PASSAGE_FIELDS, needed=("text",))

    @field_validator("prompt")
    @classmethod
    def _prompt_fields(cls, template: str) -> str:
        return _checked(template, PROMPT_FIELDS, needed=("question",))

    @property
    def shows_passages(self) -> bool:
        """Whether passages have a place in the prompt."""
        return any(name == "passages" for _, name, _, _ in string.Formatter().parse(self.prompt))


@dataclass(frozen=True)
class Prompt:
    """A prompt, how many tokens it has, and the passages in it: passage number i is `used[i - 1]`."""

    text: str
    tokens: int
    used: tuple[Hit, ...]


def build_prompt(hits: Sequence[Hit], question: str, count: Callable[[str], int], settings: PromptConfig) -> Prompt:
    """The prompt with the best of `hits` that fit; one too long for what is left gives way to the next.

    Args:
        hits: passages, the best first.
        question: what is asked.
        count: how many tokens a text has.
        settings: the budget, the order and the templates.

    Raises:
        ConfigError: the question alone does not fit, or the template has no place for passages.
    """
    if hits and not settings.shows_passages:
        raise ConfigError(PLACELESS)
    best = Prompt(text := _written([], question, settings), count(text), ())
    if best.tokens > settings.tokens:
        raise ConfigError(f"prompt.tokens: {settings.tokens} given, but the question alone needs {best.tokens}.")
    chosen: list[Hit] = []
    for hit in hits:
        ordered = _ordered([*chosen, hit], settings)
        text = _written(ordered, question, settings)
        tokens = count(text)
        if tokens <= settings.tokens:
            chosen.append(hit)
            best = Prompt(text, tokens, tuple(ordered))
    return best


def _ordered(chosen: list[Hit], settings: PromptConfig) -> list[Hit]:
    """`chosen`, the best first, in the order in which they are read."""
    if settings.order == "position":
        return sorted(chosen, key=lambda hit: (hit.path, hit.key, hit.start))
    return chosen[::-1]


def _written(hits: Sequence[Hit], question: str, settings: PromptConfig) -> str:
    passages = [
        settings.passage.format(
            number=number,
            path=hit.path,
            source=hit.source,
            title=hit.title,
            heading=hit.heading,
            label=hit.heading or hit.title,
            text=hit.text.strip(),
        )
        for number, hit in enumerate(hits, start=1)
    ]
    return settings.prompt.format(passages="".join(passages), question=question.strip())


def _checked(template: str, known: Sequence[str], needed: Sequence[str]) -> str:
    """`template` if it uses `known` fields only, plainly, and all that are needed."""
    given = []
    for _, name, form, conversion in string.Formatter().parse(template):
        if name is None:
            continue
        if name not in known or form or conversion:
            raise ValueError(unknown("unknown field", name, known))
        given.append(name)
    for name in needed:
        if name not in given:
            raise ValueError(f"the template lacks {{{name}}}.")
    return template
