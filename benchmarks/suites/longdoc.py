"""The suite `longdoc`.

farfield evaluate suite=longdoc suite.benchmark=leval suite.source=data/leval 'suite.tasks=[quality]'
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pydantic

from farfield.benchmarks.suites.hub import fetch
from farfield.benchmarks.suites.suite import AskedSuite, Control, Count, Lengths, Several, chosen
from farfield.benchmarks.tasks.longdoc.catalogue import BENCHMARKS, chosen_sets, document_tasks, notes_of
from farfield.benchmarks.tasks.longdoc.nolima import HOPS, HUB, NOLIMA, PATTERNS, nolima_tasks
from farfield.benchmarks.tasks.needle import spread
from farfield.benchmarks.tasks.sample import Condition, Task, Tokenizer
from farfield.config import ConfigError, DataError

if TYPE_CHECKING:
    from farfield.retrieval import Index

__all__ = ["LongdocSuite", "PassageFinder"]

Reading = Literal["no_context", "gold_only", "retrieved", "remembered"]
Published = Literal[
    "longbench_v1", "longbench_v2", "loogle", "leval", "infinitebench", "zero_scrolls", "nolima", "helmet", "hotpotqa"
]


class LongdocSuite(AskedSuite):
    """Questions about long documents, of published benchmarks: F1, ROUGE, accuracy as each has it."""

    model_config = pydantic.ConfigDict(serialize_by_alias=True)

    kind: Literal["longdoc"] = "longdoc"
    benchmark: Published = "longbench_v1"
    # A folder with the benchmark's files as they were published, or `hub`.
    source: str | None = None
    # Data sets of the benchmark; none: all whose files are there. (`tasks` names a method.)
    named: Several[str] = pydantic.Field(default=(), alias="tasks")
    lengths: Lengths = (4096, 16384)
    # How a document is read beside in the context, cut to the length.
    readings: Several[Reading] = ("no_context", "gold_only", "retrieved", "remembered")
    # What `retrieved` finds: the best passages of the whole document, as many of them as have room.
    passages: Count = 5
    passage_words: Count = 150
    search: Literal["lexical", "hybrid"] = "lexical"
    # Depths of nolima's needles.
    depths: Count = 26
    controls: Several[Control] = ("memory_off", "memory_shuffled")

    @property
    def name(self) -> str:
        return f"longdoc_{self.benchmark}"

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return tuple(dict.fromkeys((*self.readings, *self.controls)))

    def places(self) -> tuple[float | None, ...]:
        return spread(self.depths) if self.benchmark == NOLIMA else (None,)

    def notes(self, tokenizer: Tokenizer) -> tuple[str, ...]:
        if self.benchmark == NOLIMA or self.scoring == "likelihood":
            return ()
        benchmark = BENCHMARKS[self.benchmark]
        whole = not self.named and self.source == "hub"  # then all files are there
        folder = None if whole else self._folder()
        asked = chosen_sets(benchmark, self.named, folder) if folder else benchmark.data_sets
        return notes_of(benchmark, asked, folder)

    def tasks(self, tokenizer: Tokenizer) -> Sequence[Task]:
        if tokenizer.kind == "ids":
            raise ConfigError(
                "longdoc: documents are text, and this model reads ids. Take a model of a text tokenizer."
            )
        known = HOPS if self.benchmark == NOLIMA else [one.name for one in BENCHMARKS[self.benchmark].data_sets]
        names = chosen(f"longdoc {self.benchmark}", self.named, known) if self.named else ()
        folder = self._folder()
        if self.benchmark == NOLIMA:
            return nolima_tasks(names, folder, tokenizer, self.wording)
        finder = None
        if "retrieved" in self.readings:
            finder = PassageFinder(self.passages, self.passage_words, self.search)
        return document_tasks(BENCHMARKS[self.benchmark], names, folder, tokenizer, self.wording, finder)

    def _folder(self) -> Path:
        """Where the files lie, after they were fetched where `source` is the hub.

        Raises:
            ConfigError: none is given.
            DataError: there is no such folder, or the hub cannot be reached.
        """
        if self.source is None:
            raise ConfigError("suite.source: none given. Add suite.source=<a folder with the files>, or hub.")
        if self.source != "hub":
            folder = Path(self.source).expanduser()
            if not folder.exists():
                raise DataError(f"suite.source: '{self.source}' is no file and no folder. Give one, or hub.")
            return folder
        if self.benchmark == NOLIMA:
            return fetch(HUB, PATTERNS)
        benchmark = BENCHMARKS[self.benchmark]
        if not benchmark.hub:
            raise ConfigError(
                f"suite.source: the files of {benchmark.name} are in no hub that files can be fetched from one by one. "
                "Give the folder of your own copy."
            )
        return fetch(benchmark.hub, benchmark.patterns)


class PassageFinder:
    """Finds passages by Farfield's own retrieval: a document becomes an index, kept while its questions are asked."""

    def __init__(self, passages: int, words: int, search: Literal["lexical", "hybrid"]) -> None:
        self.passages, self.words, self.search = passages, words, search
        self._root = tempfile.mkdtemp(prefix="farfield-longdoc-")
        weakref.finalize(self, shutil.rmtree, self._root, ignore_errors=True)
        self._index = functools.lru_cache(maxsize=1)(self._ingest)

    @property
    def fingerprint(self) -> str:
        return f"{self.search} {self.passages} {self.words}"

    def find(self, document: str, question: str) -> list[tuple[int, str]]:
        return [(hit.start, hit.text) for hit in self._index(document).search(question, k=self.passages)]

    def _ingest(self, document: str) -> Index:
        from farfield.retrieval import ChunkConfig, IngestConfig, RetrievalConfig, ingest, open_index

        place = Path(tempfile.mkdtemp(dir=self._root))
        file = place / "document.jsonl"
        file.write_text(json.dumps({"id": "0", "text": document}), encoding="utf-8")
        chunk = ChunkConfig.model_validate({"unit": "words", "size": self.words, "overlap": 0, "headings": 0})
        # Its bar would stand within the suite's; mistakes are exceptions.
        with contextlib.redirect_stderr(io.StringIO()):
            ingest(IngestConfig(path=str(file), index="index", root=str(place), workers=1, chunk=chunk))
        return open_index(place / "index", settings=RetrievalConfig.model_validate({"search": self.search}))
