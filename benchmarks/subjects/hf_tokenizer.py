"""The tokenizer of a Hugging Face model, and what such a model wants around a prompt.

                    begin-of-text     what a task asks                       what it goes on with
    plain           <s>               text, question, beginning of answer    answer
    chat            <s> [INST]        text, question   [/INST]               beginning of answer, answer

Tasks encode pieces, none of which begins a text, so `encode` adds nothing. The begin-of-text token is put before a
prompt once, by the model's subject; the template brings its own. Neither counts in a sample's length: they are the
model's own format, the same at each length, and `describe()` says how many tokens they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from farfield.config import ConfigError
from farfield.tokenizers import Tokenizer

__all__ = ["HubTokenizer", "Template", "answer_start", "begin_of", "template_of"]

MARK = "farfield"  # stands for the prompt while a template is taken apart
TAIL = 64  # tokens of a prompt's end among which the beginning of an answer is looked for
ENDS = ("\n", "?")  # what a question ends in


class HubTokenizer:
    """Text to ids and back, by a tokenizer of transformers; `begin` is the id that a text begins with, if there is one.

    `encode` never adds it.
    """

    kind = "hf"

    def __init__(self, backend: Any, begin: int | None = None) -> None:
        self.backend, self.begin = backend, begin
        self.vocabulary = max(backend.get_vocab().values()) + 1

    @property
    def prefix(self) -> int | None:
        """What lm-evaluation-harness puts before a text that it scores whole, even where the tokenizer would not."""
        ends: int | None = self.backend.eos_token_id
        begins: int | None = self.backend.bos_token_id
        return ends if begins is None else begins

    def encode(self, text: str) -> list[int]:
        """The ids of `text` alone; text that spells a special token stays text."""
        found = self.backend(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return list(found["input_ids"])

    def decode(self, ids: Sequence[int], /) -> str:
        text: str = self.backend.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def special(self, text: str) -> list[int]:
        """The ids of `text`, in which special tokens are spelled."""
        return list(self.backend(text, add_special_tokens=False, split_special_tokens=False)["input_ids"])


@dataclass(frozen=True)
class Template:
    """Ids before a prompt, and between it and the answer."""

    before: tuple[int, ...] = ()
    behind: tuple[int, ...] = ()
    begin: int | None = None

    def wrap(self, prompt: Sequence[int], split: int) -> list[int]:
        """What the model reads: `prompt`, of which the ids from `split` on begin the answer."""
        opened = self.opened(prompt[0])
        return [*opened, *prompt[:split], *self.behind, *prompt[split:]]

    def opened(self, first: int) -> list[int]:
        """What stands before a prompt that begins with `first`: begin-of-text once, and the template's beginning."""
        given = self.before[0] if self.before else first
        return [*([self.begin] if self.begin is not None and given != self.begin else []), *self.before]

    @property
    def tokens(self) -> int:
        """How many ids it adds."""
        return len(self.before) + len(self.behind) + (self.begin is not None and self.before[:1] != (self.begin,))


def begin_of(backend: Any, asked: Literal["auto", "always", "never"]) -> int | None:
    """The id that a text begins with; auto: where the tokenizer itself puts it there.

    Raises:
        ConfigError: it is asked for, and the tokenizer has none.
    """
    begin: int | None = backend.bos_token_id
    if asked == "never":
        return None
    if asked == "always":
        if begin is None:
            raise ConfigError(
                "hf.begin: always given, but the tokenizer has no begin-of-text token. Take auto or never."
            )
        return begin
    return begin if begin is not None and backend(MARK)["input_ids"][0] == begin else None


def template_of(tokenizer: HubTokenizer, system: str | None, begin: int | None) -> Template:
    """The tokenizer's chat template as ids around a user's turn.

    Raises:
        ConfigError: it has none, or one that does not hold the turn as it is.
    """
    turns = [{"role": "user", "content": MARK}]
    turns = [{"role": "system", "content": system}, *turns] if system is not None else turns
    if not tokenizer.backend.chat_template:
        raise ConfigError("hf.chat: true given, but the tokenizer has no chat template. Take hf.chat=false.")
    try:
        text: str = tokenizer.backend.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # noqa: BLE001  a template is a program, which raises what its author wrote and any other
        said = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"hf.chat: the tokenizer's template refuses the turns: {said}.") from None
    before, found, behind = text.rpartition(MARK)
    if not found:
        raise ConfigError("hf.chat: the tokenizer's template drops the user's turn. Take hf.chat=false.")
    return Template(tuple(tokenizer.special(before)), tuple(tokenizer.special(behind)), begin)


def answer_start(tokenizer: HubTokenizer | Tokenizer, prompt: Sequence[int]) -> int:
    """The index in `prompt` at which the beginning of the answer stands: behind the last line's end or question mark.

    `Which number? The number is` asks in the user's turn, and begins the assistant's with ` The number is`. A prompt
    without such an end among its last tokens, or that ends there, is all the user's.
    """
    for at in range(len(prompt) - 1, max(-1, len(prompt) - 1 - TAIL), -1):
        if any(end in tokenizer.decode([prompt[at]]) for end in ENDS):
            return at + 1
    return len(prompt)
