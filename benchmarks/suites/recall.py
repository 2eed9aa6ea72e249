"""The suite `recall`.

farfield evaluate suite=recall 'suite.tasks=[mqar]' 'suite.lengths=[64,128]' 'suite.pairs=[4,8,16,32]'
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import pydantic

from farfield.benchmarks.suites.suite import AskedSuite, Count, Lengths, Several, chosen
from farfield.benchmarks.tasks.haystack import load_haystack
from farfield.benchmarks.tasks.recall.automata import Automata
from farfield.benchmarks.tasks.recall.copying import Copying, SelectiveCopying
from farfield.benchmarks.tasks.recall.induction import Induction
from farfield.benchmarks.tasks.recall.mqar import Filler, Held, Mqar
from farfield.benchmarks.tasks.recall.ngram import Ngram
from farfield.benchmarks.tasks.recall.phone_book import PHONE_BOOK, IdEntries, PhoneBook, TextEntries
from farfield.benchmarks.tasks.recall.texts import COPYING, NGRAM, CopyingText, NgramText
from farfield.benchmarks.tasks.sample import Task, Tokenizer
from farfield.benchmarks.tasks.wording_file import Wording
from farfield.config import ConfigError

__all__ = ["RecallSuite"]

TOKENS = ("mqar", "copying", "selective_copying", "induction", "ngram", "phone_book", "automata")
TEXTS = {"copying": COPYING, "ngram": NGRAM, "phone_book": PHONE_BOOK}


class RecallSuite(AskedSuite):
    """Synthetic recall: what architectures are compared by before they learn a language."""

    model_config = pydantic.ConfigDict(serialize_by_alias=True)

    kind: Literal["recall"] = "recall"
    named: Several[str] = pydantic.Field((), alias="tasks")
    # tokens: symbols are single ids; text: words; auto: tokens for a model of the ids tokenizer.
    mode: Literal["auto", "tokens", "text"] = "auto"
    lengths: Lengths = (64, 128, 256, 512, 1024)
    samples: Count = 100
    # mqar: a task for each number of pairs; slot i is asked as often as i^(power - 1)
    pairs: Several[Count] = (4, 8, 16, 32, 64, 128, 256)
    power: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.01
    filler: Filler = "zero"
    disjoint: Held = "pairs"
    # selective_copying: symbols of a row
    symbols: Count = 16

    @pydantic.model_validator(mode="after")
    def _known(self) -> RecallSuite:
        chosen("recall", self.named, TOKENS)
        if self.mode == "text":
            self._check_text()
        return self

    def tasks(self, tokenizer: Tokenizer) -> tuple[Task, ...]:
        mode: Literal["tokens", "text"] = "tokens" if tokenizer.kind == "ids" else "text"
        if self.mode not in ("auto", mode):
            raise ConfigError(
                f"recall: mode={self.mode} does not fit a model of the {tokenizer.kind} tokenizer. Take mode={mode}."
            )
        if mode == "tokens":
            made = self._of_ids(tokenizer.vocabulary - 1)
            return tuple(task for name in chosen("recall", self.named, TOKENS) for task in made[name]())
        self._check_text()
        written = self._of_text(tokenizer)
        return tuple(written[name]() for name in chosen("recall", self.named, TOKENS) if name in TEXTS)

    def _of_ids(self, ids: int) -> dict[str, Callable[[], tuple[Task, ...]]]:
        written = self.scoring == "generate"
        return {
            "mqar": lambda: tuple(Mqar(ids, pairs, self.power, self.filler, self.disjoint) for pairs in self.pairs),
            "copying": lambda: (Copying(ids, written),),
            "selective_copying": lambda: (SelectiveCopying(ids, self.symbols),),
            "induction": lambda: (Induction(ids),),
            "ngram": lambda: (Ngram(ids, prefix=False, written=written), Ngram(ids, prefix=True, written=written)),
            "phone_book": lambda: (PhoneBook(IdEntries(ids)),),
            "automata": lambda: (Automata(ids),),
        }

    def _of_text(self, tokenizer: Tokenizer) -> dict[str, Callable[[], Task]]:
        def wording(name: str) -> Wording:
            return Wording.of(name, TEXTS[name], self.wording, tuple(TEXTS))

        return {
            "copying": lambda: CopyingText(tokenizer, load_haystack("noise", tokenizer), wording("copying")),
            "ngram": lambda: NgramText(tokenizer, wording("ngram")),
            "phone_book": lambda: PhoneBook(TextEntries(tokenizer, wording("phone_book")), ("\n",)),
        }

    def _check_text(self) -> None:
        """Raises ConfigError where what is asked for by name has no text."""
        for name in self.named:
            if name not in TEXTS:
                raise ConfigError(
                    f"recall: {name} has single ids only, and a model of text reads none. Tasks of text: "
                    f"{', '.join(TEXTS)}."
                )
