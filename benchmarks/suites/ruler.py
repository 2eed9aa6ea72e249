"""The suite `ruler`.

farfield evaluate suite=ruler 'suite.lengths=[4096,32768]' suite.samples=100 suite.essay=books suite.squad=dev-v2.0.json
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pydantic

from farfield.benchmarks.suites.suite import AskedSuite, Lengths, Several, chosen
from farfield.benchmarks.tasks.pairs import Disjoint, Pairs
from farfield.benchmarks.tasks.ruler.catalogue import NAMES, Sources, text_tasks, token_tasks
from farfield.benchmarks.tasks.ruler.niah import SPECS
from farfield.benchmarks.tasks.sample import Task, Tokenizer
from farfield.config import ConfigError

__all__ = ["RulerSuite"]


class RulerSuite(AskedSuite):
    """RULER: thirteen tasks by length. Single ids for a model of the ids tokenizer, texts for all others."""

    model_config = pydantic.ConfigDict(serialize_by_alias=True)

    kind: Literal["ruler"] = "ruler"
    named: Several[str] = pydantic.Field((), alias="tasks")
    lengths: Lengths = (512, 1024, 2048, 4096)
    # Files of text for the tasks with an essay; null: sentences of noise.
    essay: str | None = None
    # The questions of qa_1 and qa_2, which are skipped without them, and the words of cwe; null: our own.
    squad: str | None = None
    hotpot: str | None = None
    words: str | None = None
    disjoint: Disjoint = "pairs"

    @pydantic.field_validator("named")
    @classmethod
    def _known(cls, named: tuple[str, ...]) -> tuple[str, ...]:
        chosen("ruler", named, NAMES)
        return named

    def notes(self, tokenizer: Tokenizer) -> tuple[str, ...]:
        if tokenizer.kind == "ids":
            return ("Single ids in the place of RULER's texts: not comparable with published numbers.",)
        names = chosen("ruler", self.named, NAMES)
        noisy = [name for name in names if name in SPECS and SPECS[name].haystack == "essay"]
        told = []
        if self.essay is None and noisy:
            noise = "sentences of noise of our own (suite.essay=<text> for another)"
            told.append(f"The essay of {', '.join(noisy)}: {noise}: not comparable with published numbers.")
        if self.words is None and "cwe" in names:
            told.append("cwe: words of our own (suite.words=<file> for others): not comparable with published numbers.")
        return tuple(told)

    def tasks(self, tokenizer: Tokenizer) -> Sequence[Task]:
        names = chosen("ruler", self.named, NAMES)
        files = Sources(self.essay, self.squad, self.hotpot, self.words, self.wording)
        if tokenizer.kind != "ids":
            return text_tasks(names, tokenizer, files)
        given = [name for name, path in vars(files).items() if path is not None]
        if given:
            raise ConfigError(f"suite.{given[0]}: text, and a model of the ids tokenizer reads none. Leave it out.")
        return token_tasks(names, Pairs(tokenizer.vocabulary, self.disjoint))
