"""The suite `lost_in_the_middle`.

farfield evaluate suite=lost_in_the_middle 'suite.lengths=[2048,8192]' suite.depths=5
farfield evaluate suite=lost_in_the_middle suite.kv=kv-retrieval-75_keys.jsonl.gz 'suite.lengths=[8192]'
farfield evaluate suite=lost_in_the_middle suite.documents=nq-open-oracle.jsonl suite.documents_per_prompt=20
"""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from farfield.benchmarks.suites.depths import Depths, depths_of
from farfield.benchmarks.suites.suite import AskedSuite, Lengths, Several, chosen
from farfield.benchmarks.tasks.found_documents import DOCUMENTS, FoundDocuments
from farfield.benchmarks.tasks.key_values import KEY_VALUES, KeyValues, TokenKeyValues
from farfield.benchmarks.tasks.lost_files import read_records, read_searched
from farfield.benchmarks.tasks.pairs import Disjoint, Pairs
from farfield.benchmarks.tasks.sample import Task, Tokenizer
from farfield.benchmarks.tasks.wording_file import Wording
from farfield.config import ConfigError

__all__ = ["LostInTheMiddleSuite"]

TEXTS = {"kv": KEY_VALUES, "documents": DOCUMENTS}


class LostInTheMiddleSuite(AskedSuite):
    """Lost in the Middle: recall by the place of the gold pair among pairs, or of the gold document among documents."""

    model_config = pydantic.ConfigDict(serialize_by_alias=True)

    kind: Literal["lost_in_the_middle"] = "lost_in_the_middle"
    # kv, and documents; none: kv, and documents where there is a file of them.
    named: Several[str] = pydantic.Field((), alias="tasks")
    lengths: Lengths = (1024, 2048, 4096)
    depths: Depths = 5
    query_aware: bool = False
    # A published file of pairs, or None: random pairs; pairs in a prompt, or None: as many as fit.
    kv: str | None = None
    pairs: Annotated[int, pydantic.Field(ge=2)] | None = None
    # A published file of questions and passages; documents in a prompt, or None: as many as fit.
    documents: str | None = None
    documents_per_prompt: Annotated[int, pydantic.Field(ge=2)] | None = None
    disjoint: Disjoint = "pairs"

    def places(self) -> tuple[float | None, ...]:
        return depths_of(self.depths)

    def notes(self, tokenizer: Tokenizer) -> tuple[str, ...]:
        asked = self.documents is not None and "documents" in chosen("lost_in_the_middle", self.named, tuple(TEXTS))
        if not asked or self.scoring == "likelihood":
            return ()
        return (
            "documents: an answer of articles alone (The The) has to be the whole line, where the published rule finds "
            "it in every output.",
        )

    def tasks(self, tokenizer: Tokenizer) -> tuple[Task, ...]:
        names = chosen("lost_in_the_middle", self.named, tuple(TEXTS))
        if "documents" in self.named and self.documents is None:
            raise ConfigError("suite.documents: the task documents needs a file: suite.documents=nq-open-oracle.jsonl.")
        if tokenizer.kind == "ids":
            return (self._ids(tokenizer),)
        made: list[Task] = []
        wording = {name: Wording.of(name, TEXTS[name], self.wording, tuple(TEXTS)) for name in TEXTS}
        if "kv" in names:
            records = read_records(self.kv) if self.kv else []
            made.append(KeyValues(tokenizer, wording["kv"], self.pairs, self.query_aware, records, self.kv or ""))
        if "documents" in names and self.documents:
            questions, most = read_searched(self.documents), self.documents_per_prompt
            made.append(
                FoundDocuments(tokenizer, wording["documents"], questions, self.documents, most, self.query_aware)
            )
        return tuple(made)

    def _ids(self, tokenizer: Tokenizer) -> Task:
        if "documents" in self.named:
            raise ConfigError("suite.tasks: documents is text, and a model of the ids tokenizer reads none. Take kv.")
        for name, path in {"kv": self.kv, "documents": self.documents, "wording": self.wording}.items():
            if path is not None:
                raise ConfigError(f"suite.{name}: text, and a model of the ids tokenizer reads none. Leave it out.")
        return TokenKeyValues(Pairs(tokenizer.vocabulary, self.disjoint), self.pairs, self.query_aware)
